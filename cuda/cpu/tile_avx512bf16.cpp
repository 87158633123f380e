// Micro-kernels on bf16 operands for AVX-512 with BF16 dot products; the f32 ones are AVX-512's.
#include "tile_isa.h"

#if defined(__AVX512BF16__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own intrinsics trip it (PR 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

namespace mi::cpu {
namespace {

__m512bh pair_of(const uint16_t* a) {
  int32_t pair;
  __builtin_memcpy(&pair, a, 4);
  return (__m512bh)_mm512_set1_epi32(pair);
}

// As the f32 block in tile_avx512.cpp; one step takes two elements of k.
template <int R, int V>
__attribute__((noinline)) void block(int64_t pairs, const uint16_t* a, int64_t a_row, int64_t a_col,
                                     const uint32_t* b, int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  __m512 sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) sum[i][v] = _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; p++, a += a_col, b += ldb) {
    __m512bh right[V];
    for (int v = 0; v < V; v++) right[v] = (__m512bh)_mm512_loadu_si512(b + 16 * v);
    for (int i = 0; i < R; i++) {
      const __m512bh left = pair_of(a + i * a_row);
      for (int v = 0; v < V; v++) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], left, right[v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++, c += ldc)
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) {
      if (accumulate) sum[i][v] = _mm512_add_ps(sum[i][v], _mm512_loadu_ps(c + 16 * v));
      _mm512_storeu_ps(c + 16 * v, sum[i][v]);
    }
}

template <int R, int V>
void strip(int64_t m, int64_t pairs, const uint16_t* a, int64_t a_row, int64_t a_col, const uint32_t* b,
           int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  int64_t i = 0;
  for (; i + R <= m; i += R)
    block<R, V>(pairs, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, accumulate);
  for (; i < m; i++) block<1, V>(pairs, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, accumulate);
}

void gemm_bf16(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t a_row, int64_t a_col,
               const uint32_t* b, int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  int64_t j = 0;
  for (; j + 64 <= n; j += 64) strip<4, 4>(m, k / 2, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
  for (; j + 32 <= n; j += 32) strip<8, 2>(m, k / 2, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
  if (j < n) strip<8, 1>(m, k / 2, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
}

// Index of a permutation of 16-bit elements that pairs elements low, low + 1, ... with high, high + 1, ...
__m512i pair_index(int low, int high) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_add_epi32(_mm512_mullo_epi32(lane, _mm512_set1_epi32(0x10001)),
                          _mm512_set1_epi32(low | high << 16));
}

__m512 exp2(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, 1);  // x - floor(x); 0 for -inf
  __m512 y = _mm512_set1_ps(kExp2Bf16[3]);
  for (int d = 2; d >= 0; d--) y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(kExp2Bf16[d]));
  return _mm512_scalef_ps(y, x);
}

void exp2_bf16(int64_t rows, int64_t n, const float* s, int64_t ld, float scale, const float* shift,
               float* sum, uint32_t* p, int64_t ldp) {
  const __m512 c = _mm512_set1_ps(scale);
  const __m512i interleave = pair_index(0, 16);  // the conversion puts the even row into the low half
  for (int64_t j = 0; j < n; j += 16) {
    const __m512 m = _mm512_loadu_ps(shift + j);
    __m512 even_sum = _mm512_loadu_ps(sum + j), odd_sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < rows; i += 2) {
      const __m512 even = exp2(_mm512_fmsub_ps(_mm512_loadu_ps(s + i * ld + j), c, m));
      const __m512 odd = exp2(_mm512_fmsub_ps(_mm512_loadu_ps(s + (i + 1) * ld + j), c, m));
      even_sum = _mm512_add_ps(even_sum, even);
      odd_sum = _mm512_add_ps(odd_sum, odd);
      const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
      _mm512_storeu_si512(p + i / 2 * ldp + j, _mm512_permutexvar_epi16(interleave, both));
    }
    _mm512_storeu_ps(sum + j, _mm512_add_ps(even_sum, odd_sum));
  }
}

void pair_rows(int64_t n, const uint16_t* even, const uint16_t* odd, uint32_t* dst) {
  const __m512i first = pair_index(0, 32), second = pair_index(16, 48);
  int64_t j = 0;
  for (; j + 32 <= n; j += 32) {
    const __m512i e = _mm512_loadu_si512(even + j), o = _mm512_loadu_si512(odd + j);
    _mm512_storeu_si512(dst + j, _mm512_permutex2var_epi16(e, first, o));
    _mm512_storeu_si512(dst + j + 16, _mm512_permutex2var_epi16(e, second, o));
  }
  for (; j < n; j++) dst[j] = even[j] | uint32_t(odd[j]) << 16;
}

}  // namespace

const TileKernels kTilesAvx512Bf16 = {
    MI_ISA_AVX512_BF16, avx512::gemm,      avx512::column_max, avx512::exp2, avx512::scale_columns,
    avx2::transpose,    avx512::dots,      gemm_bf16,          exp2_bf16,    pair_rows,
    vnni::gemm_q8,      vnni::quantise_q8, vnni::dots_q8,
};

}  // namespace mi::cpu
#endif
