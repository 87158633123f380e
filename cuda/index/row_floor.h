// Mass budgets count the probe rows' attention as a whole. A row that looks elsewhere than the others, such
// as the last one when it is about to retrieve an answer, weighs little in that sum and could lose all it
// attends to: such rows get columns of their own.
#pragma once
#include "retained.h"

namespace mi::cpu {

// Every probe row of a head with a mass budget should keep this fraction of the budget.
constexpr float kRowFloor = 0.9f;

// The rows of a head that keep less than `floor`, and what they lack in all.
struct PoorRows {
  PoorRows(const float* row_mass, int rows, float floor);
  bool is_poor[MI_BLOCK];
  double lack;
};

// missing[key] = attention of the poor rows that the bands leave out, for the keys of one range. Columns of
// the list are among them: the caller knows them.
void missing_mass(const Pool& pool, int thread, const Probe& probe, const HeadList& list, int32_t head,
                  const float* lse, const PoorRows& poor, const KeyRange& range, float* missing);

}  // namespace mi::cpu
