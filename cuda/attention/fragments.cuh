// Tiles of 16-bit rows in shared memory, and their fragments for mma.sync.
#pragma once
#include "../core/ptx.cuh"

namespace mi::cuda {

// Rows of kDim elements; 16-byte piece i of row r lies at i ^ (r % 8), so that eight rows of a matrix lie in different
// banks.
template <int kDim>
struct SharedTile {
  static constexpr int kPitch = kDim * 2, kPieces = kDim / 8;
  uint32_t address;

  __device__ explicit SharedTile(const void* p) : address(smem_address(p)) {}

  __device__ __forceinline__ uint32_t piece(int row, int i) const { return address + row * kPitch + (i ^ (row & 7)) * 16; }

  // Begins to load `count` rows: `row(r)` gives the address of row r, or null for zeros. Pieces past head_dim are zero.
  template <int kThreads, class Row>
  __device__ __forceinline__ void load(int count, int head_dim, const void* valid, const Row& row) const {
    static_assert(kThreads % kPieces == 0, "a thread keeps to one piece");
    const int i = threadIdx.x % kPieces;
    for (int r = threadIdx.x / kPieces; r < count; r += kThreads / kPieces) {
      const char* from = row(r);
      const bool present = from && i * 8 < head_dim;
      cp_async_16(piece(r, i), present ? static_cast<const void*>(from + i * 16) : valid, present ? 16 : 0);
    }
  }

  // A operand: rows [row, row + 16), depth [16 step, 16 step + 16).
  __device__ __forceinline__ void rows_16(uint32_t (&a)[4], int row, int step) const {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4(a, piece(row + lane % 16, 2 * step + lane / 16));
  }
  // B operands of two products whose columns are the tile's rows [row, row + 8) (b[0], b[1]) and the 8 after them
  // (b[2], b[3]); depth [16 step, 16 step + 16) along the rows.
  __device__ __forceinline__ void columns_16(uint32_t (&b)[4], int row, int step) const {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4(b, piece(row + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
  }
  // B operands of two products whose depth is the tile's rows [row, row + 16), and whose columns are the elements
  // [8 i, 8 i + 8) (b[0], b[1]) and the 8 after them (b[2], b[3]).
  __device__ __forceinline__ void depth_16(uint32_t (&b)[4], int row, int i) const {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4_transposed(b, piece(row + lane % 16, i + lane / 16));
  }
};

template <class T>
__device__ __forceinline__ void mma_tile(float* c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  mma_16816<T>(*reinterpret_cast<float(*)[4]>(c), a, b0, b1);
}

}  // namespace mi::cuda
