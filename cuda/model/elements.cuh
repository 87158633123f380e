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
  return {static_cast<char*>(v.data), bytes_of(v.dtype, v.head_stride), bytes_of(v.dtype, v.row_stride), v.dtype,
          rows_on_16_bytes(v, heads, rows) && dim % kLane == 0};
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

// Elements [i, i + 8) of an aligned row as they lie in memory; loading several before unpacking any keeps
// them all under way at once.
struct RawLane {
  uint4 a, b;  // b: f32 only
};
__device__ inline RawLane load_raw(const char* row, int64_t i, int32_t dtype) {
  RawLane raw{};
  if (dtype == MI_F32) {
    const uint4* p = reinterpret_cast<const uint4*>(row) + i / 4;
    raw.a = p[0];
    raw.b = p[1];
  } else {
    raw.a = *(reinterpret_cast<const uint4*>(row) + i / kLane);
  }
  return raw;
}
__device__ inline float2 unpack_pair(uint32_t word, bool is_f16) {
  if (is_f16) return __half22float2(*reinterpret_cast<const __half2*>(&word));
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}
__device__ inline void unpack(const RawLane& raw, int32_t dtype, float (&v)[kLane]) {
  const uint32_t w[8] = {raw.a.x, raw.a.y, raw.a.z, raw.a.w, raw.b.x, raw.b.y, raw.b.z, raw.b.w};
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const float2 pair = unpack_pair(w[j], dtype == MI_F16);
    v[2 * j] = pair.x;
    v[2 * j + 1] = pair.y;
  }
  if (dtype != MI_F32) return;
#pragma unroll
  for (int j = 0; j < kLane; j++) v[j] = __uint_as_float(w[j]);
}

// v = elements [i, i + 8) of a row of n; those past the end are 0.
__device__ inline void load_lane(const char* row, int64_t i, int64_t n, int32_t dtype, bool wide,
                                 float (&v)[kLane]) {
  if (wide) {
    unpack(load_raw(row, i, dtype), dtype, v);
    return;
  }
#pragma unroll
  for (int j = 0; j < kLane; j++) v[j] = i + j < n ? load_element(row, i + j, dtype) : 0.0f;
}

__device__ inline void store_lane(char* row, int64_t i, int64_t n, int32_t dtype, bool wide,
                                  const float (&v)[kLane]) {
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
