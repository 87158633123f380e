// How much of the probe rows' attention a work list keeps.
#pragma once
#include "probe.h"

namespace mi::cpu {

// The work list as the attention sees it (attention/tiles.h).
AttentionArgs list_view(const Probe& probe, const void* list, uint64_t list_bytes);

// row_mass[probe row] of one head, from a finished list and the log-sum-exps of its probe rows. [64], the
// rest 0.
void kept_mass(const Pool& pool, int thread, const Probe& probe, const AttentionArgs& list, int32_t head,
               const float* lse, float* row_mass);

}  // namespace mi::cpu
