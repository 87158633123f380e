#include "row_floor.h"

#include <algorithm>

namespace mi::cpu {
namespace {

// Sets the probabilities of cells in bands to zero. p: keys [first, first + count).
void hide_bands(const Probe& probe, const HeadList& list, int64_t first, int count, float* p) {
  const ProbeBlocks blocks(probe);
  for (int b = 0; b < blocks.count; b++) {
    const ProbeBlock& block = blocks.block[b];
    const int64_t end = probe.end(block.row_block);
    for (uint32_t i = 0; i < list.head().band_count; i++) {
      const int64_t from = max64(first, end - int64_t(list.band(i).far));
      const int64_t to = min64(first + count, end - int64_t(list.band(i).near));
      for (int64_t key = from; key < to; key++)
        std::fill(p + (key - first) * ProbeTile::kStride + block.first,
                  p + (key - first) * ProbeTile::kStride + block.last, 0.0f);
    }
  }
}

}  // namespace

PoorRows::PoorRows(const float* row_mass, int rows, float floor) : is_poor{}, lack(0) {
  for (int r = 0; r < rows; r++) {
    is_poor[r] = row_mass[r] < floor;
    if (is_poor[r]) lack += double(floor) - row_mass[r];
  }
}

void missing_mass(const Pool& pool, int thread, const Probe& probe, const HeadList& list, int32_t head,
                  const float* lse, const PoorRows& poor, const KeyRange& range, float* missing) {
  Arena arena(pool.scratch(thread));
  ProbeTile tile(probe, pool.isa(), arena);
  float shift[MI_BLOCK], unused[MI_BLOCK] = {};
  probability_shifts(lse, 0, probe.rows, shift);
  for (int r = 0; r < probe.rows; r++)
    if (!poor.is_poor[r]) shift[r] = kNoWeight;
  tile.set_head(head);
  for (int64_t first = range.first; first < range.last && !pool.cancelled(); first += ProbeTile::kKeys) {
    const int count = int(min64(ProbeTile::kKeys, range.last - first));
    float* p = tile.scores(first, count);
    tile.exponentials(count, shift, unused);
    hide_bands(probe, list, first, count, p);
    sum_columns(p, count, tile.lanes(), missing + first);
  }
}

}  // namespace mi::cpu
