// Scales of a quantised cache: what mi_quantise_params says of them, for both backends.
#pragma once
#include "../core/e4m3.h"
#include "../include/minference.h"

namespace mi {

// The bits of |x|, which are ordered as the magnitudes are, then infinity, then NaN.
MI_HD inline uint32_t magnitude_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits & 0x7fffffff;
}

// The bits of the least power of two, but no denormal, that brings the given magnitude to 448 = 1.75 * 2^8 or below;
// of NaN for what is not finite. Scales are positive, so that their bits are ordered as well.
MI_HD inline uint32_t scale_bits(uint32_t magnitude) {
  if (magnitude >= 0x7f800000) return 0x7fc00000;
  const int32_t exponent = int32_t(magnitude >> 23) - 8 + ((magnitude & 0x7fffff) > 0x600000);
  return uint32_t(exponent < 1 ? 1 : exponent) << 23;
}

MI_HD inline float float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// 1 / scale, exactly.
MI_HD inline float inverse_scale(uint32_t bits) { return float_of_bits(bits >= 0x7f800000 ? bits : 0x7f000000 - bits); }

// Rows of one head's block that an operation writes.
struct KvBlockRows {
  int64_t begin;        // of the block
  int64_t first, last;  // rows [first, last) are new; those from `begin` to `first` stay

  MI_HD KvBlockRows(int64_t block, int64_t position, int64_t rows) : begin(block * MI_KV_BLOCK) {
    const int64_t end = begin + MI_KV_BLOCK;
    first = position > begin ? position : begin;
    last = position + rows < end ? position + rows : end;
  }
};

}  // namespace mi
