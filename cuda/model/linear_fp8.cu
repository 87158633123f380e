// Linear layers with weights of e4m3: y = x w^T (+ bias) (+ y), with a scale per output feature. Many rows are rounded to
// e4m3 themselves, with a scale per row, and multiplied by cuBLASLt; a few rows (decode) stay as they are.
#include "linear_fp8.h"

#include "../index/work_list.h"
#include "elements.cuh"

namespace mi::cuda {

namespace {

// What becomes of a sum of products with codes.
struct Finish {
  DeviceView y;
  const float *bias, *w_scales;
  bool accumulate;

  __device__ void operator()(int64_t row, int feature, float sum) const {
    sum *= w_scales[feature];
    if (bias) sum += bias[feature];
    char* const to = y.row(0, row);
    if (accumulate) sum += load_element(to, feature, y.dtype);
    store_element(to, feature, y.dtype, sum);
  }
};

Finish finish_of(const LinearArgs& a) {
  return {device_view(a.y, 1, a.rows, a.out_features), a.bias, a.w_scales, a.accumulate != 0};
}

// ---- few rows: a warp per output feature --------------------------------------------------------

constexpr int kFewWarps = 4;
constexpr int kCodes = 16;  // codes that a thread loads at a time

struct FewRows {
  DeviceView x;
  const char* w;
  int64_t w_stride;
  Finish finish;
  int rows, in_features, out_features;
};

// Codes 0 and 2 (odd: 1 and 3) of a word as f16, times 2^-8: the fields move into place, the exponent's bias stays. A
// row with a NaN among its codes has a scale that is NaN.
__device__ __forceinline__ float2 codes_of(uint32_t word, bool odd) {
  const uint32_t x = odd ? word : word << 8;
  return unpack_pair((x & 0x80008000u) | (x >> 1 & 0x3f803f80u), true);
}
constexpr float kCodeUnit = 256;

template <int kRows>
__global__ void __launch_bounds__(32 * kFewWarps) few_rows_fp8_kernel(const __grid_constant__ FewRows o) {
  constexpr int kBatch = kRows == 1 ? 4 : 2;  // loads of weights under way at once: reading at memory speed takes several
  const int feature = int(blockIdx.x) * kFewWarps + int(threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (feature >= o.out_features) return;
  const uint4* const w = reinterpret_cast<const uint4*>(o.w + feature * o.w_stride);
  const int pieces = o.in_features / kCodes;
  float sums[kRows] = {};
  for (int first = lane; first < pieces; first += 32 * kBatch) {
    uint4 weights[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; i++)
      if (first + 32 * i < pieces) weights[i] = __ldcs(w + first + 32 * i);  // read once: keep x in the cache instead
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      const int piece = first + 32 * i;
      if (piece >= pieces) break;
      const uint32_t words[4] = {weights[i].x, weights[i].y, weights[i].z, weights[i].w};
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float codes[kLane];
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const float2 even = codes_of(words[2 * half + j], false), odd = codes_of(words[2 * half + j], true);
          codes[4 * j] = even.x;
          codes[4 * j + 1] = odd.x;
          codes[4 * j + 2] = even.y;
          codes[4 * j + 3] = odd.y;
        }
#pragma unroll
        for (int r = 0; r < kRows; r++) {
          if (r >= o.rows) break;
          float x[kLane];
          load_lane(o.x.row(0, r), int64_t(piece) * kCodes + half * kLane, o.in_features, o.x.dtype, o.x.wide, x);
#pragma unroll
          for (int j = 0; j < kLane; j++) sums[r] = fmaf(x[j], codes[j], sums[r]);
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; r++) {
    for (int s = 16; s; s /= 2) sums[r] += __shfl_xor_sync(0xffffffffu, sums[r], s);
    if (lane == 0 && r < o.rows) o.finish(r, feature, sums[r] * kCodeUnit);
  }
}

mi_status few_rows(const Launch& launch, const LinearArgs& a, mi_error* error) {
  const FewRows o{device_view(a.x, 1, a.rows, a.in_features), static_cast<const char*>(a.w.data), a.w.row_stride,
                  finish_of(a), a.rows, a.in_features, a.out_features};
  const unsigned blocks = unsigned(ceil_div(a.out_features, kFewWarps)), threads = 32 * kFewWarps;
  if (a.rows == 1) few_rows_fp8_kernel<1><<<blocks, threads, 0, launch.stream>>>(o);
  else few_rows_fp8_kernel<kFewRows><<<blocks, threads, 0, launch.stream>>>(o);
  return check_launch("linear", error);
}

// ---- many rows: cuBLASLt -------------------------------------------------------------------------------

constexpr int kScaleThreads = 256;
constexpr int64_t kSumRows = 512;  // rows whose unscaled sums are held at a time: bounds the workspace

// Rows from `first` on of y, from sums [rows][out_features] of products of codes.
__global__ void __launch_bounds__(kScaleThreads)
    scale_sums_kernel(Finish finish, const float* sums, const float* x_scales, int first, int out_features) {
  const int row = blockIdx.y, feature = int(blockIdx.x) * kScaleThreads + int(threadIdx.x);
  if (feature >= out_features) return;
  finish(int64_t(first) + row, feature, sums[int64_t(row) * out_features + feature] * x_scales[first + row]);
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

mi_status many_rows(const Launch& launch, CublasLt& cublaslt, const LinearArgs& a, mi_error* error) {
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
    scale_sums_kernel<<<grid, kScaleThreads, 0, launch.stream>>>(finish_of(a), sums, x_scales, int(first),
                                                                 a.out_features);
    status = check_launch("linear", error);
    if (status != MI_OK) return status;
  }
  return MI_OK;
}

}  // namespace

uint64_t linear_fp8_workspace(const LinearArgs& a) { return a.rows <= kFewRows ? 0 : uint64_t(Workspace(a).end); }

mi_status linear_fp8(const Launch& launch, CublasLt& cublaslt, const LinearArgs& a, mi_error* error) {
  return a.rows <= kFewRows ? few_rows(launch, a, error) : many_rows(launch, cublaslt, a, error);
}

}  // namespace mi::cuda
