// Products of 8-bit blocks by VNNI: Q8_0 weights times activations quantised the same way.
#include "tile_isa.h"

#if defined(__AVX512VNNI__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own intrinsics trip it (PR 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

namespace mi::cpu {
namespace {

__m512i quad_of(const int8_t* a) {
  int32_t quad;
  __builtin_memcpy(&quad, a, 4);
  return _mm512_set1_epi32(quad);
}

// One R x 16V block of C. vpdpbusd takes unsigned times signed bytes: the panel is the unsigned side, and the
// sums of a block start at `offset`, which takes its shift of 128 out again. Not inlined: see
// tile_avx512.cpp.
template <int R, int V>
__attribute__((noinline)) void block(int64_t blocks, Q8Rows a, int64_t stride, const uint32_t* panel,
                                     const float* panel_scales, int64_t ldb, float* c, int64_t ldc,
                                     bool accumulate) {
  __m512 sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) sum[i][v] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; b++) {
    __m512i dot[R][V];
    for (int i = 0; i < R; i++)
      for (int v = 0; v < V; v++) dot[i][v] = _mm512_set1_epi32(a.offset[i * stride]);
#pragma GCC unroll 8
    for (int p = 0; p < 8; p++) {
      __m512i right[V];
      for (int v = 0; v < V; v++) right[v] = _mm512_loadu_si512(panel + p * ldb + 16 * v);
      for (int i = 0; i < R; i++) {
        const __m512i left = quad_of(a.quants + 32 * i * stride + 4 * p);
        for (int v = 0; v < V; v++) dot[i][v] = _mm512_dpbusd_epi32(dot[i][v], right[v], left);
      }
    }
    for (int v = 0; v < V; v++) {
      const __m512 column = _mm512_loadu_ps(panel_scales + 16 * v);
      for (int i = 0; i < R; i++) {
        const __m512 scale = _mm512_mul_ps(column, _mm512_set1_ps(a.scales[i * stride]));
        sum[i][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i][v]), scale, sum[i][v]);
      }
    }
    a.quants += 32, a.scales++, a.offset++;
    panel += 8 * ldb, panel_scales += ldb;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++, c += ldc)
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) {
      if (accumulate) sum[i][v] = _mm512_add_ps(sum[i][v], _mm512_loadu_ps(c + 16 * v));
      _mm512_storeu_ps(c + 16 * v, sum[i][v]);
    }
}

template <int V>
void strip(int64_t m, int64_t blocks, const Q8Rows& a, int64_t stride, const uint32_t* panel,
           const float* panel_scales, int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  const auto from = [&](int64_t i) {
    return Q8Rows{a.quants + 32 * i * stride, a.scales + i * stride, a.offset + i * stride};
  };
  int64_t i = 0;
  for (; i + 4 <= m; i += 4)
    block<4, V>(blocks, from(i), stride, panel, panel_scales, ldb, c + i * ldc, ldc, accumulate);
  for (; i < m; i++)
    block<1, V>(blocks, from(i), stride, panel, panel_scales, ldb, c + i * ldc, ldc, accumulate);
}

}  // namespace

namespace vnni {

void gemm_q8(int64_t m, int64_t n, int64_t blocks, const Q8Rows& a, int64_t stride, const uint32_t* panel,
             const float* panel_scales, int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  int64_t j = 0;
  for (; j + 32 <= n; j += 32)
    strip<2>(m, blocks, a, stride, panel + j, panel_scales + j, ldb, c + j, ldc, accumulate);
  if (j < n) strip<1>(m, blocks, a, stride, panel + j, panel_scales + j, ldb, c + j, ldc, accumulate);
}

void quantise_q8(int64_t blocks, const float* x, int8_t* quants, float* scales, int32_t* offset) {
  const __m512 infinity = _mm512_set1_ps(__builtin_inff());
  for (int64_t b = 0; b < blocks; b++, x += 32, quants += 32) {
    const __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
    const __m512 a0 = _mm512_abs_ps(x0), a1 = _mm512_abs_ps(x1);
    const bool finite =
        !(_mm512_cmp_ps_mask(a0, infinity, _CMP_NLT_UQ) | _mm512_cmp_ps_mask(a1, infinity, _CMP_NLT_UQ));
    const float scale = _mm512_reduce_max_ps(_mm512_max_ps(a0, a1)) / 127.0f;
    scales[b] = finite ? scale : __builtin_nanf("");
    // Below the smallest normal number the reciprocal may overflow; such a block is 0 for every purpose.
    const __m512 inverse = _mm512_set1_ps(finite && scale >= 0x1p-126f ? 1.0f / scale : 0.0f);
    const __m128i q0 = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse)));
    const __m128i q1 = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse)));
    _mm_storeu_si128((__m128i*)quants, q0);
    _mm_storeu_si128((__m128i*)(quants + 16), q1);
    // Sum of the bytes as unsigned ones, each 128 too large.
    const __m128i flip = _mm_set1_epi8(-128), zero = _mm_setzero_si128();
    const __m128i sum = _mm_add_epi64(_mm_sad_epu8(_mm_xor_si128(q0, flip), zero),
                                      _mm_sad_epu8(_mm_xor_si128(q1, flip), zero));
    const int32_t total = _mm_cvtsi128_si32(sum) + _mm_extract_epi32(sum, 2) - 32 * 128;
    offset[b] = -128 * total;
  }
}

// A Q8_0 block is an f16 scale and 32 signed bytes.
void dots_q8(int64_t count, int64_t blocks, const Q8Rows& rows, int64_t stride, const void* w, float* dots) {
  constexpr int kBytes = 34;
  for (int64_t i = 0; i < count; i++) {
    const int8_t* quants = rows.quants + 32 * i * stride;
    const float* scales = rows.scales + i * stride;
    const int32_t* offset = rows.offset + i * stride;
    const uint8_t* block = static_cast<const uint8_t*>(w);
    __m256 sum = _mm256_setzero_ps();
    for (int64_t b = 0; b < blocks; b++, block += kBytes, quants += 32) {
      uint16_t half;
      __builtin_memcpy(&half, block, 2);
      const __m256i right =
          _mm256_xor_si256(_mm256_loadu_si256((const __m256i*)(block + 2)), _mm256_set1_epi8(-128));
      const __m256i left = _mm256_loadu_si256((const __m256i*)quants);
      const __m256i start = _mm256_zextsi128_si256(_mm_cvtsi32_si128(offset[b]));
      const __m256i dot = _mm256_dpbusd_epi32(start, right, left);
      sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(_cvtsh_ss(half) * scales[b]), sum);
    }
    __m128 part = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    part = _mm_add_ps(part, _mm_movehl_ps(part, part));
    dots[i] = _mm_cvtss_f32(_mm_add_ss(part, _mm_movehdup_ps(part)));
  }
}

}  // namespace vnni
}  // namespace mi::cpu
#endif
