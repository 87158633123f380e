// Matrices of e4m3 with a scale per row: weights when they are loaded, activations before a product.
#include "../core/cuda_ops.h"
#include "blocks.cuh"
#include "row_scale.h"

namespace mi::cuda {

namespace {

constexpr int kThreads = 256;

// A block per row. The second reading finds the row in the cache.
__global__ void __launch_bounds__(kThreads)
    quantise_rows_kernel(DeviceView src, uint8_t* dst, int64_t dst_stride, float* scales, int dim) {
  __shared__ uint32_t largest_of[kThreads / 32];
  const int64_t row = blockIdx.x;
  const char* const from = src.row(0, row);
  const int lanes = dim / kLane;

  uint32_t largest = 0;
  for (int i = threadIdx.x; i < lanes; i += kThreads) {
    float v[kLane];
    load_weights(from, i, dim, src.dtype, src.wide, v);
#pragma unroll
    for (int j = 0; j < kLane; j++) largest = max(largest, magnitude_bits(v[j]));
  }
#pragma unroll
  for (int o = 16; o; o /= 2) largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, o));
  if (threadIdx.x % 32 == 0) largest_of[threadIdx.x / 32] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kThreads / 32; w++) largest = max(largest, largest_of[w]);

  const float scale = row_scale(largest), inverse = 1.0f / scale;
  if (threadIdx.x == 0) scales[row] = scale;
  uint2* const to = reinterpret_cast<uint2*>(dst + row * dst_stride);
  for (int i = threadIdx.x; i < lanes; i += kThreads) {
    float v[kLane];
    load_weights(from, i, dim, src.dtype, src.wide, v);
    uint32_t words[2] = {};
#pragma unroll
    for (int j = 0; j < kLane; j++) words[j / 4] |= uint32_t(e4m3_from_float(v[j] * inverse)) << 8 * (j % 4);
    to[i] = make_uint2(words[0], words[1]);
  }
}

}  // namespace

mi_status quantise_rows(const Launch& launch, const QuantiseRowsArgs& a, mi_error* error) {
  quantise_rows_kernel<<<unsigned(a.rows), kThreads, 0, launch.stream>>>(
      device_view(a.src, 1, a.rows, a.dim), static_cast<uint8_t*>(a.dst.data), a.dst.row_stride, a.scales, a.dim);
  return check_launch("quantise_rows", error);
}

}  // namespace mi::cuda
