// The rotary embedding.
#include "../core/cuda_ops.h"
#include "../index/work_list.h"
#include "elements.cuh"

namespace mi::cuda {

namespace {

constexpr int kRopeThreads = 128;
constexpr double kPerTurn = 0.15915494309189533577;  // 1 / (2 pi)

struct RopeShape {
  int heads, head_dim, rotary_dim;
  bool interleaved;
  bool wide;  // whole lanes on either side of every rotated pair
};

// One thread's part of a row: eight pairs or, interleaved, four. Lanes past the rotated dimensions are copied.
struct RopeItem {
  int head, at, pair;  // elements at and, if not -1, pair
  bool turned;

  __device__ RopeItem(const RopeShape& s, int item) {
    const int half = s.rotary_dim / 2, lanes = (s.interleaved ? s.rotary_dim : half) / kLane;
    const int all = lanes + (s.head_dim - s.rotary_dim) / kLane, lane = item % all;
    head = item / all;
    turned = lane < lanes;
    at = turned ? lane * kLane : s.rotary_dim + (lane - lanes) * kLane;
    pair = turned && !s.interleaved ? half + at : -1;
  }
  __device__ static int count(const RopeShape& s) {
    return s.heads * ((s.interleaved ? s.rotary_dim : s.rotary_dim / 2) + s.head_dim - s.rotary_dim) / kLane;
  }
};

__device__ void rotate_item(const RopeItem& o, const RawLane (&raw)[2], const DeviceView& x, const DeviceView& out,
                            const RopeShape& s, int row, const float2* turns) {
  char* const to = out.row(o.head, row);
  float u[kLane], v[kLane];
  unpack(raw[0], x.dtype, u);
  if (o.pair >= 0) {
    unpack(raw[1], x.dtype, v);
#pragma unroll
    for (int j = 0; j < kLane; j++) {
      const float2 t = turns[o.at + j];
      const float a = u[j], b = v[j];
      u[j] = a * t.x - b * t.y;
      v[j] = b * t.x + a * t.y;
    }
    store_lane(to, o.pair, s.head_dim, out.dtype, true, v);
  } else if (o.turned) {
#pragma unroll
    for (int j = 0; j < kLane; j += 2) {
      const float2 t = turns[(o.at + j) / 2];
      const float a = u[j], b = u[j + 1];
      u[j] = a * t.x - b * t.y;
      u[j + 1] = b * t.x + a * t.y;
    }
  }
  store_lane(to, o.at, s.head_dim, out.dtype, true, u);
}

constexpr int kRopeItems = 2;  // of a thread at a time: four loads under way

__device__ void rotate_lanes(const DeviceView& x, const DeviceView& out, const RopeShape& s, int row,
                             const float2* turns) {
  const int items = RopeItem::count(s);
  for (int first = threadIdx.x; first < items; first += kRopeItems * kRopeThreads) {
    RawLane raw[kRopeItems][2];
#pragma unroll
    for (int i = 0; i < kRopeItems; i++) {
      const RopeItem o(s, min(first + i * kRopeThreads, items - 1));
      raw[i][0] = load_raw(x.row(o.head, row), o.at, x.dtype);
      if (o.pair >= 0) raw[i][1] = load_raw(x.row(o.head, row), o.pair, x.dtype);
    }
#pragma unroll
    for (int i = 0; i < kRopeItems; i++)
      if (first + i * kRopeThreads < items)
        rotate_item(RopeItem(s, first + i * kRopeThreads), raw[i], x, out, s, row, turns);
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
