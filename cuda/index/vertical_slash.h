// Selection of one vertical-slash head: which columns and which bands.
#pragma once
#include "probe.h"

namespace mi::cpu {

// The probe's attention mass of one head.
struct HeadMass {
  const float *vertical, *slash;  // [kv_len], from the estimate
  // Mass of each key on the probe rows of blocks.block[0] alone; null when there is no second block or no
  // mass budget.
  const float* first_block;
};

// Scratch of one selection.
struct SelectionScratch {
  float *residual, *spare, *tiles;  // [kv_len], [kv_len], [kv_len / 64 + 2]

  static uint64_t bytes(int64_t kv_len) {
    return uint64_t(2 * kv_len + kv_len / MI_BLOCK + 2) * sizeof(float);
  }
  SelectionScratch(void* memory, int64_t kv_len)
      : residual(static_cast<float*>(memory)), spare(residual + kv_len), tiles(spare + kv_len) {}
};

struct VerticalSlash {
  Band* bands;       // in: room for the layout's capacities
  int32_t* columns;
  int64_t band_count, column_count;
};

// Fills `out`. False if the estimate is not finite and the head has a mass budget: nothing can then be left
// out safely.
bool select_vertical_slash(const Probe& probe, const mi_pattern& pattern, const HeadMass& mass,
                           const SelectionScratch& scratch, VerticalSlash& out);

}  // namespace mi::cpu
