// Choice of the row converters, and their portable form.
#include "convert_rows.h"

#include <cmath>

#include "../core/e4m3.h"
#include "convert_rows_isa.h"
#include "half.h"

namespace mi::cpu {
namespace {

uint16_t u16_at(const void* p) {
  uint16_t x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

void copy_f32(const void* src, float* dst, int64_t n) { std::memmove(dst, src, size_t(n) * sizeof(float)); }
void copy_to_f32(const float* src, void* dst, int64_t n) {
  std::memmove(dst, src, size_t(n) * sizeof(float));
}

void from_f16(const void* src, float* dst, int64_t n) {
  const auto* h = static_cast<const uint16_t*>(src);
  for (int64_t i = 0; i < n; i++) dst[i] = f16_to_f32(h[i]);
}
void from_bf16(const void* src, float* dst, int64_t n) {
  const auto* h = static_cast<const uint16_t*>(src);
  for (int64_t i = 0; i < n; i++) dst[i] = bf16_to_f32(h[i]);
}
void to_f16(const float* src, void* dst, int64_t n) {
  auto* h = static_cast<uint16_t*>(dst);
  for (int64_t i = 0; i < n; i++) h[i] = f32_to_f16(src[i]);
}
void to_bf16(const float* src, void* dst, int64_t n) {
  auto* h = static_cast<uint16_t*>(dst);
  for (int64_t i = 0; i < n; i++) h[i] = f32_to_bf16(src[i]);
}

// Q8_0, 34 bytes: f16 scale d, 32 signed q. x = d q.
void from_e4m3(const void* src, float* dst, int64_t n) {
  const auto* codes = static_cast<const uint8_t*>(src);
  for (int64_t i = 0; i < n; i++) dst[i] = float_from_e4m3(codes[i]);
}
void from_q8_0(const void* src, float* dst, int64_t n) {
  const auto* block = static_cast<const uint8_t*>(src);
  for (int64_t i = 0; i < n; i += 32, block += 34) {
    const float d = f16_to_f32(u16_at(block));
    for (int j = 0; j < 32; j++) dst[i + j] = d * float(int8_t(block[2 + j]));
  }
}
void to_q8_0(const float* src, void* dst, int64_t n) {
  auto* block = static_cast<uint8_t*>(dst);
  for (int64_t i = 0; i < n; i += 32, block += 34) {
    float largest = 0, poison = 0;
    for (int j = 0; j < 32; j++) {
      largest = std::fmax(largest, std::fabs(src[i + j]));
      poison += src[i + j] * 0.0f;  // NaN if any element is not finite: then so is the scale
    }
    const float d = largest / 127.0f + poison, inverse = 1.0f / d;
    const uint16_t half = f32_to_f16(d);
    std::memcpy(block, &half, sizeof half);
    for (int j = 0; j < 32; j++) {
      const float q = d >= 0x1p-126f ? src[i + j] * inverse : 0.0f;
      block[2 + j] = uint8_t(int8_t(std::lrintf(std::fmin(std::fmax(q, -127.0f), 127.0f))));
    }
  }
}

// Q4_0, 18 bytes: f16 d, 16 bytes; low nibbles are elements 0 to 15, high ones 16 to 31. x = d (q - 8).
void from_q4_0(const void* src, float* dst, int64_t n) {
  const auto* block = static_cast<const uint8_t*>(src);
  for (int64_t i = 0; i < n; i += 32, block += 18) {
    const float d = f16_to_f32(u16_at(block));
    for (int j = 0; j < 16; j++) {
      dst[i + j] = d * float((block[2 + j] & 15) - 8);
      dst[i + j + 16] = d * float((block[2 + j] >> 4) - 8);
    }
  }
}

// Q4_1, 20 bytes: f16 d, f16 m, nibbles as Q4_0. x = d q + m.
void from_q4_1(const void* src, float* dst, int64_t n) {
  const auto* block = static_cast<const uint8_t*>(src);
  for (int64_t i = 0; i < n; i += 32, block += 20) {
    const float d = f16_to_f32(u16_at(block)), m = f16_to_f32(u16_at(block + 2));
    for (int j = 0; j < 16; j++) {
      dst[i + j] = d * float(block[4 + j] & 15) + m;
      dst[i + j + 16] = d * float(block[4 + j] >> 4) + m;
    }
  }
}

// Q4_K, 144 bytes for 256 elements: f16 d, f16 dmin, eight 6-bit scales and eight 6-bit minima in 12 bytes,
// 128 bytes of nibbles. Elements 64 g + 0..31 are the low nibbles of bytes 32 g.., 64 g + 32..63 the high
// ones; each 32 have a scale and a minimum. x = d scale q - dmin minimum.
void from_q4_k(const void* src, float* dst, int64_t n) {
  const auto* block = static_cast<const uint8_t*>(src);
  for (int64_t i = 0; i < n; i += 256, block += 144) {
    const float d = f16_to_f32(u16_at(block)), dmin = f16_to_f32(u16_at(block + 2));
    const uint8_t *packed = block + 4, *quants = block + 16;
    for (int s = 0; s < 8; s++) {
      // Bytes 0-3: scales 0-3 with the top bits of scales 4-7; 4-7: minima likewise; 8-11: low nibbles of
      // scales 4-7 and of minima 4-7.
      const int scale = s < 4 ? packed[s] & 63 : (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4;
      const int minimum = s < 4 ? packed[s + 4] & 63 : packed[s + 4] >> 4 | (packed[s] >> 6) << 4;
      const float a = d * float(scale), b = dmin * float(minimum);
      for (int j = 0; j < 32; j++) {
        const uint8_t byte = quants[32 * (s / 2) + j];
        dst[i + 32 * s + j] = a * float(s % 2 ? byte >> 4 : byte & 15) - b;
      }
    }
  }
}

// Q6_K, 210 bytes for 256 elements: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales,
// f16 d. Each half of 128 elements has 64 bytes of nibbles and 32 of pairs: quarter h (32 elements) takes the
// nibbles of bytes 32 (h % 2).., low ones for h < 2, and pair h of each byte. x = d scale (q - 32), a scale
// per 16.
void from_q6_k(const void* src, float* dst, int64_t n) {
  const auto* block = static_cast<const uint8_t*>(src);
  for (int64_t i = 0; i < n; i += 256, block += 210) {
    const float d = f16_to_f32(u16_at(block + 208));
    for (int half = 0; half < 2; half++) {
      const uint8_t *low = block + 64 * half, *high = block + 128 + 32 * half,
                    *scales = block + 192 + 8 * half;
      for (int h = 0; h < 4; h++)
        for (int j = 0; j < 32; j++) {
          const int byte = low[32 * (h % 2) + j], nibble = h < 2 ? byte & 15 : byte >> 4;
          const int q = (nibble | (high[j] >> 2 * h & 3) << 4) - 32;
          dst[i + 128 * half + 32 * h + j] = d * float(int8_t(scales[2 * h + j / 16])) * float(q);
        }
    }
  }
}

const RowConverters& converters(mi_isa isa) {
#if defined(__x86_64__)
  if (isa >= MI_ISA_AVX2) return kRowsAvx2;
#endif
  (void)isa;
  return kRowsPortable;
}

}  // namespace

const RowConverters kRowsPortable = {from_f16, from_bf16, from_e4m3, from_q8_0, to_f16, to_bf16, to_q8_0};

RowToF32 row_to_f32(mi_isa isa, int32_t dtype) {
  const RowConverters& c = converters(isa);
  switch (dtype) {
    case MI_F32: return copy_f32;
    case MI_F16: return c.f16;
    case MI_BF16: return c.bf16;
    case MI_E4M3: return c.e4m3;
    case MI_Q8_0: return c.q8_0;
    case MI_Q4_0: return from_q4_0;
    case MI_Q4_1: return from_q4_1;
    case MI_Q4_K: return from_q4_k;
    case MI_Q6_K: return from_q6_k;
    default: return nullptr;
  }
}

RowFromF32 row_from_f32(mi_isa isa, int32_t dtype) {
  const RowConverters& c = converters(isa);
  switch (dtype) {
    case MI_F32: return copy_to_f32;
    case MI_F16: return c.to_f16;
    case MI_BF16: return c.to_bf16;
    case MI_Q8_0: return c.to_q8_0;
    default: return nullptr;
  }
}

}  // namespace mi::cpu
