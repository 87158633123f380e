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
  int32_t first_column;  // of Problem::columns

  static constexpr uint32_t kNone = ~0u;

  __device__ HeadList(const Problem& p, int head)
      : kind(MI_DENSE), window{0, kNoWindow}, band_count(0), column_count(0), first_column(-1) {
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
    const bool gathered = kind == MI_VERTICAL_SLASH && column_count > 0 && p.columns.capacity > 0;
    first_column = gathered ? p.columns.first[head] : -1;
    if (first_column < 0) column_count = 0;
  }

  __device__ int32_t chunks() const { return int32_t(column_count + kUnit - 1) / kUnit; }
};

// A warp walks, its lanes in step: each works out one unit of a batch of 32.
template <int kHalves>
class UnitWalk {
 public:
  // Halves are row blocks row_block, row_block + 1, ...; those past the last name no keys. `list` stays in place.
  __device__ UnitWalk(const Problem& p, const HeadList& list, int row_block)
      : p_(p), list_(list), row_block_(row_block) {}

  // The next batch, in which a lane may have no unit; false if there is none.
  __device__ bool next_batch() {
    if (unit_at_ >= unit_end_) {
      const int32_t batches = (ranges() + 31) / 32;
      if (batch_ >= batches) return take_chunks((batch_++ - batches) * 32);
      load_ranges(batch_++ * 32);
    }
    cut_ranges();
    return true;
  }
  // True if there are no more batches.
  __device__ bool over() const {
    return unit_at_ >= unit_end_ && batch_ * 32 >= (ranges() + 31) / 32 * 32 + list_.chunks();
  }
  // The lane's unit; no half wants it if there is none.
  __device__ const Unit<kHalves>& mine() const { return mine_; }

  // The units one by one, in all lanes; false if there is none left.
  __device__ bool next(Unit<kHalves>& unit) {
    while (ready_ == 0) {
      if (!next_batch()) return false;
      ready_ = __ballot_sync(kAll, mine_.halves() != 0);
    }
    const int lane = __ffs(int(ready_)) - 1;
    ready_ &= ready_ - 1;
    unit.first = __shfl_sync(kAll, mine_.first, lane);
    unit.gathered = __shfl_sync(kAll, mine_.gathered, lane);
    unit.masked = __shfl_sync(kAll, mine_.masked, lane);
#pragma unroll
    for (int h = 0; h < kHalves; h++) unit.keys[h] = __shfl_sync(kAll, mine_.keys[h], lane);
    return true;
  }

 private:
  static constexpr uint32_t kAll = 0xffffffffu;

  // Keys [from, to) of each half, cut into `units` from key `first` on, which may be before key 0.
  struct Range {
    int32_t from[kHalves], to[kHalves];
    int32_t first, units;
  };

  __device__ static int lane() { return threadIdx.x % 32; }
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

  // ---- ranges ----

  __device__ int32_t ranges() const {
    switch (list_.kind) {
      case MI_DENSE: return 1;
      case MI_A_SHAPE: return 2;
      case MI_VERTICAL_SLASH: return int32_t(list_.band_count);
      case MI_BLOCK_SPARSE: {
        int32_t sum = 0;
        for (int h = 0; h < kHalves; h++) sum += blocks_of(h);
        return sum;
      }
      default: return 0;
    }
  }

  __device__ void set_keys(Range& r, int h, int64_t from, int64_t to) const {
    r.from[h] = int32_t(min(max(from, int64_t(0)), int64_t(kMostKeys)));
    r.to[h] = int32_t(min(max(to, int64_t(0)), int64_t(reach(h))));
  }

  __device__ Range range(int32_t index) const {
    Range r;
    int32_t grid = 0;  // a key that units begin at, at most the first
#pragma unroll
    for (int h = 0; h < kHalves; h++) r.from[h] = r.to[h] = 0;
    if (index >= ranges()) {
    } else if (list_.kind == MI_DENSE) {
#pragma unroll
      for (int h = 0; h < kHalves; h++) set_keys(r, h, 0, p_.kv_len);
    } else if (list_.kind == MI_A_SHAPE) {  // the sink, then the window without it
      const Window w = list_.window;
#pragma unroll
      for (int h = 0; h < kHalves; h++) {
        const int32_t window = w.local > 0 ? first_row(h) - w.local + 1 : p_.kv_len;
        if (index == 0) set_keys(r, h, 0, w.sink);
        else set_keys(r, h, max(w.sink, window), p_.kv_len);
      }
      // Aligned to the row block's end: there the causal edge then takes the fewest units.
      if (index == 1) grid = first_row(0) - kMostKeys;
    } else if (list_.kind == MI_VERTICAL_SLASH) {
      const Band band = list_.bands[index];
      const int64_t end = int64_t(first_row(0)) + MI_BLOCK;
#pragma unroll
      for (int h = 0; h < kHalves; h++) set_keys(r, h, end + h * kUnit - band.far, end + h * kUnit - band.near);
      grid = int32_t(max(end - band.far, -int64_t(kMostKeys)));
    } else {  // an entry of any half's blocks; later halves leave out what an earlier one has
      int owner = 0;
      while (index >= blocks_of(owner)) index -= blocks_of(owner++);
      const uint32_t block = blocks(owner)[index];
      const int64_t from = int64_t(block) * kUnit;
      bool taken = false;
#pragma unroll
      for (int h = 0; h < kHalves; h++) {
        const bool named = h == owner || (!taken && names(h, block));
        if (h < owner) taken = taken || named;
        else if (named && !taken) set_keys(r, h, from, from + kUnit);
      }
      grid = int32_t(min(from, int64_t(kMostKeys)));
    }
    int32_t from = INT32_MAX, to = 0;
#pragma unroll
    for (int h = 0; h < kHalves; h++)
      if (r.from[h] < r.to[h]) {
        from = min(from, r.from[h]);
        to = max(to, r.to[h]);
      }
    r.first = to == 0 ? 0 : grid + (from - grid) / kUnit * kUnit;
    r.units = (to - r.first + kUnit - 1) / kUnit;
    return r;
  }

  // ---- blocks of a half, ascending ----

  __device__ const uint32_t* blocks(int h) const {
    return list_.blocks + int64_t(row_block_ + h) * list_.block_stride;
  }
  __device__ int32_t blocks_of(int h) const {
    return exists(h) ? int32_t(min(list_.counts[row_block_ + h], list_.block_stride)) : 0;
  }
  __device__ bool names(int h, uint32_t block) const {
    const uint32_t* list = blocks(h);
    int32_t low = 0, high = blocks_of(h);
    while (low < high) {
      const int32_t middle = (low + high) / 2;
      if (list[middle] < block) low = middle + 1;
      else high = middle;
    }
    return low < blocks_of(h) && list[low] == block;
  }

  // ---- batches ----

  // 32 more ranges, one a lane.
  __device__ void load_ranges(int32_t first) {
    range_ = range(first + lane());
    int32_t end = range_.units;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const int32_t before = __shfl_up_sync(kAll, end, o);
      if (lane() >= o) end += before;
    }
    range_end_ = end;
    unit_at_ = 0;
    unit_end_ = __shfl_sync(kAll, end, 31);
  }

  // 32 more units of these ranges.
  __device__ void cut_ranges() {
    const int32_t index = unit_at_ + lane();
    unit_at_ += 32;
    int owner = 0;  // the lane whose range it is of
#pragma unroll
    for (int s = 16; s; s /= 2)
      if (__shfl_sync(kAll, range_end_, owner + s - 1) <= index) owner += s;
    const int32_t begin = __shfl_sync(kAll, range_end_ - range_.units, owner);
    mine_.first = __shfl_sync(kAll, range_.first, owner) + (index - begin) * kUnit;
    mine_.gathered = 0;
    mine_.masked = 0;
#pragma unroll
    for (int h = 0; h < kHalves; h++) {
      const int32_t from = __shfl_sync(kAll, range_.from[h], owner), to = __shfl_sync(kAll, range_.to[h], owner);
      mine_.keys[h] =
          index < unit_end_ ? bits_below(to - mine_.first) & ~bits_below(from - mine_.first) : 0;
      if (~mine_.keys[h] || position_matters(h, mine_.first)) mine_.masked |= 1u << h;
    }
  }

  // 32 more chunks of 64 columns; false if there are no more.
  __device__ bool take_chunks(int32_t first) {
    if (first >= list_.chunks()) return false;
    const int32_t chunk = first + lane();
    mine_.first = list_.first_column + chunk * kUnit;
    mine_.gathered = 1;
    mine_.masked = 0;
    const uint64_t present = bits_below(int32_t(list_.column_count) - chunk * kUnit);
#pragma unroll
    for (int h = 0; h < kHalves; h++) {
      const bool read = chunk < list_.chunks() && exists(h);
      const int64_t at = int64_t(row_block_ + h) * list_.coverage_words + chunk;
      mine_.keys[h] = read ? list_.coverage[at] & present : 0;
      if (~mine_.keys[h]) mine_.masked |= 1u << h;
    }
    return true;
  }

  const Problem& p_;
  const HeadList& list_;
  const int32_t row_block_;
  int32_t batch_ = 0;                                     // of 32 ranges, then of 32 chunks
  Range range_{};                                         // the lane's
  int32_t range_end_ = 0, unit_at_ = 0, unit_end_ = 0;  // units, counted over the ranges that lanes hold
  Unit<kHalves> mine_{};                                  // the lane's of the batch
  uint32_t ready_ = 0;                                    // lanes whose unit next() has not given out
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
