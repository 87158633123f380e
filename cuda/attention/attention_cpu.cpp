// Attention on the CPU: FlashAttention over whatever key tiles the work list names (tiles.h).
//
// A work item is one row block of one query head: 64 query rows in the vector lanes, so that the softmax is
// vertical. With few query rows (decode) the heads that share a KV head share an item, and an item's tiles
// are split over threads, whose parts are merged at the end.
//
// Values that are not finite spread as IEEE arithmetic has it: a NaN or +inf score makes its query row NaN; a
// NaN or inf in V reaches every row of the row blocks that visit its tile, masked or not, because 0 * inf is
// NaN.
#include "../cpu/pool.h"
#include "tile_math.h"

namespace mi::cpu {
namespace {

constexpr int kItemsPerThread = 4;    // that many keep threads evenly busy
constexpr int64_t kTilesPerPart = 4;  // fewer are not worth a part

struct Partition {
  int32_t share;       // query heads of one KV head side by side in an item
  int64_t head_items;  // items of one row block
  int64_t row_blocks, parts;
  int64_t items() const { return head_items * row_blocks; }
};

Partition partition(const Pool& pool, const AttentionArgs& a, bool listed) {
  const int32_t group = a.q_heads / a.kv_heads;
  Partition p{};
  p.share = listed ? 1 : int32_t(max64(1, min64(group, kMaxLanes / max64(a.q_len, 1))));
  p.head_items = a.kv_heads * ceil_div(group, p.share);
  p.row_blocks = ceil_div(a.q_len, MI_BLOCK);
  p.parts = 1;
  if (p.items() > 0 && p.items() < kItemsPerThread * pool.threads())
    p.parts = max64(1, min64(ceil_div(kItemsPerThread * pool.threads(), p.items()),
                             a.kv_len / (MI_BLOCK * kTilesPerPart)));
  return p;
}

int64_t part_floats(const AttentionArgs& a) { return LaneState::part_floats(a.head_dim, kMaxLanes); }

uint64_t workspace_of(const Pool& pool, const AttentionArgs& a, bool listed) {
  const Partition p = partition(pool, a, listed);
  return p.parts == 1 ? 0 : uint64_t(p.items() * p.parts * part_floats(a)) * sizeof(float);
}

// Last row blocks first: under a causal mask they have the most keys.
LaneBlock lane_block(const AttentionArgs& a, const Partition& p, int64_t item) {
  const int32_t group = a.q_heads / a.kv_heads, per_kv_head = int32_t(p.head_items / a.kv_heads);
  const int32_t index = int32_t(item % p.head_items), first = index % per_kv_head * p.share;
  LaneBlock b{};
  b.row_block = p.row_blocks - 1 - item / p.head_items;
  b.head = index / per_kv_head * group + first;
  b.heads = int32_t(min64(p.share, group - first));
  b.rows = int32_t(min64(MI_BLOCK, a.q_len - b.row_block * MI_BLOCK));
  return b;
}

// The query rows as f32, lanes without a row zero. The sign of the scale goes into them, so that the largest
// score stays the largest exponent.
void load_queries(const AttentionArgs& a, const LaneBlock& block, mi_isa isa, float* rows) {
  const RowToF32 to_f32 = row_to_f32(isa, a.q.dtype);
  const float sign = a.scale > 0 ? 1.0f : a.scale < 0 ? -1.0f : 0.0f;
  int lane = 0;
  for (int h = 0; h < block.heads; h++)
    for (int r = 0; r < block.rows; r++, lane++) {
      float* row = rows + int64_t(lane) * a.head_dim;
      to_f32(head_row(a.q, block.head + h, block.row_block * MI_BLOCK + r), row, a.head_dim);
      if (sign != 1)
        for (int c = 0; c < a.head_dim; c++) row[c] *= sign;
    }
  std::memset(rows + int64_t(lane) * a.head_dim, 0,
              size_t(block.lanes() - lane) * a.head_dim * sizeof(float));
}

// Every `parts`-th tile of a block, beginning with tile `part`.
template <class Math>
void attend(const Pool& pool, const AttentionArgs& a, const LaneBlock& block, Math& math, int64_t part,
            int64_t parts, float* s, LaneState& state) {
  const HeadList list(a, block.head);
  const Mask mask = mask_of(a, list);
  const RowSpan span = row_span(a, block.row_block);
  const int64_t kv_head = block.head / (a.q_heads / a.kv_heads);
  const TileKernels& kernels = tile_kernels(pool.isa());
  int64_t index = 0;
  for_each_tile(a, list, block.row_block, [&](const KeyTile& tile) {
    if (pool.cancelled()) return false;
    if (index++ % parts != part) return true;
    math.scores(tile, kv_head, s, state.lanes());
    if (tile.masked) apply_mask(mask, span, block, tile, s, state.lanes());
    state.raise(kernels, s, tile.count);
    math.accumulate(tile, kv_head, s, state);
    return true;
  });
}

template <class Math>
void run(Pool& pool, const AttentionArgs& a) {
  constexpr float kLog2E = 1.44269504088896341f;
  const float scale = a.scale == 0 ? 1.0f : std::fabs(a.scale) * kLog2E;
  const TileKernels& kernels = tile_kernels(pool.isa());
  const Partition p = partition(pool, a, a.list != nullptr);
  float* const saved = static_cast<float*>(a.workspace);

  pool.parallel(p.items() * p.parts, [&](int64_t index, int thread) {
    const LaneBlock block = lane_block(a, p, index / p.parts);
    Arena arena(pool.scratch(thread));
    float* const rows = arena.take<float>(int64_t(a.head_dim) * kMaxLanes);
    float* const out = arena.take<float>(int64_t(a.head_dim) * kMaxLanes);
    float* const s = arena.take<float>(kMaxLanes * kMaxLanes);
    Math math(a, kernels, arena);
    LaneState state;
    state.start(out, block.lanes(), a.head_dim, scale);
    load_queries(a, block, pool.isa(), rows);
    math.set_queries(rows, block.lanes());
    attend(pool, a, block, math, index % p.parts, p.parts, s, state);
    if (p.parts > 1) {
      state.save(saved + index * part_floats(a));
    } else if (!pool.cancelled()) {
      state.store(a, kernels, block, rows);
    }
  });
  if (p.parts == 1) return;

  pool.parallel(p.items(), [&](int64_t item, int thread) {
    const LaneBlock block = lane_block(a, p, item);
    Arena arena(pool.scratch(thread));
    float* const rows = arena.take<float>(int64_t(a.head_dim) * kMaxLanes);
    LaneState state;
    state.start(arena.take<float>(int64_t(a.head_dim) * kMaxLanes), block.lanes(), a.head_dim, scale);
    for (int64_t part = 0; part < p.parts; part++)
      state.merge(saved + (item * p.parts + part) * part_floats(a));
    state.store(a, kernels, block, rows);
  });
}

}  // namespace

uint64_t attention_workspace(const Pool& pool, const AttentionArgs& a) {
  // Whether there will be a list is not known here.
  const uint64_t dense = workspace_of(pool, a, false), listed = workspace_of(pool, a, true);
  return dense > listed ? dense : listed;
}

void attention(Pool& pool, const AttentionArgs& a) {
  const bool bf16 = tile_kernels(pool.isa()).gemm_bf16 && a.k.dtype == MI_BF16 && a.v.dtype == MI_BF16;
  bf16 ? run<Bf16Math>(pool, a) : run<F32Math>(pool, a);
}

}  // namespace mi::cpu
