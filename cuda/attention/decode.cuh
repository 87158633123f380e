// Attention for few query rows, as in decoding: bound by reading K and V once.
#pragma once
#include "problem.cuh"

namespace mi::cuda {

// Whether decode() is the kernel for it: no list, and at most 64 query rows for each KV head.
bool decodes(const AttentionArgs& a);
uint64_t decode_workspace(const Launch& launch, const AttentionArgs& a);
mi_status decode(const Launch& launch, const AttentionArgs& a, const Problem& p, void* workspace, mi_error* error);

}  // namespace mi::cuda
