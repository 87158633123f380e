// Block-sparse heads by pooled scores: products of mean queries and mean keys, unscaled as upstream (arXiv
// 2407.02490, section 3.3). A thread block scores 64 row blocks against a tile of key blocks, then each of its
// warps feeds four rows of the tile to their choices while the next keys are on their way.
#include "block_choice.cuh"

namespace mi::cuda {

namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;  // many warps: choosing waits for votes and shared memory
constexpr int kRows = 64, kRowsOfWarp = kRows / kWarps;  // row blocks scored together
constexpr int kFixedBytes = 256;                         // at most, besides the dynamic shared memory

// Shared memory beside the choices. Rows of means are `pitch` bytes, 16-byte pieces at index XOR (row & 7).
template <int kKeys>
struct PooledTile {
  static constexpr int kScorePitch = kKeys + 8;  // floats
  static constexpr int kMostDims = 128 * 128 / kKeys;
  int pitch;

  __host__ __device__ explicit PooledTile(int mean_dim) : pitch(int(round_up(mean_dim, 64)) * 2) {}
  __host__ __device__ int keys_at() const { return kRows * pitch; }
  __host__ __device__ int scores_at() const { return keys_at() + kKeys * pitch; }
  __host__ __device__ int bytes() const { return scores_at() + kRows * kScorePitch * 4; }
};

// Begins to load kCount rows of means, zeros past the `present` ones. A row has at most kMostDims.
template <int kCount, int kMostDims>
__device__ void load_means(uint32_t to, int pitch, const __half* from, int mean_dim, int64_t present) {
  constexpr int kPieces = kMostDims / 8, kStep = kThreads / kPieces;  // rows that all threads load together
  static_assert(kStep % 8 == 0 && kCount % kStep == 0, "a thread's rows have one swizzle");
  const int row = threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
  if (piece < mean_dim / 8) {
    const uint32_t at = to + row * pitch + (piece ^ (row & 7)) * 16;
    const __half* const source = from + row * mean_dim + piece * 8;
#pragma unroll
    for (int i = 0; i < kCount; i += kStep) {
      const bool there = row + i < present;
      cp_async_16(at + i * pitch, there ? source + i * mean_dim : from, there ? 16 : 0);
    }
  }
  cp_async_commit();
}

// The scores of a tile; warps lie four along the rows, four along the keys. The queries stay in registers.
template <int kKeys>
class PooledScores {
 public:
  static constexpr int kColumns = kKeys / 4, kSteps = PooledTile<kKeys>::kMostDims / 16;
  static_assert(kWarps == 16 && kRows == 4 * 16);

  __device__ PooledScores(const PooledTile<kKeys>& tile, int mean_dim, char* shared)
      : tile_(tile), steps_(mean_dim / 16), base_(smem_address(shared)),
        scores_(reinterpret_cast<float*>(shared + tile.scores_at())) {}

  __device__ void load_queries() {
    const uint32_t rows = base_ + (first_row_ + lane_ % 16) * tile_.pitch;
#pragma unroll
    for (int step = 0; step < kSteps; step++)
      if (step < steps_) ldmatrix_x4(q_[step], rows + ((2 * step + lane_ / 16) ^ swizzle_) * 16);
  }

  __device__ void compute() const {
    const uint32_t keys = base_ + tile_.keys_at() + (first_key_ + lane_ / 16 * 8 + lane_ % 8) * tile_.pitch;
    float c[kColumns / 8][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
      if (step >= steps_) break;
#pragma unroll
      for (int j = 0; j < kColumns / 8; j += 2) {
        uint32_t k[4];
        ldmatrix_x4(k, keys + j * 8 * tile_.pitch + ((2 * step + lane_ / 8 % 2) ^ swizzle_) * 16);
        mma_16816<__half>(c[j], q_[step], k[0], k[1]);
        mma_16816<__half>(c[j + 1], q_[step], k[2], k[3]);
      }
    }
    float* const out = scores_ + (first_row_ + lane_ / 4) * tile_.kScorePitch + first_key_ + lane_ % 4 * 2;
#pragma unroll
    for (int j = 0; j < kColumns / 8; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        *reinterpret_cast<float2*>(out + 8 * h * tile_.kScorePitch + 8 * j) = make_float2(c[j][2 * h], c[j][2 * h + 1]);
  }

  // The lane's of a row.
  __device__ LaneScores<kKeys / 32> of(int row) const {
    return reinterpret_cast<const LaneScores<kKeys / 32>*>(scores_ + row * tile_.kScorePitch)[lane_];
  }

 private:
  const PooledTile<kKeys>& tile_;
  const int steps_;
  const uint32_t base_;
  float* const scores_;
  const int lane_ = threadIdx.x % 32, swizzle_ = lane_ & 7;
  const int first_row_ = threadIdx.x / 128 * 16, first_key_ = threadIdx.x / 32 % 4 * kColumns;
  uint32_t q_[kSteps][4];
};

// Items are 64 row blocks of a head, the longest first.
template <int kKeys>
__global__ void __launch_bounds__(kThreads, 1)
    pooled_kernel(const __grid_constant__ IndexKernelArgs a, const ChoiceBuffers buffers) {
  extern __shared__ __align__(128) char shared[];
  const PooledTile<kKeys> tile(a.mean_dim);
  PooledScores<kKeys> scores(tile, a.mean_dim, shared);
  const uint32_t base = smem_address(shared);
  const int items = int(ceil_div(a.row_blocks, kRows)), group = a.probe.q_heads / a.probe.kv_heads;
  const int warp = threadIdx.x / 32;

  for (int64_t item = blockIdx.x; item < int64_t(items) * a.probe.q_heads; item += gridDim.x) {
    const int head = int(item % a.probe.q_heads);
    const HeadPlan& plan = a.heads[head];
    if (plan.kind != MI_BLOCK_SPARSE || plan.flags & MI_ANTIDIAGONAL) continue;
    const int64_t m0 = (items - 1 - item / a.probe.q_heads) * kRows;
    const int rows = int(min64(kRows, a.row_blocks - m0));
    const int64_t most = a.dense_tiles(m0 + rows - 1), scored = most > plan.top_k ? most : 0;
    const BlockChoices choices(buffers, buffers.base(kRows, shared + tile.bytes()), plan);
    BlockChoices::State states[kRowsOfWarp];  // of rows warp, warp + kWarps ..
    int reach[kRowsOfWarp];
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; i++) {
      const int row = warp + i * kWarps;
      reach[i] = row < rows ? int(a.dense_tiles(m0 + row)) : 0;
    }
    if (scored > 0) {
      const __half* const keys = a.key_means + int64_t(head / group) * a.key_blocks * a.mean_dim;
      const auto load_keys = [&](int first) {
        load_means<kKeys, tile.kMostDims>(base + tile.keys_at(), tile.pitch, keys + int64_t(first) * a.mean_dim,
                                          a.mean_dim, a.key_blocks - first);
      };
      __syncthreads();  // the last item is done with the memory
      load_means<kRows, tile.kMostDims>(
          base, tile.pitch, a.query_means + (int64_t(plan.slot) * a.row_blocks + m0) * a.mean_dim, a.mean_dim, rows);
      cp_async_wait<0>();
      __syncthreads();
      scores.load_queries();
      const int last = int(scored - 1) / kKeys * kKeys;
      load_keys(last);
      for (int first = last; first >= 0; first -= kKeys) {
        cp_async_wait<0>();
        __syncthreads();
        scores.compute();
        __syncthreads();
        if (first > 0) load_keys(first - kKeys);
        LaneScores<kKeys / 32> mine[kRowsOfWarp];
#pragma unroll
        for (int i = 0; i < kRowsOfWarp; i++) mine[i] = scores.of(warp + i * kWarps);
#pragma unroll
        for (int i = 0; i < kRowsOfWarp; i++) choices.add(warp + i * kWarps, states[i], mine[i], first, reach[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; i++)
      if (warp + i * kWarps < rows) choices.write(warp + i * kWarps, states[i], a, m0 + warp + i * kWarps);
  }
}

template <int kKeys>
ChoiceBuffers buffers_of(const Launch& launch, const IndexKernelArgs& a) {
  return choice_buffers(launch, a, kRows, PooledTile<kKeys>(a.mean_dim).bytes() + kFixedBytes, kKeys);
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
