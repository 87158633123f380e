// RMS normalisation and the rotary embedding.
#include "../core/cuda_ops.h"
#include "../index/work_list.h"
#include "elements.cuh"

namespace mi::cuda {

namespace {

__device__ float warp_sum(float x) {
#pragma unroll
  for (int o = 16; o; o /= 2) x += __shfl_xor_sync(0xffffffffu, x, o);
  return x;
}

constexpr int kNormWarps = 8;

// Over the `team` warps of the thread's vector. All threads of the block call it.
__device__ float team_sum(float x, float (&partial)[kNormWarps], int team) {
  x = warp_sum(x);
  if (team == 1) return x;
  const int warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) partial[warp] = x;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < team; w++) sum += partial[warp / team * team + w];
  return sum;
}

// What a thread does: lanes from element `first` on, every `step`, of vector (head, row).
struct NormPart {
  bool active;
  int64_t head, row;
  int first, step;
};

// `team` warps share a vector; the block holds kNormWarps / team vectors.
__device__ NormPart norm_part(int64_t vectors, int rows, int team) {
  const int warp = threadIdx.x / 32;
  const int64_t vector = int64_t(blockIdx.x) * (kNormWarps / team) + warp / team;
  const bool active = vector < vectors;
  return {active, active ? vector / rows : 0, active ? vector % rows : 0, (int(warp % team) * 32 + int(threadIdx.x % 32)) * kLane,
          team * 32 * kLane};
}

__global__ void __launch_bounds__(32 * kNormWarps)
    rms_norm_kernel(DeviceView x, DeviceView residual, DeviceView out, const float* __restrict__ weight,
                    int64_t vectors, int rows, int dim, float eps, int team) {
  __shared__ float partial[kNormWarps];
  const auto [active, head, row, first, step] = norm_part(vectors, rows, team);
  char* const from = x.row(head, row);
  float sum = 0;
  for (int i = first; i < dim && active; i += step) {
    float v[kLane];
    load_lane(from, i, dim, x.dtype, x.wide, v);
    if (residual.data) {
      float r[kLane];
      load_lane(residual.row(head, row), i, dim, residual.dtype, residual.wide, r);
#pragma unroll
      for (int j = 0; j < kLane; j++) v[j] += r[j];
      store_lane(from, i, dim, x.dtype, x.wide, v);
      load_lane(from, i, dim, x.dtype, x.wide, v);  // as rounded
    }
#pragma unroll
    for (int j = 0; j < kLane; j++) sum += v[j] * v[j];
  }
  sum = team_sum(sum, partial, team);
  if (!active) return;
  const float factor = rsqrtf(sum / float(dim) + eps);
  for (int i = first; i < dim; i += step) {
    float v[kLane];
    load_lane(from, i, dim, x.dtype, x.wide, v);
#pragma unroll
    for (int j = 0; j < kLane; j++)
      if (i + j < dim) v[j] *= factor * weight[i + j];
    store_lane(out.row(head, row), i, dim, out.dtype, out.wide, v);
  }
}

constexpr int kMostHeld = 4;

// The same where x and weight are aligned and a thread's kHeld lanes of a vector stay in registers: read once, all under
// way together.
template <int kHeld>
__global__ void __launch_bounds__(32 * kNormWarps)
    rms_norm_held_kernel(DeviceView x, DeviceView out, const float* __restrict__ weight, int64_t vectors, int rows,
                         int dim, float eps, int team) {
  __shared__ float partial[kNormWarps];
  const auto [active, head, row, first, step] = norm_part(vectors, rows, team);
  const char* const from = x.row(head, row);
  RawLane held[kHeld];
#pragma unroll
  for (int h = 0; h < kHeld; h++)
    held[h] = active && first + h * step < dim ? load_raw(from, first + h * step, x.dtype) : RawLane{};
  float v[kLane], sum = 0;
#pragma unroll
  for (int h = 0; h < kHeld; h++) {
    unpack(held[h], x.dtype, v);
#pragma unroll
    for (int j = 0; j < kLane; j++) sum += v[j] * v[j];
  }
  sum = team_sum(sum, partial, team);
  if (!active) return;
  const float factor = rsqrtf(sum / float(dim) + eps);
#pragma unroll
  for (int h = 0; h < kHeld; h++) {
    const int i = first + h * step;
    if (i >= dim) break;
    unpack(held[h], x.dtype, v);
    float w[kLane];
    unpack(load_raw(reinterpret_cast<const char*>(weight), i, MI_F32), MI_F32, w);
#pragma unroll
    for (int j = 0; j < kLane; j++) v[j] *= factor * w[j];
    store_lane(out.row(head, row), i, dim, out.dtype, out.wide, v);
  }
}

constexpr int kRopeThreads = 128;
constexpr double kPerTurn = 0.15915494309189533577;  // 1 / (2 pi)

struct RopeShape {
  int heads, head_dim, rotary_dim;
  bool interleaved;
  bool wide;  // whole lanes on either side of every rotated pair
};

// Eight pairs or, interleaved, four at a time. Lanes past the rotated dimensions are copied.
__device__ void rotate_lanes(const DeviceView& x, const DeviceView& out, const RopeShape& s, int row,
                             const float2* turns) {
  const int half = s.rotary_dim / 2, turned = (s.interleaved ? s.rotary_dim : half) / kLane;
  const int lanes = turned + (s.head_dim - s.rotary_dim) / kLane;
  for (int item = threadIdx.x; item < s.heads * lanes; item += kRopeThreads) {
    const int head = item / lanes, lane = item % lanes;
    const char* from = x.row(head, row);
    char* to = out.row(head, row);
    float u[kLane], v[kLane];
    if (lane >= turned) {
      const int at = s.rotary_dim + (lane - turned) * kLane;
      load_lane(from, at, s.head_dim, x.dtype, true, u);
      store_lane(to, at, s.head_dim, out.dtype, true, u);
    } else if (s.interleaved) {
      load_lane(from, lane * kLane, s.head_dim, x.dtype, true, u);
#pragma unroll
      for (int j = 0; j < kLane; j += 2) {
        const float2 t = turns[(lane * kLane + j) / 2];
        v[j] = u[j] * t.x - u[j + 1] * t.y;
        v[j + 1] = u[j + 1] * t.x + u[j] * t.y;
      }
      store_lane(to, lane * kLane, s.head_dim, out.dtype, true, v);
    } else {
      load_lane(from, lane * kLane, s.head_dim, x.dtype, true, u);
      load_lane(from, half + lane * kLane, s.head_dim, x.dtype, true, v);
#pragma unroll
      for (int j = 0; j < kLane; j++) {
        const float2 t = turns[lane * kLane + j];
        const float a = u[j], b = v[j];
        u[j] = a * t.x - b * t.y;
        v[j] = b * t.x + a * t.y;
      }
      store_lane(to, lane * kLane, s.head_dim, out.dtype, true, u);
      store_lane(to, half + lane * kLane, s.head_dim, out.dtype, true, v);
    }
  }
}

// One pair at a time, whatever the alignment.
__device__ void rotate_pairs(const DeviceView& x, const DeviceView& out, const RopeShape& s, int row,
                             const float2* turns) {
  const int half = s.rotary_dim / 2, items = half + s.head_dim - s.rotary_dim;
  for (int item = threadIdx.x; item < s.heads * items; item += kRopeThreads) {
    const int head = item / items, i = item % items;
    const char* from = x.row(head, row);
    char* to = out.row(head, row);
    if (i < half) {
      const int a = s.interleaved ? 2 * i : i, b = s.interleaved ? 2 * i + 1 : i + half;
      const float u = load_element(from, a, x.dtype), v = load_element(from, b, x.dtype);
      const float2 t = turns[i];
      store_element(to, a, out.dtype, u * t.x - v * t.y);
      store_element(to, b, out.dtype, v * t.x + u * t.y);
    } else {
      const int a = s.rotary_dim + i - half;
      store_element(to, a, out.dtype, load_element(from, a, x.dtype));
    }
  }
}

// A block per row: cosines and sines once, then every head.
__global__ void __launch_bounds__(kRopeThreads)
    rope_kernel(DeviceView x, DeviceView out, const float* __restrict__ inv_freq, int64_t position, int rows,
                RopeShape s, float scale) {
  extern __shared__ float2 turns[];  // cos and sin, [rotary_dim / 2]
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    for (int i = threadIdx.x; i < s.rotary_dim / 2; i += kRopeThreads) {
      // Whole turns go in f64: at a million positions an f32 angle is off by up to 0.03 rad.
      const double turn = double(position + row) * double(inv_freq[i]) * kPerTurn;
      float sine, cosine;
      sincospif(2 * float(turn - rint(turn)), &sine, &cosine);
      turns[i] = make_float2(cosine * scale, sine * scale);
    }
    __syncthreads();
    if (s.wide) rotate_lanes(x, out, s, row, turns);
    else rotate_pairs(x, out, s, row, turns);
    __syncthreads();
  }
}

}  // namespace

mi_status rms_norm(const Launch& launch, const RmsNormArgs& a, mi_error* error) {
  // A warp handles 1024 elements well; longer vectors get more warps.
  int team = 1;
  while (team < kNormWarps && team * 32 * kLane * 2 < a.dim) team *= 2;
  const int64_t vectors = int64_t(a.rows) * a.heads;
  const unsigned blocks = unsigned(ceil_div(vectors, kNormWarps / team)), threads = 32 * kNormWarps;
  const DeviceView x = device_view(a.x, a.heads, a.rows, a.dim), out = device_view(a.out, a.heads, a.rows, a.dim);
  const int64_t lanes = ceil_div(a.dim, int64_t(team) * 32 * kLane);  // of a thread
  const auto held = [&](auto kernel) {
    kernel<<<blocks, threads, 0, launch.stream>>>(x, out, a.weight, vectors, a.rows, a.dim, a.eps, team);
  };
  if (a.residual || !x.wide || reinterpret_cast<uintptr_t>(a.weight) % 16 || lanes > kMostHeld)
    rms_norm_kernel<<<blocks, threads, 0, launch.stream>>>(x, device_view(a.residual, a.heads, a.rows, a.dim), out,
                                                           a.weight, vectors, a.rows, a.dim, a.eps, team);
  else if (lanes == 1) held(rms_norm_held_kernel<1>);
  else if (lanes == 2) held(rms_norm_held_kernel<2>);
  else held(rms_norm_held_kernel<kMostHeld>);
  return check_launch("rms_norm", error);
}

mi_status rope(const Launch& launch, const RopeArgs& a, mi_error* error) {
  const DeviceView x = device_view(a.x, a.heads, a.rows, a.head_dim);
  const DeviceView out = device_view(a.out, a.heads, a.rows, a.head_dim);
  const bool interleaved = a.interleaved != 0;
  const bool wide = x.wide && out.wide && a.rotary_dim % (interleaved ? kLane : 2 * kLane) == 0;
  const RopeShape shape{a.heads, a.head_dim, a.rotary_dim, interleaved, wide};
  const unsigned blocks = unsigned(min64(a.rows, int64_t(launch.sm_count) * 64));
  rope_kernel<<<blocks, kRopeThreads, size_t(a.rotary_dim) / 2 * sizeof(float2), launch.stream>>>(
      x, out, a.inv_freq, a.position, a.rows, shape, a.scale);
  return check_launch("rope", error);
}

}  // namespace mi::cuda
