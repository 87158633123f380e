// Micro-kernels for AVX-512 (F, BW, VL, DQ).
#include "tile_isa.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own intrinsics trip it (PR 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

namespace mi::cpu {
namespace {

// One R x 16V block of C. Not inlined, because among its siblings the compiler runs out of address registers;
// the outer loops are unrolled by hand, because otherwise the sums travel over the stack before and after.
template <int R, int V>
__attribute__((noinline)) void block(int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
                                     int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  __m512 sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) sum[i][v] = _mm512_setzero_ps();
  for (int64_t p = 0; p < k; p++, a += a_col, b += ldb) {
    __m512 right[V];
    for (int v = 0; v < V; v++) right[v] = _mm512_loadu_ps(b + 16 * v);
    for (int i = 0; i < R; i++) {
      const __m512 left = _mm512_set1_ps(a[i * a_row]);
      for (int v = 0; v < V; v++) sum[i][v] = _mm512_fmadd_ps(left, right[v], sum[i][v]);
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

// A strip of 16V columns. 4 x 64 is the fastest block: sixteen sums hide the FMA's latency, eight loads feed
// sixteen FMAs, and four rows need few address registers (98% of peak on Zen 4).
template <int R, int V>
void strip(int64_t m, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t ldb,
           float* c, int64_t ldc, bool accumulate) {
  int64_t i = 0;
  for (; i + R <= m; i += R)
    block<R, V>(k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, accumulate);
  for (; i < m; i++) block<1, V>(k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, accumulate);
}

}  // namespace

namespace avx512 {

void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
          int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  int64_t j = 0;
  for (; j + 64 <= n; j += 64) strip<4, 4>(m, k, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
  for (; j + 32 <= n; j += 32) strip<8, 2>(m, k, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
  if (j < n) strip<8, 1>(m, k, a, a_row, a_col, b + j, ldb, c + j, ldc, accumulate);
}

void column_max(int64_t rows, int64_t n, const float* s, int64_t ld, float* max) {
  for (int64_t j = 0; j < n; j += 16) {
    __m512 m0 = _mm512_loadu_ps(max + j), m1 = m0;
    int64_t i = 0;
    for (; i + 2 <= rows; i += 2) {  // max_ps returns its second operand when one is NaN
      m0 = _mm512_max_ps(_mm512_loadu_ps(s + i * ld + j), m0);
      m1 = _mm512_max_ps(_mm512_loadu_ps(s + (i + 1) * ld + j), m1);
    }
    if (i < rows) m0 = _mm512_max_ps(_mm512_loadu_ps(s + i * ld + j), m0);
    _mm512_storeu_ps(max + j, _mm512_max_ps(m0, m1));
  }
}

void exp2(int64_t rows, int64_t n, float* s, int64_t ld, float scale, const float* shift, float* sum) {
  const __m512 c = _mm512_set1_ps(scale);
  for (int64_t j = 0; j < n; j += 16) {
    const __m512 m = _mm512_loadu_ps(shift + j);
    __m512 total = _mm512_loadu_ps(sum + j);
    for (int64_t i = 0; i < rows; i++) {
      float* at = s + i * ld + j;
      const __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(at), c, m);
      const __m512 f = _mm512_reduce_ps(x, 1);  // x - floor(x); 0 for -inf
      __m512 y = _mm512_set1_ps(kExp2F32[5]);
      for (int d = 4; d >= 0; d--) y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(kExp2F32[d]));
      y = _mm512_scalef_ps(y, x);  // y 2^floor(x), also where that leaves the normal range
      total = _mm512_add_ps(total, y);
      _mm512_storeu_ps(at, y);
    }
    _mm512_storeu_ps(sum + j, total);
  }
}

void scale_columns(int64_t rows, int64_t n, float* c, int64_t ld, const float* factor) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < n; j += 16)
      _mm512_storeu_ps(c + i * ld + j,
                       _mm512_mul_ps(_mm512_loadu_ps(c + i * ld + j), _mm512_loadu_ps(factor + j)));
}

// Four sums of one row hide the FMA's latency; further rows read w from the first-level cache.
void dots(int64_t count, int64_t k, const float* rows, int64_t stride, const float* w, float* dots) {
  for (int64_t i = 0; i < count; i++, rows += stride) {
    __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    int64_t p = 0;
    for (; p + 64 <= k; p += 64)
      for (int v = 0; v < 4; v++)
        sum[v] = _mm512_fmadd_ps(_mm512_loadu_ps(rows + p + 16 * v), _mm512_loadu_ps(w + p + 16 * v), sum[v]);
    for (; p < k; p += 16) {
      const __mmask16 in = k - p >= 16 ? 0xffff : (__mmask16)((1u << (k - p)) - 1);
      sum[0] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(in, rows + p), _mm512_maskz_loadu_ps(in, w + p), sum[0]);
    }
    dots[i] =
        _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
  }
}

}  // namespace avx512

const TileKernels kTilesAvx512 = {
    MI_ISA_AVX512,
    avx512::gemm,
    avx512::column_max,
    avx512::exp2,
    avx512::scale_columns,
    avx2::transpose,
    avx512::dots,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
};

}  // namespace mi::cpu
#endif
