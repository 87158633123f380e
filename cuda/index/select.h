// Selection of the largest values: deterministic, ascending output, without sorting everything.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

namespace mi::cpu {

// Orders as the float does, NaN below everything, -0 equal to 0.
inline uint32_t ordered_bits(float x) {
  if (x != x) return 0;
  x += 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// emit(i), ascending, for the k indices with the largest values; the first `forced` rank above all others,
// and among equals the lowest index wins. Radix select: three passes over the values narrow down the k-th
// largest.
template <class Emit>
void top_k(const float* values, int64_t n, int64_t k, int64_t forced, const Emit& emit) {
  forced = std::min(forced, std::min(n, k));
  for (int64_t i = 0; i < forced; i++) emit(i);
  int64_t wanted = std::min(n, k) - forced;
  if (wanted == 0) return;
  uint32_t prefix = 0, known = 0;  // the bits of the k-th largest found so far
  for (const int shift : {21, 10, 0}) {
    const int bits = shift ? 11 : 10;
    int64_t count[2048] = {};
    for (int64_t i = forced; i < n; i++) {
      const uint32_t x = ordered_bits(values[i]);
      if ((x & known) == prefix) count[x >> shift & ((1u << bits) - 1)]++;
    }
    uint32_t bin = (1u << bits) - 1;
    for (; count[bin] < wanted; bin--) wanted -= count[bin];
    prefix |= bin << shift;
    known |= ((1u << bits) - 1) << shift;
  }
  for (int64_t i = forced; i < n; i++) {  // `wanted` is now how many equal to the k-th largest are in
    const uint32_t x = ordered_bits(values[i]);
    if (x > prefix || (x == prefix && wanted-- > 0)) emit(i);
  }
}

// The fewest of the largest values (not negative, not NaN) that sum up to `need`; at most `limit`, none that
// is zero.
struct Prefix {
  int64_t count;
  double sum;
};
inline Prefix fewest_for_sum(const float* values, int64_t n, double need, int64_t limit,
                             float* scratch /* [n] */) {
  Prefix p{0, 0};
  if (need <= 0) return p;
  constexpr int kShift = 20, kBins = 2048;  // of an eighth of an octave; the sign bit is always set
  int64_t count[kBins] = {};
  double sum[kBins] = {};
  for (int64_t i = 0; i < n; i++) {
    const uint32_t bin = ordered_bits(values[i]) >> kShift & (kBins - 1);
    count[bin]++;
    sum[bin] += values[i];
  }
  uint32_t bin = kBins - 1;
  for (; bin > 0 && p.sum + sum[bin] < need && p.count + count[bin] <= limit; bin--) {
    p.sum += sum[bin];
    p.count += count[bin];
  }
  int64_t inside = 0;
  for (int64_t i = 0; i < n; i++)
    if ((ordered_bits(values[i]) >> kShift & (kBins - 1)) == bin) scratch[inside++] = values[i];
  std::sort(scratch, scratch + inside, [](float a, float b) { return a > b; });
  for (int64_t i = 0; i < inside && p.sum < need && p.count < limit && scratch[i] > 0; i++) {
    p.sum += scratch[i];
    p.count++;
  }
  return p;
}

}  // namespace mi::cpu
