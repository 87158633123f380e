// Tensor maps: what the copy engine (TMA) knows of a tensor in global memory.
#pragma once
#include <cuda.h>

#include <cstdint>

#include "../include/minference.h"

namespace mi::cuda {

constexpr int kBoxRows = 64, kBoxColumns = 64;  // of every copy: 8 KB, 128 bytes a row
constexpr int kBoxBytes = kBoxRows * kBoxColumns * 2;

// [heads, rows, columns] of 16-bit elements (MI_F16 or MI_BF16), strides in bytes. Copies bring one box, in shared memory
// row after row of 128 bytes with 16-byte piece i of row r at i ^ (r % 8) (the 128-byte swizzle), on 1024-byte bounds.
// Wants data and strides on 16 bytes. box_rows: of a copy, in place of kBoxRows.
mi_status make_tensor_map(const void* data, int32_t dtype, int64_t heads, int64_t rows, int64_t columns,
                          int64_t head_stride, int64_t row_stride, CUtensorMap* map, mi_error* error,
                          int box_rows = kBoxRows);

}  // namespace mi::cuda
