// Rows that follow each other at a fixed distance in memory, copied to shared memory a tile at a time.
#pragma once
#include "../core/ptx.cuh"

namespace mi::cuda {

// kThreads threads copy pieces of 16 bytes, kPieces a row; each keeps to one piece of a row, and its address moves along.
template <int kThreads, int kPieces>
class RowStream {
 public:
  // Pieces past row_bytes are zeros.
  __device__ RowStream(const char* rows, int64_t row_stride, int row_bytes)
      : next_(rows + threadIdx.x / kPieces * row_stride + threadIdx.x % kPieces * 16),
        stride_(kRows * row_stride),
        first_(int(threadIdx.x % kPieces) * 16 < row_bytes ? int(threadIdx.x / kPieces) : kNoRow) {}

  // Begins to copy the next kCount rows, of which those from `present` on are zeros, to where place(row, piece) says.
  template <int kCount, class Place>
  __device__ __forceinline__ void load(int present, const Place& place) {
    static_assert(kCount % kRows == 0);
#pragma unroll
    for (int row = 0; row < kCount; row += kRows, next_ += stride_)
      cp_async_16(place(row + int(threadIdx.x / kPieces), int(threadIdx.x % kPieces)), next_, first_ + row < present ? 16 : 0);
  }

 private:
  static_assert(kThreads % kPieces == 0);
  static constexpr int kRows = kThreads / kPieces;  // at once
  static constexpr int kNoRow = 1 << 30;
  const char* next_;
  int64_t stride_;
  int first_;  // of the tile's rows that are this thread's
};

}  // namespace mi::cuda
