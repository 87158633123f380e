// From chosen distances or tiles to bands, and from bands to what the coverage kernel reads. All by one
// thread block.
#pragma once
#include "plan.cuh"
#include "select.cuh"

namespace mi::cuda {

// Bands of ascending tiles: neighbours merge. Returns how many.
__device__ inline int64_t bands_of_tiles(const int32_t* tiles, int64_t count, Band* bands, SelectShared& s) {
  uint64_t before = 0;
  for (int64_t base = 0; base < count; base += kSelectThreads) {
    const int64_t i = base + threadIdx.x;
    const bool starts = i < count && (i == 0 || tiles[i] != tiles[i - 1] + 1);
    const bool ends = i < count && (i + 1 == count || tiles[i + 1] != tiles[i] + 1);
    const uint64_t band = before + block_inclusive_scan(starts, s);  // 1-based
    if (starts) bands[band - 1].near = uint32_t(MI_BLOCK * tiles[i]);
    if (ends) bands[band - 1].far = uint32_t(MI_BLOCK * (tiles[i] + 1));
    if (threadIdx.x == kSelectThreads - 1) s.before_count = band;
    __syncthreads();
    before = s.before_count;
    __syncthreads();
  }
  return int64_t(before);
}

// Bands of ascending distances by upstream's chain (bands.h): the farthest first; a range that the next one
// overlaps or touches grows by a full 64 towards the row block. A range never passes the distance that made
// it grow by 64 or more, so a distance behind a gap of 128 begins one whatever came before: warps work on
// such segments apart, each jumping from one growth to the next. `near_of`: [count], scratch.
__device__ inline int64_t bands_of_distances(const int32_t* distances, int64_t count, Band* bands,
                                             int32_t* near_of, SelectShared& s) {
  constexpr int32_t kNone = INT32_MIN;
  for (int64_t i = threadIdx.x; i < count; i += kSelectThreads) near_of[i] = kNone;
  __syncthreads();

  // This warp's segments begin, at their farthest distance, among elements [low, high).
  const int lane = threadIdx.x % 32;
  const int64_t chunk = ceil_div(count, kSelectWarps), low = threadIdx.x / 32 * chunk;
  const int64_t high = low + chunk < count ? low + chunk : count;
  int64_t opener = -1;  // the element whose range is open
  int32_t near = 0;
  const auto close = [&] {
    if (opener >= 0 && lane == 0) near_of[opener] = near;
  };
  bool done = false;
  for (int64_t base = high - 1; base >= (opener >= 0 ? 0 : low) && !done; base -= 32) {
    const int64_t i = base - lane;  // descending
    const int32_t distance = i >= 0 ? distances[i] : 0;
    const bool begins = i >= 0 && (i + 1 == count || distances[i + 1] - distance >= 2 * MI_BLOCK);
    const uint32_t beginnings = __ballot_sync(0xffffffffu, begins);
    for (;;) {
      const uint32_t closer =
          __ballot_sync(0xffffffffu, opener >= 0 ? i >= 0 && distance < near : begins && i >= low);
      if (closer == 0) break;
      const int from = __ffs(int(closer)) - 1;
      const int32_t next = __shfl_sync(0xffffffffu, distance, from);
      const bool begin = beginnings >> from & 1;
      if (begin && base - from < low) {  // another warp's
        done = true;
        break;
      }
      if (!begin && next >= near - MI_BLOCK) {
        near -= MI_BLOCK;
      } else {
        close();
        near = next;
        opener = base - from;
      }
    }
  }
  close();
  __syncthreads();

  uint64_t before = 0;
  for (int64_t base = 0; base < count; base += kSelectThreads) {
    const int64_t i = base + threadIdx.x;
    const int32_t from = i < count ? near_of[i] : kNone;
    const uint64_t band = before + block_inclusive_scan(from != kNone, s);  // 1-based
    if (from != kNone) bands[band - 1] = {uint32_t(from > 0 ? from : 0), uint32_t(distances[i] + MI_BLOCK)};
    if (threadIdx.x == kSelectThreads - 1) s.before_count = band;
    __syncthreads();
    before = s.before_count;
    __syncthreads();
  }
  return int64_t(before);
}

__device__ inline int64_t width_tiles(const Band& b) { return ceil_div(int64_t(b.far) - b.near, MI_BLOCK); }

// before[i] = tiles of bands 0 .. i - 1. Returns the tiles of all.
__device__ inline uint64_t fill_band_tiles(const Band* bands, int64_t count, uint32_t* before,
                                           SelectShared& s) {
  uint64_t sum = 0;
  for (int64_t base = 0; base < count; base += kSelectThreads) {
    const int64_t i = base + threadIdx.x;
    const uint64_t width = i < count ? uint64_t(width_tiles(bands[i])) : 0;
    const uint64_t until = sum + block_inclusive_scan(width, s);
    if (i < count) before[i] = uint32_t(until - width);
    if (threadIdx.x == kSelectThreads - 1) s.before_count = until;
    __syncthreads();
    sum = s.before_count;
    __syncthreads();
  }
  return sum;
}

// First band with far > y: the one that holds y = end - 1 - key, if any does.
__device__ inline int64_t first_band_past(const Band* bands, int64_t count, int64_t y) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (int64_t(bands[middle].far) > y) high = middle;
    else low = middle + 1;
  }
  return low;
}

// needed[r][w], bit b: no band holds y = 64 (32 w + b) + r. With y = end(m) - 1 - key, the bits of one key
// over consecutive row blocks are neighbours in a row.
__device__ inline void fill_needed(const Band* bands, int64_t count, uint32_t* needed, int words) {
  for (int i = threadIdx.x; i < MI_BLOCK * words; i += kSelectThreads) {
    const int64_t r = i / words, first = int64_t(i % words) * 32;  // y of bit 0: 64 first + r
    const int64_t y = MI_BLOCK * first + r;
    uint32_t bits = 0xffffffffu;
    for (int64_t b = first_band_past(bands, count, y); b < count && bands[b].near <= y + 31 * MI_BLOCK; b++) {
      const int64_t from = bands[b].near > y ? ceil_div(bands[b].near - y, MI_BLOCK) : 0;
      const int64_t to = bands[b].far > y + 31 * MI_BLOCK ? 32 : ceil_div(bands[b].far - y, MI_BLOCK);
      const uint32_t below_to = to >= 32 ? 0xffffffffu : (1u << to) - 1;
      if (from < to) bits &= ~(below_to & ~((1u << from) - 1));
    }
    needed[i] = bits;
  }
}

}  // namespace mi::cuda
