// Linear layers with weights of e4m3.
#pragma once
#include "../core/cuda_ops.h"

namespace mi::cuda {

constexpr int kFewRows = 4;  // up to here a layer is bound by reading its weights

uint64_t linear_fp8_workspace(const LinearArgs& a);
mi_status linear_fp8(const Launch& launch, CublasLt& cublaslt, const LinearArgs& a, mi_error* error);

}  // namespace mi::cuda
