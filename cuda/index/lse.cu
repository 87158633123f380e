// First pass of the estimate: log-sum-exp of each probe row, one partial result per slice of keys.
#include "probe.cuh"

namespace mi::cuda {

namespace {

// Running maxima are raised only when a score passes them by this much (in powers of 2): seldom, and f32 sums
// have room for it.
constexpr float kSlack = 8;

// Distances that a slice shares with the one before: (first probe - first key, first probe - first key + 63].
__device__ void clear_shared_diagonals(const Probe& p, const ProbeWarp& w, float* slash) {
  if (w.first_key == 0) return;
  for (int i = threadIdx.x % 32; i < kProbes - 1; i += 32) {
    const int64_t distance = p.first - w.first_key + 1 + i;
    if (distance >= 0 && distance < p.kv_len) slash[int64_t(w.head) * p.kv_len + distance] = 0;
  }
}

template <class T, int kDepth>
__global__ void __launch_bounds__(kProbeThreads, 1)
    lse_kernel(const __grid_constant__ Probe p, LsePartials partials, float* slash) {
  extern __shared__ __align__(128) char shared[];
  const ProbeWarp w(p);
  const int lane = threadIdx.x % 32;
  float most[8][2], sum[8][2];  // by probe; `most` is common to the lanes of one t
#pragma unroll
  for (int j = 0; j < 8; j++) most[j][0] = most[j][1] = sum[j][0] = sum[j][1] = 0;
  bool first = true;

  for_each_step<T, kDepth>(p, w, shared, EveryTile{}, [&](int64_t, Scores& c) {
    float excess = kNoScore;
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        c[j][i] = fmaf(c[j][i], p.scale_log2, -most[j][i % 2]);
        excess = fmaxf(excess, c[j][i]);
      }
    if (first || __any_sync(0xffffffffu, excess > kSlack)) {
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float raise = fmaxf(first ? kNoScore : 0, fmaxf(c[j][e], c[j][e + 2]));
#pragma unroll
          for (int o = 4; o < 32; o *= 2) raise = fmaxf(raise, __shfl_xor_sync(0xffffffffu, raise, o));
          sum[j][e] = first ? 0 : sum[j][e] * exp2_approx(-raise);  // at first 0 times infinity
          c[j][e] -= raise, c[j][e + 2] -= raise;
          most[j][e] += raise;
        }
      first = false;
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) sum[j][i % 2] += exp2_approx(c[j][i]);
  });

  if (w.slice >= p.slices || w.head >= (w.kv_head + 1) * (p.q_heads / p.kv_heads)) return;
  float2* to = partials.of(p, w.head, blockIdx.x * p.slices + w.slice);
#pragma unroll
  for (int j = 0; j < 8; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
#pragma unroll
      for (int o = 4; o < 32; o *= 2) sum[j][e] += __shfl_xor_sync(0xffffffffu, sum[j][e], o);
      if (lane / 4 == 0)
        to[8 * j + 2 * (lane % 4) + e] = make_float2(w.active ? most[j][e] : kNoScore, sum[j][e]);
    }
  if (w.active && slash) clear_shared_diagonals(p, w, slash);
}

}  // namespace

mi_status queue_lse(const Launch& launch, const Probe& p, bool half, LsePartials partials, float* slash,
                    mi_error* error) {
  return with_operands(p, half, [&](auto type, auto depth) {
    using T = typename decltype(type)::type;
    return queue_probe(launch, p, "log-sum-exp of the probe rows", error, lse_kernel<T, depth.value>, p,
                       partials, slash);
  });
}

}  // namespace mi::cuda
