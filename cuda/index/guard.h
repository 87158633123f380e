// The quality guard: a list that keeps too little of the probe rows' attention is given up for this prompt, and
// its head computed densely. Both backends decide here, where the list is built: nobody waits for the host.
#pragma once
#include "work_list.h"

namespace mi {

struct Guard {
  float mean, min;  // least retained_mean and retained_min; 0 = off

  MI_HD bool active() const { return mean > 0 || min > 0; }
  // NaN fails: what a list without a finite estimate keeps is unknown.
  MI_HD bool passes(float retained_mean, float retained_min) const {
    return !active() || (retained_mean >= mean && retained_min >= min);
  }
};

// Turns a finished head dense. `stats`, where wanted, holds what the list had.
MI_HD inline void give_up_list(ListHead& list, mi_head_stats* stats) {
  list.kind = MI_DENSE;
  list.band_count = list.column_count = 0;
  if (!stats) return;
  stats->kind = MI_DENSE;
  stats->bands = stats->columns = 0;
  stats->tiles = stats->causal_tiles;
  stats->guarded = 1;
  stats->unguarded_mean = stats->retained_mean;
  stats->unguarded_min = stats->retained_min;
  stats->density = stats->retained_mean = stats->retained_min = 1;
}

}  // namespace mi
