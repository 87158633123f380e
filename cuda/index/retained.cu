// Retained mass: the probability, on the probe rows, of the cells that each head's list keeps, and the guard
// (guard.h). One more pass over the keys that lists keep; tiles without any are skipped.
#include "visibility.cuh"

namespace mi::cuda {

namespace {

// Of a slice, for which `wanted` bits are kept; beyond, every tile is read.
constexpr int kMostTiles = 16 * 1024;

// Base-2 log-sum-exp of probe i, infinite if it does not exist.
__device__ float probe_lse(const IndexKernelArgs& a, int head, int i, float combined) {
  if (i >= a.probe.probes) return INFINITY;
  return a.lse ? a.lse[head * a.probe.probes + i] * (1 / kLn2) : combined;
}

// Statistics of a complete list, and the guard. Rounding may pass 1; NaN stays. Every block that reads the
// head's entry is done.
__device__ void judge(const IndexKernelArgs& a, int head, float mean, float least) {
  mean = mean > 1 ? 1.0f : mean;
  least = least > 1 ? 1.0f : least;
  mi_head_stats* stats = a.stats ? a.stats + head : nullptr;
  if (stats) stats->retained_mean = mean, stats->retained_min = least;
  if (!a.guard.passes(mean, least)) give_up_list(a.list_head(head), stats);
}

// Mass of each probe row, its parts added in order; mean and least of them.
__device__ void write_rows(const IndexKernelArgs& a, int head) {
  const int lane = threadIdx.x % 32, probes = a.probe.probes;
  float sum = 0, least = INFINITY;
  for (int i = lane; i < probes; i += 32) {
    float mass = 0;
    for (int part = 0; part < a.probe.parts(); part++)
      mass += __ldcg(a.retained + (int64_t(head) * a.probe.parts() + part) * kProbes + i);
    a.row_mass[head * kProbes + i] = mass;
    sum += mass;
    least = isnan(mass) ? mass : isnan(least) || least < mass ? least : mass;
  }
#pragma unroll
  for (int o = 16; o; o /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, o);
    const float other = __shfl_xor_sync(0xffffffffu, least, o);
    least = isnan(other) ? other : isnan(least) || least < other ? least : other;
  }
  if (lane == 0 && a.measure_mass) judge(a, head, sum / float(probes), least);
}

template <class T, int kDepth>
__global__ void __launch_bounds__(kProbeThreads, 1)
    retained_kernel(const __grid_constant__ IndexKernelArgs a) {
  extern __shared__ __align__(128) char shared[];
  __shared__ uint32_t wanted[kMostTiles / 32];
  __shared__ float lse_of[kProbeWarps][kProbes];
  __shared__ bool last;
  const Probe& p = a.probe;
  ProbeWarp w(p);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
  const int group = p.q_heads / p.kv_heads, first_slot = blockIdx.y % p.chunks * p.heads;
  const bool present = w.slice < p.slices && w.head < (w.kv_head + 1) * group;
  // Dense heads need no measure.
  w.active = w.active && a.list_head(w.head).kind != MI_DENSE;
  const HeadPlan& plan = a.heads[present ? w.head : 0];
  const int tiles = int(p.slice_keys / kTileKeys);

  for (int i = threadIdx.x; i < kMostTiles / 32; i += kProbeThreads) wanted[i] = 0;
  __syncthreads();
  for (int index = threadIdx.x; index < tiles && tiles <= kMostTiles; index += kProbeThreads) {
    bool any = false;
    for (int slot = 0; slot < p.heads && first_slot + slot < group && !any; slot++) {
      const int head = w.kv_head * group + first_slot + slot;
      if (a.list_head(head).kind == MI_DENSE) continue;
      for (int slice = 0; slice < p.slices && !any; slice++) {
        const int64_t key =
            (int64_t(blockIdx.x) * p.slices + slice) * p.slice_keys + int64_t(index) * kTileKeys;
        any = any_visible(a, head, key);
      }
    }
    if (any) atomicOr(&wanted[index / 32], 1u << index % 32);
  }
  if (w.active) {
#pragma unroll
    for (int i = lane; i < kProbes; i += 32)
      lse_of[warp][i] = probe_lse(a, w.head, i, a.lse ? 0 : a.partials.combine(p, w.head, i));
  }
  __syncthreads();
  float mass[8][2] = {};
  const uint32_t early = early_probes(a.probe_blocks);
  const int local = plan.kind == MI_A_SHAPE ? plan.local : INT32_MAX, sink = plan.sink;

  const auto is_wanted = [&](int index) {
    return tiles > kMostTiles || (wanted[index / 32] >> (index % 32) & 1) != 0;
  };
  for_each_step<T, kDepth>(p, w, shared, is_wanted, [&](int64_t first_key, Scores& c) {
    const Visibility v = visibility(a, w.head, first_key);
    if ((v.keys[0] | v.keys[1]) == 0) return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int at = g + 8 * h, key = int(first_key) + at, nearest = p.first + 2 * t - key;
      const uint32_t seen = v.probes(at, early);
      const int reach = key < sink ? INT32_MAX : local;
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const float2 lse = *reinterpret_cast<const float2*>(&lse_of[warp][8 * j + 2 * t]);
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const float x = exp2_approx(fmaf(c[j][2 * h + e], p.scale_log2, -(e ? lse.y : lse.x)));
          if ((seen >> (2 * j + e) & 1) && nearest + 8 * j + e < reach) mass[j][e] += x;
        }
      }
    }
  });

  if (present) {
    float* to = a.retained + (int64_t(w.head) * p.parts() + blockIdx.x * p.slices + w.slice) * kProbes;
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
#pragma unroll
        for (int o = 4; o < 32; o *= 2) mass[j][e] += __shfl_xor_sync(0xffffffffu, mass[j][e], o);
        if (g == 0) to[8 * j + 2 * t + e] = mass[j][e];
      }
  }
  __threadfence();
  __syncthreads();
  const int ticket = w.kv_head * group + first_slot;  // any head of the block's serves
  if (threadIdx.x == 0) last = atomicAdd(&a.tickets[2 * ticket + 1], 1u) == gridDim.x - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  if (threadIdx.x == 0) a.tickets[2 * ticket + 1] = 0;  // for another pass
  for (int slot = warp; slot < p.heads && first_slot + slot < group; slot += kProbeWarps) {
    const int head = w.kv_head * group + first_slot + slot;
    if (a.list_head(head).kind != MI_DENSE) write_rows(a, head);
  }
}

}  // namespace

mi_status queue_retained(const Launch& launch, const IndexKernelArgs& a, bool half, mi_error* error) {
  return with_operands(a.probe, half, [&](auto type, auto depth) {
    using T = typename decltype(type)::type;
    return queue_probe(launch, a.probe, "index: retained mass", error, retained_kernel<T, depth.value>, a);
  });
}

}  // namespace mi::cuda
