// MI_E4M3: sign, 4 exponent bits with bias 7, 3 mantissa bits; largest 448, no infinity, NaN is 0x7f and 0xff.
#pragma once
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace mi {

constexpr float kE4m3Max = 448;

// Nearest e4m3, ties to even; beyond the largest it is the largest, NaN stays NaN.
MI_HD inline uint8_t e4m3_from_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = bits >> 24 & 0x80;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return uint8_t(sign | 0x7f);
  if (bits >= 0x43e00000) return uint8_t(sign | 0x7e);  // 448
  if (bits < 0x3c800000) {  // below 2^-6, multiples of 2^-9: adding 2^14 makes the FPU round there
    float magnitude;
    memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 16384.0f;
    memcpy(&bits, &magnitude, sizeof bits);
    return uint8_t(sign | (bits - 0x46800000));
  }
  // The exponent's bias goes from 127 to 7; a mantissa that rounds up carries into it.
  return uint8_t(sign | (bits - 0x3c000000 + 0x7ffff + (bits >> 20 & 1)) >> 20);
}

// Exact.
MI_HD inline float float_from_e4m3(uint8_t code) {
  const uint32_t magnitude = code & 0x7f;
  if (magnitude == 0x7f) return __builtin_nanf("");
  // Moves the fields into place and corrects the exponent's bias by a product, which also normalises denormals.
  const uint32_t bits = magnitude << 20, sign = uint32_t(code & 0x80) << 24;
  float x;
  memcpy(&x, &bits, sizeof x);
  x *= 0x1p120f;
  uint32_t result;
  memcpy(&result, &x, sizeof result);
  result |= sign;
  memcpy(&x, &result, sizeof x);
  return x;
}

}  // namespace mi
