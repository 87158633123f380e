// Attention forward for Hopper. Five parts of a block work at once:
//
//   planner    a warp: item -> units of 64 keys, from the work list -> batches of tiles of two units
//   loaders    a warp each: let the copy engine bring the tiles' K and V into rings
//   consumers  two warpgroups of 64 query rows each ("halves"):
//              S = Q K^T of a tile, while O += P V of the tile before still runs; softmax; next
//
// The consumers take turns in issuing products, so that one computes its softmax while the other has the tensor cores.
// Blocks are persistent and draw work items from a counter.
#include "consumer_sm90.cuh"
#include "loader_sm90.cuh"
#include "planner_sm90.cuh"

namespace mi::cuda {

namespace {

template <class T, class Config>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(const __grid_constant__ ForwardParams params) {
  // Not rounded up by arithmetic, after which the compiler would no longer know that this is shared memory.
  extern __shared__ __align__(1024) char raw[];
  auto& smem = *reinterpret_cast<Smem<Config>*>(raw);
  if (threadIdx.x == 0) {
    if (smem_address(raw) % 1024) __trap();  // the swizzle's period
    mbarrier_init(smem_address(&smem.q_full), 1);
    mbarrier_init(smem_address(&smem.q_free), 2 * kWarpsPerHalf);
    for (int s = 0; s < 2; s++) {
      mbarrier_init(smem_address(&smem.batch_full[s]), 32);  // the planner's lanes
      mbarrier_init(smem_address(&smem.batch_free[s]), 64);  // both loaders' lanes
    }
    for (int s = 0; s < Config::kStages; s++) {
      mbarrier_init(smem_address(&smem.k_full[s]), 1);
      mbarrier_init(smem_address(&smem.v_full[s]), 1);
      mbarrier_init(smem_address(&smem.k_free[s]), 2 * kWarpsPerHalf);
      mbarrier_init(smem_address(&smem.v_free[s]), 2 * kWarpsPerHalf);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    give_registers<Config::kProducerRegisters>();
    const int warp = threadIdx.x / 32;
    if (warp == 0) Loader<Config, false>(params, smem).run();
    else if (warp == 1) Loader<Config, true>(params, smem).run();
    else if (warp == 2) Planner<Config>(params, smem).run();
  } else {
    take_registers<Config::kConsumerRegisters>();
    Consumer<T, Config>(params, smem, warpgroup - 1).run();
  }
}

template <class T, class Config>
mi_status queue(const Launch& launch, const ForwardParams& params, mi_error* error) {
  constexpr int kBytes = sizeof(Smem<Config>);
  cudaFuncSetAttribute(forward_kernel<T, Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  const int blocks = params.schedule.items < launch.sm_count ? params.schedule.items : launch.sm_count;
  forward_kernel<T, Config><<<blocks, kThreads, kBytes, launch.stream>>>(params);
  return check_launch("attention", error);
}

}  // namespace

mi_status forward_sm90(const Launch& launch, const ForwardParams& params, bool half, mi_error* error) {
  if (params.problem.head_dim <= 64)
    return half ? queue<__half, Config64>(launch, params, error) : queue<__nv_bfloat16, Config64>(launch, params, error);
  return half ? queue<__half, Config128>(launch, params, error) : queue<__nv_bfloat16, Config128>(launch, params, error);
}

}  // namespace mi::cuda
