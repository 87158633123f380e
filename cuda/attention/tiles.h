// From the work list to key tiles: the one place where the CPU's attention knows patterns apart.
#pragma once
#include <cstdint>

#include "../core/ops.h"
#include "../index/work_list.h"

namespace mi::cpu {

// Up to 64 keys that every query row of a row block visits, each row as far as the mask lets it.
struct KeyTile {
  int64_t first;           // keys [first, first + count) ...
  const int32_t* columns;  // ... or, if not null, columns[0 .. count)
  int count;
  bool masked;  // some row does not see some key
};

// Which keys the row at `position` sees of the tiles of its row block.
struct Mask {
  bool causal;
  int64_t sink, local;  // A-shape: key j needs position - j < local or j < sink
};
constexpr int64_t kNoWindow = INT64_MAX / 4;  // `local` of every other pattern

// The query rows of one row block, as positions.
struct RowSpan {
  int64_t first, last;  // inclusive
  int64_t end;          // work_list.h: end(m)
};

// One head's part of a work list. A list whose offsets leave its buffer, or of an unknown kind, has no keys.
class HeadList {
 public:
  HeadList(const AttentionArgs& a, int32_t head) {
    if (!a.list) return;
    const auto* bytes = static_cast<const uint8_t*>(a.list);
    head_ = reinterpret_cast<const ListHead*>(bytes) + head;
    const int64_t row_blocks = ceil_div(a.q_len, MI_BLOCK);
    const auto at = [&](uint64_t offset, uint64_t words) -> const uint32_t* {
      whole_ = whole_ && offset % 4 == 0 && 4 * words <= a.list_bytes && offset <= a.list_bytes - 4 * words;
      return reinterpret_cast<const uint32_t*>(bytes + offset);
    };
    whole_ = uint64_t(head + 1) * sizeof(ListHead) <= a.list_bytes && head_->kind <= MI_BLOCK_SPARSE;
    if (!whole_) return;
    if (head_->kind == MI_VERTICAL_SLASH) {
      bands_ = at(head_->bands, 2 * uint64_t(head_->band_count));
      columns_ = at(head_->columns, head_->column_count);
      coverage_ = at(head_->coverage, uint64_t(row_blocks) * head_->column_words);
      whole_ = whole_ && uint64_t(head_->column_words) * 32 >= head_->column_count;
    } else if (head_->kind == MI_BLOCK_SPARSE) {
      blocks_ = at(head_->blocks, uint64_t(row_blocks) * (1 + uint64_t(head_->block_stride)));
    }
  }

  bool whole() const { return whole_; }
  mi_pattern_kind kind() const { return head_ ? mi_pattern_kind(head_->kind) : MI_DENSE; }
  const ListHead& head() const { return *head_; }
  Band band(uint32_t b) const { return reinterpret_cast<const Band*>(bands_)[b]; }
  int32_t column(int64_t c) const { return int32_t(columns_[c]); }
  const uint32_t* coverage(int64_t m) const { return coverage_ + m * head_->column_words; }
  uint32_t block_count(int64_t m) const {
    return blocks_[m] < head_->block_stride ? blocks_[m] : head_->block_stride;
  }
  const uint32_t* blocks(int64_t m, int64_t row_blocks) const {
    return blocks_ + row_blocks + m * head_->block_stride;
  }

 private:
  const ListHead* head_ = nullptr;
  const uint32_t *bands_ = nullptr, *columns_ = nullptr, *coverage_ = nullptr, *blocks_ = nullptr;
  bool whole_ = true;
};

inline Mask mask_of(const AttentionArgs& a, const HeadList& list) {
  if (list.kind() == MI_A_SHAPE) return {true, int64_t(list.head().sink), int64_t(list.head().local)};
  return {a.causal != 0 || a.list, 0, kNoWindow};
}

inline RowSpan row_span(const AttentionArgs& a, int64_t m) {
  const int64_t offset = int64_t(a.kv_len) - a.q_len;
  return {offset + MI_BLOCK * m, min64(offset + MI_BLOCK * (m + 1), a.kv_len) - 1,
          offset + MI_BLOCK * (m + 1)};
}

// visit(KeyTile) for every tile of row block m, in ascending order within each range; columns last. Stops
// when visit returns false.
template <class Visit>
void for_each_tile(const AttentionArgs& a, const HeadList& list, int64_t m, const Visit& visit) {
  if (!list.whole()) return;
  const RowSpan rows = row_span(a, m);
  const Mask mask = mask_of(a, list);
  const int64_t reach = mask.causal ? min64(rows.end, a.kv_len) : a.kv_len;

  const auto range = [&](int64_t from, int64_t to) {
    to = min64(to, reach);
    for (int64_t first = max64(from, 0); first < to; first += MI_BLOCK) {
      const int64_t last = min64(first + MI_BLOCK, to) - 1;
      const bool ahead = mask.causal && last > rows.first;
      const bool behind = last >= mask.sink && max64(first, mask.sink) + mask.local <= rows.last;
      if (!visit(KeyTile{first, nullptr, int(last - first + 1), ahead || behind})) return false;
    }
    return true;
  };

  switch (list.kind()) {
    case MI_DENSE: range(0, reach); return;
    case MI_A_SHAPE: {
      const int64_t window = mask.local > 0 ? max64(rows.first - mask.local + 1, 0) : reach;
      if (window <= mask.sink) {
        range(0, reach);
      } else if (range(0, mask.sink)) {
        range(window, reach);
      }
      return;
    }
    case MI_BLOCK_SPARSE: {
      const uint32_t* blocks = list.blocks(m, ceil_div(a.q_len, MI_BLOCK));
      for (uint32_t i = 0; i < list.block_count(m); i++)
        if (!range(MI_BLOCK * int64_t(blocks[i]), MI_BLOCK * (int64_t(blocks[i]) + 1))) return;
      return;
    }
    case MI_VERTICAL_SLASH: {
      for (uint32_t b = 0; b < list.head().band_count; b++)
        if (!range(rows.end - list.band(b).far, rows.end - list.band(b).near)) return;
      int32_t columns[MI_BLOCK];
      int count = 0;
      const uint32_t* coverage = list.coverage(m);
      for (int64_t word = 0; word * 32 < int64_t(list.head().column_count); word++)
        for (uint32_t bits = coverage[word]; bits; bits &= bits - 1) {
          const int64_t c = word * 32 + __builtin_ctz(bits);
          if (c >= int64_t(list.head().column_count)) break;
          if (list.column(c) < 0 || list.column(c) >= reach) continue;
          columns[count++] = list.column(c);
          if (count < MI_BLOCK) continue;
          if (!visit(KeyTile{0, columns, count, false})) return;
          count = 0;
        }
      if (count) visit(KeyTile{0, columns, count, false});
      return;
    }
  }
}

}  // namespace mi::cpu
