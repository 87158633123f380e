// From chosen distances or tiles to bands, and from bands to what the coverage kernel reads. All by one
// thread block.
#pragma once
#include "plan.cuh"
#include "select.cuh"

namespace mi::cuda {

// Sums of 64 - x and of x times the mass of distance 64 b + x give the triangular weights of tiles b and b +
// 1 (bands.h): each distance is read once, a warp per 64 of them.
__device__ inline void fill_tile_mass(const float* slash, int64_t kv_len, int64_t tiles, float* mass,
                                      float* low) {
  const int lane = threadIdx.x % 32;
  for (int64_t b = threadIdx.x / 32; b < tiles; b += kSelectWarps) {
    float falling = 0, rising = 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int x = lane + 32 * h;
      const float s = b * MI_BLOCK + x < kv_len ? slash[b * MI_BLOCK + x] : 0.0f;
      falling += s * float(MI_BLOCK - x);
      rising += s * float(x);
    }
#pragma unroll
    for (int o = 16; o; o /= 2) {
      falling += __shfl_xor_sync(0xffffffffu, falling, o);
      rising += __shfl_xor_sync(0xffffffffu, rising, o);
    }
    if (lane == 0) mass[b] = falling, low[b] = rising;
  }
  __syncthreads();
  for (int64_t t = threadIdx.x; t < tiles; t += kSelectThreads)
    mass[t] = (mass[t] + (t > 0 ? low[t - 1] : 0.0f)) * (1.0f / MI_BLOCK);
  __syncthreads();
}

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
// overlaps or touches grows by a full 64 towards the row block. One warp jumps from one growth to the next.
__device__ inline int64_t bands_of_distances(const int32_t* distances, int64_t count, Band* bands,
                                             int64_t capacity, SelectShared& s) {
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x;
    int64_t found = 0, near = 0, far = 0;
    bool open = false;
    const auto close = [&] {
      if (open && lane == 0) bands[capacity - 1 - found] = {uint32_t(near > 0 ? near : 0), uint32_t(far)};
      found += open;
    };
    for (int64_t base = 0; base < count; base += 32) {
      const int64_t i = base + lane;
      const int64_t distance = i < count ? distances[count - 1 - i] : INT64_MAX;  // descending
      for (;;) {
        const uint32_t closer = __ballot_sync(0xffffffffu, i < count && (!open || distance < near));
        if (closer == 0) break;
        const int64_t next = __shfl_sync(0xffffffffu, distance, __ffs(int(closer)) - 1);
        if (open && next >= near - MI_BLOCK) {
          near -= MI_BLOCK;
        } else {
          close();
          near = next;
          far = next + MI_BLOCK;
          open = true;
        }
      }
    }
    close();
    if (lane == 0) s.before_count = uint64_t(found);
  }
  __syncthreads();
  const int64_t found = int64_t(s.before_count);
  const Band* from = bands + capacity - found;
  for (int64_t base = 0; base < found; base += kSelectThreads) {
    const int64_t i = base + threadIdx.x;
    const Band band = i < found ? from[i] : Band{};
    __syncthreads();
    if (i < found) bands[i] = band;
    __syncthreads();
  }
  return found;
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
