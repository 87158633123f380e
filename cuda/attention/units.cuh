// From the work list to units of 64 keys: the one place where the GPU's attention knows patterns apart.
//
// A walk goes through the keys of one row block, or of two neighbouring ones at once ("halves" of a 128-row tile), whose
// units then coincide: bands move with their row block by 64 keys, which is one unit. A unit says for each half which
// of its keys the list names; the kernels never see a band, a column or a block.
#pragma once
#include "problem.cuh"

namespace mi::cuda {

constexpr int kUnit = MI_BLOCK;  // keys

// The lowest n bits, n of any sign.
__device__ __forceinline__ uint64_t bits_below(int32_t n) {
  return n <= 0 ? 0 : n >= 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1;
}

template <int kHalves>
struct Unit {
  int32_t first;           // key, or row of Problem::columns; keys before 0 or past the last are never named
  uint32_t gathered;       // 1: a row of Problem::columns
  uint64_t keys[kHalves];  // which of the 64 the half computes; 0: none, the half skips the unit
  uint32_t masked;         // bit h: some row of half h does not see some key

  __device__ uint32_t halves() const {
    uint32_t bits = 0;
#pragma unroll
    for (int h = 0; h < kHalves; h++) bits |= uint32_t(keys[h] != 0) << h;
    return bits;
  }
};

// Which keys a row sees besides: j <= position, and position - j < local or j < sink.
struct Window {
  int32_t sink, local;
};
constexpr int32_t kNoWindow = INT32_MAX;

// One head's part of the work list. A list that leaves its buffer, or is of an unknown kind, names no keys.
struct HeadList {
  uint32_t kind;
  Window window;
  const Band* bands;
  const uint32_t *blocks, *counts;  // block-sparse
  const uint64_t* coverage;         // 64 columns a word
  uint32_t band_count, column_count, coverage_words, block_stride;

  static constexpr uint32_t kNone = ~0u;

  __device__ HeadList(const Problem& p, int head) : kind(MI_DENSE), window{0, kNoWindow}, band_count(0), column_count(0) {
    if (!p.list) return;
    const ListHead& l = reinterpret_cast<const ListHead*>(p.list)[head];
    kind = l.kind;
    bool whole = true;
    const auto at = [&](uint64_t offset, uint64_t words) {
      whole = whole && offset % 8 == 0 && 4 * words <= p.list_bytes && offset <= p.list_bytes - 4 * words;
      return p.list + offset;
    };
    if (kind == MI_A_SHAPE) {
      window.sink = int32_t(min(l.sink, uint32_t(kMostKeys)));
      window.local = int32_t(min(l.local, uint32_t(kMostKeys)));
    } else if (kind == MI_VERTICAL_SLASH) {
      band_count = l.band_count;
      column_count = l.column_count;
      coverage_words = l.column_words / 2;
      bands = reinterpret_cast<const Band*>(at(l.bands, 2 * uint64_t(band_count)));
      coverage = reinterpret_cast<const uint64_t*>(at(l.coverage, uint64_t(p.row_blocks) * l.column_words));
      whole = whole && l.column_words % 2 == 0 && uint64_t(l.column_words) * 32 >= column_count;
    } else if (kind == MI_BLOCK_SPARSE) {
      block_stride = l.block_stride;
      counts = reinterpret_cast<const uint32_t*>(at(l.blocks, uint64_t(p.row_blocks) * (1 + uint64_t(block_stride))));
      blocks = counts + p.row_blocks;
    } else if (kind != MI_DENSE) {
      whole = false;
    }
    if (!whole) kind = kNone;
  }
};

template <int kHalves>
class UnitWalk {
 public:
  // Halves are row blocks row_block, row_block + 1, ...; those past the last name no keys.
  __device__ UnitWalk(const Problem& p, int head, int row_block) : p_(p), list_(p, head), row_block_(row_block) {
    first_column_ = list_.column_count ? p.columns.first[head] : -1;
    const int32_t count = first_column_ < 0 ? 0 : int32_t(list_.column_count);
    chunks_ = list_.kind == MI_VERTICAL_SLASH ? (count + kUnit - 1) / kUnit : 0;
    if (list_.kind == MI_BLOCK_SPARSE) {
#pragma unroll
      for (int h = 0; h < kHalves; h++) read_block(h);
    } else if (chunks_) {
      read_coverage();
    }
  }

  __device__ const Window& window() const { return list_.window; }

  __device__ bool next(Unit<kHalves>& unit) {
    for (;;) {
      while (at_ >= stop_)
        if (!next_range()) return next_chunk(unit);
      unit.first = at_;
      unit.gathered = 0;
      unit.masked = 0;
      at_ += kUnit;
#pragma unroll
      for (int h = 0; h < kHalves; h++) {
        unit.keys[h] = bits_below(to_[h] - unit.first) & ~bits_below(from_[h] - unit.first);
        if (~unit.keys[h] || position_matters(h, unit.first)) unit.masked |= 1u << h;
      }
      if (unit.halves()) return true;
    }
  }

 private:
  __device__ bool exists(int h) const { return row_block_ + h < p_.row_blocks; }
  __device__ int32_t first_row(int h) const { return p_.first_position() + (row_block_ + h) * MI_BLOCK; }
  // First key that no row of half h sees.
  __device__ int32_t reach(int h) const {
    if (!exists(h)) return 0;
    return p_.causal ? min(first_row(h) + MI_BLOCK, p_.kv_len) : p_.kv_len;
  }

  __device__ bool position_matters(int h, int32_t first) const {
    if (!p_.causal) return false;
    const int32_t last = first + kUnit - 1;
    const bool ahead = last > first_row(h);
    const bool behind = first_row(h) + MI_BLOCK - 1 - first >= list_.window.local && last >= list_.window.sink;
    return ahead || behind;
  }

  // Sets the keys of half h in the current range.
  __device__ void set_range(int h, int64_t from, int64_t to) {
    from_[h] = int32_t(min(max(from, int64_t(0)), int64_t(kMostKeys)));
    to_[h] = int32_t(min(max(to, int64_t(0)), int64_t(reach(h))));
  }
  // Cuts the current range into units, from a grid that has key `grid` on it, which may be before key 0.
  __device__ void set_units(int64_t grid) {
    int32_t from = INT32_MAX, to = 0;
#pragma unroll
    for (int h = 0; h < kHalves; h++)
      if (from_[h] < to_[h]) {
        from = min(from, from_[h]);
        to = max(to, to_[h]);
      }
    stop_ = to;
    at_ = to == 0 ? 0 : int32_t(grid + (from - grid) / kUnit * kUnit);
  }

  // The next range of keys of the list; ranges are numbered by index_.
  __device__ bool next_range() {
    const uint32_t index = index_;
    switch (list_.kind) {
      case MI_DENSE: {
        if (index > 0) return false;
#pragma unroll
        for (int h = 0; h < kHalves; h++) set_range(h, 0, p_.kv_len);
        set_units(0);
        break;
      }
      case MI_A_SHAPE: {  // the sink, then the window without it
        if (index > 1) return false;
        const Window w = list_.window;
#pragma unroll
        for (int h = 0; h < kHalves; h++) {
          const int32_t window = w.local > 0 ? first_row(h) - w.local + 1 : p_.kv_len;
          if (index == 0) set_range(h, 0, w.sink);
          else set_range(h, max(w.sink, window), p_.kv_len);
        }
        // Aligned to the row block's end: there the causal edge then takes the fewest units.
        set_units(index == 0 ? 0 : int64_t(first_row(0)) - int64_t(kMostKeys));
        break;
      }
      case MI_VERTICAL_SLASH: {
        if (index >= list_.band_count) return false;
        const Band band = list_.bands[index];
        const int64_t end = int64_t(first_row(0)) + MI_BLOCK;
#pragma unroll
        for (int h = 0; h < kHalves; h++) set_range(h, end + h * kUnit - band.far, end + h * kUnit - band.near);
        set_units(end - band.far);
        break;
      }
      case MI_BLOCK_SPARSE: {  // the halves' lists, merged
        uint32_t block = block_[0];
#pragma unroll
        for (int h = 1; h < kHalves; h++) block = min(block, block_[h]);
        if (block == kNoBlock) return false;
        const int64_t from = int64_t(block) * kUnit;
#pragma unroll
        for (int h = 0; h < kHalves; h++) {
          const bool named = block_[h] == block;
          set_range(h, from, named ? from + kUnit : from);
          if (named) read_block(h);
        }
        set_units(from);
        break;
      }
      default: return false;
    }
    index_ = index + 1;
    return true;
  }

  // The entry after the one just used, read ahead of its use.
  __device__ void read_block(int h) {
    const int m = row_block_ + h;
    block_[h] = kNoBlock;
    if (!exists(h) || block_index_[h] >= min(list_.counts[m], list_.block_stride)) return;
    block_[h] = list_.blocks[int64_t(m) * list_.block_stride + block_index_[h]++];
  }

  __device__ void read_coverage() {
#pragma unroll
    for (int h = 0; h < kHalves; h++)
      covered_[h] = exists(h) ? list_.coverage[int64_t(row_block_ + h) * list_.coverage_words + chunk_] : 0;
  }

  // 64 columns that a half needs, if any are left.
  __device__ bool next_chunk(Unit<kHalves>& unit) {
    while (chunk_ < chunks_) {
      const uint64_t present = bits_below(int32_t(list_.column_count) - chunk_ * kUnit);
      unit.first = first_column_ + chunk_ * kUnit;
      unit.gathered = 1;
      unit.masked = 0;
#pragma unroll
      for (int h = 0; h < kHalves; h++) {
        unit.keys[h] = covered_[h] & present;
        if (~unit.keys[h]) unit.masked |= 1u << h;
      }
      if (++chunk_ < chunks_) read_coverage();
      if (unit.halves()) return true;
    }
    return false;
  }

  static constexpr uint32_t kNoBlock = ~0u;

  const Problem& p_;
  const HeadList list_;
  const int32_t row_block_;
  uint32_t index_ = 0;                    // ranges taken
  int32_t at_ = 0, stop_ = 0;             // units [at_, stop_) of the current range are left
  int32_t from_[kHalves], to_[kHalves];   // its keys, by half
  uint32_t block_[kHalves], block_index_[kHalves] = {};
  int32_t first_column_, chunk_ = 0, chunks_;
  uint64_t covered_[kHalves];
};

// ---- what a row sees of a unit ---------------------------------------------------------------------

// The keys of `keys`, beginning with key `first`, that the row at `position` sees. first = -kEverywhere: every one, as
// of gathered columns; position = kEverywhere: likewise, without a causal mask.
__device__ __forceinline__ uint64_t visible(uint64_t keys, int32_t first, int32_t position, const Window& window) {
  const int32_t ahead = position - first;  // of the unit's first key
  const uint64_t seen = bits_below(ahead + 1);
  if (window.local == kNoWindow) return keys & seen;
  return keys & seen & (~bits_below(ahead - window.local + 1) | bits_below(window.sink - first));
}

}  // namespace mi::cuda
