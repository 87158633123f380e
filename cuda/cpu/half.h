// Scalar f16 and bf16. For files compiled for the baseline instruction set only (see tile_isa.h).
#pragma once
#include <cstdint>
#include <cstring>

namespace mi::cpu {

inline float f32_of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline uint32_t bits_of_f32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float bf16_to_f32(uint16_t h) { return f32_of_bits(uint32_t(h) << 16); }

// To nearest even; NaN stays NaN.
inline uint16_t f32_to_bf16(float x) {
  const uint32_t bits = bits_of_f32(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) return f32_of_bits(sign | 0x7f800000 | magnitude << 13);  // inf, NaN
  // Moves the exponent field into place and corrects its bias by a product, which also normalises denormals.
  const float x = f32_of_bits(magnitude << 13) * 0x1p112f;
  return f32_of_bits(sign | bits_of_f32(x));
}

// To nearest even; NaN stays NaN.
inline uint16_t f32_to_f16(float x) {
  const uint32_t bits = bits_of_f32(x), magnitude = bits & 0x7fffffff;
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000) return sign | 0x7e00 | uint16_t(magnitude >> 13 & 0x3ff);
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
  if (magnitude < 0x38800000)  // denormal: adding 0.5 makes the FPU round at the right bit
    return sign | uint16_t(bits_of_f32(f32_of_bits(magnitude) + 0.5f) - 0x3f000000);
  return sign | uint16_t((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

}  // namespace mi::cpu
