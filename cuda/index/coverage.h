// Which columns each row block still has to gather, and how many tiles it computes.
#pragma once
#include <cstring>

#include "work_list.h"

namespace mi::cpu {

// Selected columns as a bitmap over the keys, to count those before a key in constant time.
struct ColumnRanks {
  uint64_t* bits;    // [kv_len / 64 + 1]
  uint32_t* before;  // [kv_len / 64 + 1], columns before key 64 w

  static uint64_t bytes(int64_t kv_len) {
    return uint64_t(kv_len / 64 + 1) * (sizeof *bits + sizeof *before);
  }
  ColumnRanks(void* memory, int64_t kv_len)
      : bits(static_cast<uint64_t*>(memory)), before(reinterpret_cast<uint32_t*>(bits + kv_len / 64 + 1)) {}

  void fill(const int32_t* columns, int64_t count, int64_t kv_len) {
    std::memset(bits, 0, bytes(kv_len));
    for (int64_t c = 0; c < count; c++) bits[columns[c] / 64] |= uint64_t(1) << columns[c] % 64;
    for (int64_t w = 0; w < kv_len / 64; w++)
      before[w + 1] = before[w] + uint32_t(__builtin_popcountll(bits[w]));
  }
  // Columns before `key`, 0 <= key <= kv_len.
  int64_t rank(int64_t key) const {
    return before[key / 64] + __builtin_popcountll(bits[key / 64] & ((uint64_t(1) << key % 64) - 1));
  }
};

// Sets or clears bits [from, to).
inline void assign_bits(uint32_t* words, int64_t from, int64_t to, bool value) {
  while (from < to) {
    const int64_t stop = min64(to, (from / 32 + 1) * 32);
    const uint32_t mask = uint32_t(((uint64_t(1) << (stop - from)) - 1) << from % 32);
    words[from / 32] = value ? words[from / 32] | mask : words[from / 32] & ~mask;
    from = stop;
  }
}

// Writes the coverage bits of the row block with the given end (work_list.h). Returns its tiles.
inline int64_t cover(int64_t end, int64_t kv_len, const Band* bands, int64_t band_count,
                     const ColumnRanks& ranks, uint32_t* coverage, int64_t words) {
  const auto rank = [&](int64_t key) { return ranks.rank(min64(kv_len, max64(0, key))); };
  const int64_t reach = min64(end, kv_len);
  std::memset(coverage, 0, size_t(words) * sizeof *coverage);
  assign_bits(coverage, 0, rank(end - MI_BLOCK), true);
  int64_t tiles = 0;
  for (int64_t i = 0; i < band_count && int64_t(bands[i].near) < end; i++) {
    const int64_t from = max64(0, end - int64_t(bands[i].far));
    const int64_t to = min64(reach, end - int64_t(bands[i].near));
    if (from >= to) continue;
    tiles += ceil_div(to - from, MI_BLOCK);
    assign_bits(coverage, rank(from), rank(to), false);
  }
  int64_t left = 0;
  for (int64_t w = 0; w < words; w++) left += __builtin_popcount(coverage[w]);
  return tiles + ceil_div(left, MI_BLOCK);
}

}  // namespace mi::cpu
