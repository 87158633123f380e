// What the index kernels share: one head's plan, the workspace, and geometry of the row blocks.
#pragma once
#include "../core/cuda_ops.h"
#include "guard.h"
#include "probe.cuh"
#include "work_list.h"

namespace mi::cuda {

// One head: its pattern with upstream's rules applied, and where its part of the list lies.
struct HeadPlan {
  int32_t kind, selection;
  float mass;                  // > 0: budgets by mass
  int32_t columns;             // most columns
  int32_t units, unit_limit;   // distances or tiles there are, and most that may be chosen
  int32_t forced_units;
  int32_t column_peaks, unit_peaks;  // whether the choice of columns, of distances begins with peaks
  int32_t sink, local, top_k, flags;
  int32_t column_words, block_stride;
  int32_t slot;                // among the heads of its kind, for the workspace
  uint64_t bands, columns_at, coverage, blocks;  // byte offsets in the list
};

// Every probe row of a head with a budget by mass should keep this fraction of the budget: a row that looks
// elsewhere than the others weighs little in their sum (index/row_floor.h).
constexpr float kRowFloor = 0.9f;

// Row blocks that hold probe rows: the last one, and the one before it if the probe reaches over. Probe rows
// [0, split) lie in the earlier one.
struct ProbeBlocks {
  int32_t last, split;
};

struct IndexKernelArgs {
  Probe probe;
  ProbeBlocks probe_blocks;
  int32_t row_blocks, key_blocks;
  const float *vertical, *slash, *lse;
  char* list;
  uint64_t list_bytes;
  mi_head_stats* stats;  // may be null
  float dense_above;
  int32_t measure_mass;  // after the list is complete
  Guard guard;

  // Workspace. Of vertical-slash heads, by slot:
  int32_t* ids;              // [ids_stride], chosen distances or tiles, ascending
  int32_t* chain;            // [ids_stride], scratch of the bands' selection
  float* peaks;              // [2][peak_stride], of each 16 column and distance masses, see prepare.cu
  int32_t* column_groups;    // [column_stride], scratch of the columns' selection
  float* unit_mass;          // [unit_stride], mass of each tile, banded selection only
  uint32_t* band_tiles;      // [unit_stride], tiles of the bands before each
  uint32_t* needed;          // [64][needed_words], see select.cu
  float* residual;           // [kv_len], with budgets by mass only
  float* key_mass;           // [kv_len], likewise; see queue_key_mass
  int64_t ids_stride, unit_stride, peak_stride, column_stride;
  int32_t needed_words;
  // Of all heads:
  uint32_t* visible;         // [2][visible_words], keys that the two probe blocks see
  unsigned long long* tiles;
  uint32_t* tickets;         // blocks of a launch that are done
  LsePartials partials;      // where the caller brought no lse
  float* retained;           // [parts][64]
  float* row_mass;           // [64], mass that the list keeps of each probe row
  int32_t visible_words;
  // Of block-sparse heads with pooled scores:
  __half* query_means;       // [slots][row_blocks][mean_dim]
  __half* key_means;         // [kv_heads][key_blocks][mean_dim]
  int32_t mean_dim;
  // Of all block-sparse heads:
  char* choice;              // buffers that shared memory has no room for, see block_choice.cuh

  HeadPlan heads[kMostIndexHeads];

  __device__ ListHead& list_head(int head) const { return reinterpret_cast<ListHead*>(list)[head]; }
  template <class T>
  __device__ T* at(uint64_t offset) const { return reinterpret_cast<T*>(list + offset); }
  __device__ float* peaks_of(int slot, int list) const { return peaks + (int64_t(slot) * 2 + list) * peak_stride; }
  __host__ __device__ int64_t offset() const { return int64_t(probe.kv_len) - probe.q_len; }
  __host__ __device__ int64_t end(int64_t m) const { return offset() + MI_BLOCK * (m + 1); }  // work_list.h
  __device__ int64_t reach(int64_t m) const { return end(m) < probe.kv_len ? end(m) : probe.kv_len; }
  __device__ int64_t dense_tiles(int64_t m) const { return ceil_div(reach(m), MI_BLOCK); }
};
static_assert(sizeof(IndexKernelArgs) < 32764 - 16, "fits a kernel's parameters");

// Each queues one launch, or nothing if no head needs it. Mass of each key on some probe rows of the heads
// with a budget by mass: those of the earlier row block, or the cells that the list leaves out of rows below
// the floor.
enum class KeyMass { kFirstBlock, kMissing };
mi_status queue_key_mass(const Launch&, const IndexKernelArgs&, KeyMass, bool half, mi_error*);
// What selection and block scores begin with: peaks, masses of tiles, means of blocks.
mi_status queue_prepare(const Launch&, const IndexKernelArgs&, mi_error*);
mi_status queue_select(const Launch&, const IndexKernelArgs&, mi_error*);
mi_status queue_select_by_mass(const Launch&, const IndexKernelArgs&, mi_error*);  // after queue_select
mi_status queue_visible(const Launch&, const IndexKernelArgs&, mi_error*);
mi_status queue_add_columns(const Launch&, const IndexKernelArgs&, mi_error*);
mi_status queue_pooled_blocks(const Launch&, const IndexKernelArgs&, mi_error*);
mi_status queue_antidiagonal_blocks(const Launch&, const IndexKernelArgs&, bool half, mi_error*);
uint64_t pooled_choice_bytes(const Launch&, const IndexKernelArgs&);  // of IndexKernelArgs::choice
uint64_t antidiagonal_choice_bytes(const Launch&, const IndexKernelArgs&);
// Coverage, and `visible` if the mass is measured.
mi_status queue_coverage(const Launch&, const IndexKernelArgs&, mi_error*);
// Fills row_mass from `visible`, and the statistics where wanted.
mi_status queue_retained(const Launch&, const IndexKernelArgs&, bool half, mi_error*);

}  // namespace mi::cuda
