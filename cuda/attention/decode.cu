// The query rows of all heads of a KV group are packed into tiles of 16 and read the same K and V. The keys are split
// over blocks, and each tile of keys over the block's warps; parts are merged by their log-sum-exps, in order.
#include "decode.cuh"

#include "../core/cancel.cuh"
#include "decode_tiles.cuh"
#include "row_stream.cuh"
#include "softmax.cuh"
#include "work_split.cuh"

namespace mi::cuda {

namespace {

constexpr float kLn2 = 0.693147180559945309f;
constexpr int kRowTile = 16, kWarpKeys = 16, kMostRows = 64;

// Shared memory of a block stays under the 99 KB that every chip from sm_80 on offers.
template <class Tile>
struct Tuning {
  static constexpr int kDim = Tile::kDim, kWarps = kDim == 256 ? 2 : 4, kStages = Tile::kStages;
  static constexpr int kThreads = 32 * kWarps, kTileKeys = kWarps * kWarpKeys;
  static constexpr int kTileBytes = kTileKeys * Tile::kRowBytes, kStageBytes = 2 * kTileBytes;  // K, V
  // The warps' outputs reuse the ring. Four floats more in 32 spread the columns of a NarrowTile over the banks.
  static constexpr int kPad = Tile::kScaled ? 4 : 0, kOutPitch = kDim / 32 * (32 + kPad);
  static constexpr int kBytes = kStages * kStageBytes;
  static_assert(kBytes >= kWarps * kRowTile * kOutPitch * 4);
  static_assert(MI_KV_BLOCK % kTileKeys == 0 && MI_BLOCK % kTileKeys == 0, "the keys of a tile share a scale");
  __device__ static constexpr int place(int column) { return column + column / 32 * kPad; }
};

struct DecodeParams {
  Problem problem;
  KeySplit split;
  int32_t rows;  // query rows of a KV head: group * q_len
  float* out;    // [kv_heads][rows][parts][head_dim]
  float* lse;    // [kv_heads][rows][parts], base 2
  const float *k_scales, *v_scales;  // [kv_heads][scale_stride]; null for 16-bit keys
  int64_t scale_stride;
};

// How parts with the base-2 log-sum-exps lse(i) merge, found by kLanes neighbouring threads together. Where a part has no
// key its lse is -inf, and its weight 0; a NaN makes all weights NaN.
template <int kLanes, class Lse>
class Merge {
 public:
  __device__ Merge(int parts, const Lse& lse) : lse_(lse) {
    const int lane = int(threadIdx.y * blockDim.x + threadIdx.x) % kLanes;
    float top = -INFINITY, sum = 0;
    for (int i = lane; i < parts; i += kLanes) top = fmaxf(top, lse(i));
    for (int s = kLanes / 2; s; s /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, s));
    top_ = top == -INFINITY ? 0 : top;
    for (int i = lane; i < parts; i += kLanes) sum += exp2_approx(lse(i) - top_);
    for (int s = kLanes / 2; s; s /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, s);
    inverse_ = sum == 0 ? 0 : 1.0f / sum;
    total_ = top_ + log2f(sum);
  }
  __device__ float weight(int i) const { return exp2_approx(lse_(i) - top_) * inverse_; }
  __device__ float total() const { return total_; }

 private:
  const Lse& lse_;
  float top_, inverse_, total_;
};

template <class T>
__device__ void store(const DecodeParams& d, int kv_head, int row, int column, float value, float lse) {
  const Problem& p = d.problem;
  const int head = kv_head * p.group + row / p.q_len, query = row % p.q_len;
  reinterpret_cast<T*>(p.out.at(head, query))[column] = from_float<T>(value);
  if (p.lse && column == 0) p.lse[int64_t(head) * p.q_len + query] = lse * kLn2;
}

// Grid: [parts, KV heads, row tiles].
template <class Tile>
__global__ void __launch_bounds__(Tuning<Tile>::kThreads) decode_kernel(const __grid_constant__ DecodeParams d) {
  using T = typename Tile::Element;
  using Tune = Tuning<Tile>;
  constexpr int kDim = Tile::kDim;
  extern __shared__ __align__(128) char shared[];
  const Problem& p = d.problem;
  if (block_cancelled(p.cancel)) return;
  const int part = blockIdx.x, kv_head = blockIdx.y, first_row = blockIdx.z * kRowTile;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_key = d.split.first(part), end_key = d.split.first(part + 1);

  uint32_t q[kDim / 16][4];
  float query_unit[2];
  Tile::template load_queries<Tune::kThreads>(q, query_unit, shared, p.head_dim, p.q.data, [&](int r) -> const char* {
    const int row = first_row + r;
    return row < d.rows ? p.q.at(kv_head * p.group + row / p.q_len, row % p.q_len) : nullptr;
  });
#pragma unroll
  for (int step = 0; step < kDim / 16; step++)
#pragma unroll
    for (int i = 0; i < 4; i++) q[step][i] ^= p.negate ? 0x80008000u : 0;

  using Stream = RowStream<Tune::kThreads, Tile::kPieces>;
  const int row_bytes = p.head_dim * Tile::kRowBytes / kDim;
  Stream keys(p.k.at(kv_head, first_key), p.k.row_stride, row_bytes);
  Stream values(p.v.at(kv_head, first_key), p.v.row_stride, row_bytes);
  const auto load = [&](int stage, int first) {  // tile after tile
    if (first < end_key) {
      const Tile k(shared + stage * Tune::kStageBytes), v(shared + stage * Tune::kStageBytes + Tune::kTileBytes);
      keys.template load<Tune::kTileKeys>(end_key - first, [&](int row, int i) { return k.place(row, i); });
      values.template load<Tune::kTileKeys>(end_key - first, [&](int row, int i) { return v.place(row, i); });
    }
    cp_async_commit();
  };

  struct Scales {
    float k, v;
  };
  const float* const k_scales = d.k_scales + kv_head * d.scale_stride;
  const float* const v_scales = d.v_scales + kv_head * d.scale_stride;
  const auto scales_at = [&](int key) -> Scales {
    if (!Tile::kScaled || key >= end_key) return {1, 1};
    return {k_scales[key / MI_KV_BLOCK], v_scales[key / MI_KV_BLOCK]};
  };

  int limit[2];  // first key that each of the thread's rows does not see
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int query = (first_row + lane / 4 + 8 * r) % p.q_len;
    limit[r] = p.causal ? min(end_key, p.first_position() + query + 1) : end_key;
  }
  float o[kDim / 2] = {}, factor[2];
  OnlineSoftmax softmax;
  ValueUnit value_unit;
  int loading = first_key;
#pragma unroll
  for (int s = 0; s < Tune::kStages - 1; s++, loading += Tune::kTileKeys) load(s, loading);
  int stage = 0, stage_in = Tune::kStages - 1;
  Scales next = scales_at(first_key);
  for (int key = first_key; key < end_key; key += Tune::kTileKeys, loading += Tune::kTileKeys) {
    cp_async_wait<Tune::kStages - 2>();
    __syncthreads();  // the tile has arrived; everybody is done with the one before
    load(stage_in, loading);
    const Scales scale = next;
    next = scales_at(key + Tune::kTileKeys);
    const Tile k(shared + stage * Tune::kStageBytes), v(shared + stage * Tune::kStageBytes + Tune::kTileBytes);
    stage_in = stage;
    stage = stage + 1 == Tune::kStages ? 0 : stage + 1;

    float s[kWarpKeys / 2] = {};
    k.scores(warp * kWarpKeys, q, s);
    if constexpr (Tile::kScaled) scale_rows(s, {scale.k * query_unit[0], scale.k * query_unit[1]});
    const int warp_key = key + warp * kWarpKeys + 2 * (lane % 4);
    if (warp_key + kWarpKeys > min(limit[0], limit[1])) {
#pragma unroll
      for (int j = 0; j < kWarpKeys / 2; j++)
        if (warp_key + 8 * (j / 4) + j % 2 >= limit[j / 2 % 2]) s[j] = -INFINITY;
    }
    if (softmax.step(s, p.scale_log2, factor)) scale_rows(o, factor);
    if constexpr (Tile::kScaled) {  // the softmax's sum has the weights without
      float rescale;
      if (value_unit.step(scale.v, rescale)) scale_rows(o, {rescale, rescale});
      scale_rows(s, {value_unit.of_weights(), value_unit.of_weights()});
    }
    uint32_t weights[kWarpKeys / 4];
    pack_weights<typename Tile::Operand>(s, weights);
    v.outputs(warp * kWarpKeys, weights, o);
  }
  cp_async_wait<0>();
  __syncthreads();

  // The warps' parts.
  auto& warp_out = *reinterpret_cast<float(*)[Tune::kWarps][kRowTile][Tune::kOutPitch]>(shared);
  __shared__ float warp_lse[Tune::kWarps][kRowTile];
  softmax.finish();
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int row = lane / 4 + 8 * r;
    if (lane % 4 == 0) warp_lse[warp][row] = softmax.lse(r, p.scale_log2);
    float* const out = warp_out[warp][row];
    const float inverse = softmax.inverse_sum(r) * (Tile::kScaled ? value_unit.of_sums() : 1.0f);
#pragma unroll
    for (int c = 0; c < kDim / 8; c++)
#pragma unroll
      for (int i = 0; i < 2; i++)
        out[Tune::place(Tile::column(c, 2 * (lane % 4) + i))] = o[4 * c + 2 * r + i] * inverse;
  }
  __syncthreads();
  const int rows = min(kRowTile, d.rows - first_row);
  for (int i = threadIdx.x; i < rows * p.head_dim; i += Tune::kThreads) {
    const int row = i / p.head_dim, column = i % p.head_dim;
    const auto lse = [&](int w) { return warp_lse[w][row]; };
    const Merge<1, decltype(lse)> merge(Tune::kWarps, lse);
    float value = 0;
    for (int w = 0; w < Tune::kWarps; w++) value += merge.weight(w) * warp_out[w][row][Tune::place(column)];
    if (d.split.parts == 1) {
      store<T>(d, kv_head, first_row + row, column, value, merge.total());
    } else {
      const int64_t at = (int64_t(kv_head) * d.rows + first_row + row) * d.split.parts + part;
      d.out[at * p.head_dim + column] = value;
      if (column == 0) d.lse[at] = merge.total();
    }
  }
}

// Grid: [query rows of a KV head, KV heads]; block: [head_dim, kMergeRows], whose every row takes each kMergeRows-th part.
constexpr int kMergeRows = 4;

template <class T>
__global__ void __launch_bounds__(256 * kMergeRows) merge_kernel(const __grid_constant__ DecodeParams d) {
  const Problem& p = d.problem;
  const int row = blockIdx.x, kv_head = blockIdx.y, column = threadIdx.x, parts = d.split.parts;
  const int64_t first = (int64_t(kv_head) * d.rows + row) * parts;
  const auto lse = [&](int i) { return d.lse[first + i]; };
  const Merge<32, decltype(lse)> merge(parts, lse);
  float value = 0;
#pragma unroll 8
  for (int i = threadIdx.y; i < parts; i += kMergeRows) value += merge.weight(i) * d.out[(first + i) * p.head_dim + column];
  __shared__ float values[kMergeRows][256];
  values[threadIdx.y][column] = value;
  __syncthreads();
  if (threadIdx.y > 0) return;
  for (int i = 1; i < kMergeRows; i++) value += values[i][column];
  store<T>(d, kv_head, row, column, value, merge.total());
}

template <class Tile>
mi_status queue(const Launch& launch, const DecodeParams& d, mi_error* error) {
  using Tune = Tuning<Tile>;
  const Problem& p = d.problem;
  const dim3 grid(unsigned(d.split.parts), unsigned(p.q_heads / p.group), unsigned(ceil_div(d.rows, kRowTile)));
  cudaFuncSetAttribute(decode_kernel<Tile>, cudaFuncAttributeMaxDynamicSharedMemorySize, Tune::kBytes);
  decode_kernel<Tile><<<grid, Tune::kThreads, Tune::kBytes, launch.stream>>>(d);
  if (d.split.parts > 1) {
    const dim3 rows(unsigned(d.rows), grid.y), threads(unsigned(p.head_dim), kMergeRows);
    merge_kernel<typename Tile::Element><<<rows, threads, 0, launch.stream>>>(d);
  }
  return check_launch("attention, few rows", error);
}

template <template <int> class Tile>
mi_status queue(const Launch& launch, const DecodeParams& d, mi_error* error) {
  const int dim = d.problem.head_dim;
  if (dim <= 64) return queue<Tile<64>>(launch, d, error);
  if (dim <= 128) return queue<Tile<128>>(launch, d, error);
  return queue<Tile<256>>(launch, d, error);
}

template <int kDim>
using HalfTile = WideTile<__half, kDim>;
template <int kDim>
using Bf16Tile = WideTile<__nv_bfloat16, kDim>;

int64_t rows_of_kv_head(const AttentionArgs& a) { return int64_t(a.q_heads / a.kv_heads) * a.q_len; }

}  // namespace

bool decodes(const AttentionArgs& a) { return !a.list && a.list_bytes == 0 && rows_of_kv_head(a) <= kMostRows; }

uint64_t decode_workspace(const Launch& launch, const AttentionArgs& a) {
  if (!decodes(a)) return 0;
  const int64_t rows = rows_of_kv_head(a);
  const KeySplit split = split_keys(launch.sm_count, a.kv_heads * ceil_div(rows, kRowTile), a.kv_len);
  return split.parts == 1 ? 0 : uint64_t(a.kv_heads * rows * split.parts * (a.head_dim + 1)) * sizeof(float);
}

mi_status decode(const Launch& launch, const AttentionArgs& a, const Problem& p, void* workspace, mi_error* error) {
  DecodeParams d{};
  d.problem = p;
  d.rows = p.group * p.q_len;
  d.split = split_keys(launch.sm_count, a.kv_heads * ceil_div(d.rows, kRowTile), p.kv_len);
  d.out = static_cast<float*>(workspace);
  d.lse = d.out + int64_t(a.kv_heads) * d.rows * d.split.parts * p.head_dim;
  d.k_scales = a.k_scales, d.v_scales = a.v_scales;
  d.scale_stride = a.scale_stride;
  if (a.k.dtype == MI_E4M3) return queue<NarrowTile>(launch, d, error);
  return a.k.dtype == MI_F16 ? queue<HalfTile>(launch, d, error) : queue<Bf16Tile>(launch, d, error);
}

}  // namespace mi::cuda
