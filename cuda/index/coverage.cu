// Per row block: which columns it still has to gather, and how many tiles it computes. Also the keys that the
// probe's row blocks see, for the retained mass. The last thread block of a head writes its statistics and
// may turn it dense.
#include "bands.cuh"

namespace mi::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kRows = 32;                       // row blocks of a thread block
constexpr int kWordsPerWarp = 32 / kWarps;      // of 32 words taken at a time
constexpr int64_t kVisibleKeys = 32 * 1024;     // keys of a thread block that builds visibility

// Bit j of lane i becomes bit i of lane j.
__device__ uint32_t transpose_bits(uint32_t x) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int o = 16; o; o /= 2) {
    // Masks of the low halves of 2 o bit groups.
    const uint32_t low = o == 16  ? 0x0000ffffu
                         : o == 8 ? 0x00ff00ffu
                         : o == 4 ? 0x0f0f0f0fu
                         : o == 2 ? 0x33333333u
                                  : 0x55555555u;
    const uint32_t other = __shfl_xor_sync(0xffffffffu, x, o);
    x = lane & o ? (x & ~low) | (other >> o & low) : (x & low) | (other << o & ~low);
  }
  return x;
}

// Which of row blocks m0 .. m0 + 31 need column `key`: bits of one row of `needed` (bands.cuh).
__device__ uint32_t needed_rows(const IndexKernelArgs& a, const uint32_t* needed, int64_t key, int64_t m0) {
  const int64_t y = a.end(m0) - 1 - key;  // of row block m0; 64 more for each next one
  const int64_t row = y & (MI_BLOCK - 1), bit = (y - row) / MI_BLOCK;
  const int64_t word = bit >> 5;  // negative where the key lies past the row block's end
  const uint32_t* from = needed + row * a.needed_words;
  const uint32_t low = word >= 0 && word < a.needed_words ? from[word] : 0;
  const uint32_t high = word + 1 >= 0 && word + 1 < a.needed_words ? from[word + 1] : 0;
  return __funnelshift_r(low, high, uint32_t(bit & 31));
}

// Tiles of the bands of row block m.
__device__ int64_t band_tiles_of(const IndexKernelArgs& a, const Band* bands, int64_t count,
                                 const uint32_t* before, int64_t m) {
  const int64_t end = a.end(m), past = end - a.reach(m);  // `past`: only the nearest band is cut on that side
  const int64_t cut = first_band_past(bands, count, end);  // the first with far > end: begins before key 0
  int64_t tiles = cut < count ? before[cut] : 0;
  if (cut == count && count > 0) tiles = before[count - 1] + width_tiles(bands[count - 1]);
  const int64_t nearest = count > 0 ? bands[0].near : 0;
  if (cut > 0 && past > nearest)
    tiles += ceil_div(int64_t(bands[0].far) - past, MI_BLOCK) - width_tiles(bands[0]);
  if (cut < count && bands[cut].near < end) {
    const int64_t from = bands[cut].near;
    tiles += ceil_div(end - (from > past ? from : past), MI_BLOCK);
  }
  return tiles;
}

// Coverage of 32 row blocks of a vertical-slash head; returns their tiles (in thread 0 .. 31 of the block,
// one each).
__device__ uint64_t cover(const IndexKernelArgs& a, int head, int64_t m0) {
  __shared__ uint32_t tile[kRows][33];
  __shared__ uint32_t left[kRows];
  const HeadPlan& p = a.heads[head];
  const ListHead& list = a.list_head(head);
  const int32_t* columns = a.at<int32_t>(p.columns_at);
  const uint32_t* needed = a.needed + int64_t(p.slot) * MI_BLOCK * a.needed_words;
  uint32_t* coverage = a.at<uint32_t>(p.coverage);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x < kRows) left[threadIdx.x] = 0;
  for (int first = 0; first < p.column_words; first += 32) {
    for (int i = 0; i < kWordsPerWarp; i++) {
      const int word = warp * kWordsPerWarp + i;
      const int64_t c = int64_t(first + word) * 32 + lane;
      const uint32_t rows = c < list.column_count ? needed_rows(a, needed, columns[c], m0) : 0;
      tile[lane][word] = transpose_bits(rows);
    }
    __syncthreads();
    for (int row = warp; row < kRows; row += kWarps) {
      const uint32_t bits = tile[row][lane];
      if (m0 + row < a.row_blocks && first + lane < p.column_words)
        coverage[(m0 + row) * p.column_words + first + lane] = bits;
      uint32_t count = __popc(bits);
#pragma unroll
      for (int o = 16; o; o /= 2) count += __shfl_xor_sync(0xffffffffu, count, o);
      if (lane == 0) left[row] += count;
    }
    __syncthreads();
  }
  const int64_t m = m0 + threadIdx.x;
  if (threadIdx.x >= kRows || m >= a.row_blocks) return 0;
  return uint64_t(
      band_tiles_of(a, a.at<Band>(p.bands), list.band_count, a.band_tiles + p.slot * a.unit_stride, m) +
      ceil_div(left[threadIdx.x], MI_BLOCK));
}

// As the CPU's attention cuts them: sink and window apart, unless they touch.
__device__ int64_t a_shape_tiles(const IndexKernelArgs& a, const HeadPlan& p, int64_t m) {
  const int64_t from = a.end(m) - MI_BLOCK - p.local + 1, window = from > 0 ? from : 0;
  if (window <= p.sink) return a.dense_tiles(m);
  const int64_t reach = a.reach(m), sink = p.sink < reach ? p.sink : reach;
  return ceil_div(sink, MI_BLOCK) + (reach > window ? ceil_div(reach - window, MI_BLOCK) : 0);
}

// Keys [first, first + kVisibleKeys) that probe block `b` sees, whatever its rows' positions: causality and
// an A-shape's window are left to the scores.
// Before the lists are whole, only the heads with a budget by mass are looked at.
__device__ void fill_visible(const IndexKernelArgs& a, int head, int b, int64_t first, bool whole) {
  __shared__ uint32_t bits[kVisibleKeys / 32];
  const HeadPlan& p = a.heads[head];
  const ListHead& list = a.list_head(head);
  const int64_t m = a.probe_blocks.last - 1 + b;
  const int64_t last = first + kVisibleKeys < a.probe.kv_len ? first + kVisibleKeys : a.probe.kv_len;
  const bool exists = (b == 1 || a.probe_blocks.split > 0) && (whole || p.mass > 0);
  for (int i = threadIdx.x; i < kVisibleKeys / 32; i += kThreads) bits[i] = 0;
  __syncthreads();
  const auto see = [&](int64_t from, int64_t to) {  // keys [from, to)
    from = from > first ? from : first;
    to = to < last ? to : last;
    while (from < to) {
      const int64_t stop = (from / 32 + 1) * 32 < to ? (from / 32 + 1) * 32 : to;
      const uint32_t mask = uint32_t(((uint64_t(1) << (stop - from)) - 1) << (from % 32));
      atomicOr(&bits[(from - first) / 32], mask);
      from = stop;
    }
  };
  if (exists && p.kind == MI_VERTICAL_SLASH) {
    const Band* bands = a.at<Band>(p.bands);
    const int32_t* columns = a.at<int32_t>(p.columns_at);
    const int64_t end = a.end(m);
    for (int64_t i = threadIdx.x; i < list.band_count; i += kThreads)
      see(end - bands[i].far, end - bands[i].near);
    for (int64_t c = threadIdx.x; c < list.column_count; c += kThreads)
      if (columns[c] < end) see(columns[c], columns[c] + 1);
  } else if (exists && p.kind == MI_BLOCK_SPARSE) {
    const uint32_t* counts = a.at<uint32_t>(p.blocks);
    const uint32_t* blocks = counts + a.row_blocks + m * p.block_stride;
    for (uint32_t i = threadIdx.x; i < counts[m]; i += kThreads)
      see(int64_t(blocks[i]) * MI_BLOCK, int64_t(blocks[i] + 1) * MI_BLOCK);
  } else if (exists && p.kind == MI_A_SHAPE && threadIdx.x == 0) {
    see(0, p.sink);
    see(a.end(m) - MI_BLOCK - p.local + 1, last);
  }
  __syncthreads();
  uint32_t* out = a.visible + (int64_t(head) * 2 + b) * a.visible_words + first / 32;
  for (int64_t i = threadIdx.x; i < ceil_div(last - first, 32); i += kThreads) out[i] = bits[i];
}

__device__ void finish_head(const IndexKernelArgs& a, int head) {
  ListHead& list = a.list_head(head);
  // All row blocks but the last end before the keys do: dense_tiles(m) = ceil(offset / 64) + m + 1.
  const int64_t full = a.row_blocks - 1;
  const int64_t causal = full * ceil_div(a.offset(), MI_BLOCK) + full * (full + 1) / 2 + a.dense_tiles(full);
  uint64_t tiles = a.tiles[head];
  if (a.dense_above < 1 && list.kind != MI_DENSE && double(tiles) > double(a.dense_above) * double(causal))
    list.kind = MI_DENSE;
  if (list.kind == MI_DENSE) tiles = uint64_t(causal), list.band_count = list.column_count = 0;
  if (!a.stats) return;
  mi_head_stats& out = a.stats[head];
  out.kind = list.kind;
  out.bands = list.band_count;
  out.columns = list.column_count;
  out.density = float(double(tiles) / double(causal));
  out.retained_mean = out.retained_min = list.kind == MI_DENSE ? 1.0f : __int_as_float(0x7fc00000);
  out.tiles = tiles;
  out.causal_tiles = uint64_t(causal);
  out.guarded = 0;
  out.unguarded_mean = out.unguarded_min = 0;
  out.reserved = 0;
}

// Grid: [row items, then visibility items, q_heads]. Without row items, only the visibility is written.
__global__ void __launch_bounds__(kThreads)
    coverage_kernel(const __grid_constant__ IndexKernelArgs a, int row_items) {
  const int head = blockIdx.y;
  const HeadPlan& p = a.heads[head];
  if (int(blockIdx.x) >= row_items) {
    const int item = int(blockIdx.x) - row_items;
    fill_visible(a, head, item % 2, int64_t(item / 2) * kVisibleKeys, row_items > 0);
  } else {
    const int64_t m0 = int64_t(blockIdx.x) * kRows, m = m0 + threadIdx.x;
    const bool mine = threadIdx.x < kRows && m < a.row_blocks;
    uint64_t tiles = 0;
    if (p.kind == MI_VERTICAL_SLASH) tiles = cover(a, head, m0);
    else if (p.kind == MI_A_SHAPE && mine) tiles = uint64_t(a_shape_tiles(a, p, m));
    else if (p.kind == MI_BLOCK_SPARSE && mine) tiles = a.at<uint32_t>(p.blocks)[m];
    if (tiles > 0) atomicAdd(&a.tiles[head], (unsigned long long)tiles);
  }
  if (row_items == 0) return;
  // Visibility blocks read the head's entry, which finish_head changes: all of them count.
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(&a.tickets[2 * head], 1u) == gridDim.x - 1;
  __syncthreads();
  if (last && threadIdx.x == 0) {
    __threadfence();
    finish_head(a, head);
  }
}

mi_status queue(const Launch& launch, const IndexKernelArgs& a, int row_items, bool visible,
                mi_error* error) {
  const int visible_items = visible ? 2 * int(ceil_div(a.probe.kv_len, kVisibleKeys)) : 0;
  const dim3 grid(unsigned(row_items + visible_items), unsigned(a.probe.q_heads));
  coverage_kernel<<<grid, kThreads, 0, launch.stream>>>(a, row_items);
  return check_launch("index: coverage", error);
}

}  // namespace

mi_status queue_visible(const Launch& launch, const IndexKernelArgs& a, mi_error* error) {
  return queue(launch, a, 0, true, error);
}

mi_status queue_coverage(const Launch& launch, const IndexKernelArgs& a, mi_error* error) {
  return queue(launch, a, int(ceil_div(a.row_blocks, kRows)), a.measure_mass != 0, error);
}

}  // namespace mi::cuda
