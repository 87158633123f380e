// The estimate's two passes over the keys (estimate.cu) with Hopper's instructions.
#include "estimate_sm90.h"

#include "diagonal_sums.cuh"
#include "probe_sm90.cuh"
#include "running_lse.cuh"

namespace mi::cuda {

namespace sm90 {

namespace {

template <class T, int kChunks>
__global__ void __launch_bounds__(kThreads, 1) lse_kernel(const __grid_constant__ ProbeArgs args) {
  extern __shared__ __align__(1024) char raw[];
  auto& smem = *reinterpret_cast<Smem<kChunks>*>(raw);
  const Probe& p = args.probe;
  if (!begin(args, smem)) return;
  const WarpPart part(p);
  RunningLse<kHeads> lse;
  Walk<T, kChunks>(p, part, smem).run([&](auto, int64_t, Scores(&c)[kHeads]) { lse.add(p, c); });
#pragma unroll
  for (int h = 0; h < kHeads; h++) {
    if (h >= part.heads) continue;
    lse.store(h, args.partials.of(p, part.head + h, part.part(p)));
    if (part.active) clear_shared_diagonals(p, part.first_key, args.slash + int64_t(part.head + h) * p.kv_len);
  }
}

// Of four values, by head and half of the step's keys, each quad's sum: lane t gets that of head t / 2, half t % 2.
__device__ __forceinline__ float quad_scatter_sum(const float (&x)[2][2]) {
  const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
  float kept[2];
#pragma unroll
  for (int h = 0; h < 2; h++)
    kept[h] = (odd ? x[h][1] : x[h][0]) + __shfl_xor_sync(0xffffffffu, odd ? x[h][0] : x[h][1], 1);
  return (upper ? kept[1] : kept[0]) + __shfl_xor_sync(0xffffffffu, upper ? kept[0] : kept[1], 2);
}

// Log-sum-exps of the thread's probes, base 2; infinite for those that do not exist, so that their P is 0. Each thread
// works out one of its warpgroup's.
__device__ void load_lse(const ProbeArgs& args, const WarpPart& part, float (&shared)[kHeads][kProbes],
                         float (&lse)[kHeads][8][2]) {
  static_assert(kHeads * kProbes == 32 * kGroupWarps, "one for each thread");
  const Probe& p = args.probe;
  const int h = threadIdx.x % 128 / kProbes, i = threadIdx.x % kProbes, t = threadIdx.x % 4;
  shared[h][i] = INFINITY;
  if (h < part.heads && i < p.probes) {
    shared[h][i] = args.partials.combine(p, part.head + h, i);
    if (blockIdx.x == 0) args.lse[(part.head + h) * p.probes + i] = shared[h][i] * kLn2;
  }
  named_barrier_sync(1 + part.warpgroup, 128);
#pragma unroll
  for (int h = 0; h < kHeads; h++)
#pragma unroll
    for (int j = 0; j < 8; j++) lse[h][j][0] = shared[h][8 * j + 2 * t], lse[h][j][1] = shared[h][8 * j + 2 * t + 1];
}

template <class T, int kChunks>
__global__ void __launch_bounds__(kThreads, 1) sums_kernel(const __grid_constant__ ProbeArgs args) {
  extern __shared__ __align__(1024) char raw[];
  auto& smem = *reinterpret_cast<Smem<kChunks>*>(raw);
  const Probe& p = args.probe;
  if (!begin(args, smem)) return;
  const WarpPart part(p);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float* const mine = smem.scratch[threadIdx.x / 32];

  float lse[kHeads][8][2];
  load_lse(args, part, smem.lse[part.warpgroup], lse);
  Diagonals diagonals(p, part.first_key, part.heads, args.slash + int64_t(part.head) * p.kv_len, mine);
  // The lane's column sums: of head t / 2, keys g + 8 (t % 2) of each step.
  const int in_step = g + 8 * (t % 2);
  float* const vertical = args.vertical + int64_t(part.head + t / 2) * p.kv_len + in_step;
  const int64_t vertical_end = t / 2 < part.heads ? int64_t(p.kv_len) - in_step : 0;
  int64_t last = part.first_key;

  Walk<T, kChunks>(p, part, smem).run([&](auto step, int64_t key, Scores(&c)[kHeads]) {
    float column[kHeads][2] = {};
#pragma unroll
    for (int h = 0; h < kHeads; h++)
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          c[h][j][i] = exp2_approx(fmaf(c[h][j][i], p.scale_log2, -lse[h][j][i % 2]));
          column[h][i / 2] += c[h][j][i];
        }
    const float sum = quad_scatter_sum(column);
    if (key < vertical_end) vertical[key] = sum;
    diagonals.template add<step.value>(c);
    if (step.value == 0) return;
    diagonals.flush(int(key));
    last = key;
  });
  if (part.active) diagonals.finish(int(last));
}

Probe make_probe(const Launch& launch, const EstimateArgs& a) {
  Probe p = probe_of(a);
  const int group = a.q_heads / a.kv_heads;
  p.chunks = int(ceil_div(group, kWarpgroups * kHeads));
  p.heads = int(ceil_div(group, p.chunks));
  p.slices = ProbeArgs::shares_tiles(p) ? kGroupWarps : kWarpgroups * kGroupWarps;
  split_keys(launch, p);
  return p;
}

template <class T, int kChunks>
mi_status queue(const Launch& launch, const ProbeArgs& args, mi_error* error) {
  constexpr int kBytes = sizeof(Smem<kChunks>);
  for (const auto kernel : {lse_kernel<T, kChunks>, sums_kernel<T, kChunks>}) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    kernel<<<probe_grid(args.probe), kThreads, kBytes, launch.stream>>>(args);
    if (const mi_status status = check_launch("estimate", error); status != MI_OK) return status;
  }
  return MI_OK;
}

template <class T>
mi_status queue(const Launch& launch, const ProbeArgs& args, mi_error* error) {
  return args.probe.head_dim <= 64 ? queue<T, 1>(launch, args, error) : queue<T, 2>(launch, args, error);
}

}  // namespace

}  // namespace sm90

bool estimates_on_sm90(const Launch& launch, const EstimateArgs& a) {
  const auto on_16 = [](int64_t bytes) { return bytes % 16 == 0; };
  return launch.arch == 90 && a.head_dim <= 128 && a.q.dtype == a.k.dtype &&
         on_16(int64_t(reinterpret_cast<uintptr_t>(a.q.data))) && (a.q_heads == 1 || on_16(a.q.head_stride * 2)) &&
         (a.q_len == 1 || on_16(a.q.row_stride * 2));
}

uint64_t estimate_workspace_sm90(const Launch& launch, const EstimateArgs& a) {
  return lse_partial_bytes(sm90::make_probe(launch, a));
}

mi_status estimate_sm90(const Launch& launch, const EstimateArgs& a, mi_error* error) {
  sm90::ProbeArgs args{sm90::make_probe(launch, a), {}, {}, {static_cast<float2*>(a.workspace)}, a.vertical, a.slash,
                       a.lse};
  const auto map = [&](const View& v, int64_t heads, int64_t rows, CUtensorMap* to, int box_rows) {
    return make_tensor_map(v.data, v.dtype, heads, rows, a.head_dim, v.head_stride * 2, v.row_stride * 2, to, error,
                           box_rows);
  };
  mi_status status = map(a.q, a.q_heads, a.q_len, &args.q, kBoxRows);
  if (status == MI_OK) status = map(a.k, a.kv_heads, a.kv_len, &args.k, kStepKeys);
  if (status != MI_OK) return status;
  return a.k.dtype == MI_F16 ? sm90::queue<__half>(launch, args, error)
                             : sm90::queue<__nv_bfloat16>(launch, args, error);
}

}  // namespace mi::cuda
