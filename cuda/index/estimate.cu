// The last-queries estimate in two passes over the keys: log-sum-exp of each probe row (lse.cu), then the
// sums of P = softmax(Q K^T) over each column and each diagonal. Every sum has a fixed order.
#include "../core/cuda_ops.h"
#include "diagonal_sums.cuh"
#include "estimate_sm90.h"

namespace mi::cuda {

namespace {

struct EstimateKernelArgs {
  Probe probe;
  LsePartials partials;
  float *vertical, *slash, *lse;
};

template <class T, int kDepth>
__global__ void __launch_bounds__(kProbeThreads, 1)
    sums_kernel(const __grid_constant__ EstimateKernelArgs args) {
  extern __shared__ __align__(128) char shared[];
  __shared__ float scratch[kProbeWarps][DiagonalSums<1, 1>::kScratch];
  const Probe& p = args.probe;
  const ProbeWarp w(p);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float* mine = scratch[threadIdx.x / 32];

  float lse[8][2] = {};  // base 2; infinite for probes that do not exist, so that their P is 0
  if (w.active) {
#pragma unroll
    for (int i = lane; i < kProbes; i += 32)
      mine[i] = i < p.probes ? args.partials.combine(p, w.head, i) : INFINITY;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 8; j++) lse[j][0] = mine[8 * j + 2 * t], lse[j][1] = mine[8 * j + 2 * t + 1];
    if (w.first_key == 0)
      for (int i = lane; i < p.probes; i += 32) args.lse[w.head * p.probes + i] = mine[i] * kLn2;
  }
  const int64_t row = int64_t(w.head) * p.kv_len;
  DiagonalSums<1, 1> diagonals(p, w.first_key, 1, args.slash + row, mine);
  float* vertical = args.vertical + row;
  int64_t last = w.first_key;

  for_each_step<T, kDepth>(p, w, shared, EveryTile{}, [&](int64_t key, Scores& c) {
    float column[2] = {};
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        c[j][i] = exp2_approx(fmaf(c[j][i], p.scale_log2, -lse[j][i % 2]));
        column[i / 2] += c[j][i];
      }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      column[h] += __shfl_xor_sync(0xffffffffu, column[h], 1);
      column[h] += __shfl_xor_sync(0xffffffffu, column[h], 2);
      const int64_t at = key + g + 8 * h;
      if (t == 0 && at < p.kv_len) vertical[at] = column[h];
    }
    diagonals.add<0>(reinterpret_cast<Scores(&)[1]>(c));
    diagonals.flush(int(key));
    last = key;
  });
  if (w.active) diagonals.finish(int(last));
}

}  // namespace

uint64_t estimate_workspace(const Launch& launch, const EstimateArgs& a) {
  const uint64_t portable = lse_partial_bytes(make_probe(launch, a)), sm90 = estimate_workspace_sm90(launch, a);
  return portable > sm90 ? portable : sm90;
}

mi_status estimate(const Launch& launch, const EstimateArgs& a, mi_error* error) {
  if (estimates_on_sm90(launch, a)) return estimate_sm90(launch, a, error);
  const bool half = a.k.dtype == MI_F16;
  const EstimateKernelArgs args{
      make_probe(launch, a), {static_cast<float2*>(a.workspace)}, a.vertical, a.slash, a.lse};
  const mi_status status = queue_lse(launch, args.probe, half, args.partials, a.slash, error);
  if (status != MI_OK) return status;
  return with_operands(args.probe, half, [&](auto type, auto depth) {
    using T = typename decltype(type)::type;
    return queue_probe(launch, args.probe, "estimate", error, sums_kernel<T, depth.value>, args);
  });
}

}  // namespace mi::cuda
