// Which keys the row blocks of the probe see, tile by tile.
#pragma once
#include "plan.cuh"

namespace mi::cuda {

// Bit 2 j + e: this thread's probe 8 j + 2 t + e lies in the earlier row block.
__device__ inline uint32_t early_probes(const ProbeBlocks& blocks) {
  uint32_t early = 0;
#pragma unroll
  for (int j = 0; j < 8; j++)
#pragma unroll
    for (int e = 0; e < 2; e++)
      if (8 * j + 2 * int(threadIdx.x % 4) + e < blocks.split) early |= 1u << (2 * j + e);
  return early;
}

struct Visibility {
  uint64_t keys[2];  // a bit per key of a tile, for the earlier and the last row block

  // Bit 2 j + e: that probe of this thread sees key `at` of the tile.
  __device__ uint32_t probes(int at, uint32_t early) const {
    return (keys[0] >> at & 1 ? early : 0) | (keys[1] >> at & 1 ? ~early : 0);
  }
};

__device__ inline Visibility visibility(const IndexKernelArgs& a, int head, int64_t key) {
  Visibility v;
  for (int b = 0; b < 2; b++) {
    const uint32_t* words = a.visible + (int64_t(head) * 2 + b) * a.visible_words + key / 32;
    v.keys[b] = key < a.probe.kv_len ? uint64_t(words[1]) << 32 | words[0] : 0;
  }
  return v;
}

}  // namespace mi::cuda
