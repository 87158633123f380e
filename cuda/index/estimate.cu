// The last-queries estimate in two passes over the keys: log-sum-exp of each probe row (lse.cu), then the
// sums of P = softmax(Q K^T) over each column and each diagonal. Every sum has a fixed order.
#include "../core/cuda_ops.h"
#include "probe.cuh"

namespace mi::cuda {

namespace {

struct EstimateKernelArgs {
  Probe probe;
  LsePartials partials;
  float *vertical, *slash, *lse;
};

// Sums along the diagonals of a slice's keys, 16 at a time. a[s][e] in lane 4 g + t belongs to the diagonal 8
// (s - 1) + 2 t + e - g above that of (first key, first probe); 16 keys further on, the same diagonal lies
// two slots higher, and the two topmost slots are complete.
class DiagonalSums {
 public:
  // `scratch`: shared memory, [8][16], this warp's.
  __device__ DiagonalSums(const Probe& p, const ProbeWarp& w, float* slash, float* scratch)
      : slash_(slash + int64_t(w.head) * p.kv_len), scratch_(scratch), first_probe_(p.first) {
    const int64_t end_key = w.first_key + p.slice_keys;
    newest_ = p.kv_len - 1;
    oldest_ = int(end_key < p.kv_len ? p.first - end_key + 1 : 0);
    oldest_ = oldest_ > 0 ? oldest_ : 0;
    // Other slices add to these ends as well: two addends onto zero, so their order does not matter.
    shared_from_ = w.first_key > 0 ? p.first - int(w.first_key) : INT32_MAX;
    shared_to_ = end_key < p.kv_len ? int(p.first - end_key + kProbes - 1) : -1;
#pragma unroll
    for (int s = 0; s < 9; s++) a_[s][0] = a_[s][1] = 0;
  }

  // Probabilities of keys [key, key + 16).
  __device__ __forceinline__ void add(int key, const Scores& c) {
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        a_[j + 1][e] += c[j][e];
        a_[j][e] += c[j][e + 2];
      }
    flush(key);
  }

  // After the last keys, which ended before `key`.
  __device__ void finish(int key) {
#pragma unroll 1
    for (int i = 0; i < 5; i++) flush(key + i * kStepKeys);
  }

 private:
  __device__ __forceinline__ void flush(int key) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    __syncwarp();
#pragma unroll
    for (int s = 0; s < 2; s++)
      *reinterpret_cast<float2*>(scratch_ + 16 * g + 8 * s + 2 * t) = make_float2(a_[7 + s][0], a_[7 + s][1]);
    __syncwarp();
    // Lane l < 23 has the diagonal 48 + (l - 7); the lowest 7 get their rest from the next keys.
    float sum = 0;
#pragma unroll
    for (int row = 0; row < 8; row++) {
      const int column = lane - 7 + row;
      if (lane < 23 && column >= 0 && column < 16) sum += scratch_[16 * row + column];
    }
    const float carried = __shfl_up_sync(0xffffffffu, carry_, 16);
    if (lane >= 16) sum += carried;
    carry_ = sum;
    const int distance = first_probe_ - key + 41 + lane;
    if (lane >= 7 && lane < 23 && distance >= oldest_ && distance <= newest_) {
      if (distance > shared_from_ || distance <= shared_to_) atomicAdd(slash_ + distance, sum);
      else slash_[distance] = sum;
    }
#pragma unroll
    for (int s = 8; s >= 2; s--) a_[s][0] = a_[s - 2][0], a_[s][1] = a_[s - 2][1];
    a_[0][0] = a_[0][1] = a_[1][0] = a_[1][1] = 0;
  }

  float* slash_;
  float* scratch_;
  int first_probe_, oldest_, newest_, shared_from_, shared_to_;  // distances, but the first
  float a_[9][2];
  float carry_ = 0;
};

template <class T, int kDepth>
__global__ void __launch_bounds__(kProbeThreads, 1)
    sums_kernel(const __grid_constant__ EstimateKernelArgs args) {
  extern __shared__ __align__(128) char shared[];
  __shared__ float scratch[kProbeWarps][128];
  const Probe& p = args.probe;
  const ProbeWarp w(p);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float* mine = scratch[threadIdx.x / 32];

  float lse[8][2] = {};  // base 2; infinite for probes that do not exist, so that their P is 0
  if (w.active) {
    const float2 both = args.partials.combine(p, w.head, lane);
    mine[lane] = lane < p.probes ? both.x : INFINITY;
    mine[lane + 32] = lane + 32 < p.probes ? both.y : INFINITY;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 8; j++) lse[j][0] = mine[8 * j + 2 * t], lse[j][1] = mine[8 * j + 2 * t + 1];
    if (w.first_key == 0)
      for (int i = lane; i < p.probes; i += 32) args.lse[w.head * p.probes + i] = mine[i] * kLn2;
  }
  DiagonalSums diagonals(p, w, args.slash, mine);
  float* vertical = args.vertical + int64_t(w.head) * p.kv_len;
  int64_t end = w.first_key;

  for_each_step<T, kDepth>(p, w, shared, EveryTile{}, [&](int64_t key, Scores& c) {
    float column[2] = {};
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        c[j][i] = exp2_approx(fmaf(c[j][i], p.scale_log2, -lse[j][i % 2]));
        column[i / 2] += c[j][i];
      }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      column[h] += __shfl_xor_sync(0xffffffffu, column[h], 1);
      column[h] += __shfl_xor_sync(0xffffffffu, column[h], 2);
      const int64_t at = key + g + 8 * h;
      if (t == 0 && at < p.kv_len) vertical[at] = column[h];
    }
    diagonals.add(int(key), c);
    end = key + kStepKeys;
  });
  if (w.active) diagonals.finish(int(end));
}

}  // namespace

uint64_t estimate_workspace(const Launch& launch, const EstimateArgs& a) {
  return lse_partial_bytes(make_probe(launch, a));
}

mi_status estimate(const Launch& launch, const EstimateArgs& a, mi_error* error) {
  const bool half = a.k.dtype == MI_F16;
  const EstimateKernelArgs args{
      make_probe(launch, a), {static_cast<float2*>(a.workspace)}, a.vertical, a.slash, a.lse};
  const mi_status status = queue_lse(launch, args.probe, half, args.partials, a.slash, error);
  if (status != MI_OK) return status;
  return with_operands(args.probe, half, [&](auto type, auto depth) {
    using T = typename decltype(type)::type;
    return queue_probe(launch, args.probe, "estimate", error, sums_kernel<T, depth.value>, args);
  });
}

}  // namespace mi::cuda
