// The last-queries estimate with Hopper's instructions.
#pragma once
#include "../core/launch.h"
#include "../core/ops.h"

namespace mi::cuda {

// Whether estimate_sm90() serves these arguments, which a GPU accepts: head_dim up to 128, and queries that the copy
// engine can bring, of the keys' type and on 16 bytes.
bool estimates_on_sm90(const Launch& launch, const EstimateArgs& a);
uint64_t estimate_workspace_sm90(const Launch& launch, const EstimateArgs& a);
mi_status estimate_sm90(const Launch& launch, const EstimateArgs& a, mi_error* error);

}  // namespace mi::cuda
