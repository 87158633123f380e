// Mass of each key on some of the probe rows, for heads with a budget by mass (plan.cuh, KeyMass).
#include "visibility.cuh"

namespace mi::cuda {

namespace {

template <class T, int kDepth>
__global__ void __launch_bounds__(kProbeThreads, 1)
    key_mass_kernel(const __grid_constant__ IndexKernelArgs a, KeyMass which) {
  extern __shared__ __align__(128) char shared[];
  __shared__ float lse_of[kProbeWarps][kProbes];  // base 2; infinite for rows that do not count
  const Probe& p = a.probe;
  const bool missing = which == KeyMass::kMissing;
  ProbeWarp w(p);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
  w.active = w.active && a.heads[w.head].kind == MI_VERTICAL_SLASH && a.heads[w.head].mass > 0 &&
             !(missing && a.list_head(w.head).kind == MI_DENSE);
  if (w.active) {
    bool any = false;
    for (int i = lane; i < kProbes; i += 32) {
      const bool poor =
          i < p.probes && missing && a.row_mass[w.head * kProbes + i] < kRowFloor * a.heads[w.head].mass;
      const bool counts = missing ? poor : i < a.probe_blocks.split;
      lse_of[warp][i] = counts ? a.lse[w.head * p.probes + i] * (1 / kLn2) : INFINITY;
      any = any || counts;
    }
    w.active = __any_sync(0xffffffffu, any);
  }
  __syncthreads();
  const uint32_t early = early_probes(a.probe_blocks);
  float* out = a.key_mass + (w.active ? int64_t(a.heads[w.head].slot) : 0) * p.kv_len;
  for_each_step<T, kDepth>(p, w, shared, EveryTile{}, [&](int64_t first_key, Scores& c) {
    const Visibility v = missing ? visibility(a, w.head, first_key) : Visibility{};
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int at = g + 8 * h;
      const uint32_t hidden = v.probes(at, early);
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const float2 lse = *reinterpret_cast<const float2*>(&lse_of[warp][8 * j + 2 * t]);
        const float x = exp2_approx(fmaf(c[j][2 * h], p.scale_log2, -lse.x));
        const float y = exp2_approx(fmaf(c[j][2 * h + 1], p.scale_log2, -lse.y));
        if (!(hidden >> (2 * j) & 1)) sum += x;
        if (!(hidden >> (2 * j + 1) & 1)) sum += y;
      }
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (t == 0 && first_key + at < p.kv_len) out[first_key + at] = sum;
    }
  });
}

}  // namespace

mi_status queue_key_mass(const Launch& launch, const IndexKernelArgs& a, KeyMass which, bool half,
                         mi_error* error) {
  return with_operands(a.probe, half, [&](auto type, auto depth) {
    using T = typename decltype(type)::type;
    return queue_probe(launch, a.probe, "index: mass of each key", error, key_mass_kernel<T, depth.value>, a,
                       which);
  });
}

}  // namespace mi::cuda
