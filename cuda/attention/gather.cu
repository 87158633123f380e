#include "gather.cuh"

namespace mi::cuda {

namespace {

constexpr int kThreads = 256, kRowsPerBlock = 256;
constexpr int kPiece = 16;  // bytes a thread moves at a time

// Columns of a head, up to whole units. The index builder keeps a multiple of 64 of them in the list.
__device__ uint32_t padded_columns(const Problem& p, int head) {
  const ListHead& l = reinterpret_cast<const ListHead*>(p.list)[head];
  if (l.kind != MI_VERTICAL_SLASH || l.column_count > uint32_t(p.columns.capacity)) return 0;
  return (l.column_count + kUnit - 1) / kUnit * kUnit;
}

// Grid: [chunks of rows, query heads].
__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ Problem p) {
  const int head = blockIdx.y;
  __shared__ uint32_t before;  // columns of the heads before
  if (threadIdx.x == 0) before = 0;
  __syncthreads();
  uint32_t sum = 0;
  for (int h = threadIdx.x; h < head; h += kThreads) sum += padded_columns(p, h);
  if (sum) atomicAdd(&before, sum);
  __syncthreads();

  const ListHead& l = reinterpret_cast<const ListHead*>(p.list)[head];
  const uint32_t columns = padded_columns(p, head), count = columns ? l.column_count : 0;
  const bool fits = l.column_count <= uint32_t(p.columns.capacity) && uint64_t(before) + columns <= uint64_t(p.columns.capacity) && l.columns % 4 == 0 &&
                    l.columns <= p.list_bytes && 4 * uint64_t(count) <= p.list_bytes - l.columns;
  if (blockIdx.x == 0 && threadIdx.x == 0) p.columns.first[head] = fits ? int32_t(before) : -1;
  if (!fits) return;

  const auto* indices = reinterpret_cast<const int32_t*>(p.list + l.columns);
  const int pieces = p.head_dim * 2 / kPiece, kv_head = head / p.group;
  const int64_t row_bytes = int64_t(p.head_dim) * 2;
  for (uint32_t first = blockIdx.x * kRowsPerBlock; first < columns; first += gridDim.x * kRowsPerBlock) {
    const int rows = int(min(columns - first, uint32_t(kRowsPerBlock)));
    for (int i = threadIdx.x; i < rows * pieces; i += kThreads) {
      const uint32_t row = first + i / pieces;
      const int32_t key = row < count ? indices[row] : -1;
      const int64_t to = (int64_t(before) + row) * row_bytes + i % pieces * kPiece;
      uint4 k{}, v{};
      if (key >= 0 && key < p.kv_len) {
        k = *reinterpret_cast<const uint4*>(p.k.at(kv_head, key) + i % pieces * kPiece);
        v = *reinterpret_cast<const uint4*>(p.v.at(kv_head, key) + i % pieces * kPiece);
      }
      *reinterpret_cast<uint4*>(p.columns.k + to) = k;
      *reinterpret_cast<uint4*>(p.columns.v + to) = v;
    }
  }
}

}  // namespace

mi_status gather_columns(const Launch& launch, const Problem& p, mi_error* error) {
  // A few blocks a head: most heads have 1000 columns or so, some 20 times as many.
  const dim3 grid(8, unsigned(p.q_heads));
  gather_kernel<<<grid, kThreads, 0, launch.stream>>>(p);
  return check_launch("attention, gathering columns", error);
}

}  // namespace mi::cuda
