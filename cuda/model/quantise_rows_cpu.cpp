// Matrices of e4m3 with a scale per row.
#include "row_scale.h"
#include "rows.h"

namespace mi::cpu {

void quantise_rows(Pool& pool, const QuantiseRowsArgs& a) {
  const Rows src(a.src, pool.isa());
  for_each_row(pool, 1, a.rows, a.dim, [&](int64_t, int64_t row, float* scratch) {
    uint32_t largest = 0;
    for_each_piece(a.dim, [&](int64_t first, int64_t n) {
      const float* const x = src.load(0, row, first, n, scratch);
      for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = magnitude_bits(x[i]);
        largest = bits > largest ? bits : largest;
      }
    });
    const float scale = row_scale(largest), inverse = 1.0f / scale;
    a.scales[row] = scale;
    auto* const codes = static_cast<uint8_t*>(a.dst.data) + row * a.dst.row_stride;
    for_each_piece(a.dim, [&](int64_t first, int64_t n) {
      const float* const x = src.load(0, row, first, n, scratch);
      for (int64_t i = 0; i < n; i++) codes[first + i] = e4m3_from_float(x[i] * inverse);
    });
  });
}

}  // namespace mi::cpu
