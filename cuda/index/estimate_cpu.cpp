// The last-queries estimate: column sums and diagonal sums of the probe rows' attention. Two passes over the
// keys, log-sum-exp first; recomputing the scores is cheaper than a round trip of [64, kv_len] through
// memory.
#include <algorithm>

#include "probe.h"

namespace mi::cpu {
namespace {

// Diagonals of one key range: [kRangeKeys + 63] and room for the last vector to run over.
constexpr int64_t kDiagonals = kRangeKeys + MI_BLOCK + kLanes;

// diagonals[row - key + count - 1] += p[key][row]. Neighbouring diagonals lie side by side in a row of p, so
// a vector of them walks down the tile one row and one element at a time.
void add_diagonals(const float* p, int count, int lanes, float* diagonals) {
  for (int d = 1 - count; d < lanes; d += kLanes) {  // row - key of the vector's first element
    const int from = int(max64(0, 1 - kLanes - d)), to = int(min64(count, lanes - d));
    Lanes sum = {};
    for (int i = from; i < to; i++)
      sum += *reinterpret_cast<const Lanes*>(p + int64_t(i) * ProbeTile::kStride + i + d);
    *reinterpret_cast<Lanes*>(diagonals + d + count - 1) += sum;
  }
}

// A key range contributes to its own kRangeKeys distances and to rows - 1 shorter ones, which belong to the
// next range: those go through a side buffer and are added in a fixed order.
struct Halo {
  float diagonals[MI_BLOCK];
};

}  // namespace

uint64_t estimate_workspace(const Pool&, const EstimateArgs& a) {
  const Probe probe = Probe::of(a);
  return probe_lse_workspace(probe) + uint64_t(a.q_heads * key_ranges(a.kv_len)) * sizeof(Halo);
}

void estimate(Pool& pool, const EstimateArgs& a) {
  const Probe probe = Probe::of(a);
  const int64_t ranges = key_ranges(a.kv_len), rows = probe.rows;
  probe_lse(pool, probe, a.lse, a.workspace);
  auto* const halos = reinterpret_cast<Halo*>(static_cast<char*>(a.workspace) + probe_lse_workspace(probe));

  pool.parallel(a.q_heads * ranges, [&](int64_t item, int thread) {
    const int64_t head = item / ranges;
    const KeyRange range = key_range(a.kv_len, item % ranges);
    float* const vertical = a.vertical + head * a.kv_len;
    Arena arena(pool.scratch(thread));
    ProbeTile tile(probe, pool.isa(), arena);
    float* const diagonals = arena.take<float>(kDiagonals);  // [0] is the shortest distance of the range
    std::fill(diagonals, diagonals + kDiagonals, 0.0f);
    float shift[MI_BLOCK], unused[MI_BLOCK] = {};
    probability_shifts(a.lse + head * rows, 0, probe.rows, shift);
    tile.set_head(int32_t(head));
    for (int64_t first = range.first; first < range.last && !pool.cancelled(); first += ProbeTile::kKeys) {
      const int count = int(min64(ProbeTile::kKeys, range.last - first));
      const float* p = tile.scores(first, count);
      tile.exponentials(count, shift, unused);
      sum_columns(p, count, tile.lanes(), vertical + first);
      add_diagonals(p, count, tile.lanes(), diagonals + (range.last - first - count));
    }
    float* const slash = a.slash + head * a.kv_len + a.kv_len - range.last;
    std::copy_n(diagonals + rows - 1, range.last - range.first, slash);
    std::copy_n(diagonals, rows - 1, halos[item].diagonals);
  });
  if (pool.cancelled()) return;

  for (int64_t item = 0; item < a.q_heads * ranges; item++) {
    float* const slash = a.slash + item / ranges * a.kv_len;
    const int64_t shortest = a.kv_len - key_range(a.kv_len, item % ranges).last - (rows - 1);
    for (int64_t i = max64(0, -shortest); i < rows - 1; i++) slash[shortest + i] += halos[item].diagonals[i];
  }
}

}  // namespace mi::cpu
