// Scores of the probe rows (the last up to 64 query rows) against all keys, for every head, never stored.
//
// A warp computes transposed products S^T = K Q^T of 16 keys x 64 probes: sums over probes stay inside a
// thread and its quad, sums over keys stay in registers from step to step. The query heads of a KV head are
// spread over the warps of a block, so that each key is read from memory once:
//
//   warp = slice * heads + head; a slice is a contiguous range of keys of its own.
//
// Up to head_dim 128 the probes stay in registers, and a step reads nothing but its keys from shared memory:
// steps are then short enough for one warp's exponentials to run beside another's products.
//
// Fragment coordinates of c[j][i] in lane 4 g + t:
//   key   = first + g + 8 (i / 2)
//   probe = 8 j + 2 t + i % 2
#pragma once
#include <cmath>
#include <type_traits>

#include "../core/launch.h"
#include "../core/ops.h"
#include "../core/ptx.cuh"
#include "../model/elements.cuh"
#include "work_list.h"

namespace mi::cuda {

constexpr int kProbes = 64, kTileKeys = 64, kStepKeys = 16, kTileSteps = kTileKeys / kStepKeys;
constexpr int kProbeWarps = 8, kProbeThreads = 32 * kProbeWarps;
constexpr int kMostStages = 4;
// Slices are whole multiples of this: more than the 127 diagonals of a tile, so that no diagonal meets three
// slices.
constexpr int64_t kSliceStep = 128;

// Shared memory that kernels have besides Probe::shared_bytes(), at most.
constexpr int kStaticBytes = 4608;

using Scores = float[8][4];  // of one step

inline int probe_pitch(int head_dim) { return int(round_up(head_dim, 64)) * 2; }

struct Probe {
  DeviceView q, k;
  int32_t q_heads, kv_heads, head_dim, q_len, kv_len;
  int32_t probes;      // L = min(last_q, q_len)
  int32_t first;       // position of the first probe row, kv_len - L
  float scale_log2;    // softmax scale times log2(e)
  float hidden;        // a raw score that scales to -inf
  int32_t pitch;       // bytes of a row in shared memory
  int32_t heads;       // query heads a block works on, all of one KV head
  int32_t chunks;      // blocks that share a KV head's query heads
  int32_t slices;      // key ranges a block works on at once
  int32_t stages;      // depth of the key ring
  int32_t splits;      // blocks along the keys
  int64_t slice_keys;  // keys of a slice, a multiple of kSliceStep

  __host__ __device__ int parts() const { return splits * slices; }
  __host__ __device__ int stage_bytes() const { return slices * kTileKeys * pitch; }
  __host__ __device__ int query_bytes() const { return heads * kProbes * pitch; }
  __host__ __device__ int shared_bytes() const { return query_bytes() + stages * stage_bytes(); }
};

// Shared memory without which no kernel of probe scores runs.
inline int least_probe_bytes(int head_dim) {
  Probe p{};
  p.pitch = probe_pitch(head_dim);
  p.heads = p.slices = 1;
  p.stages = 2;
  return p.shared_bytes() + kStaticBytes;
}

// How heads and slices share a block: as many warps busy as fit into shared memory. One head and one slice
// fit where there are least_probe_bytes().
inline void spread_over_warps(const Launch& launch, Probe& p) {
  const int most_bytes = launch.shared_bytes - kStaticBytes;
  const int group = p.q_heads / p.kv_heads;
  Probe best = p;
  best.chunks = group;
  best.heads = best.slices = 1;
  best.stages = 2;
  for (int most_heads = kProbeWarps; most_heads >= 1; most_heads--) {
    Probe option = p;
    option.chunks = int(ceil_div(group, most_heads));
    option.heads = int(ceil_div(group, option.chunks));
    option.stages = 2;
    for (option.slices = 4; option.slices >= 1; option.slices /= 2)
      if (option.slices * option.heads <= kProbeWarps && option.shared_bytes() <= most_bytes) break;
    if (option.slices * option.heads > best.slices * best.heads) best = option;
  }
  while (best.stages < kMostStages && best.shared_bytes() + best.stage_bytes() <= most_bytes) best.stages++;
  p = best;
}

// All but how the work is spread.
template <class Args>  // EstimateArgs or IndexArgs
Probe probe_of(const Args& a) {
  Probe p{};
  p.q = device_view(a.q, a.q_heads, a.q_len, a.head_dim);
  p.k = device_view(a.k, a.kv_heads, a.kv_len, a.head_dim);
  p.q_heads = a.q_heads;
  p.kv_heads = a.kv_heads;
  p.head_dim = a.head_dim;
  p.q_len = a.q_len;
  p.kv_len = a.kv_len;
  p.probes = a.last_q < a.q_len ? a.last_q : a.q_len;
  p.first = a.kv_len - p.probes;
  p.scale_log2 = a.scale * 1.44269504088896341f;
  if (p.scale_log2 == 0) p.scale_log2 = 1e-30f;  // -inf times 0 would be NaN
  p.hidden = p.scale_log2 > 0 ? -INFINITY : INFINITY;
  return p;
}

// How the keys share the GPU, once it is known how many slices a block has: one block for each SM.
inline void split_keys(const Launch& launch, Probe& p) {
  const int64_t most_splits = ceil_div(p.kv_len, p.slices * kSliceStep);
  p.splits = int(max64(1, min64(most_splits, launch.sm_count / (int64_t(p.kv_heads) * p.chunks))));
  p.slice_keys = round_up(ceil_div(p.kv_len, int64_t(p.parts())), kSliceStep);
  p.splits = int(ceil_div(p.kv_len, p.slice_keys * p.slices));
}

template <class Args>
Probe make_probe(const Launch& launch, const Args& a) {
  Probe p = probe_of(a);
  p.pitch = probe_pitch(a.head_dim);
  spread_over_warps(launch, p);
  split_keys(launch, p);
  return p;
}

inline dim3 probe_grid(const Probe& p) { return dim3(unsigned(p.splits), unsigned(p.kv_heads * p.chunks)); }

// What a warp works on.
struct ProbeWarp {
  int kv_head, head, head_slot, slice;
  int64_t first_key;  // of its slice
  bool active;

  __device__ explicit ProbeWarp(const Probe& p) {
    const int warp = threadIdx.x / 32, group = p.q_heads / p.kv_heads;
    kv_head = blockIdx.y / p.chunks;
    head_slot = warp % p.heads;
    const int in_group = blockIdx.y % p.chunks * p.heads + head_slot;
    head = kv_head * group + in_group;
    slice = warp / p.heads;
    first_key = (int64_t(blockIdx.x) * p.slices + slice) * p.slice_keys;
    active = slice < p.slices && in_group < group && first_key < p.kv_len;
  }
};

// Operands in shared memory: the block's queries, then the ring of key stages. Rows are `pitch` bytes,
// 16-byte pieces of a row at index XOR (row & 7), so that eight rows of a matrix lie in different banks.
// kDepth: pitch in k-steps of 16 elements if the warp's queries are to stay in registers, otherwise 0.
template <class T, int kDepth>
class ProbeOperands {
 public:
  __device__ ProbeOperands(const Probe& p, const ProbeWarp& w, char* shared)
      : p_(p), queries_(smem_address(shared)), keys_(queries_ + p.query_bytes()),
        key_base_(p.k.row(w.kv_head, 0)), block_first_(int64_t(blockIdx.x) * p.slices * p.slice_keys) {
    load_queries(w, shared);
    lane_probe_ = threadIdx.x % 32 / 16 * 8 + threadIdx.x % 8;
    queries_ += (w.head_slot * kProbes + lane_probe_) * p.pitch;
    if (kDepth == 0) return;  // the loop over the tiles synchronises before it reads them
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kDepth; step++)
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        uint32_t b[4];
        load_query_step(b, step, j);
        q_[step][j][0] = b[0], q_[step][j][1] = b[1], q_[step][j + 1][0] = b[2], q_[step][j + 1][1] = b[3];
      }
  }

  // Begins to load tile `index` of every slice. Keys and dimensions past the last become zero.
  __device__ void load_keys(int index, int stage) const {
    const int piece = threadIdx.x % 8, pieces = p_.pitch / 16;
    for (int row = threadIdx.x / 8; row < p_.slices * kTileKeys; row += kProbeThreads / 8) {
      const int64_t key =
          block_first_ + row / kTileKeys * p_.slice_keys + int64_t(index) * kTileKeys + row % kTileKeys;
      const char* from = key_base_ + key * p_.k.row_stride;
      const uint32_t to = keys_ + stage * p_.stage_bytes() + row * p_.pitch + (piece ^ (row & 7)) * 16;
      for (int i = piece; i < pieces; i += 8) {
        const bool present = key < p_.kv_len && i * 8 < p_.head_dim;
        cp_async_16(to + (i - piece) * 16, present ? from + i * 16 : key_base_, present ? 16 : 0);
      }
    }
  }

  // body(key, c) for each step of a tile whose first key is first_key.
  template <class Body>
  __device__ __forceinline__ void for_each_step(int stage, const ProbeWarp& w, int64_t first_key,
                                                const Body& body) const {
    const int lane = threadIdx.x % 32, row = lane % 16, swizzle = row & 7;
    const uint32_t keys = keys_ + stage * p_.stage_bytes() + (w.slice * kTileKeys + row) * p_.pitch;
    if constexpr (kDepth > 0) {
#pragma unroll 1
      for (int u = 0; u < kTileSteps; u++) {
        Scores c = {};
        uint32_t a[kDepth][4];  // all of them under way before the first product
#pragma unroll
        for (int step = 0; step < kDepth; step++)
          ldmatrix_x4(a[step], keys + u * kStepKeys * (kDepth * 32) + ((2 * step + lane / 16) ^ swizzle) * 16);
#pragma unroll
        for (int step = 0; step < kDepth; step++)
#pragma unroll
          for (int j = 0; j < 8; j++) mma_16816<T>(c[j], a[step], q_[step][j][0], q_[step][j][1]);
        body(first_key + u * kStepKeys, c);
      }
    } else {  // queries come from shared memory, for four steps at a time
      Scores c[kTileSteps] = {};
      const int steps = (p_.head_dim + 15) / 16;
#pragma unroll 2
      for (int step = 0; step < steps; step++) {
        uint32_t a[kTileSteps][4];
#pragma unroll
        for (int u = 0; u < kTileSteps; u++)
          ldmatrix_x4(a[u], keys + u * kStepKeys * p_.pitch + ((2 * step + lane / 16) ^ swizzle) * 16);
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
          uint32_t b[4];
          load_query_step(b, step, j);
#pragma unroll
          for (int u = 0; u < kTileSteps; u++) {
            mma_16816<T>(c[u][j], a[u], b[0], b[1]);
            mma_16816<T>(c[u][j + 1], a[u], b[2], b[3]);
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kTileSteps; u++) body(first_key + u * kStepKeys, c[u]);
    }
  }

 private:
  // Both halves of the depth for probes 8 j .., then for 8 (j + 1) ..
  __device__ __forceinline__ void load_query_step(uint32_t (&b)[4], int step, int j) const {
    const int piece = 2 * step + threadIdx.x % 32 / 8 % 2;
    ldmatrix_x4(b, queries_ + j * 8 * p_.pitch + (piece ^ (lane_probe_ & 7)) * 16);
  }

  // In the keys' type. Probes and dimensions past the last become zero.
  __device__ void load_queries(const ProbeWarp& w, char* shared) const {
    const int pairs = p_.pitch / 4, group = p_.q_heads / p_.kv_heads;
    const int first_slot = blockIdx.y % p_.chunks * p_.heads;
    for (int i = threadIdx.x; i < p_.heads * kProbes * pairs; i += kProbeThreads) {
      const int d = i % pairs * 2, row = i / pairs, probe = row % kProbes,
                in_group = first_slot + row / kProbes;
      uint32_t pair = 0;
      if (probe < p_.probes && d < p_.head_dim && in_group < group) {
        const char* from = p_.q.row(w.kv_head * group + in_group, p_.q_len - p_.probes + probe);
        pair = pack_16<T>(load_element(from, d, p_.q.dtype), load_element(from, d + 1, p_.q.dtype));
      }
      *reinterpret_cast<uint32_t*>(shared + row * p_.pitch + (d / 8 ^ (row & 7)) * 16 + d % 8 * 2) = pair;
    }
  }

  const Probe& p_;
  uint32_t queries_, keys_;  // queries_: of this lane's row for ldmatrix
  int lane_probe_;
  uint32_t q_[kDepth > 0 ? kDepth : 1][8][2];
  const char* key_base_;
  int64_t block_first_;
};

// Hides what a probe does not see: keys after its own position. c: of one step.
template <int kHeads>
__device__ __forceinline__ void mask_causal(const Probe& p, int64_t first_key, Scores (&c)[kHeads]) {
  if (first_key + kStepKeys - 1 <= p.first) return;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < kHeads; h++)
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (first_key + g + 8 * (i / 2) > p.first + 8 * j + 2 * t + i % 2) c[h][j][i] = p.hidden;
}

// Walks this warp's slice in order: body(first_key, c) for each step; the last may lie past the keys.
// wanted(index) says, alike in every thread of the block, whether tile `index` of any slice is needed.
template <class T, int kDepth, class Wanted, class Body>
__device__ __forceinline__ void for_each_step(const Probe& p, const ProbeWarp& w, char* shared,
                                              const Wanted& wanted, const Body& body) {
  const ProbeOperands<T, kDepth> operands(p, w, shared);
  const int tiles = int(p.slice_keys / kTileKeys);
  const auto next = [&](int index) {
    while (index < tiles && !wanted(index)) index++;
    return index;
  };
  int loading = next(0), stage_in = 0, stage = 0;
  const auto load = [&] {
    if (loading < tiles) operands.load_keys(loading, stage_in);
    cp_async_commit();
    stage_in = stage_in + 1 == p.stages ? 0 : stage_in + 1;
    loading = next(loading + 1);
  };
  int index = loading;
  for (int s = 0; s < p.stages - 1; s++) load();
  for (; index < tiles; index = next(index + 1)) {
    // The oldest group has arrived; as many as the ring holds beside it may still be under way.
    if (p.stages == 2) cp_async_wait<0>();
    else if (p.stages == 3) cp_async_wait<1>();
    else cp_async_wait<kMostStages - 2>();
    __syncthreads();
    load();
    const int64_t key = w.first_key + int64_t(index) * kTileKeys;
    if (w.active && key < p.kv_len)
      operands.for_each_step(stage, w, key, [&](int64_t first_key, Scores& c) {
        mask_causal(p, first_key, reinterpret_cast<Scores(&)[1]>(c));
        body(first_key, c);
      });
    stage = stage + 1 == p.stages ? 0 : stage + 1;
  }
}

struct EveryTile {
  __device__ bool operator()(int) const { return true; }
};

template <class T>
struct ElementType {
  using type = T;
};
// launch(ElementType<T>, depth) with what a kernel template <class T, int kDepth> needs, depth.value being kDepth.
template <class F>
mi_status with_operands(const Probe& p, bool half, const F& launch) {
  const auto with_type = [&](auto type) {
    switch (p.pitch / 32) {
      case 4: return launch(type, std::integral_constant<int, 4>{});
      case 8: return launch(type, std::integral_constant<int, 8>{});
      default: return launch(type, std::integral_constant<int, 0>{});
    }
  };
  return half ? with_type(ElementType<__half>{}) : with_type(ElementType<__nv_bfloat16>{});
}

// Queues a kernel of probe scores.
template <class... Args>
mi_status queue_probe(const Launch& launch, const Probe& p, const char* what, mi_error* error,
                      void (*kernel)(Args...), const Args&... args) {
  const int bytes = p.shared_bytes();
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  kernel<<<probe_grid(p), kProbeThreads, bytes, launch.stream>>>(args...);
  return check_launch(what, error);
}

// ---- log-sum-exp of the probe rows -----------------------------------------------------------------

constexpr float kLn2 = 0.693147180559945309f;
constexpr float kNoScore = -1e30f;  // finite, so that differences stay numbers

// Maximum and sum of exponentials of each probe over each slice, [q_heads][parts][64], base 2.
struct LsePartials {
  float2* data;

  __device__ float2* of(const Probe& p, int head, int part) const {
    return data + (int64_t(head) * p.parts() + part) * kProbes;
  }
  // Base-2 log-sum-exp of a probe; the parts are added in order.
  __device__ float combine(const Probe& p, int head, int probe) const {
    float most = kNoScore, sum = 0;
#pragma unroll 8
    for (int part = 0; part < p.parts(); part++) {
      const float2 x = of(p, head, part)[probe];
      const float raised = fmaxf(most, x.x);
      sum = sum * exp2f(most - raised) + x.y * exp2f(x.x - raised);
      most = raised;
    }
    return most + log2f(sum);
  }
};

inline uint64_t lse_partial_bytes(const Probe& p) {
  return uint64_t(p.q_heads) * uint64_t(p.parts()) * kProbes * sizeof(float2);
}

// Queues the pass that fills the partials. `slash` (may be null) gets zeros where two slices will add.
mi_status queue_lse(const Launch& launch, const Probe& p, bool half, LsePartials partials, float* slash,
                    mi_error* error);

}  // namespace mi::cuda
