// Row converters for AVX2 with F16C.
#include "convert_rows_isa.h"

#if defined(__AVX2__) && defined(__F16C__)
#include <immintrin.h>

namespace mi::cpu {
namespace {

void from_f16(const void* src, float* dst, int64_t n) {
  const auto* h = static_cast<const uint16_t*>(src);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(h + i))));
  for (; i < n; i++) dst[i] = _cvtsh_ss(h[i]);
}

void from_bf16(const void* src, float* dst, int64_t n) {
  const auto* h = static_cast<const uint16_t*>(src);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(h + i)));
    _mm256_storeu_ps(dst + i, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
  }
  for (; i < n; i++)
    dst[i] = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(int32_t(uint32_t(h[i]) << 16))));
}

// See core/e4m3.h.
__m256 f32_of_e4m3(__m128i codes) {
  const __m256i wide = _mm256_cvtepu8_epi32(codes), magnitude = _mm256_and_si256(wide, _mm256_set1_epi32(0x7f));
  const __m256 value =
      _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(magnitude, 20)), _mm256_set1_ps(0x1p120f));
  const __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32(wide, 7), 31);
  const __m256i nan = _mm256_srli_epi32(_mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f)), 1);
  return _mm256_or_ps(value, _mm256_castsi256_ps(_mm256_or_si256(sign, nan)));
}

void from_e4m3(const void* src, float* dst, int64_t n) {
  const auto* codes = static_cast<const uint8_t*>(src);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(dst + i, f32_of_e4m3(_mm_loadl_epi64((const __m128i*)(codes + i))));
  for (; i < n; i++) dst[i] = _mm256_cvtss_f32(f32_of_e4m3(_mm_cvtsi32_si128(codes[i])));
}

void to_f16(const float* src, void* dst, int64_t n) {
  auto* h = static_cast<uint16_t*>(dst);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128((__m128i*)(h + i), _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; i++) h[i] = _cvtss_sh(src[i], _MM_FROUND_TO_NEAREST_INT);
}

// Eight f32 to bf16 in the low halves of the words, to nearest even; NaN becomes quiet.
__m256i bf16_words(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
}

void to_bf16(const float* src, void* dst, int64_t n) {
  auto* h = static_cast<uint16_t*>(dst);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i both =
        _mm256_packus_epi32(bf16_words(_mm256_loadu_ps(src + i)), bf16_words(_mm256_loadu_ps(src + i + 8)));
    _mm256_storeu_si256((__m256i*)(h + i), _mm256_permute4x64_epi64(both, 0xd8));  // packus works per half
  }
  for (; i < n; i++) h[i] = uint16_t(_mm256_cvtsi256_si32(bf16_words(_mm256_set1_ps(src[i]))));
}

__m256 f32_of_bytes(const uint8_t* q) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)q)));
}

void from_q8_0(const void* src, float* dst, int64_t n) {
  const auto* block = static_cast<const uint8_t*>(src);
  for (int64_t i = 0; i < n; i += 32, block += 34) {
    uint16_t half;
    __builtin_memcpy(&half, block, 2);
    const __m256 d = _mm256_set1_ps(_cvtsh_ss(half));
    for (int j = 0; j < 32; j += 8)
      _mm256_storeu_ps(dst + i + j, _mm256_mul_ps(d, f32_of_bytes(block + 2 + j)));
  }
}

void to_q8_0(const float* src, void* dst, int64_t n) {
  auto* block = static_cast<uint8_t*>(dst);
  for (int64_t i = 0; i < n; i += 32, block += 34) {
    __m256 x[4], largest = _mm256_setzero_ps(), poison = _mm256_setzero_ps();
    for (int v = 0; v < 4; v++) {
      x[v] = _mm256_loadu_ps(src + i + 8 * v);
      largest = _mm256_max_ps(largest, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x[v]));
      poison = _mm256_fmadd_ps(x[v], _mm256_setzero_ps(), poison);  // NaN if any element is not finite
    }
    float most[8], bad[8], amax = 0, sum = 0;
    _mm256_storeu_ps(most, largest);
    _mm256_storeu_ps(bad, poison);
    for (int j = 0; j < 8; j++) {
      if (most[j] > amax) amax = most[j];
      sum += bad[j];
    }
    const float d = amax / 127.0f + sum;
    const uint16_t half = _cvtss_sh(d, _MM_FROUND_TO_NEAREST_INT);
    __builtin_memcpy(block, &half, 2);
    const bool scaled = d >= 0x1p-126f;  // below, the f16 scale is 0 anyway
    const __m256 inverse = _mm256_set1_ps(scaled ? 1.0f / d : 0.0f);
    __m256i q[4];
    for (int v = 0; v < 4; v++)
      q[v] = scaled ? _mm256_cvtps_epi32(_mm256_mul_ps(x[v], inverse)) : _mm256_setzero_si256();
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    // The packs leave quads of bytes in the order 0 2 4 6 1 3 5 7.
    _mm256_storeu_si256((__m256i*)(block + 2),
                        _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  }
}

}  // namespace

const RowConverters kRowsAvx2 = {from_f16, from_bf16, from_e4m3, from_q8_0, to_f16, to_bf16, to_q8_0};

}  // namespace mi::cpu
#endif
