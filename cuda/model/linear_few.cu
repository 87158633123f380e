#include "linear_few.h"

#include "../core/e4m3_pairs.cuh"
#include "../index/work_list.h"
#include "blocks.cuh"
#include "linear_layer.cuh"

namespace mi::cuda {

namespace {

constexpr int kFewWarps = 8, kFewThreads = 32 * kFewWarps;

// ---- any dtypes: a warp per output feature --------------------------------------------------------

__global__ void __launch_bounds__(kFewThreads) any_dtype_kernel(const __grid_constant__ LinearLayer o) {
  const int feature = int(blockIdx.x) * kFewWarps + int(threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (feature >= o.out_features) return;
  const char* const w = o.w.row(0, feature);
  float sums[kFewRows] = {};
  const int lanes = (o.in_features + kLane - 1) / kLane;
#pragma unroll 4
  for (int i = lane; i < lanes; i += 32) {
    float weights[kLane];
    load_weights(w, i, o.in_features, o.w.dtype, o.w.wide, weights);
#pragma unroll
    for (int r = 0; r < kFewRows; r++) {
      if (r >= o.rows) break;
      float x[kLane];
      load_lane(o.x.row(0, r), int64_t(i) * kLane, o.in_features, o.x.dtype, o.x.wide, x);
#pragma unroll
      for (int j = 0; j < kLane; j++) sums[r] += x[j] * weights[j];
    }
  }
#pragma unroll
  for (int r = 0; r < kFewRows; r++) {
    for (int s = 16; s; s /= 2) sums[r] += __shfl_xor_sync(0xffffffffu, sums[r], s);
    if (lane == 0 && r < o.rows) o.finish(r, feature, sums[r]);
  }
}

// ---- 16-bit x, weights of its dtype or e4m3: a warp for two output features, tensor cores -----------------
//
// Tensor cores, to free issue slots: a product for every weight, and for e4m3 a conversion, would take longer than reading
// them. A lane reads 16 bytes of each feature's weights, and the elements of x that belong to them, and these are its
// operands as they lie: quad g holds row g of A, which is its share of the depth, and column g of B, the same share of x.
// So element [g, g] of the product is what quad g's elements add up to; the others mean nothing.

constexpr int kFeatures = 2;

// Pieces under way that memory speed takes; each e4m3 one is longer in use.
template <bool kCodes>
constexpr int kStages = kCodes ? 4 : 6;
template <bool kCodes>
using Ring = uint4[kStages<kCodes>][kFeatures][kFewThreads];

// Layers of one launch: blocks [first_block[i], first_block[i + 1]) compute layer i.
struct Group {
  LinearLayer layers[kMostTogether];
  unsigned first_block[kMostTogether];
  int count;
};

// 16 bytes of weights as pairs of T.
template <class T, bool kCodes>
struct Piece {
  static constexpr int kElements = kCodes ? 16 : 8;
  uint32_t pairs[kElements / 2];

  __device__ __forceinline__ explicit Piece(const uint4& raw) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if constexpr (kCodes) {
        pairs[2 * i] = from_e4m3x2<T>(words[i], 0, words[i], 1);
        pairs[2 * i + 1] = from_e4m3x2<T>(words[i], 2, words[i], 3);
      } else {
        pairs[i] = words[i];
      }
    }
  }
};

template <class T, bool kCodes, int kRows>
__global__ void __launch_bounds__(kFewThreads) few_rows_kernel(const __grid_constant__ Group group) {
  using Piece = Piece<T, kCodes>;
  constexpr int kStages = cuda::kStages<kCodes>;
  constexpr int kInputs = Piece::kElements / 8;  // 16-byte loads of x that belong to a piece
  int which = group.count - 1;
  while (blockIdx.x < group.first_block[which]) which--;
  const LinearLayer& o = group.layers[which];
  const int first_feature = (int(blockIdx.x - group.first_block[which]) * kFewWarps + int(threadIdx.x) / 32) * kFeatures;
  if (first_feature >= o.out_features) return;
  const int lane = threadIdx.x % 32;
  const uint4 *w[kFeatures], *x[kRows];
#pragma unroll
  for (int f = 0; f < kFeatures; f++)
    w[f] = reinterpret_cast<const uint4*>(o.w.row(0, min(first_feature + f, o.out_features - 1)));
#pragma unroll
  for (int r = 0; r < kRows; r++) x[r] = reinterpret_cast<const uint4*>(o.x.row(0, min(r, o.rows - 1)));

  // A thread's own pieces on their way: nobody else reads them.
  extern __shared__ __align__(16) char shared[];
  auto& ring = *reinterpret_cast<Ring<kCodes>*>(shared);
  const int pieces = o.in_features / Piece::kElements;
  const auto load = [&](int step) {
    const int piece = 32 * step + lane;
    if (32 * step < pieces) {
#pragma unroll
      for (int f = 0; f < kFeatures; f++)
        cp_async_16(smem_address(&ring[step % kStages][f][threadIdx.x]), w[f] + (piece < pieces ? piece : 0), piece < pieces ? 16 : 0);
    }
    cp_async_commit();
  };
#pragma unroll
  for (int step = 0; step < kStages - 1; step++) load(step);
  float products[kRows][4] = {};
  for (int step = 0; 32 * step < pieces; step++) {
    const int piece = min(32 * step + lane, pieces - 1);  // past the end: any x, times zeros
    uint4 inputs[kRows][kInputs];
#pragma unroll
    for (int r = 0; r < kRows; r++)
#pragma unroll
      for (int i = 0; i < kInputs; i++) inputs[r][i] = x[r][piece * kInputs + i];
    cp_async_wait<kStages - 2>();
    const Piece a(ring[step % kStages][0][threadIdx.x]), b(ring[step % kStages][1][threadIdx.x]);
    load(step + kStages - 1);
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      const uint32_t* const input = reinterpret_cast<const uint32_t*>(inputs[r]);
#pragma unroll
      for (int i = 0; i < Piece::kElements / 2; i += 2) {
        const uint32_t features[4] = {a.pairs[i], b.pairs[i], a.pairs[i + 1], b.pairs[i + 1]};
        mma_16816<T>(products[r], features, input[i], input[i + 1]);
      }
    }
  }

  const int g = lane / 4;
  const bool holds = lane % 4 == g / 2;  // element [g, g], of either feature
#pragma unroll
  for (int r = 0; r < kRows; r++)
#pragma unroll
    for (int f = 0; f < kFeatures; f++) {
      float sum = holds ? (g % 2 ? products[r][2 * f + 1] : products[r][2 * f]) : 0.0f;
      for (int s = 16; s; s /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, s);
      if (lane == f && r < o.rows && first_feature + f < o.out_features) o.finish(r, first_feature + f, sum);
    }
}

bool for_tensor_cores(const LinearArgs& a, const LinearLayer& o) {
  const bool codes = a.w.dtype == MI_E4M3;
  return o.x.wide && o.w.wide && (a.x.dtype == MI_F16 || a.x.dtype == MI_BF16) && (codes || a.w.dtype == a.x.dtype);
}

template <class T, bool kCodes>
void queue(const Launch& launch, const Group& group, unsigned blocks) {
  if (group.layers[0].rows == 1) few_rows_kernel<T, kCodes, 1><<<blocks, kFewThreads, sizeof(Ring<kCodes>), launch.stream>>>(group);
  else few_rows_kernel<T, kCodes, kFewRows><<<blocks, kFewThreads, sizeof(Ring<kCodes>), launch.stream>>>(group);
}

template <class T>
void queue(const Launch& launch, const Group& group, unsigned blocks) {
  if (group.layers[0].w.dtype == MI_E4M3) queue<T, true>(launch, group, blocks);
  else queue<T, false>(launch, group, blocks);
}

struct Range {
  const char *begin, *end;
  Range(const View& v, int64_t rows, int64_t dim)
      : begin(static_cast<const char*>(v.data)), end(begin + bytes_of(v.dtype, (rows - 1) * v.row_stride + dim)) {}
  bool overlaps(const Range& o) const { return begin < o.end && o.begin < end; }
};

}  // namespace

bool linear_joins(const LinearArgs* const* group, int count, const LinearArgs& next) {
  if (next.rows > kFewRows || !for_tensor_cores(next, linear_layer(next))) return false;
  if (count == 0) return true;
  const LinearArgs& first = *group[0];
  if (next.x.data != first.x.data || next.x.row_stride != first.x.row_stride || next.x.dtype != first.x.dtype ||
      next.w.dtype != first.w.dtype || next.rows != first.rows || next.in_features != first.in_features)
    return false;
  // Layers of a launch run in any order: none may touch what another writes.
  const Range x(next.x, next.rows, next.in_features), y(next.y, next.rows, next.out_features);
  for (int i = 0; i < count; i++) {
    const Range other(group[i]->y, next.rows, group[i]->out_features);
    if (other.overlaps(x) || other.overlaps(y)) return false;
  }
  return true;
}

mi_status linear_together(const Launch& launch, const LinearArgs* const* layers, int count, mi_error* error) {
  Group group{};
  unsigned blocks = 0;
  for (int i = 0; i < count; i++) {
    group.layers[i] = linear_layer(*layers[i]);
    group.first_block[i] = blocks;
    blocks += unsigned(ceil_div(layers[i]->out_features, kFewWarps * kFeatures));
  }
  group.count = count;
  if (layers[0]->x.dtype == MI_F16) queue<__half>(launch, group, blocks);
  else queue<__nv_bfloat16>(launch, group, blocks);
  return check_launch("linear", error);
}

mi_status linear_few(const Launch& launch, const LinearArgs& a, mi_error* error) {
  const LinearLayer o = linear_layer(a);
  const LinearArgs* const alone = &a;
  if (for_tensor_cores(a, o)) return linear_together(launch, &alone, 1, error);
  any_dtype_kernel<<<unsigned(ceil_div(a.out_features, kFewWarps)), kFewThreads, 0, launch.stream>>>(o);
  return check_launch("linear", error);
}

}  // namespace mi::cuda
