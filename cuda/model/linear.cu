// Linear layers: y = x w^T (+ bias) (+ y). Many rows go to cuBLASLt; a few rows (decode) are bound by
// reading the weights and have their own kernel; everything else falls back to a plain tiled product. Weights of e4m3
// have a file of their own.
#include "../core/cuda_ops.h"
#include "../index/work_list.h"
#include "blocks.cuh"
#include "linear_fp8.h"

namespace mi::cuda {

namespace {

struct Operands {
  DeviceView x, w, y;
  const float* bias;
  int rows, in_features, out_features;
  bool accumulate;
};

__device__ void finish(const Operands& o, int row, int feature, float sum) {
  if (o.bias) sum += o.bias[feature];
  char* y = o.y.row(0, row);
  if (o.accumulate) sum += load_element(y, feature, o.y.dtype);
  store_element(y, feature, o.y.dtype, sum);
}

// ---- few rows: a warp per output feature --------------------------------------------------------

constexpr int kFewWarps = 4;

template <int kRows>
__global__ void __launch_bounds__(32 * kFewWarps) few_rows_kernel(Operands o) {
  const int feature = blockIdx.x * kFewWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (feature >= o.out_features) return;
  const char* w = o.w.row(0, feature);
  float sums[kRows] = {};
  const int lanes = (o.in_features + kLane - 1) / kLane;
#pragma unroll 4
  for (int i = lane; i < lanes; i += 32) {
    float weights[kLane];
    load_weights(w, i, o.in_features, o.w.dtype, o.w.wide, weights);
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      if (r >= o.rows) break;
      float x[kLane];
      load_lane(o.x.row(0, r), int64_t(i) * kLane, o.in_features, o.x.dtype, o.x.wide, x);
#pragma unroll
      for (int j = 0; j < kLane; j++) sums[r] += x[j] * weights[j];
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; r++) {
    for (int s = 16; s; s /= 2) sums[r] += __shfl_xor_sync(0xffffffffu, sums[r], s);
    if (lane == 0 && r < o.rows) finish(o, r, feature, sums[r]);
  }
}

// Layers of one launch: blocks [first_block[i], first_block[i + 1]) compute layer i.
struct Group {
  Operands layers[kMostTogether];
  unsigned first_block[kMostTogether];
  int count;
};

// The same where x and w are aligned and of one 16-bit dtype: loads of several steps go out before any is
// used, which is what reading at memory speed takes.
template <int kRows>
__global__ void __launch_bounds__(32 * kFewWarps) few_rows_wide_kernel(const __grid_constant__ Group group) {
  constexpr int kBatch = kRows == 1 ? 4 : 2;
  int layer = group.count - 1;
  while (blockIdx.x < group.first_block[layer]) layer--;
  const Operands& o = group.layers[layer];
  const int feature = int(blockIdx.x - group.first_block[layer]) * kFewWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (feature >= o.out_features) return;
  const bool is_f16 = o.w.dtype == MI_F16;
  const uint4* w = reinterpret_cast<const uint4*>(o.w.row(0, feature));
  const uint4* x[kRows];
#pragma unroll
  for (int r = 0; r < kRows; r++) x[r] = reinterpret_cast<const uint4*>(o.x.row(0, r < o.rows ? r : 0));
  float sums[kRows] = {};
  const int lanes = o.in_features / kLane;
  for (int first = lane; first < lanes; first += 32 * kBatch) {
    uint4 weights[kBatch], inputs[kRows][kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      const int at = first + 32 * i;
      weights[i] =
          at < lanes ? __ldcs(w + at) : make_uint4(0, 0, 0, 0);  // read once: keep x in the cache instead
#pragma unroll
      for (int r = 0; r < kRows; r++) inputs[r][i] = at < lanes ? x[r][at] : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      const uint32_t a[4] = {weights[i].x, weights[i].y, weights[i].z, weights[i].w};
#pragma unroll
      for (int r = 0; r < kRows; r++) {
        const uint32_t b[4] = {inputs[r][i].x, inputs[r][i].y, inputs[r][i].z, inputs[r][i].w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const float2 p = unpack_pair(a[j], is_f16), q = unpack_pair(b[j], is_f16);
          sums[r] = fmaf(p.y, q.y, fmaf(p.x, q.x, sums[r]));
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; r++) {
    for (int s = 16; s; s /= 2) sums[r] += __shfl_xor_sync(0xffffffffu, sums[r], s);
    if (lane == 0 && r < o.rows) finish(o, r, feature, sums[r]);
  }
}

// ---- any dtypes, f32 arithmetic: 64 x 64 tiles ----------------------------------------------------

constexpr int kTile = 64, kDepth = 32, kTileThreads = 256;

__global__ void __launch_bounds__(kTileThreads) tiled_kernel(Operands o) {
  __shared__ float xs[kDepth][kTile + 4], ws[kDepth][kTile + 4];  // transposed
  const int row0 = blockIdx.y * kTile, feature0 = blockIdx.x * kTile;
  const int load_row = threadIdx.x / (kDepth / kLane), load_lane_at = threadIdx.x % (kDepth / kLane);
  const int tr = threadIdx.x / 16 * 4, tf = threadIdx.x % 16 * 4;
  float sums[4][4] = {};
  for (int k = 0; k < o.in_features; k += kDepth) {
    const int at = k + load_lane_at * kLane;
    float x[kLane] = {}, w[kLane] = {};
    if (row0 + load_row < o.rows && at < o.in_features)
      load_lane(o.x.row(0, row0 + load_row), at, o.in_features, o.x.dtype, o.x.wide, x);
    if (feature0 + load_row < o.out_features && at < o.in_features)
      load_weights(o.w.row(0, feature0 + load_row), at / kLane, o.in_features, o.w.dtype, o.w.wide, w);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kLane; j++) {
      xs[load_lane_at * kLane + j][load_row] = x[j];
      ws[load_lane_at * kLane + j][load_row] = w[j];
    }
    __syncthreads();
#pragma unroll 8
    for (int d = 0; d < kDepth; d++) {
      const float4 a = *reinterpret_cast<const float4*>(&xs[d][tr]),
                   b = *reinterpret_cast<const float4*>(&ws[d][tf]);
      const float av[4] = {a.x, a.y, a.z, a.w}, bv[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sums[i][j] += av[i] * bv[j];
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (row0 + tr + i < o.rows && feature0 + tf + j < o.out_features)
        finish(o, row0 + tr + i, feature0 + tf + j, sums[i][j]);
}

// ---- choice -----------------------------------------------------------------------------------------

constexpr uint64_t kBiasAt =
    CublasLt::kWorkspaceBytes;  // workspace: cuBLASLt's, bias in y's dtype, x in w's dtype

uint64_t bias_bytes(const LinearArgs& a) { return uint64_t(round_up(int64_t(a.out_features) * 4, 256)); }
bool for_cublaslt(const LinearArgs& a) { return a.rows > kFewRows && block_elements(a.w.dtype) == 1; }
bool converts_x(const LinearArgs& a) { return a.x.dtype != a.w.dtype; }

mi_status through_cublaslt(const Launch& launch, CublasLt& cublaslt, const LinearArgs& a, mi_error* error) {
  char* scratch = static_cast<char*>(a.workspace) + kBiasAt;
  Gemm g{a.x.data,       a.w.data,
         a.bias,         a.y.data,
         a.rows,         a.out_features,
         a.in_features,  a.x.row_stride,
         a.w.row_stride, a.y.row_stride,
         a.w.dtype,      a.y.dtype,
         a.accumulate,   a.precision == MI_PRECISION_BF16};
  if (a.bias && a.y.dtype != MI_F32) {
    const mi_status status = convert(launch, {a.bias, scratch, MI_F32, a.y.dtype, a.out_features}, error);
    if (status != MI_OK) return status;
    g.bias = scratch;
  }
  if (converts_x(a)) {
    const View x{scratch + bias_bytes(a), 0, a.in_features, a.w.dtype};
    const mi_status status = copy(launch, {a.x, x, a.rows, 1, a.in_features}, error);
    if (status != MI_OK) return status;
    g.x = x.data;
    g.x_stride = x.row_stride;
  }
  return cublaslt.multiply(g, a.workspace, CublasLt::kWorkspaceBytes, launch.stream, error);
}

Operands operands_of(const LinearArgs& a) {
  return {device_view(a.x, 1, a.rows, a.in_features),
          device_view(a.w, 1, a.out_features, a.in_features),
          device_view(a.y, 1, a.rows, a.out_features),
          a.bias,
          a.rows,
          a.in_features,
          a.out_features,
          a.accumulate != 0};
}

// 16-byte loads of x and w, both of one 16-bit dtype.
bool is_wide(const LinearArgs& a, const Operands& o) {
  return o.x.wide && o.w.wide && a.x.dtype == a.w.dtype && a.w.dtype != MI_F32;
}

struct Range {
  const char *begin, *end;
  Range(const View& v, int64_t rows, int64_t dim)
      : begin(static_cast<const char*>(v.data)), end(begin + bytes_of(v.dtype, (rows - 1) * v.row_stride + dim)) {}
  bool overlaps(const Range& o) const { return begin < o.end && o.begin < end; }
};

}  // namespace

bool linear_joins(const LinearArgs* const* group, int count, const LinearArgs& next) {
  if (next.rows > kFewRows || !is_wide(next, operands_of(next))) return false;
  if (count == 0) return true;
  const LinearArgs& first = *group[0];
  if (next.x.data != first.x.data || next.x.row_stride != first.x.row_stride || next.x.dtype != first.x.dtype ||
      next.rows != first.rows || next.in_features != first.in_features)
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
    group.layers[i] = operands_of(*layers[i]);
    group.first_block[i] = blocks;
    blocks += unsigned(ceil_div(layers[i]->out_features, kFewWarps));
  }
  group.count = count;
  constexpr unsigned kThreads = 32 * kFewWarps;
  if (layers[0]->rows == 1) few_rows_wide_kernel<1><<<blocks, kThreads, 0, launch.stream>>>(group);
  else few_rows_wide_kernel<kFewRows><<<blocks, kThreads, 0, launch.stream>>>(group);
  return check_launch("linear", error);
}

uint64_t linear_workspace(const Launch&, const LinearArgs& a) {
  if (a.w.dtype == MI_E4M3) return linear_fp8_workspace(a);
  if (!for_cublaslt(a)) return 0;
  const uint64_t x = converts_x(a) ? uint64_t(a.rows) * a.in_features * block_bytes(a.w.dtype) : 0;
  return kBiasAt + bias_bytes(a) + x;
}

mi_status linear(const Launch& launch, CublasLt& cublaslt, const LinearArgs& a, mi_error* error) {
  if (a.w.dtype == MI_E4M3) return linear_fp8(launch, cublaslt, a, error);
  if (for_cublaslt(a)) {
    // f16 and bf16 results need operands of their own dtype or an f32 result; cuBLASLt says which it lacks.
    const mi_status status = through_cublaslt(launch, cublaslt, a, error);
    if (status != MI_UNSUPPORTED) return status;
  }
  const Operands o = operands_of(a);
  if (a.rows <= kFewRows) {
    const LinearArgs* const alone = &a;
    if (is_wide(a, o)) return linear_together(launch, &alone, 1, error);
    const unsigned blocks = unsigned(ceil_div(a.out_features, kFewWarps)), threads = 32 * kFewWarps;
    if (a.rows == 1) few_rows_kernel<1><<<blocks, threads, 0, launch.stream>>>(o);
    else few_rows_kernel<kFewRows><<<blocks, threads, 0, launch.stream>>>(o);
  } else {
    const dim3 grid(unsigned(ceil_div(a.out_features, kTile)), unsigned(ceil_div(a.rows, kTile)));
    tiled_kernel<<<grid, kTileThreads, 0, launch.stream>>>(o);
  }
  return check_launch("linear", error);
}

}  // namespace mi::cuda
