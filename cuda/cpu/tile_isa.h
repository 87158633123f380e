// The tables behind tile_kernels() and what they share. Each table lives in a file compiled for its
// instruction set; such files use no inline function or template that a file compiled otherwise could share,
// because the linker keeps only one copy of those, and no initialiser that runs code, because that would run
// on every CPU.
#pragma once
#include "tile.h"

namespace mi::cpu {

extern const TileKernels kTilesPortable;
#if defined(__x86_64__)
extern const TileKernels kTilesAvx2, kTilesAvx512, kTilesAvx512Bf16;

// Kernels that the tables of higher instruction sets take over.
namespace avx2 {
Transpose transpose;
}
namespace avx512 {
Gemm gemm;
ColumnMax column_max;
Exp2 exp2;
ScaleColumns scale_columns;
Dots dots;
}  // namespace avx512
namespace vnni {
GemmQ8 gemm_q8;
QuantiseQ8 quantise_q8;
DotsQ8 dots_q8;
}  // namespace vnni
#endif

// 2^f on [0, 1], coefficients of f^0, f^1, ...: smallest largest relative error, 7.5e-8 for degree 5
// and 7.5e-5 (a twenty-fifth of bf16's rounding error) for degree 3.
constexpr float kExp2F32[6] = {0x1.fffffep-1f, 0x1.62e4f6p-1f, 0x1.ebd5a8p-3f,
                               0x1.c95446p-5f, 0x1.26900cp-7f, 0x1.ec320ap-10f};
constexpr float kExp2Bf16[4] = {0x1.fff632p-1f, 0x1.64444cp-1f, 0x1.cefc4cp-3f, 0x1.3f96a4p-4f};

}  // namespace mi::cpu
