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

// `team` warps share a vector of dim elements; the block holds kNormWarps / team vectors.
__global__ void __launch_bounds__(32 * kNormWarps) rms_norm_kernel(DeviceView x, DeviceView residual, DeviceView out,
                                                                   const float* __restrict__ weight, int64_t vectors,
                                                                   int rows, int dim, float eps, int team) {
  __shared__ float partial[kNormWarps];
  const int warp = threadIdx.x / 32;
  const int64_t vector = int64_t(blockIdx.x) * (kNormWarps / team) + warp / team;
  const bool active = vector < vectors;
  const int64_t head = active ? vector / rows : 0, row = active ? vector % rows : 0;
  const int first = (warp % team * 32 + threadIdx.x % 32) * kLane, step = team * 32 * kLane;
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
  sum = warp_sum(sum);
  if (team > 1) {
    if (threadIdx.x % 32 == 0) partial[warp] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < team; w++) sum += partial[warp / team * team + w];
  }
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

constexpr int kRopeThreads = 128;

// A block per row: cosines and sines once, then every head. A thread rotates one pair of elements.
__global__ void __launch_bounds__(kRopeThreads) rope_kernel(DeviceView x, DeviceView out,
                                                            const float* __restrict__ inv_freq, int64_t position,
                                                            int rows, int heads, int head_dim, int rotary_dim,
                                                            bool interleaved, float scale) {
  extern __shared__ float2 turns[];  // cos and sin, [rotary_dim / 2]
  const int half = rotary_dim / 2, pairs = half + (head_dim - rotary_dim + 1) / 2;
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    for (int i = threadIdx.x; i < half; i += kRopeThreads) {
      // The product in f64: at a million positions an f32 angle is off by up to 0.03 rad.
      double sine, cosine;
      sincos(double(position + row) * double(inv_freq[i]), &sine, &cosine);
      turns[i] = make_float2(float(cosine) * scale, float(sine) * scale);
    }
    __syncthreads();
    for (int item = threadIdx.x; item < heads * pairs; item += kRopeThreads) {
      const int head = item / pairs, i = item % pairs;
      const char* from = x.row(head, row);
      char* to = out.row(head, row);
      if (i < half) {
        const int a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;
        const float u = load_element(from, a, x.dtype), v = load_element(from, b, x.dtype);
        const float2 t = turns[i];
        store_element(to, a, out.dtype, u * t.x - v * t.y);
        store_element(to, b, out.dtype, v * t.x + u * t.y);
      } else {
        const int a = rotary_dim + 2 * (i - half);
        store_element(to, a, out.dtype, load_element(from, a, x.dtype));
        if (a + 1 < head_dim) store_element(to, a + 1, out.dtype, load_element(from, a + 1, x.dtype));
      }
    }
    __syncthreads();
  }
}

}  // namespace

mi_status rms_norm(const Launch& launch, const RmsNormArgs& a, mi_error* error) {
  // A warp handles 1024 elements well; longer vectors get more warps.
  int team = 1;
  while (team < kNormWarps && team * 32 * kLane * 2 < a.dim) team *= 2;
  const int64_t vectors = int64_t(a.rows) * a.heads;
  DeviceView residual = device_view(a.residual, a.heads, a.rows, a.dim);
  rms_norm_kernel<<<unsigned(ceil_div(vectors, kNormWarps / team)), 32 * kNormWarps, 0, launch.stream>>>(
      device_view(a.x, a.heads, a.rows, a.dim), residual, device_view(a.out, a.heads, a.rows, a.dim), a.weight, vectors,
      a.rows, a.dim, a.eps, team);
  return check_launch("rms_norm", error);
}

mi_status rope(const Launch& launch, const RopeArgs& a, mi_error* error) {
  const unsigned blocks = unsigned(min64(a.rows, int64_t(launch.sm_count) * 64));
  rope_kernel<<<blocks, kRopeThreads, size_t(a.rotary_dim) / 2 * sizeof(float2), launch.stream>>>(
      device_view(a.x, a.heads, a.rows, a.head_dim), device_view(a.out, a.heads, a.rows, a.head_dim), a.inv_freq,
      a.position, a.rows, a.heads, a.head_dim, a.rotary_dim, a.interleaved != 0, a.scale);
  return check_launch("rope", error);
}

}  // namespace mi::cuda
