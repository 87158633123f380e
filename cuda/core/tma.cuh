// Hopper's asynchronous machinery in shared memory: mbarriers, bulk tensor copies (TMA), named barriers, and moving
// registers between warpgroups. For *_sm90.cu alone.
#pragma once
#include <cuda.h>

#include "ptx.cuh"

namespace mi::cuda {

// ---- mbarriers -------------------------------------------------------------------------------------
// A barrier completes a phase once `count` arrivals and all announced bytes are in; phases alternate in parity.

__device__ __forceinline__ void mbarrier_init(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// After the inits, before anyone else uses the barriers; a block barrier follows.
__device__ __forceinline__ void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier, int count = 1) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// Arrives and announces `bytes` that copies will bring.
__device__ __forceinline__ void mbarrier_expect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ bool mbarrier_try_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile("{\n.reg .pred p;\n"
               "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
               "selp.u32 %0, 1, 0, p;\n}"
               : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
  return done != 0;
}
// Waits for the end of the phase of that parity. Before the first phase, parity 1 counts as ended.
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
#ifndef NDEBUG
  const long long start = clock64();
  while (!mbarrier_try_wait(barrier, parity))
    if (clock64() - start > 20'000'000'000ll) __trap();  // about 10 s: nothing waits that long but a deadlock
#else
  while (!mbarrier_try_wait(barrier, parity)) {}
#endif
}

// ---- bulk tensor copies ----------------------------------------------------------------------------

// One box of `map` at {column, row, head} to shared memory. Elements outside the tensor arrive as zeros; the barrier
// counts them all.
__device__ __forceinline__ void tma_load(uint32_t dst, const CUtensorMap* map, uint32_t barrier, int column, int row,
                                         int head) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(dst), "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(head)
               : "memory");
}

// ---- named barriers and registers ------------------------------------------------------------------

// Barrier 0 belongs to __syncthreads().
__device__ __forceinline__ void named_barrier_sync(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Registers per thread of the calling warpgroup from here on.
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace mi::cuda
