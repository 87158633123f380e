// Block-sparse heads by antidiagonal scores (XAttention, arXiv 2503.16428). Queries and keys go in groups of
// eight neighbours; the score of two groups is the mean of q[7 - i] . k[i], one product of depth 8 head_dim.
// Each query group's scores over all causal key groups pass a softmax, and a block's score is the probability
// it receives from the eight groups of a row block.
//
// A thread block keeps the query groups of a few row blocks in shared memory and walks over the key groups
// twice: log-sum-exps first, then probabilities, which go straight to the choices.
#include "../model/elements.cuh"
#include "block_choice.cuh"

namespace mi::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kStride = 8;                                // rows or keys of a group
constexpr int kGroupsOfBlock = MI_BLOCK / kStride;
constexpr int kKeyGroups = 128;                           // scored at once
constexpr int kKeyBlocks = kKeyGroups / kGroupsOfBlock;
constexpr int kSliceDims = 64, kSlicePitch = 2 * kSliceDims;  // a slice of the depth: elements, bytes of a row
constexpr int kStageBytes = kKeyGroups * kSlicePitch, kLeastStages = 2, kMostStages = 4;
constexpr int kFixedBytes = 12 * 1024;  // at most, besides the dynamic shared memory

int slices_of(int head_dim) { return kStride * int(ceil_div(head_dim, kSliceDims)); }
int bytes_of(int query_groups, int head_dim, int stages) {
  return slices_of(head_dim) * query_groups * kSlicePitch + stages * kStageBytes;
}

// Rows of a slice are kSlicePitch bytes, 16-byte pieces at index XOR (row & 7). kGroups: query groups of a
// thread block; its warps lie two along them, four along the key groups.
template <class T, int kGroups>
class GroupScores {
 public:
  static constexpr int kTiles = kGroups / 32;  // 16-group tiles of a warp

  __device__ GroupScores(const IndexKernelArgs& a, int stages, char* shared)
      : a_(a), p_(a.probe), stages_(stages), parts_(int(ceil_div(p_.head_dim, kSliceDims))),
        slices_(kStride * parts_), shared_(shared), queries_(smem_address(shared)),
        ring_(queries_ + slices_ * kGroups * kSlicePitch) {}

  // Query groups of row blocks m0 .., in the keys' type, each with its rows in reverse. Rows and dimensions
  // past the last become zero.
  __device__ void load_queries(int head, int64_t m0) const {
    constexpr int kPairs = kSliceDims / 2;
    for (int i = threadIdx.x; i < slices_ * kGroups * kPairs; i += kThreads) {
      const int pair = i % kPairs, group = i / kPairs % kGroups, slice = i / (kPairs * kGroups);
      const int d = slice % parts_ * kSliceDims + 2 * pair;
      const int64_t row = m0 * MI_BLOCK + group * kStride + kStride - 1 - slice / parts_;
      uint32_t both = 0;
      if (row < p_.q_len && d < p_.head_dim) {
        const char* from = p_.q.row(head, row);
        both = pack_16<T>(load_element(from, d, p_.q.dtype), load_element(from, d + 1, p_.q.dtype));
      }
      *reinterpret_cast<uint32_t*>(shared_ + (slice * kGroups + group) * kSlicePitch +
                                   (pair / 4 ^ (group & 7)) * 16 + pair % 4 * 4) = both;
    }
  }

  // body(first key group, c) for each kKeyGroups of the first `key_groups`, backwards; the same in every thread. c[u][j]
  // holds a warp's groups 16 u .. and key groups 8 j .. from first_group() and first_key_group() on.
  template <class Body>
  __device__ void walk(int kv_head, int64_t key_groups, const Body& body) const {
    const int64_t last = (key_groups - 1) / kKeyGroups * kKeyGroups;
    int64_t loading = last;  // key group
    int slice_in = 0, stage_in = 0, stage = 0;
    const auto load = [&] {
      if (loading >= 0) load_keys(kv_head, loading, slice_in, stage_in);
      cp_async_commit();
      stage_in = stage_in + 1 == stages_ ? 0 : stage_in + 1;
      if (++slice_in == slices_) slice_in = 0, loading -= kKeyGroups;
    };
    __syncthreads();  // the ring is free, the queries are there
    for (int s = 0; s < stages_ - 1; s++) load();
    for (int64_t first = last; first >= 0; first -= kKeyGroups) {
      float c[kTiles][4][4] = {};
#pragma unroll 1
      for (int slice = 0; slice < slices_; slice++) {
        if (stages_ == 2) cp_async_wait<0>();
        else if (stages_ == 3) cp_async_wait<1>();
        else cp_async_wait<kMostStages - 2>();
        __syncthreads();
        load();
        multiply(slice, stage, c);
        stage = stage + 1 == stages_ ? 0 : stage + 1;
      }
      body(first, c);
    }
    cp_async_wait<0>();
  }

  __device__ static int first_group() { return threadIdx.x / 128 * (kGroups / 2); }
  __device__ static int first_key_group() { return threadIdx.x / 32 % 4 * 32; }

 private:
  __device__ void load_keys(int kv_head, int64_t first_group, int slice, int stage) const {
    const int piece = threadIdx.x % 8, d = slice % parts_ * kSliceDims + piece * 8;
    const char* const base = p_.k.row(kv_head, 0);
#pragma unroll
    for (int group = threadIdx.x / 8; group < kKeyGroups; group += kThreads / 8) {
      const int64_t key = (first_group + group) * kStride + slice / parts_;
      const bool present = key < p_.kv_len && d < p_.head_dim;
      cp_async_16(ring_ + stage * kStageBytes + group * kSlicePitch + (piece ^ (group & 7)) * 16,
                  present ? base + key * p_.k.row_stride + d * 2 : base, present ? 16 : 0);
    }
  }

  __device__ __forceinline__ void multiply(int slice, int stage, float (&c)[kTiles][4][4]) const {
    const int lane = threadIdx.x % 32, swizzle = lane & 7;
    const uint32_t queries =
        queries_ + (slice * kGroups + first_group() + lane % 16) * kSlicePitch;
    const uint32_t keys =
        ring_ + stage * kStageBytes + (first_key_group() + lane / 16 * 8 + lane % 8) * kSlicePitch;
#pragma unroll
    for (int step = 0; step < kSliceDims / 16; step++) {
      uint32_t q[kTiles][4];
#pragma unroll
      for (int u = 0; u < kTiles; u++)
        ldmatrix_x4(q[u], queries + u * 16 * kSlicePitch + ((2 * step + lane / 16) ^ swizzle) * 16);
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        uint32_t k[4];
        ldmatrix_x4(k, keys + j * 8 * kSlicePitch + ((2 * step + lane / 8 % 2) ^ swizzle) * 16);
#pragma unroll
        for (int u = 0; u < kTiles; u++) {
          mma_16816<T>(c[u][j], q[u], k[0], k[1]);
          mma_16816<T>(c[u][j + 1], q[u], k[2], k[3]);
        }
      }
    }
  }

  const IndexKernelArgs& a_;
  const Probe& p_;
  const int stages_, parts_, slices_;
  char* const shared_;
  const uint32_t queries_, ring_;
};

// Maximum and sum of exponentials, base 2.
struct RunningSum {
  float most, sum;
  __device__ void merge(float other_most, float other_sum) {
    const float raised = fmaxf(most, other_most);
    sum = sum * exp2_approx(most - raised) + other_sum * exp2_approx(other_most - raised);
    most = raised;
  }
};

// Items are kGroups query groups of a head, those with the most keys first.
template <class T, int kGroups>
__global__ void __launch_bounds__(kThreads, 1)
    antidiagonal_kernel(const __grid_constant__ IndexKernelArgs a, const ChoiceBuffers buffers, int stages,
                        int operand_bytes) {
  constexpr int kBlocks = kGroups / kGroupsOfBlock, kTiles = kGroups / 32;
  static_assert(kBlocks <= kWarps, "a warp keeps one row block's choice");
  extern __shared__ __align__(128) char shared[];
  __shared__ RunningSum partial[4][kGroups];
  __shared__ float lse_of[kGroups];  // base 2; infinite for groups that do not count
  __shared__ __align__(16) float scores[kBlocks][kKeyBlocks];
  const Probe& p = a.probe;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const GroupScores<T, kGroups> group_scores(a, stages, shared);
  const int first_group = group_scores.first_group(), first_key_group = group_scores.first_key_group();
  const int64_t items = ceil_div(a.row_blocks, kBlocks);
  const float scale = p.scale_log2 / kStride;

  for (int64_t item = blockIdx.x; item < items * p.q_heads; item += gridDim.x) {
    const int head = int(item % p.q_heads), kv_head = head / (p.q_heads / p.kv_heads);
    const HeadPlan& plan = a.heads[head];
    if (plan.kind != MI_BLOCK_SPARSE || !(plan.flags & MI_ANTIDIAGONAL)) continue;
    const int64_t m0 = (items - 1 - item / p.q_heads) * kBlocks;
    const int blocks = int(min64(kBlocks, a.row_blocks - m0));
    const int64_t reach = a.dense_tiles(m0 + blocks - 1);
    const int64_t key_groups = reach > plan.top_k ? min64(reach * kGroupsOfBlock, ceil_div(p.kv_len, kStride)) : 0;
    // A query group sees the key groups that begin no later than its last row.
    const int64_t first_position = a.offset() + m0 * MI_BLOCK + kStride - 1;
    const auto sees = [&](int group, int64_t key_group) {
      return key_group < key_groups && key_group * kStride <= first_position + group * kStride;
    };
    const BlockChoices choices(buffers, buffers.base(kBlocks, shared + operand_bytes), plan);
    BlockChoices::State state;  // of the warp's row block

    if (key_groups > 0) {
      __syncthreads();  // the last item is done with the queries
      group_scores.load_queries(head, m0);
      RunningSum sums[kTiles][2];
#pragma unroll
      for (int u = 0; u < kTiles; u++) sums[u][0] = sums[u][1] = {kNoScore, 0};
      group_scores.walk(kv_head, key_groups, [&](int64_t first, float (&c)[kTiles][4][4]) {
#pragma unroll
        for (int u = 0; u < kTiles; u++)
#pragma unroll
          for (int h = 0; h < 2; h++) {
            float most = kNoScore, sum = 0;
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
              for (int e = 0; e < 2; e++) {
                float& x = c[u][j][2 * h + e];
                x = sees(first_group + 16 * u + 8 * h + g, first + first_key_group + 8 * j + 2 * t + e)
                        ? x * scale : -INFINITY;
                most = fmaxf(most, x);
              }
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
              for (int e = 0; e < 2; e++) sum += exp2_approx(c[u][j][2 * h + e] - most);
            sums[u][h].merge(most, sum);
          }
      });
#pragma unroll
      for (int u = 0; u < kTiles; u++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
#pragma unroll
          for (int o = 1; o < 4; o *= 2)
            sums[u][h].merge(__shfl_xor_sync(0xffffffffu, sums[u][h].most, o),
                             __shfl_xor_sync(0xffffffffu, sums[u][h].sum, o));
          if (t == 0) partial[warp % 4][first_group + 16 * u + 8 * h + g] = sums[u][h];
        }
      __syncthreads();
      if (threadIdx.x < kGroups) {
        RunningSum whole = partial[0][threadIdx.x];
        for (int i = 1; i < 4; i++) whole.merge(partial[i][threadIdx.x].most, partial[i][threadIdx.x].sum);
        const bool exists = m0 * MI_BLOCK + int64_t(threadIdx.x) * kStride < p.q_len;
        lse_of[threadIdx.x] = exists && whole.sum > 0 ? whole.most + log2f(whole.sum) : INFINITY;
      }
      __syncthreads();

      group_scores.walk(kv_head, key_groups, [&](int64_t first, float (&c)[kTiles][4][4]) {
#pragma unroll
        for (int u = 0; u < kTiles; u++)
#pragma unroll
          for (int h = 0; h < 2; h++) {
            const int group = first_group + 16 * u + 8 * h + g;
            const float lse = lse_of[group];
#pragma unroll
            for (int j = 0; j < 4; j++) {
              float sum = 0;
#pragma unroll
              for (int e = 0; e < 2; e++)
                if (lse < INFINITY && sees(group, first + first_key_group + 8 * j + 2 * t + e))
                  sum += exp2_approx(fmaf(c[u][j][2 * h + e], scale, -lse));
#pragma unroll
              for (int o = 16; o; o /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
              if (lane == 0)
                scores[group / kGroupsOfBlock][first_key_group / kGroupsOfBlock + j] = sum;
            }
          }
        __syncthreads();
        const int block = int(first / kGroupsOfBlock);
        if (warp < blocks)
          choices.add<1>(warp, state, {lane < kKeyBlocks ? scores[warp][lane] : 0}, block,
                         int(min64(block + kKeyBlocks, a.dense_tiles(m0 + warp))));
      });
    }
    if (warp < blocks) choices.write(warp, state, a, m0 + warp);
  }
}

// How many groups a thread block takes and how deep its ring is.
struct Shape {
  int groups, stages;

  Shape(const Launch& launch, int head_dim) : groups(64), stages(kMostStages) {
    constexpr int kChoices = 16 * 1024;  // room for most choices of blocks
    const int most = launch.shared_bytes - kFixedBytes;
    if (bytes_of(groups, head_dim, kLeastStages + 1) > most) groups = 32;
    while (stages > kLeastStages && bytes_of(groups, head_dim, stages) + kChoices > most) stages--;
  }
  int blocks() const { return groups / kGroupsOfBlock; }
  int bytes(int head_dim) const { return bytes_of(groups, head_dim, stages); }
};

template <class T, int kGroups>
mi_status queue(const Launch& launch, const IndexKernelArgs& a, const Shape& shape, mi_error* error) {
  constexpr int kBlocks = kGroups / kGroupsOfBlock;
  const int used = shape.bytes(a.probe.head_dim);
  const ChoiceBuffers buffers = choice_buffers(launch, a, kBlocks, used + kFixedBytes, 32);
  const int bytes = used + (buffers.in_shared ? int(kBlocks * buffers.row_bytes()) : 0);
  const auto blocks = unsigned(min64(launch.sm_count, ceil_div(a.row_blocks, kBlocks) * a.probe.q_heads));
  cudaFuncSetAttribute(antidiagonal_kernel<T, kGroups>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  antidiagonal_kernel<T, kGroups><<<blocks, kThreads, bytes, launch.stream>>>(a, buffers, shape.stages, used);
  return check_launch("index: antidiagonal block scores", error);
}

template <class T>
mi_status queue_type(const Launch& launch, const IndexKernelArgs& a, mi_error* error) {
  const Shape shape(launch, a.probe.head_dim);
  return shape.groups == 64 ? queue<T, 64>(launch, a, shape, error) : queue<T, 32>(launch, a, shape, error);
}

}  // namespace

int least_antidiagonal_bytes(int head_dim) { return bytes_of(32, head_dim, kLeastStages) + kFixedBytes; }

uint64_t antidiagonal_choice_bytes(const Launch& launch, const IndexKernelArgs& a) {
  const Shape shape(launch, a.probe.head_dim);
  return choice_buffers(launch, a, shape.blocks(), shape.bytes(a.probe.head_dim) + kFixedBytes, 32)
      .workspace_bytes(launch, shape.blocks());
}

mi_status queue_antidiagonal_blocks(const Launch& launch, const IndexKernelArgs& a, bool half, mi_error* error) {
  return half ? queue_type<__half>(launch, a, error) : queue_type<__nv_bfloat16>(launch, a, error);
}

}  // namespace mi::cuda
