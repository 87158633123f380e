// The query rows of all heads of a KV group are packed into tiles of 16 and read the same K and V. The keys are split
// over blocks, and each tile of keys over the block's warps; parts are merged by their log-sum-exps, in order.
#include "decode.cuh"

#include "fragments.cuh"
#include "softmax.cuh"
#include "work_split.cuh"

namespace mi::cuda {

namespace {

constexpr float kLn2 = 0.693147180559945309f;
constexpr int kRowTile = 16, kWarpKeys = 16, kMostRows = 64;

// Shared memory of a block stays under the 99 KB that every chip from sm_80 on offers.
template <int kDim>
struct Tuning {
  static constexpr int kWarps = kDim == 256 ? 2 : 4, kStages = kDim == 256 ? 2 : 3;
  static constexpr int kThreads = 32 * kWarps, kTileKeys = kWarps * kWarpKeys;
  static constexpr int kTileBytes = kTileKeys * kDim * 2, kStageBytes = 2 * kTileBytes;  // K, V
};

struct DecodeParams {
  Problem problem;
  KeySplit split;
  int32_t rows;  // query rows of a KV head: group * q_len
  float* out;    // [kv_heads][rows][parts][head_dim]
  float* lse;    // [kv_heads][rows][parts], base 2
};

// Weights of parts with the given base-2 log-sum-exps; they add up to 1, or are 0 where no part has a key.
template <class Lse>
struct Merge {
  const Lse& lse;
  float top = -INFINITY, inverse = 0, total;

  __device__ Merge(int parts, const Lse& part_lse) : lse(part_lse) {
    for (int i = 0; i < parts; i++) top = fmaxf(top, lse(i));
    if (top == -INFINITY) {
      total = top;
      return;
    }
    float sum = 0;
    for (int i = 0; i < parts; i++) sum += exp2_approx(lse(i) - top);
    inverse = 1.0f / sum;
    total = top + log2f(sum);
  }
  __device__ float weight(int i) const { return top == -INFINITY ? 0.0f : exp2_approx(lse(i) - top) * inverse; }
};

template <class T>
__device__ void store(const DecodeParams& d, int kv_head, int row, int column, float value, float lse) {
  const Problem& p = d.problem;
  const int head = kv_head * p.group + row / p.q_len, query = row % p.q_len;
  reinterpret_cast<T*>(p.out.at(head, query))[column] = from_float<T>(value);
  if (p.lse && column == 0) p.lse[int64_t(head) * p.q_len + query] = lse * kLn2;
}

// Grid: [parts, KV heads, row tiles].
template <class T, int kDim>
__global__ void __launch_bounds__(Tuning<kDim>::kThreads) decode_kernel(const __grid_constant__ DecodeParams d) {
  using Tune = Tuning<kDim>;
  extern __shared__ __align__(128) char shared[];
  const Problem& p = d.problem;
  if (p.cancelled()) return;
  const int part = blockIdx.x, kv_head = blockIdx.y, first_row = blockIdx.z * kRowTile;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_key = d.split.first(part), end_key = d.split.first(part + 1);

  // Queries through shared memory into registers.
  uint32_t q[kDim / 16][4];
  {
    const SharedTile<kDim> tile(shared);
    tile.template load<Tune::kThreads>(kRowTile, p.head_dim, p.q.data, [&](int r) {
      const int row = first_row + r;
      return row < d.rows ? p.q.at(kv_head * p.group + row / p.q_len, row % p.q_len) : nullptr;
    });
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kDim / 16; step++) {
      tile.rows_16(q[step], 0, step);
#pragma unroll
      for (int i = 0; i < 4; i++) q[step][i] ^= p.negate ? 0x80008000u : 0;
    }
    __syncthreads();
  }

  const auto load = [&](int stage, int first) {
    const auto rows = [&](const Rows& from) {
      return [&, first](int i) -> const char* { return first + i < end_key ? from.at(kv_head, first + i) : nullptr; };
    };
    char* base = shared + stage * Tune::kStageBytes;
    if (first < end_key) {
      SharedTile<kDim>(base).template load<Tune::kThreads>(Tune::kTileKeys, p.head_dim, p.q.data, rows(p.k));
      SharedTile<kDim>(base + Tune::kTileBytes)
          .template load<Tune::kThreads>(Tune::kTileKeys, p.head_dim, p.q.data, rows(p.v));
    }
    cp_async_commit();
  };

  int limit[2];  // first key that each of the thread's rows does not see
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int query = (first_row + lane / 4 + 8 * r) % p.q_len;
    limit[r] = p.causal ? min(end_key, p.first_position() + query + 1) : end_key;
  }
  float o[kDim / 2] = {}, factor[2];
  OnlineSoftmax softmax;
  int loading = first_key;
#pragma unroll
  for (int s = 0; s < Tune::kStages - 1; s++, loading += Tune::kTileKeys) load(s, loading);
  int stage = 0, stage_in = Tune::kStages - 1;
  for (int key = first_key; key < end_key; key += Tune::kTileKeys, loading += Tune::kTileKeys) {
    cp_async_wait<Tune::kStages - 2>();
    __syncthreads();  // the tile has arrived; everybody is done with the one before
    load(stage_in, loading);
    const SharedTile<kDim> k(shared + stage * Tune::kStageBytes), v(shared + stage * Tune::kStageBytes + Tune::kTileBytes);
    stage_in = stage;
    stage = stage + 1 == Tune::kStages ? 0 : stage + 1;

    float s[kWarpKeys / 2] = {};
#pragma unroll
    for (int step = 0; step < kDim / 16; step++) {
      uint32_t b[4];
      k.columns_16(b, warp * kWarpKeys, step);
      mma_tile<T>(s, q[step], b[0], b[1]);
      mma_tile<T>(s + 4, q[step], b[2], b[3]);
    }
    const int warp_key = key + warp * kWarpKeys + 2 * (lane % 4);
#pragma unroll
    for (int j = 0; j < kWarpKeys / 2; j++)
      if (warp_key + 8 * (j / 4) + j % 2 >= limit[j / 2 % 2]) s[j] = -INFINITY;
    if (softmax.step(s, p.scale_log2, factor)) scale_rows(o, factor);
    uint32_t weights[kWarpKeys / 4];
    pack_weights<T>(s, weights);
#pragma unroll
    for (int j = 0; j < kDim / 8; j += 2) {
      uint32_t b[4];
      v.depth_16(b, warp * kWarpKeys, j);
      mma_tile<T>(o + 4 * j, weights, b[0], b[1]);
      mma_tile<T>(o + 4 * j + 4, weights, b[2], b[3]);
    }
  }
  cp_async_wait<0>();
  __syncthreads();

  // The warps' parts.
  auto& warp_out = *reinterpret_cast<float(*)[Tune::kWarps][kRowTile][kDim]>(shared);
  __shared__ float warp_lse[Tune::kWarps][kRowTile];
  softmax.finish();
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int row = lane / 4 + 8 * r;
    if (lane % 4 == 0) warp_lse[warp][row] = softmax.lse(r, p.scale_log2);
#pragma unroll
    for (int c = 0; c < kDim / 8; c++) {
      float2 pair = make_float2(o[4 * c + 2 * r], o[4 * c + 2 * r + 1]);
      pair.x *= softmax.inverse_sum(r);
      pair.y *= softmax.inverse_sum(r);
      *reinterpret_cast<float2*>(&warp_out[warp][row][8 * c + 2 * (lane % 4)]) = pair;
    }
  }
  __syncthreads();
  const int rows = min(kRowTile, d.rows - first_row);
  for (int i = threadIdx.x; i < rows * p.head_dim; i += Tune::kThreads) {
    const int row = i / p.head_dim, column = i % p.head_dim;
    const auto lse = [&](int w) { return warp_lse[w][row]; };
    const Merge<decltype(lse)> merge(Tune::kWarps, lse);
    float value = 0;
    for (int w = 0; w < Tune::kWarps; w++) value += merge.weight(w) * warp_out[w][row][column];
    if (d.split.parts == 1) {
      store<T>(d, kv_head, first_row + row, column, value, merge.total);
    } else {
      const int64_t at = (int64_t(kv_head) * d.rows + first_row + row) * d.split.parts + part;
      d.out[at * p.head_dim + column] = value;
      if (column == 0) d.lse[at] = merge.total;
    }
  }
}

// Grid: [query rows of a KV head, KV heads]; a thread for each element of head_dim.
template <class T>
__global__ void __launch_bounds__(256) merge_kernel(const __grid_constant__ DecodeParams d) {
  const Problem& p = d.problem;
  const int row = blockIdx.x, kv_head = blockIdx.y, column = threadIdx.x;
  const int64_t first = (int64_t(kv_head) * d.rows + row) * d.split.parts;
  const auto lse = [&](int i) { return d.lse[first + i]; };
  const Merge<decltype(lse)> merge(d.split.parts, lse);
  float value = 0;
#pragma unroll 4
  for (int i = 0; i < d.split.parts; i++) value += merge.weight(i) * d.out[(first + i) * p.head_dim + column];
  store<T>(d, kv_head, row, column, value, merge.total);
}

template <class T, int kDim>
mi_status queue(const Launch& launch, const DecodeParams& d, mi_error* error) {
  using Tune = Tuning<kDim>;
  constexpr int kBytes = Tune::kStages * Tune::kStageBytes;
  static_assert(kBytes >= Tune::kWarps * kRowTile * kDim * 4, "the warps' outputs reuse the ring");
  const Problem& p = d.problem;
  const dim3 grid(unsigned(d.split.parts), unsigned(p.q_heads / p.group), unsigned(ceil_div(d.rows, kRowTile)));
  cudaFuncSetAttribute(decode_kernel<T, kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  decode_kernel<T, kDim><<<grid, Tune::kThreads, kBytes, launch.stream>>>(d);
  if (d.split.parts > 1) {
    const dim3 rows(unsigned(d.rows), grid.y);
    merge_kernel<T><<<rows, p.head_dim, 0, launch.stream>>>(d);
  }
  return check_launch("attention, few rows", error);
}

template <class T>
mi_status queue(const Launch& launch, const DecodeParams& d, mi_error* error) {
  const int dim = d.problem.head_dim;
  if (dim <= 64) return queue<T, 64>(launch, d, error);
  if (dim <= 128) return queue<T, 128>(launch, d, error);
  return queue<T, 256>(launch, d, error);
}

int64_t rows_of_kv_head(const AttentionArgs& a) { return int64_t(a.q_heads / a.kv_heads) * a.q_len; }

}  // namespace

bool decodes(const AttentionArgs& a) { return !a.list && a.list_bytes == 0 && rows_of_kv_head(a) <= kMostRows; }

uint64_t decode_workspace(const Launch& launch, const AttentionArgs& a) {
  if (!decodes(a)) return 0;
  const int64_t rows = rows_of_kv_head(a);
  const KeySplit split = split_keys(launch.sm_count, a.kv_heads * ceil_div(rows, kRowTile), a.kv_len);
  return split.parts == 1 ? 0 : uint64_t(a.kv_heads * rows * split.parts * (a.head_dim + 1)) * sizeof(float);
}

mi_status decode(const Launch& launch, const Problem& p, bool half, void* workspace, mi_error* error) {
  DecodeParams d{};
  d.problem = p;
  d.rows = p.group * p.q_len;
  const int64_t kv_heads = p.q_heads / p.group;
  d.split = split_keys(launch.sm_count, kv_heads * ceil_div(d.rows, kRowTile), p.kv_len);
  d.out = static_cast<float*>(workspace);
  d.lse = d.out + kv_heads * d.rows * d.split.parts * p.head_dim;
  return half ? queue<__half>(launch, d, error) : queue<__nv_bfloat16>(launch, d, error);
}

}  // namespace mi::cuda
