// Codes of e4m3, two at a time, as operands of 16-bit products.
#pragma once
#include "ptx.cuh"

namespace mi::cuda {

// The e4m3 in bytes 1 and 3 of x, whatever the others hold; exact, but for NaN: whoever quantises gives what holds one a
// scale that is NaN. The fields move into place; a product corrects the exponent's bias and normalises denormals.
template <class T>
__device__ __forceinline__ uint32_t from_e4m3x2(uint32_t x);
template <>
__device__ __forceinline__ uint32_t from_e4m3x2<__nv_bfloat16>(uint32_t x) {
  constexpr uint32_t kTwoTo120 = 0x7b807b80;
  return mul_16x2<__nv_bfloat16>((x & 0x80008000u) | (x >> 4 & 0x07f007f0u), kTwoTo120);
}
template <>
__device__ __forceinline__ uint32_t from_e4m3x2<__half>(uint32_t x) {
  constexpr uint32_t kTwoTo8 = 0x5c005c00;
  return mul_16x2<__half>((x & 0x80008000u) | (x >> 1 & 0x3f803f80u), kTwoTo8);
}

}  // namespace mi::cuda
