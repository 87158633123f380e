// The converters of one instruction set. See tile_isa.h for the rules of files compiled for one.
#pragma once
#include "convert_rows.h"

namespace mi::cpu {

struct RowConverters {
  RowToF32 f16, bf16, e4m3, q8_0;
  RowFromF32 to_f16, to_bf16, to_q8_0;
};
extern const RowConverters kRowsPortable;
#if defined(__x86_64__)
extern const RowConverters kRowsAvx2;
#endif

}  // namespace mi::cpu
