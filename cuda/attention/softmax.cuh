// Online softmax on accumulator fragments. A thread holds parts of two rows, 8 apart, of a score matrix; the four
// threads of a quad hold one row between them. wgmma and mma.sync agree on the layout: with g = lane / 4, t = lane % 4,
// element j is row g + 8 (j / 2 % 2), column 8 (j / 4) + 2 t + j % 2.
#pragma once
#include <cmath>

#include "../core/ptx.cuh"

namespace mi::cuda {

// The 64 bits of one unit's keys, as the words that the thread's elements are tested against.
struct KeyBits {
  uint32_t word[2];

  KeyBits() = default;
  __device__ explicit KeyBits(uint64_t keys) {
    keys >>= 2 * (threadIdx.x % 4);
    word[0] = uint32_t(keys);
    word[1] = uint32_t(keys >> 32);
  }
};

// Sets the scores of the keys that a row does not see to -inf. seen: [unit][row].
template <int kElements>
__device__ __forceinline__ void mask_scores(float (&s)[kElements], const KeyBits (&seen)[kElements / 32][2]) {
#pragma unroll
  for (int j = 0; j < kElements; j++) {
    const int column = 8 * (j / 4) + j % 2;  // less 2 t, by which KeyBits are shifted
    if (!(seen[column / 64][j / 2 % 2].word[column / 32 % 2] >> column % 32 & 1)) s[j] = -INFINITY;
  }
}

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// The two rows' running maximum and sum. Weights are 2^(scale (s - reference)); the reference lags behind the maximum
// by up to 2^kSlack in weight, which f32 sums and 16-bit weights bear, and which spares most rescalings of the output.
class OnlineSoftmax {
 public:
  // Replaces scores by weights. Returns whether, in any row of the warp, what was summed before has to be multiplied by
  // factor[row].
  template <int kElements>
  __device__ __forceinline__ bool step(float (&s)[kElements], float scale, float (&factor)[2]) {
    float most[2][2] = {{-INFINITY, -INFINITY}, {-INFINITY, -INFINITY}};  // of the thread's own elements
#pragma unroll
    for (int j = 0; j < kElements; j++) most[j / 2 % 2][j % 2] = fmaxf(most[j / 2 % 2][j % 2], s[j]);
    bool raised = false;
#pragma unroll
    for (int r = 0; r < 2; r++) raised |= passes(r, fmaxf(most[r][0], most[r][1]), scale);
    raised = __any_sync(0xffffffffu, raised);
    if (raised) {
#pragma unroll
      for (int r = 0; r < 2; r++) factor[r] = raise(r, quad_max(fmaxf(most[r][0], most[r][1])), scale);
    }
#pragma unroll
    for (int j = 0; j < kElements; j++) {
      s[j] = exp2_approx(fmaf(s[j], scale, -shift_[j / 2 % 2]));
      sum_[j / 2 % 2] += s[j];
    }
    return raised;
  }

  // Over the whole row. Call once, at the end.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int r = 0; r < 2; r++) sum_[r] = quad_sum(sum_[r]);
  }
  __device__ __forceinline__ float inverse_sum(int r) const { return sum_[r] == 0 ? 0.0f : 1.0f / sum_[r]; }
  // Base 2; -inf for a row without a key.
  __device__ __forceinline__ float lse(int r, float scale) const {
    return sum_[r] == 0 ? -INFINITY : reference_[r] * scale + log2f(sum_[r]);
  }

 private:
  static constexpr float kSlack = 8;

  // Also the first time that a row sees a key.
  __device__ __forceinline__ bool passes(int r, float most, float scale) const {
    return (most - reference_[r]) * scale > kSlack;
  }
  // To the row's maximum, if that is far above the reference. Returns the row's factor.
  __device__ __forceinline__ float raise(int r, float most, float scale) {
    if (!passes(r, most, scale)) return 1;
    const float factor = exp2_approx((reference_[r] - most) * scale);
    reference_[r] = most;
    sum_[r] *= factor;
    shift_[r] = most * scale;
    return factor;
  }

  float reference_[2] = {-INFINITY, -INFINITY}, shift_[2] = {};  // shift: the reference, scaled; 0 for -inf
  float sum_[2] = {};                                           // of the thread's own elements
};

// Multiplies an output fragment by its rows' factors.
template <int kElements>
__device__ __forceinline__ void scale_rows(float (&o)[kElements], const float (&factor)[2]) {
#pragma unroll
  for (int j = 0; j < kElements; j++) o[j] *= factor[j / 2 % 2];
}

// Accumulator fragment to 16-bit A operand of the next product: element pairs stay where they are.
template <class T, int kElements>
__device__ __forceinline__ void pack_weights(const float (&s)[kElements], uint32_t (&p)[kElements / 2]) {
#pragma unroll
  for (int i = 0; i < kElements / 2; i++) p[i] = pack_16<T>(s[2 * i], s[2 * i + 1]);
}

}  // namespace mi::cuda
