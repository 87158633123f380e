// Block-sparse heads: the 64-key blocks with the highest scores for each 64-row query block. Scores are
// products of mean queries and mean keys, unscaled as upstream (arXiv 2407.02490, section 3.3). A thread
// block scores 32 row blocks into its own slice of the workspace and picks from there: the matrix of all
// scores never exists.
#include "plan.cuh"
#include "select.cuh"

namespace mi::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kRows = 32;  // row blocks scored together

// ---- scores -----------------------------------------------------------------------------------------

// scores[row][b] of row blocks m0 .. m0 + 31 and key blocks [0, count). Queries lie in shared memory, 16-byte
// pieces of a row at index XOR (row & 7).
__device__ void score_rows(const IndexKernelArgs& a, const HeadPlan& plan, int kv_head, int64_t m0,
                           int64_t count, char* shared, float* scores) {
  const int pieces = int(round_up(a.mean_dim / 8, 8)), pitch = pieces * 16;
  const __half* queries = a.query_means + (int64_t(plan.slot) * a.row_blocks + m0) * a.mean_dim;
  for (int i = threadIdx.x; i < kRows * a.mean_dim / 2; i += kThreads) {
    const int row = i / (a.mean_dim / 2), d = i % (a.mean_dim / 2) * 2;
    const bool present = m0 + row < a.row_blocks;
    *reinterpret_cast<uint32_t*>(shared + row * pitch + (d / 8 ^ (row & 7)) * 16 + d % 8 * 2) =
        present ? *reinterpret_cast<const uint32_t*>(queries + int64_t(row) * a.mean_dim + d) : 0;
  }
  __syncthreads();
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t from = smem_address(shared) + lane % 16 * pitch;
  const __half* keys = a.key_means + int64_t(kv_head) * a.key_blocks * a.mean_dim;
  for (int64_t b = threadIdx.x / 32 * 8; b < count; b += kWarps * 8) {
    float c[2][4] = {};
    const __half* key = keys + (b + g < count ? b + g : count - 1) * a.mean_dim + 2 * t;
#pragma unroll 4
    for (int step = 0; step < a.mean_dim / 16; step++) {
      const uint32_t b0 = *reinterpret_cast<const uint32_t*>(key + 16 * step);
      const uint32_t b1 = *reinterpret_cast<const uint32_t*>(key + 16 * step + 8);
#pragma unroll
      for (int u = 0; u < 2; u++) {
        uint32_t q[4];
        ldmatrix_x4(q, from + u * 16 * pitch + ((2 * step + lane / 16) ^ (lane & 7)) * 16);
        mma_16816<__half>(c[u], q, b0, b1);
      }
    }
#pragma unroll
    for (int u = 0; u < 2; u++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int64_t at = b + 2 * t + i % 2;
        if (at < count) scores[(16 * u + g + 8 * (i / 2)) * int64_t(a.key_blocks) + at] = c[u][i];
      }
  }
  __syncthreads();
}

// ---- choice -----------------------------------------------------------------------------------------

constexpr int kDigitBins = 256;  // 8 bits of the ordered score at a time

struct WarpThreshold {
  uint32_t key;
  int ties;  // of those equal to `key`, the first so many are in
};

// The `wanted` largest of values[0 .. n), 0 < wanted < n; by one warp.
__device__ WarpThreshold warp_threshold(const float* values, int64_t n, int wanted, uint32_t* counts) {
  const int lane = threadIdx.x % 32;
  uint32_t prefix = 0, known = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = lane; i < kDigitBins; i += 32) counts[i] = 0;
    __syncwarp();
#pragma unroll 4
    for (int64_t i = lane; i < n; i += 32) {
      const uint32_t key = ordered_bits(values[i]);
      if ((key & known) == prefix) atomicAdd(&counts[key >> shift & (kDigitBins - 1)], 1u);
    }
    __syncwarp();
    // Lane l holds the eight bins from the top down that begin with 255 - 8 l.
    uint32_t mine = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) mine += counts[kDigitBins - 1 - 8 * lane - i];
    uint32_t until = mine;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const uint32_t y = __shfl_up_sync(0xffffffffu, until, o);
      if (lane >= o) until += y;
    }
    const int owner = __ffs(int(__ballot_sync(0xffffffffu, until >= uint32_t(wanted)))) - 1;
    int rest = wanted - int(until - mine), bin = kDigitBins - 1 - 8 * lane;
    if (lane == owner)
      while (int(counts[bin]) < rest) rest -= int(counts[bin--]);
    wanted = __shfl_sync(0xffffffffu, rest, owner);
    prefix |= uint32_t(__shfl_sync(0xffffffffu, bin, owner)) << shift;
    known |= uint32_t(kDigitBins - 1) << shift;
    __syncwarp();
  }
  return {prefix, wanted};
}

// Writes the blocks of row block m, ascending: the top_k best of those in reach and the forced ones.
__device__ void choose_blocks(const IndexKernelArgs& a, const HeadPlan& plan, int64_t m, const float* scores,
                              uint32_t* counts_of_digits) {
  const int lane = threadIdx.x % 32;
  const int64_t reach = a.dense_tiles(m), own = (a.offset() + MI_BLOCK * m) / MI_BLOCK;
  const bool all = reach <= plan.top_k;
  const WarpThreshold threshold =
      all ? WarpThreshold{} : warp_threshold(scores, reach, plan.top_k, counts_of_digits);
  uint32_t* counts = a.at<uint32_t>(plan.blocks);
  uint32_t* out = counts + a.row_blocks + m * plan.block_stride;
  int count = 0, ties_before = 0;
  for (int64_t base = 0; base < reach; base += 32) {
    const int64_t b = base + lane;
    const bool inside = b < reach;
    const uint32_t key = inside && !all ? ordered_bits(scores[b]) : 0, before = (1u << lane) - 1;
    const bool tie = inside && key == threshold.key;
    const uint32_t ties = __ballot_sync(0xffffffffu, tie);
    const bool best =
        all || key > threshold.key || (tie && ties_before + __popc(ties & before) < threshold.ties);
    const bool forced =
        (plan.flags & MI_FORCE_SINK && b == 0) || (plan.flags & MI_FORCE_DIAGONAL && b >= own);
    const uint32_t chosen = __ballot_sync(0xffffffffu, inside && (best || forced));
    if (chosen >> lane & 1) out[count + __popc(chosen & before)] = uint32_t(b);
    count += __popc(chosen);
    ties_before += __popc(ties);
  }
  if (lane == 0) counts[m] = uint32_t(count);
}

// Items are 32 row blocks of a head, the longest first.
__global__ void __launch_bounds__(kThreads) block_kernel(const __grid_constant__ IndexKernelArgs a) {
  extern __shared__ __align__(128) char shared[];
  __shared__ uint32_t digits[kWarps][kDigitBins];
  float* scores = a.block_scores + int64_t(blockIdx.x) * kRows * a.key_blocks;
  const int items = int(ceil_div(a.row_blocks, kRows)), group = a.probe.q_heads / a.probe.kv_heads;
  const int warp = threadIdx.x / 32;
  for (int64_t item = blockIdx.x; item < int64_t(items) * a.probe.q_heads; item += gridDim.x) {
    const int head = int(item % a.probe.q_heads);
    const HeadPlan& plan = a.heads[head];
    if (plan.kind != MI_BLOCK_SPARSE) continue;
    const int64_t m0 = (items - 1 - item / a.probe.q_heads) * kRows;
    const int64_t last = (m0 + kRows < a.row_blocks ? m0 + kRows : a.row_blocks) - 1;
    const int64_t reach = a.dense_tiles(last);
    if (reach > plan.top_k) score_rows(a, plan, head / group, m0, reach, shared, scores);
    for (int64_t m = m0 + warp; m <= last; m += kWarps)
      choose_blocks(a, plan, m, scores + (m - m0) * a.key_blocks, digits[warp]);
    __syncthreads();
  }
}

int64_t thread_blocks(const Launch& launch, const IndexKernelArgs& a) {
  return min64(int64_t(launch.sm_count) * 2, ceil_div(a.row_blocks, kRows) * a.probe.q_heads);
}

}  // namespace

uint64_t block_score_floats(const Launch& launch, const IndexKernelArgs& a) {
  return uint64_t(thread_blocks(launch, a)) * kRows * uint64_t(a.key_blocks);
}

mi_status queue_block_sparse(const Launch& launch, const IndexKernelArgs& a, mi_error* error) {
  const size_t bytes = size_t(kRows) * size_t(round_up(a.mean_dim, 64)) * 2;
  block_kernel<<<unsigned(thread_blocks(launch, a)), kThreads, bytes, launch.stream>>>(a);
  return check_launch("index: block scores", error);
}

}  // namespace mi::cuda
