// Copies the single columns of a work list's vertical-slash heads side by side, so that the kernels read them as tiles.
#pragma once
#include "units.cuh"

namespace mi::cuda {

// More columns than all heads of a list of this size can have, each head's rounded up to whole units: a column takes 4
// bytes and one bit for every row block.
inline int64_t column_capacity(uint64_t list_bytes, int64_t row_blocks) {
  return int64_t(8 * list_bytes / uint64_t(32 + row_blocks)) / MI_BLOCK * MI_BLOCK;
}

// Fills p.columns. Queue it before the kernels that read them.
mi_status gather_columns(const Launch& launch, const Problem& p, mi_error* error);

}  // namespace mi::cuda
