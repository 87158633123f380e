// Block-sparse heads: scores of 64-key blocks for each 64-row query block, and the choice of the best.
#pragma once
#include "probe.h"

namespace mi::cpu {

// Means of 64-key blocks, [kv_heads][key_blocks][head_dim]; a short last block is filled up with zeros, as
// upstream.
void pool_keys(Pool& pool, const Probe& probe, float* means);
uint64_t pooled_key_floats(const Probe& probe);

// Floats of one thread's scratch for scoring one head's row blocks.
uint64_t block_score_floats(const Probe& probe);

// Row blocks [first, last) of a head: counts[m] and the blocks chosen, ascending, at blocks[m * stride].
// Returns the tiles.
int64_t select_blocks(const Pool& pool, int thread, const Probe& probe, const mi_pattern& pattern,
                      int32_t head, const float* key_means, int64_t first, int64_t last, float* scratch,
                      uint32_t* counts, uint32_t* blocks, int64_t stride);

}  // namespace mi::cpu
