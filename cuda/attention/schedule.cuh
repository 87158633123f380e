// The order of the work items, one of which is a row tile (one or two neighbouring row blocks) of one query head.
//
// Late row blocks come first: under a causal mask they have the most keys, and short items at the end fill the gaps.
// Heads are taken in sections whose K and V stay in the L2 cache together; within a section the heads of a KV group lie
// side by side, so that blocks which run at the same time read the same keys.
#pragma once
#include "problem.cuh"

namespace mi::cuda {

struct Schedule {
  int32_t items, row_tiles, section_heads;

  __device__ void locate(const Problem& p, int item, int& head, int& row_tile) const {
    const int section = item / (section_heads * row_tiles), first = section * section_heads;
    const int heads = min(section_heads, p.q_heads - first), rest = item - first * row_tiles;
    head = first + rest % heads;
    row_tile = row_tiles - 1 - rest / heads;
  }
};

constexpr int64_t kSectionBytes = 32 << 20;  // of K and V; half of an H200's L2, which is 60 MB

inline Schedule make_schedule(const Problem& p, int row_blocks_per_tile) {
  const int64_t bytes_of_kv_head = int64_t(p.kv_len) * p.head_dim * 4;
  const int64_t kv_heads = max64(1, min64(p.q_heads / p.group, kSectionBytes / bytes_of_kv_head));
  Schedule s{};
  s.row_tiles = (p.row_blocks + row_blocks_per_tile - 1) / row_blocks_per_tile;
  s.items = s.row_tiles * p.q_heads;
  s.section_heads = int32_t(kv_heads) * p.group;
  return s;
}

}  // namespace mi::cuda
