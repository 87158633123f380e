// Retained attention mass: the probability of the cells that a work list keeps, on the probe rows. It walks
// the same tiles as the attention (attention/tiles.h), so it measures what is computed, whatever the pattern.
#include "retained.h"

#include <algorithm>

namespace mi::cpu {
namespace {

// Hides what an A-shape's window leaves out of a tile. Causality is the tile's own.
void apply_window(const Probe& probe, const Mask& mask, const KeyTile& tile, float* s) {
  for (int i = 0; i < tile.count; i++) {
    const int64_t key = tile.first + i;
    if (key < mask.sink) continue;
    const int64_t from = max64(0, key + mask.local - probe.first_position());  // first row past the window
    for (int64_t r = from; r < probe.rows; r++) s[i * ProbeTile::kStride + r] = -INFINITY;
  }
}

}  // namespace

AttentionArgs list_view(const Probe& probe, const void* list, uint64_t list_bytes) {
  AttentionArgs a{};
  a.q = probe.q, a.k = a.v = probe.k;
  a.list = list, a.list_bytes = list_bytes;
  a.q_heads = probe.q_heads, a.kv_heads = probe.kv_heads, a.head_dim = probe.head_dim;
  a.q_len = int32_t(probe.q_len), a.kv_len = int32_t(probe.kv_len);
  a.causal = 1, a.scale = probe.scale;
  return a;
}

void kept_mass(const Pool& pool, int thread, const Probe& probe, const AttentionArgs& list, int32_t head,
               const float* lse, float* row_mass) {
  const HeadList head_list(list, head);
  std::fill(row_mass, row_mass + MI_BLOCK, 0.0f);
  Arena arena(pool.scratch(thread));
  ProbeTile probe_tile(probe, pool.isa(), arena);
  probe_tile.set_head(head);
  const Mask mask = mask_of(list, head_list);
  const ProbeBlocks blocks(probe);
  for (int b = 0; b < blocks.count; b++) {
    float shift[MI_BLOCK];  // rows of the other block get weight 0
    probability_shifts(lse, blocks.block[b].first, blocks.block[b].last, shift);
    for_each_tile(list, head_list, blocks.block[b].row_block, [&](const KeyTile& tile) {
      float* const s = probe_tile.scores(tile);
      if (tile.masked) apply_window(probe, mask, tile, s);
      probe_tile.exponentials(tile.count, shift, row_mass);
      return !pool.cancelled();
    });
  }
}

}  // namespace mi::cpu
