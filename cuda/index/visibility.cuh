// Which keys the row blocks of the probe see, step by step.
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
  uint32_t keys[2];  // a bit per key of a step, for the earlier and the last row block

  // Bit 2 j + e: that probe of this thread sees key `at` of the step.
  __device__ uint32_t probes(int at, uint32_t early) const {
    return (keys[0] >> at & 1 ? early : 0) | (keys[1] >> at & 1 ? ~early : 0);
  }
};

// Of the step, 16 keys, that begins with `key`.
__device__ inline Visibility visibility(const IndexKernelArgs& a, int head, int64_t key) {
  Visibility v;
#pragma unroll
  for (int b = 0; b < 2; b++) {
    const uint32_t* words = a.visible + (int64_t(head) * 2 + b) * a.visible_words;
    v.keys[b] = key < a.probe.kv_len ? words[key / 32] >> (key & 16) & 0xffff : 0;
  }
  return v;
}

// Whether either row block sees a key of the tile that begins with `key`.
__device__ inline bool any_visible(const IndexKernelArgs& a, int head, int64_t key) {
  if (key >= a.probe.kv_len) return false;
  const uint32_t* words = a.visible + int64_t(head) * 2 * a.visible_words + key / 32;
  return (words[0] | words[1] | words[a.visible_words] | words[a.visible_words + 1]) != 0;
}

}  // namespace mi::cuda
