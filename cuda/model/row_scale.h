// Scales of matrices of e4m3, one per row: what mi_quantise_rows_params says of them, for both backends.
#pragma once
#include "kv_scale.h"

namespace mi {

// The scale of a row whose largest magnitude has these bits: it becomes 448. No denormal, so that 1 / scale is finite.
MI_HD inline float row_scale(uint32_t magnitude) {
  if (magnitude >= 0x7f800000) return __builtin_nanf("");
  const float scale = float_of_bits(magnitude) / kE4m3Max;
  return scale < 0x1p-126f ? 0x1p-126f : scale;
}

}  // namespace mi
