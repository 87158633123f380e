// Draws one token in one thread block, without sorting: weights are summed in fixed point (so sums do not
// depend on order) into bins by distance from the best logit, and the bin that holds the wanted prefix is
// opened.
#include "../core/cuda_ops.h"

namespace mi::cuda {

namespace {

constexpr int kThreads = 1024;
constexpr int kBins = 1024;        // per level
constexpr int kMost = 1024;        // candidates of an opened bin that are ordered exactly
constexpr float kUnit = 0x1p40f;   // a weight of 1 in fixed point; 2^20 of them stay below 2^63
constexpr float kReach = 27.726f;  // 40 ln 2: candidates further than this below the best weigh nothing

struct Candidate {
  float logit;
  int32_t id;
};

// A prefix of the candidates in descending order, up to and including its last.
struct Prefix {
  uint64_t weight;  // of the whole prefix
  int32_t last;     // id
};

struct Shared {
  uint64_t weights[kBins];
  uint32_t counts[kBins];
  uint64_t warp_sums[32];
  Candidate list[kMost];
  uint32_t listed;
  int bin;
  uint64_t before;  // weight or count ahead of the bin
  uint64_t before_weight;
  Prefix prefix;
  float best;
  int32_t best_id;
  uint64_t total, heavy;
};

class Sampler {
 public:
  __device__ Sampler(const SampleArgs& a, Shared& s, uint32_t* seen) : a_(a), s_(s), seen_(seen) {}

  __device__ int32_t run() {
    mark_history();
    find_best();
    if (s_.best_id == INT32_MAX) return 0;  // all NaN
    if (a_.temperature == 0) return s_.best_id;
    bin_all();
    uint64_t kept = s_.total;
    if (a_.top_k > 0 && a_.top_k < a_.vocab) kept = find_prefix(true, uint64_t(a_.top_k) - 1).weight;
    const uint64_t nucleus = uint64_t(double(a_.top_p) * double(kept));
    if (a_.min_p > 0) kept = min(kept, s_.heavy);
    if (a_.top_p < 1 && nucleus > 0 && nucleus < kept)
      kept = min(kept, find_prefix(false, nucleus - 1).weight);
    if (a_.top_p < 1 && nucleus == 0) return s_.best_id;
    const uint64_t target = uint64_t(uniform(a_.seed, a_.step) * double(kept));
    return find_prefix(false, min(target, kept - 1)).last;
  }

 private:
  // Uniform in [0, 1): output number `step` of SplitMix64 seeded with `seed`, as on the CPU.
  __device__ static double uniform(uint64_t seed, uint64_t step) {
    uint64_t z = seed + (step + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return double(z >> 11) * 0x1p-53;
  }

  __device__ void mark_history() {
    if (!seen_) return;
    for (int i = threadIdx.x; i < (a_.vocab + 31) / 32; i += kThreads) seen_[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < a_.history_length; i += kThreads) {
      const int32_t id = a_.history[i];
      if (id >= 0 && id < a_.vocab) atomicOr(&seen_[id / 32], 1u << id % 32);
    }
    __syncthreads();
  }
  __device__ float logit(int id) const {
    const float x = a_.logits[id];
    if (!seen_ || !(seen_[id / 32] >> id % 32 & 1)) return x;
    return x > 0 ? __fdiv_rn(x, a_.repetition_penalty) : x * a_.repetition_penalty;
  }

  // Order of candidates: higher logit first, lower id among equals.
  __device__ static bool ahead(float x, int32_t i, float y, int32_t j) { return x != y ? x > y : i < j; }

  __device__ void find_best() {
    float best = -INFINITY;
    int32_t id = INT32_MAX;
#pragma unroll 4
    for (int i = threadIdx.x; i < a_.vocab; i += kThreads) {
      const float x = logit(i);
      if (!isnan(x) && (id == INT32_MAX || x > best)) best = x, id = i;
    }
    for (int o = 16; o; o /= 2) {
      const float x = __shfl_xor_sync(0xffffffffu, best, o);
      const int32_t j = __shfl_xor_sync(0xffffffffu, id, o);
      if (ahead(x, j, best, id)) best = x, id = j;
    }
    if (threadIdx.x % 32 == 0) s_.list[threadIdx.x / 32] = {best, id};
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kThreads / 32; w++)
        if (ahead(s_.list[w].logit, s_.list[w].id, best, id)) best = s_.list[w].logit, id = s_.list[w].id;
      s_.best = best;
      s_.best_id = id;
    }
    __syncthreads();
  }

  __device__ float relative_weight(float x) const {
    return x == s_.best ? 1.0f : expf(__fdiv_rn(x - s_.best, a_.temperature));
  }
  __device__ static uint64_t fixed(float weight) { return uint64_t(weight * kUnit); }
  // Monotone in the logit; candidates beyond reach share the last bin.
  __device__ float depth(float x) const {
    return x == s_.best ? 0.0f : fminf(__fdiv_rn(s_.best - x, a_.temperature * kReach) * kBins, kBins - 1.0f);
  }
  __device__ static int sub_bin(float depth, int bin) {
    return min(int((depth - float(bin)) * kBins), kBins - 1);
  }

  __device__ void clear_bins() {
    s_.weights[threadIdx.x] = 0;
    s_.counts[threadIdx.x] = 0;
    __syncthreads();
  }
  __device__ void add(int bin, float weight) {
    atomicAdd(reinterpret_cast<unsigned long long*>(&s_.weights[bin]), (unsigned long long)fixed(weight));
    atomicAdd(&s_.counts[bin], 1u);
  }

  // First level, with the sums of all candidates and of those that min_p keeps.
  __device__ void bin_all() {
    if (threadIdx.x == 0) s_.total = s_.heavy = 0;
    clear_bins();
    uint64_t total = 0, heavy = 0;
#pragma unroll 4
    for (int i = threadIdx.x; i < a_.vocab; i += kThreads) {
      const float x = logit(i);
      if (isnan(x)) continue;
      const float w = relative_weight(x);
      total += fixed(w);
      if (w >= a_.min_p) heavy += fixed(w);
      add(int(depth(x)), w);
    }
    atomicAdd(reinterpret_cast<unsigned long long*>(&s_.total), (unsigned long long)total);
    atomicAdd(reinterpret_cast<unsigned long long*>(&s_.heavy), (unsigned long long)heavy);
    __syncthreads();
    level_weights_ = s_.weights[threadIdx.x];
    level_counts_ = s_.counts[threadIdx.x];
  }

  __device__ uint64_t inclusive_scan(uint64_t x) {
    for (int o = 1; o < 32; o *= 2) {
      const uint64_t y = __shfl_up_sync(0xffffffffu, x, o);
      if (threadIdx.x % 32 >= o) x += y;
    }
    if (threadIdx.x % 32 == 31) s_.warp_sums[threadIdx.x / 32] = x;
    __syncthreads();
    for (int w = 0; w < int(threadIdx.x) / 32; w++) x += s_.warp_sums[w];
    __syncthreads();
    return x;
  }

  // Thread b holds bin b. Chooses the bin where the running sum first exceeds `target`; s_.before becomes the
  // sum ahead of it.
  __device__ void choose_bin(bool by_count, uint64_t target, uint64_t weight, uint32_t count, uint64_t before,
                             uint64_t before_weight) {
    const uint64_t value = by_count ? count : weight;
    const uint64_t until = before + inclusive_scan(value);
    const uint64_t weight_until = before_weight + inclusive_scan(weight);
    // Without a hit (rounding of the target) the last bin with candidates wins.
    if (threadIdx.x == 0) s_.bin = -1;
    __syncthreads();
    if (until > target && until - value <= target) {
      s_.bin = threadIdx.x;
      s_.before = until - value;
      s_.before_weight = weight_until - weight;
    }
    __syncthreads();
  }

  // The shortest prefix whose count or weight exceeds `target`.
  __device__ Prefix find_prefix(bool by_count, uint64_t target) {
    choose_bin(by_count, target, level_weights_, level_counts_, 0, 0);
    if (s_.bin < 0) return {s_.total, s_.best_id};  // a count beyond all candidates
    const int bin = s_.bin;
    const uint64_t before = s_.before, before_weight = s_.before_weight;
    clear_bins();
#pragma unroll 4
    for (int i = threadIdx.x; i < a_.vocab; i += kThreads) {
      const float x = logit(i);
      if (!isnan(x) && int(depth(x)) == bin) add(sub_bin(depth(x), bin), relative_weight(x));
    }
    __syncthreads();
    choose_bin(by_count, target, s_.weights[threadIdx.x], s_.counts[threadIdx.x], before, before_weight);
    const int sub = s_.bin;
    if (s_.counts[sub] > kMost) pick_by_id(by_count, target, bin, sub);
    else pick_ordered(by_count, target, bin, sub);
    const Prefix found = s_.prefix;
    __syncthreads();
    return found;
  }

  __device__ bool in_bin(float x, int bin, int sub) const {
    return !isnan(x) && int(depth(x)) == bin && sub_bin(depth(x), bin) == sub;
  }

  __device__ void pick_ordered(bool by_count, uint64_t target, int bin, int sub) {
    if (threadIdx.x == 0) s_.listed = 0;
    __syncthreads();
#pragma unroll 4
    for (int i = threadIdx.x; i < a_.vocab; i += kThreads) {
      const float x = logit(i);
      if (in_bin(x, bin, sub)) s_.list[atomicAdd(&s_.listed, 1u)] = {x, i};
    }
    __syncthreads();
    const int n = int(s_.listed);
    Candidate mine{};
    int rank = 0;
    if (int(threadIdx.x) < n) {
      mine = s_.list[threadIdx.x];
      for (int i = 0; i < n; i++) rank += ahead(s_.list[i].logit, s_.list[i].id, mine.logit, mine.id);
    }
    __syncthreads();
    if (int(threadIdx.x) < n) s_.list[rank] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
      uint64_t sum = s_.before, weight = s_.before_weight;
      for (int i = 0; i < n; i++) {
        const uint64_t w = fixed(relative_weight(s_.list[i].logit));
        sum += by_count ? 1 : w;
        weight += w;
        s_.prefix = {weight, s_.list[i].id};
        if (sum > target) break;
      }
    }
    __syncthreads();
  }

  // More than kMost candidates within a millionth of the range are ties for every purpose: in order of id.
  __device__ void pick_by_id(bool by_count, uint64_t target, int bin, int sub) {
    const int chunk = (a_.vocab + kThreads - 1) / kThreads, first = threadIdx.x * chunk;
    uint64_t count = 0, weight = 0;
    for (int i = first; i < min(first + chunk, a_.vocab); i++) {
      const float x = logit(i);
      if (in_bin(x, bin, sub)) count++, weight += fixed(relative_weight(x));
    }
    uint64_t sum = s_.before + inclusive_scan(by_count ? count : weight) - (by_count ? count : weight);
    uint64_t passed = s_.before_weight + inclusive_scan(weight) - weight;
    if (sum <= target && sum + (by_count ? count : weight) > target) {
      for (int i = first; sum <= target; i++) {
        const float x = logit(i);
        if (!in_bin(x, bin, sub)) continue;
        const uint64_t w = fixed(relative_weight(x));
        sum += by_count ? 1 : w;
        passed += w;
        s_.prefix = {passed, i};
      }
    }
    __syncthreads();
  }

  const SampleArgs& a_;
  Shared& s_;
  uint32_t* seen_;
  uint64_t level_weights_ = 0;  // this thread's bin of the first level
  uint32_t level_counts_ = 0;
};

__global__ void __launch_bounds__(kThreads)
    sample_kernel(const __grid_constant__ SampleArgs a, bool penalise) {
  __shared__ Shared shared;
  extern __shared__ uint32_t seen[];  // a bit per token of the vocabulary
  Sampler sampler(a, shared, penalise ? seen : nullptr);
  const int32_t id = sampler.run();
  if (threadIdx.x == 0) *a.out = id;
}

}  // namespace

mi_status sample(const Launch& launch, const SampleArgs& a, mi_error* error) {
  const bool penalise = a.repetition_penalty != 1 && a.history_length > 0;
  const size_t bytes = penalise ? (size_t(a.vocab) + 31) / 32 * 4 : 0;
  if (bytes + sizeof(Shared) > size_t(launch.shared_bytes))
    return fail(error, MI_UNSUPPORTED, "sample: a repetition penalty over %d tokens needs %zu bytes of shared memory, "
                "the device has %d", a.vocab, bytes + sizeof(Shared), launch.shared_bytes);
  if (bytes > 0) cudaFuncSetAttribute(sample_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  sample_kernel<<<1, kThreads, bytes, launch.stream>>>(a, penalise);
  return check_launch("sample", error);
}

}  // namespace mi::cuda
