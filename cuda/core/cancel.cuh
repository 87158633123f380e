// Whether the work was cancelled. The flag may rise between two reads of it, so those who go on together ask together:
// half a block that left would leave the other half with what was never written.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace mi::cuda {

namespace detail {
__device__ __forceinline__ bool is_raised(const uint32_t* flag) {
  return *static_cast<const volatile uint32_t*>(flag) != 0;
}
}  // namespace detail

// Asked by all threads of a block; `flag` may be null.
__device__ __forceinline__ bool block_cancelled(const uint32_t* flag) {
  return flag && __syncthreads_or(threadIdx.x == 0 && detail::is_raised(flag));
}

// Asked by all lanes of a warp; `flag` may be null.
__device__ __forceinline__ bool warp_cancelled(const uint32_t* flag) {
  return flag && __any_sync(0xffffffffu, threadIdx.x % 32 == 0 && detail::is_raised(flag));
}

}  // namespace mi::cuda
