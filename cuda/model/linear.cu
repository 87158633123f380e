// Linear layers: y = x w^T (+ bias) (+ y). Many rows go to cuBLASLt; what it does not take, to a plain tiled product. A few
// rows, and many with weights of e4m3, have files of their own.
#include "../core/cuda_ops.h"
#include "../index/work_list.h"
#include "blocks.cuh"
#include "linear_few.h"
#include "linear_fp8.h"
#include "linear_layer.cuh"

namespace mi::cuda {

namespace {

// ---- any dtypes, f32 arithmetic: 64 x 64 tiles ----------------------------------------------------

constexpr int kTile = 64, kDepth = 32, kTileThreads = 256;

__global__ void __launch_bounds__(kTileThreads) tiled_kernel(const __grid_constant__ LinearLayer o) {
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
        o.finish(row0 + tr + i, feature0 + tf + j, sums[i][j]);
}

// ---- choice -----------------------------------------------------------------------------------------

constexpr uint64_t kBiasAt =
    CublasLt::kWorkspaceBytes;  // workspace: cuBLASLt's, bias in y's dtype, x in w's dtype

uint64_t bias_bytes(const LinearArgs& a) { return uint64_t(round_up(int64_t(a.out_features) * 4, 256)); }
bool converts_x(const LinearArgs& a) { return a.x.dtype != a.w.dtype; }
bool for_cublaslt(const LinearArgs& a) {
  const bool rounds_x = converts_x(a) && a.w.dtype != MI_F32 && a.x.dtype != MI_BF16;  // bf16 to f16 keeps all bits
  return block_elements(a.w.dtype) == 1 && (!rounds_x || a.precision == MI_PRECISION_BF16);
}

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

}  // namespace

uint64_t linear_workspace(const Launch&, const LinearArgs& a) {
  if (a.rows <= kFewRows) return 0;
  if (a.w.dtype == MI_E4M3) return linear_fp8_workspace(a);
  if (!for_cublaslt(a)) return 0;
  const uint64_t x = converts_x(a) ? uint64_t(a.rows) * a.in_features * block_bytes(a.w.dtype) : 0;
  return kBiasAt + bias_bytes(a) + x;
}

mi_status linear(const Launch& launch, CublasLt& cublaslt, const LinearArgs& a, mi_error* error) {
  if (a.rows <= kFewRows) return linear_few(launch, a, error);
  if (a.w.dtype == MI_E4M3) return linear_fp8(launch, cublaslt, a, error);
  if (for_cublaslt(a)) {
    // f16 and bf16 results need operands of their own dtype or an f32 result; cuBLASLt says which it lacks.
    const mi_status status = through_cublaslt(launch, cublaslt, a, error);
    if (status != MI_UNSUPPORTED) return status;
  }
  const dim3 grid(unsigned(ceil_div(a.out_features, kTile)), unsigned(ceil_div(a.rows, kTile)));
  tiled_kernel<<<grid, kTileThreads, 0, launch.stream>>>(linear_layer(a));
  return check_launch("linear", error);
}

}  // namespace mi::cuda
