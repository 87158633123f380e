// The work list: what the index builders write and the attention kernels walk, on every backend.
//
// Geometry. Query rows are cut into row blocks of 64: block m holds query rows [64m, 64m + 64).
// With offset = kv_len - q_len, row r stands at position offset + r, and
//     end(m) = offset + 64 (m + 1)          (exclusive; may exceed kv_len in the last block).
//
// Buffer layout: ListHead[q_heads], then each head's payload at the byte offsets it names. Offsets and
// capacities depend on shapes and patterns alone (list_layout below), so the host knows them without
// reading device memory; counts are written by the builder.
//
// What block m of a head computes, by kind:
//   MI_DENSE          keys [0, end(m)), causal.
//   MI_A_SHAPE        key j of row position p iff j <= p and (p - j < local or j < sink).
//   MI_VERTICAL_SLASH bands: keys [end(m) - far, end(m) - near) of each Band, cut to [0, kv_len), causal.
//                     Bands are relative to end(m), so one list serves every row block.
//                     columns: columns[c] for each set bit c of coverage[m]; a set bit means the column is
//                     needed and no band of this block holds it. Such a column lies before 64m + offset, so
//                     it needs no causal mask. The first band has near = 0 and far >= 64.
//   MI_BLOCK_SPARSE   key blocks blocks[m][0 .. counts[m]), ascending: keys [64b, 64b + 64) cut to kv_len, causal.
//                     When offset is no multiple of 64 the row block's own keys span two key blocks.
// No cell is visited twice.
#pragma once
#include <cstdint>

#include "../core/host_device.h"
#include "../include/minference.h"

namespace mi {

struct Band {
  uint32_t near, far;  // distances from end(m); ascending by near, disjoint, not adjacent
};

struct ListHead {  // 64 bytes
  uint32_t kind;   // mi_pattern_kind
  uint32_t band_count, column_count;
  uint32_t column_words;  // 32-bit words of coverage per row block (stride, a multiple of 2)
  uint32_t sink, local;
  uint32_t block_stride;  // entries of `blocks` per row block
  uint32_t reserved;
  uint64_t bands;     // Band[band_capacity]
  uint64_t columns;   // i32[column_capacity], ascending, capacity a multiple of 64
  uint64_t coverage;  // u32[row_blocks][column_words]
  uint64_t blocks;    // u32 counts[row_blocks], then u32[row_blocks][block_stride]
};
static_assert(sizeof(ListHead) == 64, "ListHead is shared with device code");

constexpr int kForcedColumns = 30;     // upstream: vertical[:30] = inf
constexpr int kForcedDistances = 100;  // upstream: slash[-100:] = inf

MI_HD inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
MI_HD inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
MI_HD inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
MI_HD inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

// Budgets after upstream's rules (minimum counts, clamp to kv_len); see reference 1.1.
struct VerticalSlashBudget {
  int64_t columns, distances;  // most that may be selected
};
inline VerticalSlashBudget vertical_slash_budget(const mi_pattern& p, int64_t kv_len) {
  const bool by_mass = p.mass > 0;
  const int64_t v = by_mass && p.vertical <= 0 ? kv_len / 8 : p.vertical;
  const int64_t s = by_mass && p.slash <= 0 ? kv_len : p.slash;
  return {min64(kv_len, max64(v, kForcedColumns)), min64(kv_len, max64(s, 50))};
}

// Capacities of one head's payload and the running byte offset. Used by both backends and mi_plan.
struct HeadLayout {
  uint64_t bands, columns, coverage, blocks;  // byte offsets
  int64_t band_capacity, column_capacity, column_words, block_stride;
};
inline HeadLayout head_layout(const mi_pattern& p, int64_t q_len, int64_t kv_len, uint64_t& offset) {
  HeadLayout l{};
  const int64_t row_blocks = ceil_div(q_len, MI_BLOCK), key_blocks = ceil_div(kv_len, MI_BLOCK);
  const auto take = [&](int64_t bytes) {
    const uint64_t at = offset;
    offset += (uint64_t)round_up(bytes, 128);
    return at;
  };
  if (p.kind == MI_VERTICAL_SLASH) {
    const VerticalSlashBudget b = vertical_slash_budget(p, kv_len);
    // Bands are at least 64 wide and do not touch; forced tiles may come on top of the budget.
    l.band_capacity = min64(b.distances, key_blocks + 2) + 4;
    l.column_capacity = round_up(b.columns, 64);
    l.column_words = l.column_capacity / 32;
    l.bands = take(l.band_capacity * (int64_t)sizeof(Band));
    l.columns = take(l.column_capacity * 4);
    l.coverage = take(row_blocks * l.column_words * 4);
  } else if (p.kind == MI_BLOCK_SPARSE) {
    l.block_stride = min64(p.top_k + 3, key_blocks);  // forced sink and diagonal may come on top
    l.blocks = take((row_blocks + row_blocks * l.block_stride) * 4);
  }
  return l;
}
// Bytes of the whole list.
inline uint64_t list_bytes(const mi_pattern* patterns, int64_t heads, int64_t q_len, int64_t kv_len) {
  uint64_t offset = (uint64_t)heads * sizeof(ListHead);
  offset = (uint64_t)round_up((int64_t)offset, 128);
  for (int64_t h = 0; h < heads; h++) head_layout(patterns[h], q_len, kv_len, offset);
  return offset;
}

}  // namespace mi
