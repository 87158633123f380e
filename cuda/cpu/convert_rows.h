// Conversion of contiguous rows between storage dtypes and f32, per instruction set.
#pragma once
#include <cstdint>

#include "../include/minference.h"

namespace mi::cpu {

// `n` elements, a multiple of the dtype's block. No pointer needs more than its type's alignment (GGUF
// blocks: none).
using RowToF32 = void (*)(const void* src, float* dst, int64_t n);
using RowFromF32 = void (*)(const float* src, void* dst, int64_t n);

// f32, f16, bf16, e4m3, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K; null for any other dtype.
RowToF32 row_to_f32(mi_isa isa, int32_t dtype);

// f32, f16, bf16 (both to nearest even, NaN stays NaN) and Q8_0; null for any other dtype.
RowFromF32 row_from_f32(mi_isa isa, int32_t dtype);

}  // namespace mi::cpu
