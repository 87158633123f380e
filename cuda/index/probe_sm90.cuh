// The probe's scores on Hopper: S^T = K Q^T with keys as rows, 64 keys x 128 probes a product. A block has
//
//   loader     a warp: lets the copy engine bring the probes once, then the keys, a ring of tiles of 64
//   consumers  two warpgroups: each computes on one tile while the products of another run
//
// Warp w of a warpgroup has rows 16 w .. of each tile, and they come from a slice of keys of its own, so that a warp
// walks contiguous keys in steps of 16 as in probe.cuh, with the same fragments. A warpgroup has two heads. With three
// or four heads in a block the warpgroups share the tiles; otherwise each has tiles, and slices, of its own, and the
// tiles of the two take turns in the ring.
#pragma once
#include "../core/ring.cuh"
#include "../core/tma.cuh"
#include "../core/tma.h"
#include "../core/wgmma.cuh"
#include "diagonal_sums.cuh"

namespace mi::cuda::sm90 {

constexpr int kHeads = 2;  // of a warpgroup
constexpr int kWarpgroups = 2, kGroupWarps = 4;
constexpr int kThreads = 128 * (kWarpgroups + 1);  // the last warpgroup is the loader's
// Of a thread. The consumers get what the loader leaves of the block's own, which are 168 a thread.
constexpr int kLoaderRegisters = 24, kConsumerRegisters = (3 * 168 - kLoaderRegisters) / 2;
constexpr int kStages = 8;
// Of each chunk of 64 columns: boxes of a head's probes, and the bytes of a warp's keys.
constexpr int kQueryBoxes = kWarpgroups * kHeads, kKeyBoxBytes = kStepKeys * kBoxColumns * 2;
using Ring = RingPosition<kStages>;
using Diagonals = DiagonalSums<kHeads, 2>;  // steps come in pairs, see Walk

struct ProbeArgs {
  Probe probe;
  CUtensorMap q, k;  // boxes of 64 and of 16 rows
  LsePartials partials;
  float *vertical, *slash, *lse;

  // Whether the warpgroups share tiles, and with them the slices.
  __host__ __device__ static bool shares_tiles(const Probe& p) { return p.heads > kHeads; }
};

template <int kChunks>
struct alignas(1024) Smem {
  char q[kChunks][kQueryBoxes][kBoxBytes];
  char k[kStages][kChunks][kGroupWarps][kKeyBoxBytes];
  float scratch[kWarpgroups * kGroupWarps][Diagonals::kScratch];
  float lse[kWarpgroups][kHeads][kProbes];
  uint64_t q_full, k_full[kStages], k_free[kStages];
};
static_assert(sizeof(Smem<2>) <= 227 * 1024, "fits a block");

// How many steps a block walks: pairs of them. Its first slice is its longest.
__device__ inline int step_count(const Probe& p) {
  const int64_t left = p.kv_len - int64_t(blockIdx.x) * p.slices * p.slice_keys;
  return int(round_up(ceil_div(min64(left, p.slice_keys), kStepKeys), 2));
}

// What a warp of a consumer works on.
struct WarpPart {
  int warpgroup, head, heads, slice;  // heads [head, head + heads), at most 2 and possibly none
  int64_t first_key;                  // of its slice
  bool active;

  __device__ explicit WarpPart(const Probe& p) {
    const int warp = threadIdx.x / 32, group = p.q_heads / p.kv_heads;
    const bool shares = ProbeArgs::shares_tiles(p);
    warpgroup = warp / kGroupWarps;
    const int slot = shares ? kHeads * warpgroup : 0;
    const int in_group = blockIdx.y % p.chunks * p.heads + slot;
    head = blockIdx.y / p.chunks * group + in_group;
    heads = max(0, min(kHeads, min(p.heads - slot, group - in_group)));
    slice = shares ? warp % kGroupWarps : warp;
    first_key = (int64_t(blockIdx.x) * p.slices + slice) * p.slice_keys;
    active = heads > 0 && first_key < p.kv_len;
  }
  __device__ int part(const Probe& p) const { return blockIdx.x * p.slices + slice; }
};

template <int kChunks>
__device__ void init_barriers(const Probe& p, Smem<kChunks>& smem) {
  if (threadIdx.x == 0) {
    if (smem_address(&smem) % 1024) __trap();  // the swizzle's period
    const int users = ProbeArgs::shares_tiles(p) ? kWarpgroups : 1;
    mbarrier_init(smem_address(&smem.q_full), 1);
    for (int s = 0; s < kStages; s++) {
      mbarrier_init(smem_address(&smem.k_full[s]), 1);
      mbarrier_init(smem_address(&smem.k_free[s]), users * kGroupWarps);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
}

// The loader. A lane copies one box of a tile: slice lane % 4, chunk lane / 4. What lies past the last key or probe, or
// past head_dim, arrives as zeros.
template <int kChunks>
__device__ void load_operands(const ProbeArgs& args, Smem<kChunks>& smem) {
  const Probe& p = args.probe;
  const int lane = threadIdx.x % 32, kv_head = blockIdx.y / p.chunks;
  const bool shares = ProbeArgs::shares_tiles(p);
  const uint32_t q_full = smem_address(&smem.q_full);
  const int query_boxes = shares ? kQueryBoxes : kHeads;
  if (lane == 0) mbarrier_expect(q_full, kChunks * query_boxes * kBoxBytes);
  __syncwarp();
  if (lane < kChunks * query_boxes) {
    const int chunk = lane / query_boxes, slot = lane % query_boxes;
    const int head = kv_head * (p.q_heads / p.kv_heads) + blockIdx.y % p.chunks * p.heads + slot;
    tma_load(smem_address(smem.q[chunk][slot]), &args.q, q_full, chunk * kBoxColumns, p.q_len - p.probes, head);
  }
  const int slice = lane % kGroupWarps, chunk = lane / kGroupWarps, sets = shares ? 1 : kWarpgroups;
  const int steps = step_count(p);
  Ring at;
  for (int step = 0; step < steps; step++)
    for (int set = 0; set < sets; set++, at.advance()) {
      const int64_t key = (int64_t(blockIdx.x) * p.slices + set * kGroupWarps + slice) * p.slice_keys +
                          int64_t(step) * kStepKeys;
      const uint32_t full = smem_address(&smem.k_full[at.stage]);
      mbarrier_wait(smem_address(&smem.k_free[at.stage]), at.parity ^ 1);
      if (lane == 0) mbarrier_expect(full, kChunks * kGroupWarps * kKeyBoxBytes);
      __syncwarp();
      if (chunk < kChunks)
        tma_load(smem_address(smem.k[at.stage][chunk][slice]), &args.k, full, chunk * kBoxColumns,
                 int(min64(key, p.kv_len)), kv_head);
    }
}

// What all threads begin with. Loaders return when all is loaded; true tells a consumer to go on.
template <int kChunks>
__device__ __forceinline__ bool begin(const ProbeArgs& args, Smem<kChunks>& smem) {
  init_barriers(args.probe, smem);
  if (__shfl_sync(0xffffffffu, threadIdx.x / 128, 0) < kWarpgroups) {
    take_registers<kConsumerRegisters>();
    return true;
  }
  give_registers<kLoaderRegisters>();
  if (threadIdx.x / 32 == kWarpgroups * kGroupWarps) load_operands(args, smem);
  return false;
}

// A consumer's walk over its warps' slices.
template <class T, int kChunks>
class Walk {
 public:
  __device__ Walk(const Probe& p, const WarpPart& part, Smem<kChunks>& smem)
      : p_(p), part_(part), smem_(smem), shares_(ProbeArgs::shares_tiles(p)),
        queries_(wgmma_operand(uniform(smem_address(smem.q[0][shares_ ? kHeads * part.warpgroup : 0])), 0)) {
    if (!shares_ && part.warpgroup == 1) ahead_.advance();
    here_ = ahead_;
  }

  // body(i, key, c) for the steps of the warp's slice in pairs, i.value being 0 and 1; only the second of a pair may
  // begin past the last key.
  template <class Body>
  __device__ __forceinline__ void run(const Body& body) {
    const int steps = step_count(p_);
    mbarrier_wait(smem_address(&smem_.q_full), 0);
    // Two products at a time: a step's body runs beside the second, and beside those of the other warpgroup. None may
    // be under way from one iteration to the next, or ptxas waits for each of them.
    for (int pair = 0; pair < steps; pair += 2) {
      float even[64], odd[64];
      issue(even);
      issue(odd);
      wgmma_wait<1>();
      take<0>(even, pair, body);
      wgmma_wait<0>();
      take<1>(odd, pair, body);
    }
  }

 private:
  // The same in every lane; so the compiler knows it, too.
  __device__ static __forceinline__ uint32_t uniform(uint32_t x) { return __shfl_sync(0xffffffffu, x, 0); }

  __device__ __forceinline__ void issue(float (&c)[64]) {
    mbarrier_wait(smem_address(&smem_.k_full[ahead_.stage]), ahead_.parity);
    const uint64_t keys = wgmma_operand(uniform(smem_address(smem_.k[ahead_.stage])), 0);
    wgmma_pin(c);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4 * kChunks; i++)
      wgmma_ss<T>(c, wgmma_advance(keys, i / 4 * kGroupWarps * kKeyBoxBytes + i % 4 * 32),
                  wgmma_advance(queries_, i / 4 * kQueryBoxes * kBoxBytes + i % 4 * 32), i > 0);
    wgmma_commit();
    advance(ahead_);
  }

  template <int kOfPair, class Body>
  __device__ __forceinline__ void take(float (&c)[64], int pair, const Body& body) {
    wgmma_pin(c);
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(smem_address(&smem_.k_free[here_.stage]));
    advance(here_);
    const int64_t key = part_.first_key + int64_t(pair) * kStepKeys;
    if (!part_.active || key >= p_.kv_len) return;
    auto& scores = reinterpret_cast<Scores(&)[kHeads]>(c);
    mask_causal(p_, key + kOfPair * kStepKeys, scores);
    body(std::integral_constant<int, kOfPair>{}, key + kOfPair * kStepKeys, scores);
  }

  __device__ __forceinline__ void advance(Ring& at) const {
    at.advance();
    if (!shares_) at.advance();  // over the other warpgroup's tile
  }

  const Probe& p_;
  const WarpPart& part_;
  Smem<kChunks>& smem_;
  const bool shares_;
  const uint64_t queries_;
  Ring here_, ahead_;
};

}  // namespace mi::cuda::sm90
