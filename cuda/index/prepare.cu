// What the choices begin with, spread over the whole GPU: peaks of the column and distance masses and masses
// of the diagonal tiles for vertical-slash heads, means of 64 rows for block-sparse heads.
#include "../model/elements.cuh"
#include "plan.cuh"
#include "select.cuh"

namespace mi::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int64_t kSpan = 4096;  // values of a list that a thread block works on
constexpr int kSpanTiles = kSpan / MI_BLOCK;

// Largest of each 16 values, [first, first + kSpan) of n; NaN only if all are.
__device__ void write_peaks(const float* values, int64_t n, int64_t first, float* peaks) {
#pragma unroll 4
  for (int64_t i = first + threadIdx.x; i < first + kSpan; i += kThreads) {
    float most = i < n ? values[i] : __int_as_float(0x7fc00000);
#pragma unroll
    for (int o = 1; o < kGroupValues; o *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, o));
    if (i % kGroupValues == 0 && i < n) peaks[i / kGroupValues] = most;
  }
}

// Masses of tiles [first, first + kSpanTiles) (bands.h). Over distances 64 b + x the sums of (64 - x) s and of
// x s go into tiles b and b + 1: a warp keeps the second from one tile to the next.
__device__ void write_tile_masses(const float* slash, int64_t kv_len, int64_t tiles, int64_t first,
                                  float* mass) {
  constexpr int kPerWarp = kSpanTiles / kWarps;
  const int lane = threadIdx.x % 32;
  const int64_t from = first + threadIdx.x / 32 * kPerWarp, to = min64(tiles, from + kPerWarp);
  float carried = 0;
  for (int64_t b = from > 0 ? from - 1 : 0; b < to; b++) {
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
    if (lane == 0 && b >= from) mass[b] = (falling + carried) * (1.0f / MI_BLOCK);
    carried = rising;
  }
}

// Mean over rows [64 block, 64 block + 64) as f16, rows past the last counting as zero; by one warp, in teams
// that read whole rows.
__device__ void write_mean(const DeviceView& view, int head, int64_t block, int64_t rows, int dim,
                           int mean_dim, __half* out) {
  const int lane = threadIdx.x % 32, lanes = mean_dim / kLane, teams = 32 / lanes;
  const int team = lane / lanes, d = lane % lanes * kLane;
  const int64_t first = block * MI_BLOCK + team, last = min64(rows, (block + 1) * MI_BLOCK);
  float sum[kLane] = {}, v[kLane];
  const auto add = [&] {
#pragma unroll
    for (int j = 0; j < kLane; j++) sum[j] += v[j];
  };
  if (team < teams && view.wide && d < dim) {
    constexpr int kTogether = 4;  // loads under way
    for (int64_t r = first; r < last; r += kTogether * teams) {
      RawLane raw[kTogether] = {};
#pragma unroll
      for (int i = 0; i < kTogether; i++)
        if (r + i * teams < last) raw[i] = load_raw(view.row(head, r + i * teams), d, view.dtype);
#pragma unroll
      for (int i = 0; i < kTogether; i++) unpack(raw[i], view.dtype, v), add();
    }
  } else if (team < teams) {
    for (int64_t r = first; r < last; r += teams) load_lane(view.row(head, r), d, dim, view.dtype, false, v), add();
  }
  constexpr float kMost = 65504;  // of an f16
#pragma unroll
  for (int j = 0; j < kLane; j++) {
    const float own = sum[j];
    for (int i = 1; i < teams; i++) sum[j] += __shfl_sync(0xffffffffu, own, (lane + i * lanes) % 32);
    sum[j] *= 1.0f / MI_BLOCK;
    if (!isnan(sum[j])) sum[j] = fminf(fmaxf(sum[j], -kMost), kMost);
  }
  if (team == 0)
    *reinterpret_cast<uint4*>(out + d) =
        make_uint4(pack_16<__half>(sum[0], sum[1]), pack_16<__half>(sum[2], sum[3]),
                   pack_16<__half>(sum[4], sum[5]), pack_16<__half>(sum[6], sum[7]));
}

__device__ void prepare_vertical_slash(const IndexKernelArgs& a, int head, const HeadPlan& plan) {
  const int64_t first = blockIdx.x * kSpan, kv_len = a.probe.kv_len;
  const float* const vertical = a.vertical + head * kv_len;
  const float* const slash = a.slash + head * kv_len;
  if (plan.column_peaks && first < kv_len - kForcedColumns)
    write_peaks(vertical + kForcedColumns, kv_len - kForcedColumns, first, a.peaks_of(plan.slot, 0));
  if (plan.unit_peaks && first < plan.units - plan.forced_units)
    write_peaks(slash + plan.forced_units, plan.units - plan.forced_units, first, a.peaks_of(plan.slot, 1));
  if (plan.selection == MI_BANDED && first < int64_t(plan.units) * MI_BLOCK)
    write_tile_masses(slash, kv_len, plan.units, first / MI_BLOCK, a.unit_mass + plan.slot * a.unit_stride);
}

// Grid: [spans, or eight blocks of 64 rows each; query heads, then KV heads].
__global__ void __launch_bounds__(kThreads, 3) prepare_kernel(const __grid_constant__ IndexKernelArgs a) {
  const Probe& p = a.probe;
  const int64_t block = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (int(blockIdx.y) < p.q_heads) {
    const HeadPlan& plan = a.heads[blockIdx.y];
    if (plan.kind == MI_VERTICAL_SLASH) prepare_vertical_slash(a, blockIdx.y, plan);
    if (plan.kind == MI_BLOCK_SPARSE && !(plan.flags & MI_ANTIDIAGONAL) && block < a.row_blocks)
      write_mean(p.q, blockIdx.y, block, p.q_len, p.head_dim, a.mean_dim,
                 a.query_means + (int64_t(plan.slot) * a.row_blocks + block) * a.mean_dim);
  } else if (block < a.key_blocks) {
    const int head = int(blockIdx.y) - p.q_heads;
    write_mean(p.k, head, block, p.kv_len, p.head_dim, a.mean_dim,
               a.key_means + (int64_t(head) * a.key_blocks + block) * a.mean_dim);
  }
}

}  // namespace

mi_status queue_prepare(const Launch& launch, const IndexKernelArgs& a, mi_error* error) {
  const Probe& p = a.probe;
  const bool means = a.mean_dim > 0;
  const int64_t spans = ceil_div(max64(p.kv_len, a.key_blocks * int64_t(MI_BLOCK) + 2 * MI_BLOCK), kSpan);
  const int64_t blocks = means ? ceil_div(max64(a.row_blocks, a.key_blocks), kWarps) : 0;
  const dim3 grid(unsigned(max64(spans, blocks)), unsigned(p.q_heads + (means ? p.kv_heads : 0)));
  prepare_kernel<<<grid, kThreads, 0, launch.stream>>>(a);
  return check_launch("index: peaks and means", error);
}

}  // namespace mi::cuda
