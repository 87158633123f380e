// Rings of stages in shared memory, filled and emptied by different warps.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace mi::cuda {

// A stage of a ring and the parity of its current phase.
template <int kStages>
struct RingPosition {
  uint32_t stage = 0, parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace mi::cuda
