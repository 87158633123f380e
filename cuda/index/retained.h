// How much of the probe rows' attention a work list keeps.
#pragma once
#include "probe.h"

namespace mi::cpu {

struct RetainedMass {
  float mean, min;  // over the probe rows
};

// out[q_heads], from a finished list and the log-sum-exps of the probe rows.
void retained_mass(Pool& pool, const Probe& probe, const void* list, uint64_t list_bytes, const float* lse,
                   RetainedMass* out);

}  // namespace mi::cpu
