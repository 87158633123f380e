// Micro-kernels for AVX2 with FMA.
#include "tile_isa.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

namespace mi::cpu {
namespace {

// One R x 16 block of C. Six rows fill the register file: 12 sums, two halves of B and one broadcast.
template <int R>
void block(int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t ldb, float* c,
           int64_t ldc, bool accumulate) {
  __m256 sum[R][2];
  for (int i = 0; i < R; i++)
    for (int v = 0; v < 2; v++) sum[i][v] = _mm256_setzero_ps();
  for (int64_t p = 0; p < k; p++, a += a_col, b += ldb) {
    const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
    for (int i = 0; i < R; i++) {
      const __m256 left = _mm256_broadcast_ss(a + i * a_row);
      sum[i][0] = _mm256_fmadd_ps(left, b0, sum[i][0]);
      sum[i][1] = _mm256_fmadd_ps(left, b1, sum[i][1]);
    }
  }
  for (int i = 0; i < R; i++, c += ldc)
    for (int v = 0; v < 2; v++) {
      if (accumulate) sum[i][v] = _mm256_add_ps(sum[i][v], _mm256_loadu_ps(c + 8 * v));
      _mm256_storeu_ps(c + 8 * v, sum[i][v]);
    }
}

void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
          int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  for (; n > 0; n -= 16, b += 16, c += 16) {
    int64_t i = 0;
    const auto run = [&](auto kernel, int64_t step) {
      for (; i + step <= m; i += step)
        kernel(k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, accumulate);
    };
    run(block<6>, 6);
    run(block<4>, 4);
    run(block<2>, 2);
    run(block<1>, 1);
  }
}

void column_max(int64_t rows, int64_t n, const float* s, int64_t ld, float* max) {
  for (int64_t j = 0; j < n; j += 16) {
    __m256 m0 = _mm256_loadu_ps(max + j), m1 = _mm256_loadu_ps(max + j + 8);
    for (int64_t i = 0; i < rows; i++) {  // max_ps returns its second operand when one is NaN
      m0 = _mm256_max_ps(_mm256_loadu_ps(s + i * ld + j), m0);
      m1 = _mm256_max_ps(_mm256_loadu_ps(s + i * ld + j + 8), m1);
    }
    _mm256_storeu_ps(max + j, m0);
    _mm256_storeu_ps(max + j + 8, m1);
  }
}

__m256 exp2(__m256 x) {
  const __m256 whole = _mm256_floor_ps(x), f = _mm256_sub_ps(x, whole);
  __m256 y = _mm256_set1_ps(kExp2F32[5]);
  for (int d = 4; d >= 0; d--) y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(kExp2F32[d]));
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
  const __m256 scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), exponent));
  // Where the exponent would leave the normal range, -inf included, the result is 0; NaN comes through.
  return _mm256_and_ps(scaled, _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_NLT_UQ));
}

void exp2(int64_t rows, int64_t n, float* s, int64_t ld, float scale, const float* shift, float* sum) {
  const __m256 c = _mm256_set1_ps(scale);
  for (int64_t j = 0; j < n; j += 8) {
    const __m256 m = _mm256_loadu_ps(shift + j);
    __m256 total = _mm256_loadu_ps(sum + j);
    for (int64_t i = 0; i < rows; i++) {
      float* at = s + i * ld + j;
      const __m256 y = exp2(_mm256_fmsub_ps(_mm256_loadu_ps(at), c, m));
      total = _mm256_add_ps(total, y);
      _mm256_storeu_ps(at, y);
    }
    _mm256_storeu_ps(sum + j, total);
  }
}

void scale_columns(int64_t rows, int64_t n, float* c, int64_t ld, const float* factor) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < n; j += 8)
      _mm256_storeu_ps(c + i * ld + j,
                       _mm256_mul_ps(_mm256_loadu_ps(c + i * ld + j), _mm256_loadu_ps(factor + j)));
}

void dots(int64_t count, int64_t k, const float* rows, int64_t stride, const float* w, float* dots) {
  for (int64_t i = 0; i < count; i++, rows += stride) {
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t p = 0;
    for (; p + 32 <= k; p += 32)
      for (int v = 0; v < 4; v++)
        sum[v] = _mm256_fmadd_ps(_mm256_loadu_ps(rows + p + 8 * v), _mm256_loadu_ps(w + p + 8 * v), sum[v]);
    const __m256 all = _mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3]));
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    float total = _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
    for (; p < k; p++) total += rows[p] * w[p];
    dots[i] = total;
  }
}

// 8 x 8 words: unpack pairs, then quads, then the halves of the registers.
void transpose8(const float* src, int64_t lds, float* dst, int64_t ldd) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(src + i * lds);
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int h = 0; h < 2; h++) {
      r[i + 2 * h] = _mm256_shuffle_ps(t[i + h], t[i + h + 2], 0x44);
      r[i + 2 * h + 1] = _mm256_shuffle_ps(t[i + h], t[i + h + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(dst + i * ldd, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(dst + (i + 4) * ldd, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

}  // namespace

namespace avx2 {

void transpose(int64_t rows, int64_t columns, const void* src, int64_t lds, void* dst, int64_t ldd) {
  const float* from = static_cast<const float*>(src);
  float* to = static_cast<float*>(dst);
  for (int64_t i = 0; i < rows; i += 8)
    for (int64_t j = 0; j < columns; j += 8) {
      if (i + 8 <= rows && j + 8 <= columns) {
        transpose8(from + i * lds + j, lds, to + j * ldd + i, ldd);
        continue;
      }
      for (int64_t y = i; y < i + 8 && y < rows; y++)
        for (int64_t x = j; x < j + 8 && x < columns; x++)
          __builtin_memcpy(to + x * ldd + y, from + y * lds + x, 4);
    }
}

}  // namespace avx2

const TileKernels kTilesAvx2 = {
    MI_ISA_AVX2, gemm,    column_max, exp2,    scale_columns, avx2::transpose, dots,
    nullptr,     nullptr, nullptr,    nullptr, nullptr,       nullptr,
};

}  // namespace mi::cpu
#endif
