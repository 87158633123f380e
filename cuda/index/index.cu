// The index builder: plans each head on the host, then queues the kernels that fill the work list.
#include <algorithm>
#include <memory>

#include "../core/cuda_ops.h"
#include "plan.cuh"
#include "select.cuh"

namespace mi::cuda {

namespace {

constexpr int kForcedTiles =
    3;  // a row at distance d sees it in tile (d + 63) / 64 at most: kForcedDistances

HeadPlan plan_head(const mi_pattern& p, const IndexArgs& a, const IndexKernelArgs& k, uint64_t& list_offset) {
  const HeadLayout layout = head_layout(p, a.q_len, a.kv_len, list_offset);
  HeadPlan h{};
  h.kind = p.kind;
  h.selection = p.selection;
  h.mass = p.mass;
  h.sink = p.sink;
  h.local = p.local;
  h.top_k = p.top_k;
  h.flags = p.flags;
  h.column_words = int32_t(layout.column_words);
  h.block_stride = int32_t(layout.block_stride);
  h.bands = layout.bands;
  h.columns_at = layout.columns;
  h.coverage = layout.coverage;
  h.blocks = layout.blocks;
  if (p.kind == MI_VERTICAL_SLASH) {
    const VerticalSlashBudget budget = vertical_slash_budget(p, a.kv_len);
    const bool exact = p.selection == MI_EXACT;
    h.columns = int32_t(budget.columns);
    h.units = exact ? a.kv_len : int32_t(ceil_div(k.end(k.row_blocks - 1), MI_BLOCK));
    h.forced_units = std::min(exact ? kForcedDistances : kForcedTiles, h.units);
    h.unit_limit = exact ? int32_t(budget.distances)
                   : budget.distances == a.kv_len
                       ? h.units
                       : std::max(h.forced_units, int32_t(ceil_div(budget.distances, MI_BLOCK)));
    h.forced_units = std::min(h.forced_units, h.unit_limit);
    const auto by_peaks = [&](int64_t n, int64_t wanted, int64_t forced) {
      return p.mass <= 0 && wanted > forced && peaks_help(n - forced, wanted - forced);
    };
    h.column_peaks = by_peaks(a.kv_len, h.columns, kForcedColumns);
    h.unit_peaks = exact && by_peaks(h.units, h.unit_limit, h.forced_units);
  }
  return h;
}

// Parts of the workspace; with a null base only their sizes count.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  void take(T*& part, uint64_t count) {
    part = base_ ? reinterpret_cast<T*>(base_ + bytes_) : nullptr;
    bytes_ += uint64_t(round_up(int64_t(count * sizeof(T)), 256));
  }
  uint64_t bytes() const { return bytes_; }

 private:
  char* base_;
  uint64_t bytes_ = 0;
};

struct Plan {
  IndexKernelArgs args;
  int vertical_slash = 0, pooled = 0, antidiagonal = 0;  // heads
  bool by_mass = false, banded = false, peaks = false;
  uint64_t workspace_bytes = 0;

  Plan(const Launch& launch, const IndexArgs& a) : args() {
    IndexKernelArgs& k = args;
    k.probe = make_probe(launch, a);
    k.row_blocks = int32_t(ceil_div(a.q_len, MI_BLOCK));
    k.key_blocks = int32_t(ceil_div(a.kv_len, MI_BLOCK));
    k.probe_blocks.last = k.row_blocks - 1;
    k.probe_blocks.split = std::max(0, MI_BLOCK * k.probe_blocks.last - (a.q_len - k.probe.probes));
    k.vertical = a.vertical;
    k.slash = a.slash;
    k.lse = a.lse;
    k.list = static_cast<char*>(a.list);
    k.list_bytes = a.list_bytes;
    k.stats = a.stats;
    k.dense_above = a.dense_above;
    k.guard = {a.guard_mean, a.guard_min};
    k.measure_mass = (a.measure_mass && a.stats) || k.guard.active();
    plan_heads(a);
    carve(launch, a);
  }

 private:
  void plan_heads(const IndexArgs& a) {
    uint64_t list_offset = uint64_t(round_up(a.q_heads * int64_t(sizeof(ListHead)), 128));
    for (int h = 0; h < a.q_heads; h++) {
      HeadPlan& plan = args.heads[h] = plan_head(a.patterns[h], a, args, list_offset);
      if (plan.kind == MI_VERTICAL_SLASH) {
        plan.slot = vertical_slash++;
        by_mass = by_mass || plan.mass > 0;
        args.ids_stride = max64(args.ids_stride, plan.mass > 0 ? plan.units : plan.unit_limit);
        if (plan.column_peaks) args.column_stride = max64(args.column_stride, plan.columns);
        banded = banded || plan.selection == MI_BANDED;
        peaks = peaks || plan.column_peaks || plan.unit_peaks;
      } else if (plan.kind == MI_BLOCK_SPARSE) {
        plan.slot = plan.flags & MI_ANTIDIAGONAL ? antidiagonal++ : pooled++;
      }
    }
  }

  void carve(const Launch& launch, const IndexArgs& a) {
    IndexKernelArgs& k = args;
    const uint64_t slots = uint64_t(vertical_slash), heads = uint64_t(a.q_heads);
    Carver workspace(a.workspace);
    k.needed_words = int32_t(ceil_div(k.key_blocks + 2, 32) + 1);
    k.unit_stride = k.key_blocks + 8;
    workspace.take(k.ids, slots * uint64_t(k.ids_stride));
    workspace.take(k.chain, slots * uint64_t(k.ids_stride));
    workspace.take(k.column_groups, slots * uint64_t(k.column_stride));
    if (peaks) k.peak_stride = round_up(ceil_div(a.kv_len, kGroupValues), 4);
    workspace.take(k.peaks, slots * 2 * uint64_t(k.peak_stride));
    workspace.take(k.unit_mass, slots * uint64_t(k.unit_stride));
    workspace.take(k.band_tiles, slots * uint64_t(k.unit_stride));
    workspace.take(k.needed, slots * MI_BLOCK * uint64_t(k.needed_words));
    if (by_mass) {
      workspace.take(k.residual, slots * uint64_t(a.kv_len));
      workspace.take(k.key_mass, slots * uint64_t(a.kv_len));
    }
    workspace.take(k.tiles, heads);
    workspace.take(k.tickets, 2 * heads);
    if (a.measure_mass || k.guard.active() || by_mass) {
      k.visible_words = int32_t(round_up(ceil_div(a.kv_len, 32), 2));
      workspace.take(k.visible, heads * 2 * uint64_t(k.visible_words));
      workspace.take(k.retained, heads * uint64_t(k.probe.parts()) * kProbes);
      workspace.take(k.row_mass, heads * kProbes);
      workspace.take(k.partials.data, lse_partial_bytes(k.probe) / sizeof(float2));
    }
    if (pooled > 0) {
      k.mean_dim = int32_t(round_up(a.head_dim, 16));
      workspace.take(k.query_means, uint64_t(pooled) * uint64_t(k.row_blocks) * uint64_t(k.mean_dim));
      workspace.take(k.key_means, uint64_t(a.kv_heads) * uint64_t(k.key_blocks) * uint64_t(k.mean_dim));
    }
    workspace.take(k.choice, std::max(pooled > 0 ? pooled_choice_bytes(launch, k) : 0,
                                      antidiagonal > 0 ? antidiagonal_choice_bytes(launch, k) : 0));
    workspace_bytes = workspace.bytes();
  }
};

// For a pass over a list that is not complete yet: no statistics, no guard.
IndexKernelArgs without_stats(IndexKernelArgs k) {
  k.measure_mass = 0;
  return k;
}

}  // namespace

uint64_t index_workspace(const Launch& launch, const IndexArgs& a) {
  return std::make_unique<Plan>(launch, a)->workspace_bytes;
}

mi_status index(const Launch& launch, const IndexArgs& a, mi_error* error) {
  const auto plan = std::make_unique<Plan>(launch, a);
  const IndexKernelArgs& k = plan->args;
  const bool half = a.k.dtype == MI_F16;
  mi_status status = MI_OK;
  const auto then = [&](auto queue, const auto&... arguments) {
    if (status == MI_OK) status = queue(launch, arguments..., error);
  };
  if (plan->by_mass && k.probe_blocks.split > 0) then(queue_key_mass, k, KeyMass::kFirstBlock, half);
  if (plan->pooled > 0 || plan->banded || plan->peaks) then(queue_prepare, k);
  then(queue_select, k);
  if (plan->by_mass) {
    then(queue_select_by_mass, k);
    then(queue_visible, k);
    then(queue_retained, without_stats(k), half);
    then(queue_key_mass, k, KeyMass::kMissing, half);
    then(queue_add_columns, k);
  }
  if (plan->pooled > 0) then(queue_pooled_blocks, k);
  if (plan->antidiagonal > 0) then(queue_antidiagonal_blocks, k, half);
  then(queue_coverage, k);
  if (k.measure_mass) {
    if (!k.lse) then(queue_lse, k.probe, half, k.partials, static_cast<float*>(nullptr));
    then(queue_retained, k, half);
  }
  return status;
}

}  // namespace mi::cuda
