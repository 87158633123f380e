// Selection of the largest values of a list by one thread block: radix select, then an ordered compaction, so
// that output is ascending, deterministic, and the lowest index wins among equals. Of a long list the block
// reads only a part: the k largest values lie in the k groups with the largest peaks (prepare.cu).
#pragma once
#include <cstdint>

#include "work_list.h"

namespace mi::cuda {

constexpr int kSelectThreads = 1024, kSelectWarps = kSelectThreads / 32;
constexpr int kRadixBins = 2048;  // 11 + 11 + 10 bits

// Orders as the float does, NaN below everything, -0 equal to 0.
__device__ inline uint32_t ordered_bits(float x) {
  if (isnan(x)) return 0;
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float from_ordered_bits(uint32_t x) {
  return __uint_as_float(x & 0x80000000u ? x & 0x7fffffffu : ~x);
}

// Sums of attention mass are kept in fixed point: they do not depend on the order of addition, and a head's
// whole mass, at most 64, is far from the limit.
constexpr double kMassUnit = 0x1p40;
__device__ inline uint64_t fixed_mass(float x) { return x > 0 ? uint64_t(double(x) * kMassUnit) : 0; }

// Values of a group, whose peak is the largest of them.
constexpr int kGroupValues = 16;
// Whether the peaks of n values narrow down a choice of `wanted` by enough.
MI_HD inline bool peaks_help(int64_t n, int64_t wanted) { return n >= 2 * kGroupValues * wanted; }

// A list of values, or of the values of some of its groups one after the other.
struct ValueList {
  const float* values;
  uint32_t n;             // values there are
  const int32_t* groups;  // ascending; null = all

  __device__ uint32_t index(uint32_t i) const {
    return groups ? uint32_t(groups[i / kGroupValues]) * kGroupValues + i % kGroupValues : i;
  }
  // Past the end of a short last group NaN, which ranks lowest.
  __device__ float operator[](uint32_t i) const {
    const uint32_t at = index(i);
    return at < n ? values[at] : __int_as_float(0x7fc00000);
  }
};

struct SelectShared {
  uint32_t counts[kRadixBins];
  uint64_t sums[kRadixBins];
  uint64_t warp_values[kSelectWarps];
  uint32_t warp_counts[2][kSelectWarps];
  int bin;
  uint64_t before_count, before_sum;
};

// The chosen values: those above `key` (in ordered bits) and the first `ties` of those equal to it.
struct Threshold {
  uint32_t key;
  uint32_t ties;
  uint64_t count, sum;  // of all that are chosen; sum in kMassUnit, by sum only
};

__device__ inline uint64_t block_inclusive_scan(uint64_t x, SelectShared& s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    const uint64_t y = __shfl_up_sync(0xffffffffu, x, o);
    if (lane >= o) x += y;
  }
  if (lane == 31) s.warp_values[warp] = x;
  __syncthreads();
  for (int w = 0; w < warp; w++) x += s.warp_values[w];
  __syncthreads();
  return x;
}

// Finds the bin, from the top, in which the running count reaches `wanted` (by sum: the sum reaches `need`,
// or the count passes `wanted`). s.bin is -1 without one; s.before_* are the sums above the bin.
template <bool by_sum>
__device__ inline void choose_bin(uint64_t wanted, uint64_t need, SelectShared& s) {
  if (threadIdx.x == 0) s.bin = -1;
  const int high = kRadixBins - 1 - 2 * threadIdx.x;  // this thread's two bins, from the top
  const uint64_t pair_count = uint64_t(s.counts[high]) + s.counts[high - 1];
  const uint64_t pair_sum = by_sum ? s.sums[high] + s.sums[high - 1] : 0;
  uint64_t count = block_inclusive_scan(pair_count, s) - pair_count;
  uint64_t sum = by_sum ? block_inclusive_scan(pair_sum, s) - pair_sum : 0;
  const auto reached = [&](uint64_t c, uint64_t total) {
    return by_sum ? total >= need || c > wanted : c >= wanted;
  };
  for (int b = high; b >= high - 1; b--) {
    const uint64_t count_after = count + s.counts[b], sum_after = sum + (by_sum ? s.sums[b] : 0);
    if (!reached(count, sum) && reached(count_after, sum_after)) {
      s.bin = b;
      s.before_count = count;
      s.before_sum = sum;
    }
    count = count_after;
    sum = sum_after;
  }
  __syncthreads();
}

// The `wanted` largest of the first n of a list; or, by sum, the fewest positive, finite ones that sum up to `need`,
// at most `wanted`. Needs 0 < wanted, and by count wanted <= n. Not inlined: it is called from many places.
template <bool by_sum>
__device__ __noinline__ Threshold find_threshold(const ValueList values, uint32_t n, uint64_t wanted,
                                                 uint64_t need, SelectShared& s) {
  uint32_t prefix = 0, known = 0;
  uint64_t count = 0, sum = 0;
#pragma unroll 1
  for (int level = 0; level < 3; level++) {
    const int shift = level == 0 ? 21 : level == 1 ? 10 : 0;
    const uint32_t mask = level == 2 ? 1023 : 2047;
    __syncthreads();
    for (int b = threadIdx.x; b < kRadixBins; b += kSelectThreads) {
      s.counts[b] = 0;
      if (by_sum) s.sums[b] = 0;
    }
    __syncthreads();
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < n; i += kSelectThreads) {
      const float x = values[i];
      const uint32_t key = ordered_bits(x);
      if ((key & known) != prefix || (by_sum && !(x > 0 && x < INFINITY))) continue;
      const uint32_t bin = key >> shift & mask;
      atomicAdd(&s.counts[bin], 1u);
      if (by_sum)
        atomicAdd(reinterpret_cast<unsigned long long*>(&s.sums[bin]), (unsigned long long)fixed_mass(x));
    }
    __syncthreads();
    choose_bin<by_sum>(wanted - count, need - sum, s);
    if (by_sum && s.bin < 0) {  // all positive values together are too little, which only the first level can find
      const uint64_t last = kSelectThreads - 1;
      if (threadIdx.x == last) {
        uint64_t all_count = 0, all_sum = 0;
        for (int b = 0; b < kRadixBins; b++) all_count += s.counts[b], all_sum += s.sums[b];
        s.before_count = all_count;
        s.before_sum = all_sum;
      }
      __syncthreads();
      return {0x80000000u, 0, s.before_count, s.before_sum};
    }
    count += s.before_count;
    sum += s.before_sum;
    prefix |= uint32_t(s.bin) << shift;
    known |= mask << shift;
  }
  uint64_t ties = wanted - count;
  if (by_sum) {
    const uint64_t each = fixed_mass(from_ordered_bits(prefix));
    const uint64_t enough = each > 0 ? (need - sum + each - 1) / each : ties;
    const uint64_t present = s.counts[s.bin];
    ties = min(min(ties, enough), present);
    sum += ties * each;
  }
  __syncthreads();
  return {prefix, uint32_t(ties), count + ties, sum};
}

// The fewest of the largest values (positive, finite) that sum up to `need`, at most `limit`: their count and
// sum.
__device__ inline Threshold fewest_for_sum(const float* values, int64_t n, uint64_t need, int64_t limit,
                                           SelectShared& s) {
  if (need == 0 || limit <= 0 || n <= 0) return {};
  return find_threshold<true>({values, uint32_t(n), nullptr}, uint32_t(n), uint64_t(limit), need, s);
}

// emit(position, i) for every chosen index i, positions ascending with i.
template <class Emit>
__device__ void emit_chosen(const ValueList values, uint32_t n, const Threshold& t, SelectShared& s,
                            const Emit& emit) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto chunk = uint32_t(round_up(ceil_div(n, kSelectWarps), 128));
  const uint32_t first = warp * chunk, last = first + chunk < n ? first + chunk : n;
  uint32_t above = 0, equal = 0;
#pragma unroll 4
  for (uint32_t i = first + lane; i < last; i += 32) {
    const uint32_t key = ordered_bits(values[i]);
    above += key > t.key;
    equal += key == t.key;
  }
#pragma unroll
  for (int o = 16; o; o /= 2) {
    above += __shfl_xor_sync(0xffffffffu, above, o);
    equal += __shfl_xor_sync(0xffffffffu, equal, o);
  }
  if (lane == 0) s.warp_counts[0][warp] = above, s.warp_counts[1][warp] = equal;
  __syncthreads();
  uint32_t above_before = 0, equal_before = 0;
  for (int w = 0; w < warp; w++) above_before += s.warp_counts[0][w], equal_before += s.warp_counts[1][w];
  __syncthreads();
  uint32_t at = above_before + min(equal_before, t.ties);
  if (above + equal == 0) return;
  for (uint32_t base = first; base < last; base += 128) {
#pragma unroll
    for (int part = 0; part < 4; part++) {
      const uint32_t i = base + 32 * part + lane;
      const uint32_t key = i < last ? ordered_bits(values[i]) : 0;
      const bool is_equal = i < last && key == t.key;
      const uint32_t ties = __ballot_sync(0xffffffffu, is_equal), before = (1u << lane) - 1;
      const bool chosen =
          i < last && (key > t.key || (is_equal && equal_before + __popc(ties & before) < t.ties));
      const uint32_t set = __ballot_sync(0xffffffffu, chosen);
      if (chosen) emit(at + __popc(set & before), i);
      at += __popc(set);
      equal_before += __popc(ties);
    }
  }
}

// Peaks of the groups of a list, and room for the groups that are chosen. Null without peaks.
struct Peaks {
  const float* values;
  int32_t* chosen;
};

// emit(position, i), ascending, for the `wanted` indices with the largest values; the first `forced` rank
// above all others. `peaks` are of the values behind those. Returns how many.
template <class Emit>
__device__ int64_t select_top(const float* values, int64_t n, int64_t wanted, int64_t forced,
                              const Peaks& peaks, SelectShared& s, const Emit& emit) {
  if (wanted > n) wanted = n;
  if (forced > wanted) forced = wanted;
  for (int64_t i = threadIdx.x; i < forced; i += kSelectThreads) emit(i, i);
  const int64_t rest = wanted - forced;
  if (rest > 0) {
    ValueList list{values + forced, uint32_t(n - forced), nullptr};
    uint32_t length = list.n;
    if (peaks.values && peaks_help(list.n, rest)) {
      const auto groups = uint32_t(ceil_div(list.n, kGroupValues));
      const ValueList of_groups{peaks.values, groups, nullptr};
      const Threshold t = find_threshold<false>(of_groups, groups, uint64_t(rest), 0, s);
      emit_chosen(of_groups, groups, t, s, [&](uint32_t at, uint32_t i) { peaks.chosen[at] = int32_t(i); });
      __syncthreads();
      list.groups = peaks.chosen;
      length = uint32_t(rest) * kGroupValues;
    }
    const Threshold t = find_threshold<false>(list, length, uint64_t(rest), 0, s);
    emit_chosen(list, length, t, s,
                [&](uint32_t at, uint32_t i) { emit(forced + at, forced + list.index(i)); });
  }
  __syncthreads();
  return wanted;
}

}  // namespace mi::cuda
