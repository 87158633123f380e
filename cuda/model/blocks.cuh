// Weights, eight elements at a time: GGUF blocks, codes of e4m3, floats. The formats are described in cpu/convert_rows.cpp.
#pragma once
#include "../core/e4m3.h"
#include "elements.cuh"

namespace mi::cuda {

// Blocks start at any even address.
__device__ inline float f16_at(const uint8_t* p) {
  return __half2float(__ushort_as_half(*reinterpret_cast<const uint16_t*>(p)));
}

// v = elements [8 lane, 8 lane + 8) of a row of blocks.
__device__ inline void load_blocks(const char* row, int64_t lane, int32_t dtype, float (&v)[kLane]) {
  const uint8_t* base = reinterpret_cast<const uint8_t*>(row);
  switch (dtype) {
    case MI_Q8_0: {
      const uint8_t* block = base + lane / 4 * 34;
      const float d = f16_at(block);
      const uint8_t* q = block + 2 + lane % 4 * kLane;
#pragma unroll
      for (int j = 0; j < kLane; j++) v[j] = d * float(int8_t(q[j]));
      return;
    }
    case MI_Q4_0:
    case MI_Q4_1: {
      const bool offset = dtype == MI_Q4_1;
      const uint8_t* block = base + lane / 4 * (offset ? 20 : 18);
      const float d = f16_at(block), m = offset ? f16_at(block + 2) : 0.0f;
      const int part = int(lane % 4), shift = part / 2 * 4;  // high nibbles are elements 16 to 31
      const uint8_t* q = block + (offset ? 4 : 2) + part % 2 * kLane;
#pragma unroll
      for (int j = 0; j < kLane; j++) {
        const int x = q[j] >> shift & 15;
        v[j] = offset ? __fadd_rn(__fmul_rn(d, float(x)), m) : d * float(x - 8);
      }
      return;
    }
    case MI_Q4_K: {
      const uint8_t* block = base + lane / 32 * 144;
      const int at = int(lane % 32) * kLane, s = at / 32;  // s: group of 32 with one scale and minimum
      const uint8_t *packed = block + 4, *q = block + 16 + 32 * (s / 2) + at % 32;
      const int scale = s < 4 ? packed[s] & 63 : (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4;
      const int minimum = s < 4 ? packed[s + 4] & 63 : packed[s + 4] >> 4 | (packed[s] >> 6) << 4;
      const float a = f16_at(block) * float(scale), b = f16_at(block + 2) * float(minimum);
#pragma unroll
      for (int j = 0; j < kLane; j++) v[j] = __fsub_rn(__fmul_rn(a, float(q[j] >> (s % 2 * 4) & 15)), b);
      return;
    }
    default: {  // MI_Q6_K
      const uint8_t* block = base + lane / 32 * 210;
      const int at = int(lane % 32) * kLane, half = at / 128, quarter = at % 128 / 32, i = at % 32;
      const uint8_t *low = block + 64 * half + 32 * (quarter % 2) + i, *high = block + 128 + 32 * half + i;
      const int scale = int8_t(block[192 + at / 16]);
      const float d = f16_at(block + 208) * float(scale);
#pragma unroll
      for (int j = 0; j < kLane; j++) {
        const int x = (low[j] >> (quarter / 2 * 4) & 15) | (high[j] >> (2 * quarter) & 3) << 4;
        v[j] = d * float(x - 32);
      }
    }
  }
}

__device__ inline bool is_block_dtype(int32_t dtype) { return dtype >= MI_Q8_0; }

// Rows of e4m3 hold whole lanes.
__device__ inline void load_codes(const char* row, int64_t lane, float (&v)[kLane]) {
#pragma unroll
  for (int j = 0; j < kLane; j++) v[j] = float_from_e4m3(uint8_t(row[lane * kLane + j]));
}

// Any weight dtype; codes of e4m3 without their scale.
__device__ inline void load_weights(const char* row, int64_t lane, int64_t n, int32_t dtype, bool wide,
                                    float (&v)[kLane]) {
  if (is_block_dtype(dtype)) load_blocks(row, lane, dtype, v);
  else if (dtype == MI_E4M3) load_codes(row, lane, v);
  else load_lane(row, lane * kLane, n, dtype, wide, v);
}

}  // namespace mi::cuda
