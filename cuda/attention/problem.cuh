// One attention call as its kernels see it.
#pragma once
#include "../core/launch.h"
#include "../core/ops.h"
#include "../index/work_list.h"

namespace mi::cuda {

// Positions, keys and the sentinels below stay within an int32 with room to add two of them.
constexpr int32_t kMostKeys = 1 << 29;
constexpr int32_t kEverywhere = 1 << 30;  // a position that every key is before

// A [heads, rows, head_dim] tensor of 16-bit elements.
struct Rows {
  char* data;
  int64_t head_stride, row_stride;  // bytes

  __host__ __device__ char* at(int64_t head, int64_t row) const { return data + head * head_stride + row * row_stride; }
};

// K and V of every head's single columns, contiguous, so that they are read like any other keys. Chunks of 64 columns
// begin at multiples of 64; what a chunk has beyond its head's columns is zero.
struct Gathered {
  char* k;         // [capacity, head_dim]
  char* v;         // [capacity, head_dim]
  int32_t* first;  // [q_heads], a head's first row, or -1 if its columns do not fit
  int32_t capacity;
};

struct Problem {
  Rows q, k, v, out;
  float* lse;        // may be null
  const char* list;  // may be null
  uint64_t list_bytes;
  Gathered columns;
  const uint32_t* cancel;  // may be null
  int32_t q_heads, group;  // query heads, and how many of them share a KV head
  int32_t head_dim, q_len, kv_len, row_blocks, causal;
  float scale_log2;  // softmax scale times log2(e), positive
  int32_t negate;    // the scale's sign: scores change theirs

  // Of query row 0.
  __host__ __device__ int32_t first_position() const { return kv_len - q_len; }
};

inline Rows rows_of(const View& v) {
  return {static_cast<char*>(v.data), bytes_of(v.dtype, v.head_stride), bytes_of(v.dtype, v.row_stride)};
}

}  // namespace mi::cuda
