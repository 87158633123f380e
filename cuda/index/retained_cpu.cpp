// Retained attention mass: the probability of the cells that a work list keeps, on the probe rows. It walks the same
// tiles as the attention (attention/tiles.h), so it measures what is computed, whatever the pattern.
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

void retained_mass(Pool& pool, const Probe& probe, const void* list, uint64_t list_bytes, const float* lse,
                   RetainedMass* out) {
  AttentionArgs a{};
  a.q = probe.q, a.k = a.v = probe.k;
  a.list = list, a.list_bytes = list_bytes;
  a.q_heads = probe.q_heads, a.kv_heads = probe.kv_heads, a.head_dim = probe.head_dim;
  a.q_len = int32_t(probe.q_len), a.kv_len = int32_t(probe.kv_len);
  a.causal = 1, a.scale = probe.scale;

  pool.parallel(probe.q_heads, [&](int64_t head, int thread) {
    const HeadList head_list(a, int32_t(head));
    if (head_list.kind() == MI_DENSE) {
      out[head] = {1, 1};
      return;
    }
    Arena arena(pool.scratch(thread));
    ProbeTile probe_tile(probe, pool.isa(), arena);
    probe_tile.set_head(int32_t(head));
    const Mask mask = mask_of(a, head_list);
    float mass[MI_BLOCK] = {};
    const ProbeBlocks blocks(probe);
    for (int b = 0; b < blocks.count; b++) {
      float shift[MI_BLOCK];  // rows of the other block get weight 0
      probability_shifts(lse + head * probe.rows, blocks.block[b].first, blocks.block[b].last, shift);
      for_each_tile(a, head_list, blocks.block[b].row_block, [&](const KeyTile& tile) {
        float* const s = probe_tile.scores(tile);
        if (tile.masked) apply_window(probe, mask, tile, s);
        probe_tile.exponentials(tile.count, shift, mass);
        return !pool.cancelled();
      });
    }
    double sum = 0;
    for (int r = 0; r < probe.rows; r++) sum += mass[r];
    const float mean = float(sum / probe.rows), least = *std::min_element(mass, mass + probe.rows);
    out[head] = {std::min(mean, 1.0f), std::min(least, 1.0f)};  // rounding may pass 1; NaN stays
  });
}

}  // namespace mi::cpu
