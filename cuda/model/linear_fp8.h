// Linear layers of many rows with weights of e4m3.
#pragma once
#include "../core/cuda_ops.h"

namespace mi::cuda {

uint64_t linear_fp8_workspace(const LinearArgs& a);
mi_status linear_fp8(const Launch& launch, CublasLt& cublaslt, const LinearArgs& a, mi_error* error);

}  // namespace mi::cuda
