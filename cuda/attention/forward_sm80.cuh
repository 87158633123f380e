// The portable attention kernel: cp.async and mma.sync, for every chip from sm_80 on and every head_dim up to 256.
#pragma once
#include "problem.cuh"

namespace mi::cuda {

mi_status forward_sm80(const Launch& launch, const Problem& p, bool half, mi_error* error);

}  // namespace mi::cuda
