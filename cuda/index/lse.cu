// First pass of the estimate: log-sum-exp of each probe row, one partial result per slice of keys.
#include "diagonal_sums.cuh"
#include "running_lse.cuh"

namespace mi::cuda {

namespace {

template <class T, int kDepth>
__global__ void __launch_bounds__(kProbeThreads, 1)
    lse_kernel(const __grid_constant__ Probe p, LsePartials partials, float* slash) {
  extern __shared__ __align__(128) char shared[];
  const ProbeWarp w(p);
  RunningLse<1> lse;
  for_each_step<T, kDepth>(p, w, shared, EveryTile{},
                           [&](int64_t, Scores& c) { lse.add(p, reinterpret_cast<Scores(&)[1]>(c)); });
  if (w.slice >= p.slices || w.head >= (w.kv_head + 1) * (p.q_heads / p.kv_heads)) return;
  lse.store(0, partials.of(p, w.head, blockIdx.x * p.slices + w.slice));
  if (w.active && slash) clear_shared_diagonals(p, w.first_key, slash + int64_t(w.head) * p.kv_len);
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
