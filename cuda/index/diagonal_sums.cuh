// Sums of the probe's probabilities along diagonals.
#pragma once
#include "probe.cuh"

namespace mi::cuda {

// Of kHeads heads, for a warp that walks a slice of keys in steps of 16 and writes after every kSteps of them. After
// the last of these, a[h][s][e] in lane 4 g + t belongs to the diagonal 8 (s - 1) + 2 t + e - g above that of (its
// first key, first probe); a step further on, the same diagonal lies two slots higher. The topmost slots, 2 kSteps, are
// complete: their diagonals are summed over the lanes.
template <int kHeads, int kSteps>
class DiagonalSums {
  static constexpr int kSlots = 9 + 2 * (kSteps - 1), kComplete = kSteps * kStepKeys;
  static_assert(kComplete <= 32, "a lane writes one of each head");
  static constexpr int kPitch = kComplete < 32 ? kComplete : kComplete + 8;  // lanes' pairs in different banks

 public:
  static constexpr int kScratch = kHeads * 8 * kPitch;  // floats in shared memory, of each warp

  // `slash`: of the first of `heads` heads, [heads][kv_len].
  __device__ DiagonalSums(const Probe& p, int64_t first_key, int heads, float* slash, float* scratch)
      : slash_(slash), scratch_(scratch), heads_(heads), kv_len_(p.kv_len), first_probe_(p.first) {
    const int64_t end_key = first_key + p.slice_keys;
    newest_ = p.kv_len - 1;
    oldest_ = int(end_key < p.kv_len ? p.first - end_key + 1 : 0);
    oldest_ = oldest_ > 0 ? oldest_ : 0;
    // Other slices add to the ends outside these as well: two addends onto zero, so their order does not matter.
    own_from_ = max(oldest_, end_key < p.kv_len ? int(p.first - end_key + kProbes) : 0);
    own_to_ = min(newest_, first_key > 0 ? p.first - int(first_key) : INT32_MAX);
#pragma unroll
    for (int h = 0; h < kHeads; h++)
#pragma unroll
      for (int s = 0; s < kSlots; s++) a_[h][s][0] = a_[h][s][1] = 0;
  }

  // Probabilities of step kStep of kSteps.
  template <int kStep>
  __device__ __forceinline__ void add(const Scores (&c)[kHeads]) {
    constexpr int kFirst = 2 * (kSteps - 1 - kStep);  // the step's slots are kFirst .. kFirst + 8
    if (kStep == 0) advance();
#pragma unroll
    for (int h = 0; h < kHeads; h++)
#pragma unroll
      for (int j = 0; j < 9; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
          a_[h][kFirst + j][e] +=
              j == 0 ? c[h][0][e + 2] : j == 8 ? c[h][7][e] : c[h][j - 1][e] + c[h][j][e + 2];
  }

  // Writes what is complete; `key` is the first of the last step.
  __device__ __forceinline__ void flush(int key) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    __syncwarp();
#pragma unroll
    for (int h = 0; h < kHeads; h++)
#pragma unroll
      for (int s = 0; s < 2 * kSteps; s++)
        *reinterpret_cast<float2*>(scratch_ + (8 * h + g) * kPitch + 8 * s + 2 * t) =
            make_float2(a_[h][7 + s][0], a_[h][7 + s][1]);
    __syncwarp();
    // Lane i has the diagonal 48 + i: columns i + row. Those past the last belong to the diagonal kComplete below,
    // which the next keys complete.
    const int i = lane % kComplete;
    float sum[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; h++) sum[h] = carry_[h], carry_[h] = 0;
#pragma unroll
    for (int row = 0; row < 8; row++) {
      const float* column = scratch_ + row * kPitch + (i + row) % kComplete;
#pragma unroll
      for (int h = 0; h < kHeads; h++) {
        const float x = column[8 * h * kPitch];
        if (i + row < kComplete) sum[h] += x;
        else carry_[h] += x;
      }
    }
    const int distance = first_probe_ - key + 48 + i;
    if (lane >= kComplete || distance < oldest_ || distance > newest_) return;
    const bool own = distance >= own_from_ && distance <= own_to_;
#pragma unroll
    for (int h = 0; h < kHeads; h++) {
      if (h >= heads_) continue;
      float* const to = slash_ + int64_t(h) * kv_len_ + distance;
      if (own) *to = sum[h];
      else atomicAdd(to, sum[h]);
    }
  }

  // After the last flush, that of `key`.
  __device__ void finish(int key) {
    constexpr int kLeft = 5;  // steps until the lowest slot is complete and what it carries over is written
#pragma unroll 1
    for (int step = 0; step < kLeft; step += kSteps) {
      advance();
      flush(key += kSteps * kStepKeys);
    }
  }

 private:
  // kSteps on: the same diagonals lie higher.
  __device__ __forceinline__ void advance() {
#pragma unroll
    for (int h = 0; h < kHeads; h++)
#pragma unroll
      for (int s = kSlots - 1; s >= 0; s--)
#pragma unroll
        for (int e = 0; e < 2; e++) a_[h][s][e] = s < 2 * kSteps ? 0 : a_[h][s - 2 * kSteps][e];
  }

  float* slash_;
  float* scratch_;
  int heads_, kv_len_, first_probe_, oldest_, newest_, own_from_, own_to_;  // from oldest_ on, distances
  float a_[kHeads][kSlots][2], carry_[kHeads] = {};
};

// Distances that a slice shares with the one before it: (first probe - first key, first probe - first key + 63]. They
// are to be zero before either adds.
__device__ inline void clear_shared_diagonals(const Probe& p, int64_t first_key, float* slash /* of the head */) {
  if (first_key == 0) return;
  for (int i = threadIdx.x % 32; i < kProbes - 1; i += 32) {
    const int64_t distance = p.first - first_key + 1 + i;
    if (distance >= 0 && distance < p.kv_len) slash[distance] = 0;
  }
}

}  // namespace mi::cuda
