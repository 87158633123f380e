// Linear layers of many rows with weights of e4m3 and a scale per output feature: the rows are rounded to e4m3 themselves,
// with a scale per row, and multiplied by cuBLASLt.
#include "linear_fp8.h"

#include "../index/work_list.h"
#include "linear_layer.cuh"

namespace mi::cuda {

namespace {

constexpr int kScaleThreads = 256;
constexpr int64_t kSumRows = 512;  // rows whose unscaled sums are held at a time: bounds the workspace

// Rows from `first` on of y, from sums [rows][out_features] of products of codes.
__global__ void __launch_bounds__(kScaleThreads)
    scale_sums_kernel(const __grid_constant__ LinearLayer layer, const float* sums, const float* x_scales, int first) {
  const int row = blockIdx.y, feature = int(blockIdx.x) * kScaleThreads + int(threadIdx.x);
  if (feature >= layer.out_features) return;
  const float sum = sums[int64_t(row) * layer.out_features + feature];
  layer.finish(int64_t(first) + row, feature, sum * x_scales[first + row]);
}

// Workspace: cuBLASLt's, x as codes, its scales, bias in y's dtype, unscaled sums where cuBLASLt does not scale. What is
// in use does not show when it is planned: there is room for all of it.
struct Workspace {
  int64_t codes = CublasLt::kWorkspaceBytes, x_scales, bias, sums, end;

  explicit Workspace(const LinearArgs& a) {
    const auto after = [](int64_t at, int64_t bytes) { return round_up(at + bytes, 256); };
    x_scales = after(codes, int64_t(a.rows) * a.in_features);
    bias = after(x_scales, int64_t(a.rows) * 4);
    sums = after(bias, int64_t(a.out_features) * 4);
    end = after(sums, min64(a.rows, kSumRows) * a.out_features * 4);
  }
};

// What products with scales and products without share.
Gemm gemm_of(const LinearArgs& a, const void* codes) {
  Gemm g{};
  g.x = codes;
  g.w = a.w.data;
  g.m = a.rows;
  g.n = a.out_features;
  g.k = a.in_features;
  g.x_stride = a.in_features;
  g.w_stride = a.w.row_stride;
  g.operand_dtype = MI_E4M3;
  return g;
}

}  // namespace

uint64_t linear_fp8_workspace(const LinearArgs& a) { return uint64_t(Workspace(a).end); }

mi_status linear_fp8(const Launch& launch, CublasLt& cublaslt, const LinearArgs& a, mi_error* error) {
  char* const base = static_cast<char*>(a.workspace);
  const Workspace at(a);
  auto* const x_scales = reinterpret_cast<float*>(base + at.x_scales);
  const View codes{base + at.codes, 0, a.in_features, MI_E4M3};
  mi_status status = quantise_rows(launch, {a.x, codes, x_scales, a.rows, a.in_features}, error);
  if (status != MI_OK) return status;

  Gemm g = gemm_of(a, codes.data);
  g.x_scales = x_scales;
  g.w_scales = a.w_scales;
  g.bias = a.bias;
  g.y = a.y.data;
  g.y_stride = a.y.row_stride;
  g.y_dtype = a.y.dtype;
  g.accumulate = a.accumulate;
  if (a.bias && a.y.dtype != MI_F32) {
    status = convert(launch, {a.bias, base + at.bias, MI_F32, a.y.dtype, a.out_features}, error);
    if (status != MI_OK) return status;
    g.bias = base + at.bias;
  }
  status = cublaslt.multiply(g, base, CublasLt::kWorkspaceBytes, launch.stream, error);
  if (status != MI_UNSUPPORTED) return status;

  // A cuBLASLt before 12.9, or a GPU or a shape for which it takes no vectors of scales: they are applied to its sums.
  auto* const sums = reinterpret_cast<float*>(base + at.sums);
  for (int64_t first = 0; first < a.rows; first += kSumRows) {
    Gemm part = gemm_of(a, static_cast<const char*>(codes.data) + first * a.in_features);
    part.m = min64(kSumRows, a.rows - first);
    part.y = sums;
    part.y_stride = a.out_features;
    part.y_dtype = MI_F32;
    status = cublaslt.multiply(part, base, CublasLt::kWorkspaceBytes, launch.stream, error);
    if (status != MI_OK) return status;
    const dim3 grid(unsigned(ceil_div(a.out_features, kScaleThreads)), unsigned(part.m));
    scale_sums_kernel<<<grid, kScaleThreads, 0, launch.stream>>>(linear_layer(a), sums, x_scales, int(first));
    status = check_launch("linear", error);
    if (status != MI_OK) return status;
  }
  return MI_OK;
}

}  // namespace mi::cuda
