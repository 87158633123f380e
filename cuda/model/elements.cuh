// Eight neighbouring elements of any float dtype as f32 registers, 16 bytes an access where alignment allows.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "../core/ops.h"

namespace mi::cuda {

constexpr int kLane = 8;  // elements a thread moves at a time

// A view as the kernels see it.
struct DeviceView {
  char* data;
  int64_t head_stride, row_stride;  // bytes
  int32_t dtype;
  int32_t wide;  // every row starts on 16 bytes and holds whole lanes

  __device__ char* row(int64_t head, int64_t r) const { return data + head * head_stride + r * row_stride; }
};

inline DeviceView device_view(const View& v, int64_t heads, int64_t rows, int64_t dim) {
  DeviceView d{static_cast<char*>(v.data), bytes_of(v.dtype, v.head_stride), bytes_of(v.dtype, v.row_stride), v.dtype, 0};
  d.wide = reinterpret_cast<uintptr_t>(d.data) % 16 == 0 && (rows <= 1 || d.row_stride % 16 == 0) &&
           (heads <= 1 || d.head_stride % 16 == 0) && dim % kLane == 0;
  return d;
}

__device__ inline float load_element(const char* row, int64_t i, int32_t dtype) {
  if (dtype == MI_F32) return reinterpret_cast<const float*>(row)[i];
  if (dtype == MI_F16) return __half2float(reinterpret_cast<const __half*>(row)[i]);
  return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(row)[i]);
}

__device__ inline void store_element(char* row, int64_t i, int32_t dtype, float x) {
  if (dtype == MI_F32) reinterpret_cast<float*>(row)[i] = x;
  else if (dtype == MI_F16) reinterpret_cast<__half*>(row)[i] = __float2half_rn(x);
  else reinterpret_cast<__nv_bfloat16*>(row)[i] = __float2bfloat16_rn(x);
}

// v = elements [i, i + 8) of a row of n; those past the end are 0.
__device__ inline void load_lane(const char* row, int64_t i, int64_t n, int32_t dtype, bool wide, float (&v)[kLane]) {
  if (!wide) {
#pragma unroll
    for (int j = 0; j < kLane; j++) v[j] = i + j < n ? load_element(row, i + j, dtype) : 0.0f;
    return;
  }
  if (dtype == MI_F32) {
    const float4* p = reinterpret_cast<const float4*>(row) + i / 4;
    const float4 a = p[0], b = p[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    return;
  }
  const uint4 words = *(reinterpret_cast<const uint4*>(row) + i / kLane);
  const uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int j = 0; j < 4; j++) {
    float2 pair;
    if (dtype == MI_F16) {
      pair = __half22float2(*reinterpret_cast<const __half2*>(&w[j]));
    } else {
      pair = make_float2(__uint_as_float(w[j] << 16), __uint_as_float(w[j] & 0xffff0000u));
    }
    v[2 * j] = pair.x;
    v[2 * j + 1] = pair.y;
  }
}

__device__ inline void store_lane(char* row, int64_t i, int64_t n, int32_t dtype, bool wide, const float (&v)[kLane]) {
  if (!wide) {
#pragma unroll
    for (int j = 0; j < kLane; j++)
      if (i + j < n) store_element(row, i + j, dtype, v[j]);
    return;
  }
  if (dtype == MI_F32) {
    float4* p = reinterpret_cast<float4*>(row) + i / 4;
    p[0] = make_float4(v[0], v[1], v[2], v[3]);
    p[1] = make_float4(v[4], v[5], v[6], v[7]);
    return;
  }
  uint32_t w[4];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    if (dtype == MI_F16) {
      const __half2 h = __floats2half2_rn(v[2 * j], v[2 * j + 1]);
      w[j] = *reinterpret_cast<const uint32_t*>(&h);
    } else {
      const __nv_bfloat162 h = __floats2bfloat162_rn(v[2 * j], v[2 * j + 1]);
      w[j] = *reinterpret_cast<const uint32_t*>(&h);
    }
  }
  *(reinterpret_cast<uint4*>(row) + i / kLane) = make_uint4(w[0], w[1], w[2], w[3]);
}

}  // namespace mi::cuda
