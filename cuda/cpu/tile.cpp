// Choice of the micro-kernels, and their portable form.
#include "tile.h"

#include <cmath>
#include <cstring>

#include "tile_isa.h"

namespace mi::cpu {
namespace {

constexpr int kRows = 4;

// One R x 16 block of C; the fixed inner loops become whatever vectors the compiler has.
template <int R>
void block(int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t ldb, float* c,
           int64_t ldc, bool accumulate) {
  float sum[R][kLanes];
  for (int i = 0; i < R; i++)
    for (int j = 0; j < kLanes; j++) sum[i][j] = accumulate ? c[i * ldc + j] : 0.0f;
  for (int64_t p = 0; p < k; p++)
    for (int i = 0; i < R; i++) {
      const float left = a[i * a_row + p * a_col];
      for (int j = 0; j < kLanes; j++) sum[i][j] += left * b[p * ldb + j];
    }
  for (int i = 0; i < R; i++)
    for (int j = 0; j < kLanes; j++) c[i * ldc + j] = sum[i][j];
}

void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
          int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  for (int64_t j = 0; j < n; j += kLanes) {
    int64_t i = 0;
    for (; i + kRows <= m; i += kRows)
      block<kRows>(k, a + i * a_row, a_row, a_col, b + j, ldb, c + i * ldc + j, ldc, accumulate);
    for (; i < m; i++) block<1>(k, a + i * a_row, a_row, a_col, b + j, ldb, c + i * ldc + j, ldc, accumulate);
  }
}

void column_max(int64_t rows, int64_t n, const float* s, int64_t ld, float* max) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < n; j++) max[j] = s[i * ld + j] > max[j] ? s[i * ld + j] : max[j];
}

void exp2(int64_t rows, int64_t n, float* s, int64_t ld, float scale, const float* shift, float* sum) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < n; j++) {
      const float y = std::exp2(s[i * ld + j] * scale - shift[j]);
      s[i * ld + j] = y;
      sum[j] += y;
    }
}

void scale_columns(int64_t rows, int64_t n, float* c, int64_t ld, const float* factor) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < n; j++) c[i * ld + j] *= factor[j];
}

void transpose(int64_t rows, int64_t columns, const void* src, int64_t lds, void* dst, int64_t ldd) {
  const uint32_t* from = static_cast<const uint32_t*>(src);
  uint32_t* to = static_cast<uint32_t*>(dst);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) std::memcpy(to + j * ldd + i, from + i * lds + j, sizeof(uint32_t));
}

void dots(int64_t count, int64_t k, const float* rows, int64_t stride, const float* w, float* dots) {
  for (int64_t i = 0; i < count; i++, rows += stride) {
    float sum[kLanes] = {};
    int64_t p = 0;
    for (; p + kLanes <= k; p += kLanes)
      for (int j = 0; j < kLanes; j++) sum[j] += rows[p + j] * w[p + j];
    float total = 0;
    for (float part : sum) total += part;
    for (; p < k; p++) total += rows[p] * w[p];
    dots[i] = total;
  }
}

}  // namespace

const TileKernels kTilesPortable = {
    MI_ISA_PORTABLE, gemm,    column_max, exp2,    scale_columns, transpose, dots,
    nullptr,         nullptr, nullptr,    nullptr, nullptr,       nullptr,
};

const TileKernels& tile_kernels(mi_isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case MI_ISA_AVX2: return kTilesAvx2;
    case MI_ISA_AVX512: return kTilesAvx512;
    case MI_ISA_AVX512_BF16: return kTilesAvx512Bf16;
    default: break;
  }
#endif
  (void)isa;
  return kTilesPortable;
}

}  // namespace mi::cpu
