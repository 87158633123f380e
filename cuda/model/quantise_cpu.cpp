// A cache of e4m3 rows with a scale for every 128.
#include "kv_scale.h"
#include "rows.h"

namespace mi::cpu {

namespace {

uint8_t* codes_at(const View& v, int64_t head, int64_t row) {
  return static_cast<uint8_t*>(v.data) + head * v.head_stride + row * v.row_stride;
}

}  // namespace

void quantise(Pool& pool, const QuantiseArgs& a) {
  const Rows src(a.src, pool.isa());
  const int64_t first_block = a.position / MI_KV_BLOCK;
  const int64_t blocks = ceil_div(int64_t(a.position) + a.rows, MI_KV_BLOCK) - first_block;
  // A block is one item: a cancelled operation leaves it as it was or writes it whole.
  pool.parallel(a.heads * blocks, [&](int64_t item, int thread) {
    auto* const scratch = static_cast<float*>(pool.scratch(thread));
    const int64_t head = item / blocks, block = first_block + item % blocks;
    const KvBlockRows rows(block, a.position, a.rows);
    uint32_t largest = 0;
    for (int64_t row = rows.first; row < rows.last; row++)
      for_each_piece(a.dim, [&](int64_t first, int64_t n) {
        const float* x = src.load(head, row - a.position, first, n, scratch);
        for (int64_t i = 0; i < n; i++) {
          const uint32_t bits = magnitude_bits(x[i]);
          largest = bits > largest ? bits : largest;
        }
      });

    float& stored = a.scales[head * a.scale_stride + block];
    const uint32_t before = rows.first > rows.begin ? magnitude_bits(stored) : 0, least = scale_bits(largest);
    const uint32_t bits = before > least ? before : least;
    const float inverse = inverse_scale(bits);
    if (before > 0 && bits > before) {
      const float factor = stored * inverse;
      for (int64_t row = rows.begin; row < rows.first; row++) {
        uint8_t* const codes = codes_at(a.dst, head, row);
        for (int64_t i = 0; i < a.dim; i++) codes[i] = e4m3_from_float(float_from_e4m3(codes[i]) * factor);
      }
    }
    stored = float_of_bits(bits);
    for (int64_t row = rows.first; row < rows.last; row++)
      for_each_piece(a.dim, [&](int64_t first, int64_t n) {
        const float* x = src.load(head, row - a.position, first, n, scratch);
        uint8_t* const codes = codes_at(a.dst, head, row) + first;
        for (int64_t i = 0; i < n; i++) codes[i] = e4m3_from_float(x[i] * inverse);
      });
  });
}

void dequantise(Pool& pool, const DequantiseArgs& a) {
  const Rows src(a.src, pool.isa()), dst(a.dst, pool.isa());
  for_each_row(pool, a.heads, a.rows, a.dim, [&](int64_t head, int64_t row, float* scratch) {
    const float scale = a.scales[head * a.scale_stride + row / MI_KV_BLOCK];
    for_each_piece(a.dim, [&](int64_t first, int64_t n) {
      src.load(head, row, first, n, scratch);
      float* const values = dst.place(head, row, first, scratch);
      for (int64_t i = 0; i < n; i++) values[i] = scratch[i] * scale;
      dst.store(head, row, first, n, values);
    });
  });
}

}  // namespace mi::cpu
