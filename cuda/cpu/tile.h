// The micro-kernels every dense computation on the CPU is made of: linear layers, attention tiles and the
// last-queries estimate. One table per instruction set, chosen at run time.
//
// Operands are laid out so that nothing but the small right-hand panel is ever packed: A is read by broadcast
// with any strides, B and C are row-major with the vector lanes along n. Attention puts the query rows
// into the lanes, so its softmax is vertical: no step of it moves data across lanes.
#pragma once
#include <cstdint>

#include "../include/minference.h"

namespace mi::cpu {

// Every n below is a multiple of this. No pointer needs alignment (64 bytes is fastest).
constexpr int kLanes = 16;

// C[m][n] = A[m][k] B[k][n], added to C if `accumulate`. A(i, p) is a[i * a_row + p * a_col]; rows of B and C
// are ldb and ldc elements apart.
using Gemm = void(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col,
                  const float* b, int64_t ldb, float* c, int64_t ldc, bool accumulate);

// The same on bf16 operands with f32 sums. k is even; B holds pairs along k, b[p / 2 * ldb + j] = {B(p, j),
// B(p + 1, j)}, low half first. A(i, p) and A(i, p + 1) are adjacent at a[i * a_row + p / 2 * a_col], strides
// in bf16 elements. Denormal operands count as zero.
using GemmBf16 = void(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t a_row, int64_t a_col,
                      const uint32_t* b, int64_t ldb, float* c, int64_t ldc, bool accumulate);

// Rows of 8-bit blocks of 32 along k: the left operand of GemmQ8.
struct Q8Rows {
  const int8_t* quants;   // [m][32 * blocks]
  const float* scales;    // [m][blocks]
  const int32_t* offset;  // [m][blocks], -128 times the block's sum of quants: undoes the shift of the panel
};
// C[m][n] = sum over blocks of scales * panel_scales * (integer dot product of the block), added to C if
// `accumulate`. The panel holds quants with 128 added as unsigned bytes, four along k to a word:
// panel[p / 4 * ldb + j]; its scales are [blocks][ldb]. Rows of `a` are `stride` blocks apart.
using GemmQ8 = void(int64_t m, int64_t n, int64_t blocks, const Q8Rows& a, int64_t stride,
                    const uint32_t* panel, const float* panel_scales, int64_t ldb, float* c, int64_t ldc,
                    bool accumulate);

// Quantises 32 * blocks elements of one row for GemmQ8. A block with an element that is not finite gets the
// scale NaN.
using QuantiseQ8 = void(int64_t blocks, const float* x, int8_t* quants, float* scales, int32_t* offset);

// max[j] = max(max[j], s[i][j]) over rows i. A NaN in s is skipped: Exp2 still carries it on.
using ColumnMax = void(int64_t rows, int64_t n, const float* s, int64_t ld, float* max);

// s[i][j] = 2^(scale * s[i][j] - shift[j]) and sum[j] += s[i][j]. Relative error under 2e-7 for exponents in
// [-126, 127], which is as far as they may go; smaller ones, -inf included, give 0 (or a denormal), NaN gives
// NaN. `shift` is above -inf.
using Exp2 = void(int64_t rows, int64_t n, float* s, int64_t ld, float scale, const float* shift, float* sum);

// As Exp2, for an even number of rows, with the result in bf16 pairs: p[i / 2 * ldp + j]. Relative error
// 2^-9. `s` is left alone.
using Exp2Bf16 = void(int64_t rows, int64_t n, const float* s, int64_t ld, float scale, const float* shift,
                      float* sum, uint32_t* p, int64_t ldp);

// c[i][j] *= factor[j]
using ScaleColumns = void(int64_t rows, int64_t n, float* c, int64_t ld, const float* factor);

// dst[j][i] = src[i][j] for 32-bit elements (f32, bf16 pairs, quads of bytes), any rows and columns.
using Transpose = void(int64_t rows, int64_t columns, const void* src, int64_t lds, void* dst, int64_t ldd);

// dst[j] = {even[j], odd[j]}, low half first, for any n.
using PairRows = void(int64_t n, const uint16_t* even, const uint16_t* odd, uint32_t* dst);

// dots[i] = sum over p of rows[i * stride + p] * w[p], for `count` rows of any length k. Bandwidth counts
// here, not arithmetic: one pass over w.
using Dots = void(int64_t count, int64_t k, const float* rows, int64_t stride, const float* w, float* dots);
// The same with a row of MI_Q8_0 blocks as it lies in memory.
using DotsQ8 = void(int64_t count, int64_t blocks, const Q8Rows& rows, int64_t stride, const void* w,
                    float* dots);

struct TileKernels {
  mi_isa isa;
  Gemm* gemm;
  ColumnMax* column_max;
  Exp2* exp2;
  ScaleColumns* scale_columns;
  Transpose* transpose;
  Dots* dots;
  // Null unless isa == MI_ISA_AVX512_BF16: elsewhere f32 is as fast. (AVX2 has no dot product of signed
  // bytes; the detour over maddubs with sign fix-ups costs as many instructions per product as FMA.)
  GemmBf16* gemm_bf16;
  Exp2Bf16* exp2_bf16;
  PairRows* pair_rows;
  GemmQ8* gemm_q8;
  QuantiseQ8* quantise_q8;
  DotsQ8* dots_q8;
};

// The kernels of the best instruction set that is at most `isa`. The caller vouches for the CPU: pass
// Pool::isa().
const TileKernels& tile_kernels(mi_isa isa);

}  // namespace mi::cpu
