// The index builder: chooses what each head computes and writes the work list (work_list.h).
#include <algorithm>
#include <cmath>

#include "block_sparse.h"
#include "coverage.h"
#include "retained.h"
#include "vertical_slash.h"

namespace mi::cpu {
namespace {

constexpr int64_t kBlocksPerItem = 64;  // row blocks of a work item

bool selects_by_mass(const mi_pattern& p) { return p.kind == MI_VERTICAL_SLASH && p.mass > 0; }
bool is_pooled(const mi_pattern& p) { return p.kind == MI_BLOCK_SPARSE && !(p.flags & MI_ANTIDIAGONAL); }
template <class Test>
bool any(const IndexArgs& a, const Test& test) {
  return std::any_of(a.patterns, a.patterns + a.q_heads, test);
}

// The workspace's parts; also counts them, with a null base.
struct Workspace {
  float* lse = nullptr;                  // [q_heads][rows], where the caller brought none
  void* lse_partials = nullptr;
  float* first_block = nullptr;          // [q_heads][kv_len], HeadMass::first_block
  char* ranks = nullptr;                 // ColumnRanks of each head
  float* key_means = nullptr;            // pool_keys
  float* scratch = nullptr;              // [threads][scratch_floats]
  int64_t* tiles = nullptr;              // [q_heads][items]
  RetainedMass* retained = nullptr;      // [q_heads]
  int64_t rank_bytes = 0, scratch_floats = 0;
  uint64_t bytes = 0;

  Workspace(const IndexArgs& a, const Probe& probe, int threads, void* base) {
    const auto take = [&](auto*& part, uint64_t count, uint64_t size) {
      if (base) part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(static_cast<char*>(base) + bytes);
      bytes += (count * size + 63) / 64 * 64;
    };
    const bool vertical_slash = any(a, [](const mi_pattern& p) { return p.kind == MI_VERTICAL_SLASH; });
    const uint64_t heads = uint64_t(a.q_heads);
    if (a.measure_mass) {
      take(lse, heads * MI_BLOCK, sizeof(float));
      take(lse_partials, probe_lse_workspace(probe), 1);
      take(retained, heads, sizeof *retained);
    }
    if (ProbeBlocks(probe).count > 1 && any(a, selects_by_mass)) take(first_block, heads * a.kv_len, sizeof(float));
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
        items_(ceil_div(probe_.row_blocks(), kBlocksPerItem)) {}

  void build() {
    if (workspace_.first_block) sum_first_block(pool_, a_, probe_, workspace_.first_block);
    pool_.parallel(a_.q_heads, [&](int64_t head, int thread) { start_head(int32_t(head), thread); });
    if (workspace_.key_means) pool_keys(pool_, probe_, workspace_.key_means);
    pool_.parallel(a_.q_heads * items_, [&](int64_t item, int thread) {
      workspace_.tiles[item] = fill_blocks(int32_t(item / items_), item % items_, thread);
    });
    if (pool_.cancelled()) return;
    for (int32_t head = 0; head < a_.q_heads; head++) finish_head(head);
    if (!a_.measure_mass || !a_.stats) return;
    const float* lse = a_.lse;
    if (!lse) probe_lse(pool_, probe_, workspace_.lse, workspace_.lse_partials), lse = workspace_.lse;
    retained_mass(pool_, probe_, a_.list, a_.list_bytes, lse, workspace_.retained);
    for (int32_t head = 0; head < a_.q_heads; head++) {
      a_.stats[head].retained_mean = workspace_.retained[head].mean;
      a_.stats[head].retained_min = workspace_.retained[head].min;
    }
  }

 private:
  ListHead& list_head(int32_t head) const { return static_cast<ListHead*>(a_.list)[head]; }
  template <class T>
  T* at(uint64_t offset) const { return reinterpret_cast<T*>(static_cast<char*>(a_.list) + offset); }
  float* scratch(int thread) const { return workspace_.scratch + thread * workspace_.scratch_floats; }
  ColumnRanks ranks(int32_t head) const { return {workspace_.ranks + head * workspace_.rank_bytes, a_.kv_len}; }

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
    out.bands = layout.bands, out.columns = layout.columns, out.coverage = layout.coverage, out.blocks = layout.blocks;
    if (p.kind != MI_VERTICAL_SLASH) return;

    const int64_t sums = head * int64_t(a_.kv_len);
    const HeadMass mass{a_.vertical + sums, a_.slash + sums,
                        workspace_.first_block ? workspace_.first_block + sums : nullptr};
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
        return select_blocks(pool_, thread, probe_, a_.patterns[head], head, workspace_.key_means, first, last,
                             scratch(thread), counts, counts + probe_.row_blocks(), list.block_stride);
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

  // Statistics, and the automatic choice of dense.
  void finish_head(int32_t head) {
    ListHead& list = list_head(head);
    int64_t tiles = 0, causal = 0;
    for (int64_t i = 0; i < items_; i++) tiles += workspace_.tiles[head * items_ + i];
    for (int64_t m = 0; m < probe_.row_blocks(); m++) causal += dense_tiles(m);
    if (a_.dense_above < 1 && list.kind != MI_DENSE && double(tiles) > double(a_.dense_above) * double(causal))
      list.kind = MI_DENSE;
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
  const int64_t items_;  // per head
};

}  // namespace

uint64_t index_workspace(const Pool& pool, const IndexArgs& a) {
  return Workspace(a, Probe::of(a), pool.threads(), nullptr).bytes;
}

void index(Pool& pool, const IndexArgs& a) { IndexBuilder(pool, a).build(); }

}  // namespace mi::cpu
