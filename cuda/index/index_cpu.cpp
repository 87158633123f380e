// The index builder: chooses what each head computes and writes the work list (work_list.h).
#include <algorithm>
#include <cmath>

#include "block_sparse.h"
#include "coverage.h"
#include "guard.h"
#include "retained.h"
#include "row_floor.h"
#include "select.h"
#include "vertical_slash.h"

namespace mi::cpu {
namespace {

constexpr int64_t kBlocksPerItem = 64;  // row blocks of a work item

Guard guard_of(const IndexArgs& a) { return {a.guard_mean, a.guard_min}; }
bool selects_by_mass(const mi_pattern& p) { return p.kind == MI_VERTICAL_SLASH && p.mass > 0; }
bool measures(const IndexArgs& a) { return (a.measure_mass && a.stats) || guard_of(a).active(); }
bool is_pooled(const mi_pattern& p) { return p.kind == MI_BLOCK_SPARSE && !(p.flags & MI_ANTIDIAGONAL); }
template <class Test>
bool any(const IndexArgs& a, const Test& test) {
  return std::any_of(a.patterns, a.patterns + a.q_heads, test);
}

// The workspace's parts; also counts them, with a null base.
struct Workspace {
  float* lse = nullptr;                  // [q_heads][rows], where the caller brought none
  void* lse_partials = nullptr;
  float* key_mass = nullptr;             // [q_heads][kv_len]: HeadMass::first_block, then missing_mass
  char* ranks = nullptr;                 // ColumnRanks of each head
  float* key_means = nullptr;            // pool_keys
  float* scratch = nullptr;              // [threads][scratch_floats]
  int64_t* tiles = nullptr;              // [q_heads][items]
  float* row_mass = nullptr;             // [q_heads][64], kept_mass
  int64_t rank_bytes = 0, scratch_floats = 0;
  uint64_t bytes = 0;

  Workspace(const IndexArgs& a, const Probe& probe, int threads, void* base) {
    const auto take = [&](auto*& part, uint64_t count, uint64_t size) {
      using Pointer = std::remove_reference_t<decltype(part)>;
      if (base) part = reinterpret_cast<Pointer>(static_cast<char*>(base) + bytes);
      bytes += (count * size + 63) / 64 * 64;
    };
    const bool vertical_slash = any(a, [](const mi_pattern& p) { return p.kind == MI_VERTICAL_SLASH; });
    const uint64_t heads = uint64_t(a.q_heads);
    const bool measured = a.measure_mass || guard_of(a).active();
    if (measured) {
      take(lse, heads * MI_BLOCK, sizeof(float));
      take(lse_partials, probe_lse_workspace(probe), 1);
    }
    if (measured || any(a, selects_by_mass)) take(row_mass, heads * MI_BLOCK, sizeof(float));
    if (any(a, selects_by_mass)) take(key_mass, heads * a.kv_len, sizeof(float));
    if (vertical_slash) {
      rank_bytes = round_up(int64_t(ColumnRanks::bytes(a.kv_len)), 64);
      take(ranks, heads, rank_bytes);
      scratch_floats = int64_t(SelectionScratch::bytes(a.kv_len) / sizeof(float));
    }
    if (any(a, is_pooled)) take(key_means, pooled_key_floats(probe), sizeof(float));
    if (any(a, [](const mi_pattern& p) { return p.kind == MI_BLOCK_SPARSE; }))
      scratch_floats = max64(scratch_floats, int64_t(block_score_floats(probe)));
    scratch_floats = round_up(scratch_floats, kLanes);
    take(scratch, uint64_t(threads), uint64_t(scratch_floats) * sizeof(float));
    take(tiles, heads * ceil_div(probe.row_blocks(), kBlocksPerItem), sizeof *tiles);
  }
};

// Probability of each key on the probe rows of the first of two row blocks.
void sum_first_block(Pool& pool, const IndexArgs& a, const Probe& probe, float* out) {
  const ProbeBlock rows = ProbeBlocks(probe).block[0];
  const int64_t ranges = key_ranges(a.kv_len);
  pool.parallel(a.q_heads * ranges, [&](int64_t item, int thread) {
    const int64_t head = item / ranges;
    if (!selects_by_mass(a.patterns[head])) return;
    const KeyRange range = key_range(a.kv_len, item % ranges);
    Arena arena(pool.scratch(thread));
    ProbeTile tile(probe, pool.isa(), arena);
    float shift[MI_BLOCK], unused[MI_BLOCK] = {};
    probability_shifts(a.lse + head * probe.rows, rows.first, rows.last, shift);
    tile.set_head(int32_t(head));
    for (int64_t first = range.first; first < range.last && !pool.cancelled(); first += ProbeTile::kKeys) {
      const int count = int(min64(ProbeTile::kKeys, range.last - first));
      const float* p = tile.scores(first, count);
      tile.exponentials(count, shift, unused);
      sum_columns(p, count, tile.lanes(), out + head * a.kv_len + first);
    }
  });
}

class IndexBuilder {
 public:
  IndexBuilder(Pool& pool, const IndexArgs& a)
      : pool_(pool), a_(a), probe_(Probe::of(a)), workspace_(a, probe_, pool.threads(), a.workspace),
        list_(list_view(probe_, a.list, a.list_bytes)), two_blocks_(ProbeBlocks(probe_).count > 1),
        items_(ceil_div(probe_.row_blocks(), kBlocksPerItem)) {}

  void build() {
    const bool by_mass = any(a_, selects_by_mass);
    if (by_mass && two_blocks_) sum_first_block(pool_, a_, probe_, workspace_.key_mass);
    pool_.parallel(a_.q_heads, [&](int64_t head, int thread) { start_head(int32_t(head), thread); });
    if (workspace_.key_means) pool_keys(pool_, probe_, workspace_.key_means);
    fill_heads([](int32_t) { return true; });
    if (by_mass) raise_poor_rows();
    if (pool_.cancelled()) return;
    for (int32_t head = 0; head < a_.q_heads; head++) finish_head(head);
    if (measures(a_)) measure();
  }

 private:
  ListHead& list_head(int32_t head) const { return static_cast<ListHead*>(a_.list)[head]; }
  template <class T>
  T* at(uint64_t offset) const { return reinterpret_cast<T*>(static_cast<char*>(a_.list) + offset); }
  float* scratch(int thread) const { return workspace_.scratch + thread * workspace_.scratch_floats; }
  const float* probe_lse_of(int32_t head) const { return a_.lse + head * int64_t(probe_.rows); }
  float* key_mass(int32_t head) const { return workspace_.key_mass + head * int64_t(a_.kv_len); }
  float* row_mass(int32_t head) const { return workspace_.row_mass + head * int64_t(MI_BLOCK); }
  ColumnRanks ranks(int32_t head) const {
    return {workspace_.ranks + head * workspace_.rank_bytes, a_.kv_len};
  }

  // Everything of a head's list that does not depend on the row block.
  void start_head(int32_t head, int thread) {
    const mi_pattern& p = a_.patterns[head];
    uint64_t offset = uint64_t(round_up(a_.q_heads * int64_t(sizeof(ListHead)), 128));
    for (int32_t h = 0; h < head; h++) head_layout(a_.patterns[h], a_.q_len, a_.kv_len, offset);
    const HeadLayout layout = head_layout(p, a_.q_len, a_.kv_len, offset);
    ListHead& out = list_head(head) = {};
    out.kind = uint32_t(p.kind);
    if (p.kind == MI_A_SHAPE) out.sink = uint32_t(p.sink), out.local = uint32_t(p.local);
    out.block_stride = uint32_t(layout.block_stride);
    out.column_words = uint32_t(layout.column_words);
    out.bands = layout.bands;
    out.columns = layout.columns;
    out.coverage = layout.coverage;
    out.blocks = layout.blocks;
    if (p.kind != MI_VERTICAL_SLASH) return;

    const int64_t sums = head * int64_t(a_.kv_len);
    const HeadMass mass{a_.vertical + sums, a_.slash + sums,
                        two_blocks_ && p.mass > 0 ? key_mass(head) : nullptr};
    VerticalSlash selected{at<Band>(out.bands), at<int32_t>(out.columns), 0, 0};
    const SelectionScratch memory(scratch(thread), a_.kv_len);
    if (!select_vertical_slash(probe_, p, mass, memory, selected)) {
      out.kind = MI_DENSE;
      return;
    }
    out.band_count = uint32_t(selected.band_count);
    out.column_count = uint32_t(selected.column_count);
    ranks(head).fill(selected.columns, selected.column_count, a_.kv_len);
  }

  template <class Test>
  void fill_heads(const Test& test) {
    pool_.parallel(a_.q_heads * items_, [&](int64_t item, int thread) {
      const auto head = int32_t(item / items_);
      if (test(head)) workspace_.tiles[item] = fill_blocks(head, item % items_, thread);
    });
  }

  // The part of a head's list that belongs to some row blocks. Returns the tiles they compute.
  int64_t fill_blocks(int32_t head, int64_t item, int thread) {
    const ListHead& list = list_head(head);
    const int64_t first = item * kBlocksPerItem, last = min64(probe_.row_blocks(), first + kBlocksPerItem);
    int64_t tiles = 0;
    switch (list.kind) {
      case MI_VERTICAL_SLASH:
        for (int64_t m = first; m < last; m++)
          tiles += cover(probe_.end(m), a_.kv_len, at<Band>(list.bands), list.band_count, ranks(head),
                         at<uint32_t>(list.coverage) + m * list.column_words, list.column_words);
        return tiles;
      case MI_BLOCK_SPARSE: {
        auto* const counts = at<uint32_t>(list.blocks);
        return select_blocks(pool_, thread, probe_, a_.patterns[head], head, workspace_.key_means, first,
                             last, scratch(thread), counts, counts + probe_.row_blocks(), list.block_stride);
      }
      case MI_A_SHAPE:
        for (int64_t m = first; m < last; m++) tiles += a_shape_tiles(m, list.sink, list.local);
        return tiles;
      default:
        for (int64_t m = first; m < last; m++) tiles += dense_tiles(m);
        return tiles;
    }
  }

  int64_t reach(int64_t m) const { return min64(probe_.end(m), a_.kv_len); }
  int64_t dense_tiles(int64_t m) const { return ceil_div(reach(m), MI_BLOCK); }
  // As attention/tiles.h cuts them: sink and window apart, unless they touch.
  int64_t a_shape_tiles(int64_t m, int64_t sink, int64_t local) const {
    const int64_t window = max64(0, probe_.end(m) - MI_BLOCK - local + 1);
    if (window <= sink) return dense_tiles(m);
    return ceil_div(min64(sink, reach(m)), MI_BLOCK) + ceil_div(max64(0, reach(m) - window), MI_BLOCK);
  }

  // Adds columns for the probe rows that the mass budget neglects (row_floor.h).
  void raise_poor_rows() {
    const auto applies = [&](int32_t head) {
      return selects_by_mass(a_.patterns[head]) && list_head(head).kind == MI_VERTICAL_SLASH;
    };
    const auto poor = [&](int32_t head) {
      return PoorRows(row_mass(head), applies(head) ? probe_.rows : 0, kRowFloor * a_.patterns[head].mass);
    };
    pool_.parallel(a_.q_heads, [&](int64_t item, int thread) {
      const auto head = int32_t(item);
      if (applies(head)) kept_mass(pool_, thread, probe_, list_, head, probe_lse_of(head), row_mass(head));
    });
    const int64_t ranges = key_ranges(a_.kv_len);
    pool_.parallel(a_.q_heads * ranges, [&](int64_t item, int thread) {
      const auto head = int32_t(item / ranges);
      const PoorRows rows = poor(head);
      if (rows.lack > 0)
        missing_mass(pool_, thread, probe_, HeadList(list_, head), head, probe_lse_of(head), rows,
                     key_range(a_.kv_len, item % ranges), key_mass(head));
    });
    if (pool_.cancelled()) return;
    pool_.parallel(a_.q_heads, [&](int64_t item, int thread) {
      const auto head = int32_t(item);
      const double lack = poor(head).lack;
      if (lack > 0) add_columns(head, lack, thread);
    });
    fill_heads([&](int32_t head) { return poor(head).lack > 0; });
  }

  void add_columns(int32_t head, double lack, int thread) {
    ListHead& list = list_head(head);
    auto* const columns = at<int32_t>(list.columns);
    float* const missing = key_mass(head);
    for (uint32_t c = 0; c < list.column_count; c++) missing[columns[c]] = 0;
    const int64_t room = vertical_slash_budget(a_.patterns[head], a_.kv_len).columns - list.column_count;
    const int64_t more = fewest_for_sum(missing, a_.kv_len, lack, room, scratch(thread)).count;
    top_k(missing, a_.kv_len, more, 0, [&](int64_t key) { columns[list.column_count++] = int32_t(key); });
    std::sort(columns, columns + list.column_count);
    ranks(head).fill(columns, list.column_count, a_.kv_len);
  }

  // Retained mass of every list, into the statistics; the guard takes those that keep too little.
  void measure() {
    const float* lse = a_.lse;
    if (!lse) {
      probe_lse(pool_, probe_, workspace_.lse, workspace_.lse_partials);
      lse = workspace_.lse;
    }
    pool_.parallel(a_.q_heads, [&](int64_t item, int thread) {
      const auto head = int32_t(item);
      if (list_head(head).kind == MI_DENSE) return;
      float* const mass = row_mass(head);
      kept_mass(pool_, thread, probe_, list_, head, lse + item * probe_.rows, mass);
      double sum = 0;
      for (int r = 0; r < probe_.rows; r++) sum += mass[r];
      // Rounding may pass 1; NaN stays.
      const float mean = std::min(float(sum / probe_.rows), 1.0f);
      const float least = std::min(*std::min_element(mass, mass + probe_.rows), 1.0f);
      mi_head_stats* const stats = a_.stats ? a_.stats + head : nullptr;
      if (stats) stats->retained_mean = mean, stats->retained_min = least;
      if (!guard_of(a_).passes(mean, least)) give_up_list(list_head(head), stats);
    });
  }

  // Statistics, and the automatic choice of dense.
  void finish_head(int32_t head) {
    ListHead& list = list_head(head);
    int64_t tiles = 0, causal = 0;
    for (int64_t i = 0; i < items_; i++) tiles += workspace_.tiles[head * items_ + i];
    for (int64_t m = 0; m < probe_.row_blocks(); m++) causal += dense_tiles(m);
    const bool too_dense = a_.dense_above < 1 && double(tiles) > double(a_.dense_above) * double(causal);
    if (too_dense) list.kind = MI_DENSE;
    if (list.kind == MI_DENSE) tiles = causal, list.band_count = list.column_count = 0;
    if (!a_.stats) return;
    mi_head_stats& stats = a_.stats[head] = {};
    stats.kind = list.kind;
    stats.bands = list.band_count;
    stats.columns = list.column_count;
    stats.density = float(double(tiles) / double(causal));
    stats.retained_mean = stats.retained_min = list.kind == MI_DENSE ? 1.0f : NAN;
    stats.tiles = uint64_t(tiles);
    stats.causal_tiles = uint64_t(causal);
  }

  Pool& pool_;
  const IndexArgs& a_;
  const Probe probe_;
  const Workspace workspace_;
  const AttentionArgs list_;  // the list as attention will see it
  const bool two_blocks_;     // the probe rows lie in two row blocks
  const int64_t items_;  // per head
};

}  // namespace

uint64_t index_workspace(const Pool& pool, const IndexArgs& a) {
  return Workspace(a, Probe::of(a), pool.threads(), nullptr).bytes;
}

void index(Pool& pool, const IndexArgs& a) { IndexBuilder(pool, a).build(); }

}  // namespace mi::cpu
