// Budgets by mass: the split between bands and columns that the CPU twin explains (vertical_slash_cpu.cpp).
#pragma once
#include "bands.cuh"

namespace mi::cuda {

constexpr double kBandPremium = 1.25;
constexpr int kBandShares = 7;
__device__ inline double band_share(int i) {  // of the wanted mass, by bands
  return i == 0 ? 0.0 : i == 1 ? 0.5 : i == 2 ? 0.7 : i == 3 ? 0.8 : i == 4 ? 0.9 : i == 5 ? 0.95 : 1.0;
}

// One head's selection state, alike in all threads of the block.
class HeadSelection {
 public:
  __device__ HeadSelection(const IndexKernelArgs& a, int head, SelectShared& s)
      : a_(a), p_(a.heads[head]), s_(s), kv_len_(a.probe.kv_len), vertical_(a.vertical + head * kv_len_),
        slash_(a.slash + head * kv_len_), bands(a.at<Band>(p_.bands)), columns(a.at<int32_t>(p_.columns_at)),
        ids_(a.ids + p_.slot * a.ids_stride) {
    units_ = p_.selection == MI_BANDED ? a.unit_mass + p_.slot * a.unit_stride : slash_;
  }

  // The `count` best distances or tiles become bands.
  __device__ void take_bands(int64_t count) {
    int32_t* const chain = a_.chain + p_.slot * a_.ids_stride;
    const Peaks peaks{p_.unit_peaks ? a_.peaks_of(p_.slot, 1) : nullptr, chain};
    const int64_t chosen = select_top(units_, p_.units, count, p_.forced_units, peaks, s_,
                                      [&](int64_t at, int64_t i) { ids_[at] = int32_t(i); });
    band_count = p_.selection == MI_BANDED ? bands_of_tiles(ids_, chosen, bands, s_)
                                           : bands_of_distances(ids_, chosen, bands, chain, s_);
    __syncthreads();
  }
  __device__ void take_columns(const float* mass, int64_t count) {
    column_count = select_top(mass, kv_len_, count, kForcedColumns, Peaks{}, s_,
                              [&](int64_t at, int64_t j) { columns[at] = int32_t(j); });
  }

  // Splits the wanted mass between bands and columns. False if the estimate is not finite.
  __device__ bool fill_by_mass() {
    bool finite = true;
    const uint64_t total = sum_mass([&](int64_t j) {
      finite = finite && isfinite(vertical_[j]);
      return vertical_[j];
    });
    if (__syncthreads_or(!finite)) return false;
    wanted_ = uint64_t(double(p_.mass) * double(total) * (1 - 1e-6));
    forced_columns_ = kForcedColumns < kv_len_ ? kForcedColumns : kv_len_;
    __shared__ Split splits[kBandShares];
    double cheapest = INFINITY;
    Split last{-1};
#pragma unroll 1
    for (int i = 0; i < kBandShares; i++) {
      const int64_t units = units_for(uint64_t(band_share(i) * double(wanted_)));
      if (units != last.units) last = complete(units);
      if (last.covered >= wanted_ && last.tiles < cheapest) cheapest = last.tiles;
      if (threadIdx.x == 0) splits[i] = last;
    }
    __syncthreads();
    Split best = splits[0];
    for (int i = 0; i < kBandShares; i++)
      if (splits[i].covered >= wanted_ ? splits[i].tiles <= kBandPremium * cheapest
                                       : best.covered < wanted_ && splits[i].covered > best.covered)
        best = splits[i];
    if (best.covered < wanted_) {  // the upper bounds bind
      const Split all = complete(p_.unit_limit);
      if (all.covered > best.covered) best = all;
    }
    complete(best.units);
    take_columns(residual(), best.columns);
    return true;
  }

 private:
  struct Split {
    int64_t units, columns;
    double tiles;      // 64 x 64 tiles per row block
    uint64_t covered;  // mass
  };

  __device__ float* residual() const { return a_.residual + p_.slot * kv_len_; }

  __device__ uint64_t block_sum(uint64_t x) {
    const uint64_t until = block_inclusive_scan(x, s_);
    if (threadIdx.x == kSelectThreads - 1) s_.before_sum = until;
    __syncthreads();
    const uint64_t sum = s_.before_sum;
    __syncthreads();
    return sum;
  }
  template <class Value>
  __device__ uint64_t sum_mass(const Value& value) {
    uint64_t sum = 0;
    for (int64_t j = threadIdx.x; j < kv_len_; j += kSelectThreads) sum += fixed_mass(value(j));
    return block_sum(sum);
  }

  __device__ Threshold fewest(const float* values, int64_t n, uint64_t need, int64_t limit) {
    return fewest_for_sum(values, n, need, limit, s_);
  }

  __device__ int64_t units_for(uint64_t need) {
    uint64_t forced = 0;
    for (int i = 0; i < p_.forced_units; i++) forced += fixed_mass(units_[i]);
    const uint64_t rest = need > forced ? need - forced : 0;
    return p_.forced_units + int64_t(fewest(units_ + p_.forced_units, p_.units - p_.forced_units, rest,
                                            p_.unit_limit - p_.forced_units).count);
  }

  // residual[j] = mass of key j on the probe cells that no band holds. Returns the mass in the bands.
  __device__ uint64_t fill_residual() {
    float* const out = residual();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t chunk = round_up(ceil_div(kv_len_, kSelectWarps), 32);
    const int64_t first = warp * chunk, last = first + chunk < kv_len_ ? first + chunk : kv_len_;
    const bool two = a_.probe_blocks.split > 0;
    uint64_t inside = 0;
    // Keys ascend, so the band that may hold them only moves towards the row block.
    int64_t cursor[2];
    for (int b = 0; b < 2; b++) {
      const int64_t band =
          first_band_past(bands, band_count, a_.end(a_.probe_blocks.last - 1 + b) - 1 - first);
      cursor[b] = band < band_count ? band : band_count - 1;
    }
    for (int64_t base = first; base < last; base += 32) {
      const int64_t j = base + lane;
      float left = 0;
      for (int b = two ? 0 : 1; b < 2; b++) {
        const int64_t y = a_.end(a_.probe_blocks.last - 1 + b) - 1 - j;
        int64_t at = cursor[b];
        while (at >= 0 && y < int64_t(bands[at].near)) at--;
        cursor[b] = __shfl_sync(0xffffffffu, at, 31);
        if (j >= last) continue;
        float mass = vertical_[j];
        if (two) {
          const float early = a_.key_mass[p_.slot * kv_len_ + j];
          mass = b == 0 ? early : fmaxf(0.0f, mass - early);
        }
        if (at >= 0 && y >= 0 && y < int64_t(bands[at].far)) inside += fixed_mass(mass);
        else left += mass;
      }
      if (j < last) out[j] = left;
    }
    return block_sum(inside);
  }

  // Takes the `units` best bands, then columns until the wanted mass is covered.
  __device__ __noinline__ Split complete(int64_t units) {
    take_bands(units);
    uint64_t covered = fill_residual();
    const float* left = residual();
    for (int64_t j = 0; j < forced_columns_; j++) covered += fixed_mass(left[j]);
    const Threshold more = fewest(left + forced_columns_, kv_len_ - forced_columns_,
                                  wanted_ > covered ? wanted_ - covered : 0, p_.columns - forced_columns_);
    uint64_t tiles = 0;
    for (int64_t i = threadIdx.x; i < band_count; i += kSelectThreads)
      tiles += uint64_t(width_tiles(bands[i]));
    tiles = block_sum(tiles);
    const int64_t chosen = forced_columns_ + int64_t(more.count);
    return {units, chosen, double(chosen) / MI_BLOCK + double(tiles), covered + more.sum};
  }

  const IndexKernelArgs& a_;
  const HeadPlan& p_;
  SelectShared& s_;
  const int64_t kv_len_;
  const float *vertical_, *slash_;

 public:
  Band* const bands;
  int32_t* const columns;
  int64_t band_count = 0, column_count = 0;

 private:
  int32_t* const ids_;
  const float* units_;  // mass of each distance or tile
  int64_t forced_columns_ = 0;
  uint64_t wanted_ = 0;
};

}  // namespace mi::cuda
