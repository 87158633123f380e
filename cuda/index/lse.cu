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

template <class T>
__global__ void __launch_bounds__(kProbeThreads, 1)
    lse_kernel(const __grid_constant__ Probe p, LsePartials partials, float* slash) {
  extern __shared__ __align__(128) char shared[];
  const ProbeWarp w(p);
  const int lane = threadIdx.x % 32;
  float most[8][2], sum[8][2];  // by probe; `most` is common to the lanes of one t
#pragma unroll
  for (int j = 0; j < 8; j++) most[j][0] = most[j][1] = sum[j][0] = sum[j][1] = 0;
  bool first = true;

  for_each_tile<T>(p, w, shared, EveryTile{}, [&](int64_t, ScoreTile& c) {
    float excess = kNoScore;
#pragma unroll
    for (int u = 0; u < 4; u++)
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          c[u][j][i] = fmaf(c[u][j][i], p.scale_log2, -most[j][i % 2]);
          excess = fmaxf(excess, c[u][j][i]);
        }
    if (first || __any_sync(0xffffffffu, excess > kSlack)) {
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float raise = first ? kNoScore : 0;
#pragma unroll
          for (int u = 0; u < 4; u++) raise = fmaxf(raise, fmaxf(c[u][j][e], c[u][j][e + 2]));
#pragma unroll
          for (int o = 4; o < 32; o *= 2) raise = fmaxf(raise, __shfl_xor_sync(0xffffffffu, raise, o));
          sum[j][e] *= exp2_approx(-raise);
#pragma unroll
          for (int u = 0; u < 4; u++) c[u][j][e] -= raise, c[u][j][e + 2] -= raise;
          most[j][e] += raise;
        }
      if (first) {
#pragma unroll
        for (int j = 0; j < 8; j++) sum[j][0] = sum[j][1] = 0;  // 0 times infinity above
        first = false;
      }
    }
#pragma unroll
    for (int u = 0; u < 4; u++)
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum[j][i % 2] += exp2_approx(c[u][j][i]);
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

template <class T>
mi_status queue(const Launch& launch, const Probe& p, LsePartials partials, float* slash, mi_error* error) {
  const int bytes = p.shared_bytes();
  cudaFuncSetAttribute(lse_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  lse_kernel<T><<<probe_grid(p), kProbeThreads, bytes, launch.stream>>>(p, partials, slash);
  return check_launch("log-sum-exp of the probe rows", error);
}

}  // namespace

mi_status queue_lse(const Launch& launch, const Probe& p, bool half, LsePartials partials, float* slash,
                    mi_error* error) {
  return half ? queue<__half>(launch, p, partials, slash, error)
              : queue<__nv_bfloat16>(launch, p, partials, slash, error);
}

}  // namespace mi::cuda
