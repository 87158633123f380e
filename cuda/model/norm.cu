// RMS normalisation.
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
  const int first = (warp % team * 32 + int(threadIdx.x % 32)) * kLane;
  return {active, active ? vector / rows : 0, active ? vector % rows : 0, first, team * 32 * kLane};
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

}  // namespace mi::cuda
