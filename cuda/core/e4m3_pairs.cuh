// Codes of e4m3, two at a time, as operands of 16-bit products.
#pragma once
#include "ptx.cuh"

namespace mi::cuda {

// The e4m3 in byte i of x, and in its upper half that in byte j of y; exact. Where there is no instruction for it, the
// fields move into place, and a product corrects the exponent's bias and normalises denormals: then a NaN is lost, but
// whoever quantises gives what holds one a scale that is NaN.
template <class T>
__device__ __forceinline__ uint32_t from_e4m3x2(uint32_t x, int i, uint32_t y, int j);
template <>
__device__ __forceinline__ uint32_t from_e4m3x2<__nv_bfloat16>(uint32_t x, int i, uint32_t y, int j) {
  constexpr uint32_t kTwoTo120 = 0x7b807b80;
  const uint32_t codes = __byte_perm(x, y, i << 4 | (4 + j) << 12);  // to bytes 1 and 3
  return mul_16x2<__nv_bfloat16>((codes & 0x80008000u) | (codes >> 4 & 0x07f007f0u), kTwoTo120);
}
template <>
__device__ __forceinline__ uint32_t from_e4m3x2<__half>(uint32_t x, int i, uint32_t y, int j) {
#if __CUDA_ARCH__ >= 890
  return f16x2_from_e4m3x2(__byte_perm(x, y, i | (4 + j) << 4));
#else
  constexpr uint32_t kTwoTo8 = 0x5c005c00;
  const uint32_t codes = __byte_perm(x, y, i << 4 | (4 + j) << 12);
  return mul_16x2<__half>((codes & 0x80008000u) | (codes >> 1 & 0x3f803f80u), kTwoTo8);
#endif
}

}  // namespace mi::cuda
