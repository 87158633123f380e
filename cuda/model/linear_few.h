// Linear layers of a few rows, as in decoding: bound by reading their weights once.
#pragma once
#include "../core/cuda_ops.h"

namespace mi::cuda {

constexpr int kFewRows = 4;

// Any dtypes; see linear_together() for several layers.
mi_status linear_few(const Launch& launch, const LinearArgs& a, mi_error* error);

}  // namespace mi::cuda
