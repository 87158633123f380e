// Block-sparse heads by pooled scores: products of mean queries and mean keys, unscaled as upstream (arXiv
// 2407.02490, section 3.3). A thread block scores 64 row blocks against a tile of key blocks, then each of its
// warps feeds eight rows of the tile to their choices while the next keys are on their way.
#include "block_choice.cuh"

namespace mi::cuda {

namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;  // many warps: choosing waits for votes and shared memory
constexpr int kRows = 64;  // row blocks scored together
constexpr int kFixedBytes = kRows * int(sizeof(BlockChoices::State)) + 256;

// Shared memory beside the choices. Rows of means are `pitch` bytes, 16-byte pieces at index XOR (row & 7).
template <int kKeys>
struct PooledTile {
  static constexpr int kScorePitch = kKeys + 8;  // floats
  int pitch;

  __host__ __device__ explicit PooledTile(int mean_dim) : pitch(int(round_up(mean_dim, 64)) * 2) {}
  __host__ __device__ int keys_at() const { return kRows * pitch; }
  __host__ __device__ int scores_at() const { return keys_at() + kKeys * pitch; }
  __host__ __device__ int bytes() const { return scores_at() + kRows * kScorePitch * 4; }
};

// Begins to load `count` rows of means, zeros past the `present` ones.
__device__ void load_means(uint32_t to, int pitch, const __half* from, int mean_dim, int count, int64_t present) {
  const int pieces = mean_dim / 8;
  for (int i = threadIdx.x; i < count * pieces; i += kThreads) {
    const int row = i / pieces, piece = i % pieces;
    const bool there = row < present;
    cp_async_16(to + row * pitch + (piece ^ (row & 7)) * 16,
                there ? from + int64_t(row) * mean_dim + piece * 8 : from, there ? 16 : 0);
  }
  cp_async_commit();
}

// scores[row][key] of the tiles in shared memory; warps lie four along the rows, four along the keys.
template <int kKeys>
__device__ void score_tile(const PooledTile<kKeys>& tile, int mean_dim, uint32_t base, float* scores) {
  constexpr int kColumns = kKeys / 4;  // of a warp
  static_assert(kWarps == 16 && kRows == 4 * 16);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, swizzle = lane & 7;
  const int first_row = warp / 4 * 16, first_key = warp % 4 * kColumns;
  const uint32_t rows = base + (first_row + lane % 16) * tile.pitch;
  const uint32_t keys = base + tile.keys_at() + (first_key + lane / 16 * 8 + lane % 8) * tile.pitch;
  float c[kColumns / 8][4] = {};
#pragma unroll 2
  for (int step = 0; step < mean_dim / 16; step++) {
    uint32_t q[4];
    ldmatrix_x4(q, rows + ((2 * step + lane / 16) ^ swizzle) * 16);
#pragma unroll
    for (int j = 0; j < kColumns / 8; j += 2) {
      uint32_t k[4];
      ldmatrix_x4(k, keys + j * 8 * tile.pitch + ((2 * step + lane / 8 % 2) ^ swizzle) * 16);
      mma_16816<__half>(c[j], q, k[0], k[1]);
      mma_16816<__half>(c[j + 1], q, k[2], k[3]);
    }
  }
#pragma unroll
  for (int j = 0; j < kColumns / 8; j++)
#pragma unroll
    for (int h = 0; h < 2; h++)
      *reinterpret_cast<float2*>(scores + (first_row + g + 8 * h) * tile.kScorePitch + first_key + 8 * j + 2 * t) =
          make_float2(c[j][2 * h], c[j][2 * h + 1]);
}

// Items are 64 row blocks of a head, the longest first.
template <int kKeys>
__global__ void __launch_bounds__(kThreads, 1)
    pooled_kernel(const __grid_constant__ IndexKernelArgs a, const ChoiceBuffers buffers) {
  extern __shared__ __align__(128) char shared[];
  __shared__ BlockChoices::State states[kRows];
  const PooledTile<kKeys> tile(a.mean_dim);
  float* const scores = reinterpret_cast<float*>(shared + tile.scores_at());
  const uint32_t base = smem_address(shared);
  const int items = int(ceil_div(a.row_blocks, kRows)), group = a.probe.q_heads / a.probe.kv_heads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  for (int64_t item = blockIdx.x; item < int64_t(items) * a.probe.q_heads; item += gridDim.x) {
    const int head = int(item % a.probe.q_heads);
    const HeadPlan& plan = a.heads[head];
    if (plan.kind != MI_BLOCK_SPARSE || plan.flags & MI_ANTIDIAGONAL) continue;
    const int64_t m0 = (items - 1 - item / a.probe.q_heads) * kRows;
    const int rows = int(min64(kRows, a.row_blocks - m0));
    const int64_t reach = a.dense_tiles(m0 + rows - 1), scored = reach > plan.top_k ? reach : 0;
    const BlockChoices choices(buffers, buffers.base(kRows, shared + tile.bytes()), plan);
    const __half* const keys = a.key_means + int64_t(head / group) * a.key_blocks * a.mean_dim;
    __syncthreads();  // the last item is done with the memory
    if (threadIdx.x < kRows) states[threadIdx.x] = {0, 0};
    load_means(base, tile.pitch, a.query_means + (int64_t(plan.slot) * a.row_blocks + m0) * a.mean_dim,
               a.mean_dim, kRows, rows);
    const int64_t last = (scored - 1) / kKeys * kKeys;
    if (scored > 0)
      load_means(base + tile.keys_at(), tile.pitch, keys + last * a.mean_dim, a.mean_dim, kKeys, a.key_blocks - last);
    for (int64_t first = last; first >= 0 && scored > 0; first -= kKeys) {
      cp_async_wait<0>();
      __syncthreads();
      score_tile<kKeys>(tile, a.mean_dim, base, scores);
      __syncthreads();
      const int64_t next = first - kKeys;
      if (next >= 0)
        load_means(base + tile.keys_at(), tile.pitch, keys + next * a.mean_dim, a.mean_dim, kKeys,
                   a.key_blocks - next);
      for (int row = warp; row < rows; row += kWarps) {
        const int count = int(min64(kKeys, a.dense_tiles(m0 + row) - first));
        const float* const of_row = scores + row * tile.kScorePitch;
        const BlockChoices::State before = states[row];
        if (!BlockChoices::reaches(before, of_row, count)) continue;
        const BlockChoices::State after = choices.add(row, before, of_row, first, count);
        __syncwarp();
        if (lane == 0) states[row] = after;
      }
    }
    cp_async_wait<0>();
    __syncthreads();
    for (int row = warp; row < rows; row += kWarps)
      choices.write(row, states[row], a, m0 + row);
  }
}

template <int kKeys>
ChoiceBuffers buffers_of(const Launch& launch, const IndexKernelArgs& a) {
  return choice_buffers(launch, a, kRows, PooledTile<kKeys>(a.mean_dim).bytes() + kFixedBytes);
}

template <int kKeys>
mi_status queue(const Launch& launch, const IndexKernelArgs& a, mi_error* error) {
  const int used = PooledTile<kKeys>(a.mean_dim).bytes();
  const ChoiceBuffers buffers = buffers_of<kKeys>(launch, a);
  const int bytes = used + (buffers.in_shared ? int(kRows * buffers.row_bytes()) : 0);
  const auto blocks = unsigned(min64(launch.sm_count, ceil_div(a.row_blocks, kRows) * a.probe.q_heads));
  cudaFuncSetAttribute(pooled_kernel<kKeys>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  pooled_kernel<kKeys><<<blocks, kThreads, bytes, launch.stream>>>(a, buffers);
  return check_launch("index: pooled block scores", error);
}

}  // namespace

uint64_t pooled_choice_bytes(const Launch& launch, const IndexKernelArgs& a) {
  const ChoiceBuffers buffers = a.mean_dim <= 128 ? buffers_of<128>(launch, a) : buffers_of<64>(launch, a);
  return buffers.workspace_bytes(launch, kRows);
}

mi_status queue_pooled_blocks(const Launch& launch, const IndexKernelArgs& a, mi_error* error) {
  return a.mean_dim <= 128 ? queue<128>(launch, a, error) : queue<64>(launch, a, error);
}

}  // namespace mi::cuda
