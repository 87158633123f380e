// Matrix products through cuBLASLt, opened at run time: the library neither links nor ships it.
// No CUDA header is needed here; enumeration values are cuBLASLt's own (its binary interface is stable).
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "../include/minference.h"

struct CUstream_st;

namespace mi::cuda {

// Row-major y[m][n] = x[m][k] w[n][k]^T (+ bias[n]) (+ y), sums in f32. Operands of e4m3 may come with scales (device
// memory): x_scales[m] w_scales[n] times the product, which takes cuBLASLt 12.9 and a Hopper GPU.
struct Gemm {
  const void *x, *w, *bias;  // bias has y's dtype; may be null
  void* y;
  int64_t m, n, k;
  int64_t x_stride, w_stride, y_stride;  // elements
  int32_t operand_dtype, y_dtype;        // x and w share a dtype
  int32_t accumulate;
  int32_t tf32;  // f32 operands may be rounded to tf32
  const float *x_scales, *w_scales;  // both or none
};

class CublasLt {
 public:
  static constexpr uint64_t kWorkspaceBytes = uint64_t(32) << 20;  // what the Hopper kernels ask for

  CublasLt() = default;
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // Finds the library the first time; the outcome is kept. MI_UNSUPPORTED with the places searched.
  mi_status open(mi_error* error);
  // MI_UNSUPPORTED if cuBLASLt has no such product; that is kept, too.
  mi_status multiply(const Gemm& gemm, void* workspace, uint64_t workspace_bytes, CUstream_st* stream,
                     mi_error* error);

 private:
  struct Api;
  struct Key {
    int64_t m, n, k, x_stride, w_stride, y_stride;
    int32_t operand_dtype, y_dtype, bias, tf32, scaled;
    uint32_t alignment;  // of all pointers together, bytes
    bool operator<(const Key& other) const;
  };
  struct Plan {
    void *operation, *x, *w, *y;  // cuBLASLt descriptors; null if it refused
    uint64_t algorithm[8];
    uint64_t workspace_bytes;
  };

  int make_plan(const Key& key, const Gemm& gemm, uint64_t workspace_bytes, Plan* plan);
  int point(const Plan& plan, const Gemm& gemm);
  void free_plan(Plan* plan);

  std::mutex mutex_;
  bool searched_ = false;
  Api* api_ = nullptr;
  void* handle_ = nullptr;
  std::string searched_places_;
  std::map<Key, Plan> plans_;  // by shape
};

}  // namespace mi::cuda
