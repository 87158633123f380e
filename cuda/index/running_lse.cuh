// Log-sum-exp of the probe rows over the keys that a warp has seen.
#pragma once
#include "probe.cuh"

namespace mi::cuda {

// Of kHeads heads. A lane of a given t has probes 8 j + 2 t + e over its own keys; maxima are common to such lanes.
template <int kHeads>
class RunningLse {
 public:
  __device__ RunningLse() {
#pragma unroll
    for (int h = 0; h < kHeads; h++)
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) most_[h][j][e] = sum_[h][j][e] = 0;
  }

  // Takes masked scores, and leaves weights in their place.
  __device__ __forceinline__ void add(const Probe& p, Scores (&c)[kHeads]) {
    float excess[4] = {kNoScore, kNoScore, kNoScore, kNoScore};  // apart, so that they need not wait for each other
#pragma unroll
    for (int h = 0; h < kHeads; h++)
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          c[h][j][i] = fmaf(c[h][j][i], p.scale_log2, -most_[h][j][i % 2]);
          excess[i] = fmaxf(excess[i], c[h][j][i]);
        }
    const float most = fmaxf(fmaxf(excess[0], excess[1]), fmaxf(excess[2], excess[3]));
    if (first_ || __any_sync(0xffffffffu, most > kSlack)) raise(c);
#pragma unroll
    for (int h = 0; h < kHeads; h++)
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum_[h][j][i % 2] += exp2_approx(c[h][j][i]);
  }

  // The part's result for head h.
  __device__ void store(int h, float2* to /* [64] */) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float sum = sum_[h][j][e];
#pragma unroll
        for (int o = 4; o < 32; o *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
        if (lane / 4 == 0) to[8 * j + 2 * (lane % 4) + e] = make_float2(first_ ? kNoScore : most_[h][j][e], sum);
      }
  }

 private:
  // Maxima are raised only when a score passes them by this much (in powers of 2): seldom, and f32 sums have room.
  static constexpr float kSlack = 8;

  __device__ __forceinline__ void raise(Scores (&c)[kHeads]) {
#pragma unroll
    for (int h = 0; h < kHeads; h++)
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float by = fmaxf(first_ ? kNoScore : 0, fmaxf(c[h][j][e], c[h][j][e + 2]));
#pragma unroll
          for (int o = 4; o < 32; o *= 2) by = fmaxf(by, __shfl_xor_sync(0xffffffffu, by, o));
          sum_[h][j][e] = first_ ? 0 : sum_[h][j][e] * exp2_approx(-by);  // at first 0 times infinity
          c[h][j][e] -= by, c[h][j][e + 2] -= by;
          most_[h][j][e] += by;
        }
    first_ = false;
  }

  float most_[kHeads][8][2], sum_[kHeads][8][2];
  bool first_ = true;
};

}  // namespace mi::cuda
