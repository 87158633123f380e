// Selection: which columns and which bands each vertical-slash head computes, and every head's entry in the
// list. Two blocks a head, one for its columns and one for its bands; heads with a budget by mass have a
// kernel of their own, one block each.
#include "mass_budget.cuh"

namespace mi::cuda {

namespace {

__device__ void start_list_head(const IndexKernelArgs& a, int head) {
  const HeadPlan& p = a.heads[head];
  ListHead& out = a.list_head(head);
  out.column_words = uint32_t(p.column_words);
  out.sink = p.kind == MI_A_SHAPE ? uint32_t(p.sink) : 0;
  out.local = p.kind == MI_A_SHAPE ? uint32_t(p.local) : 0;
  out.block_stride = uint32_t(p.block_stride);
  out.reserved = 0;
  out.bands = p.bands;
  out.columns = p.columns_at;
  out.coverage = p.coverage;
  out.blocks = p.blocks;
  if (p.kind != MI_VERTICAL_SLASH) {
    out.kind = uint32_t(p.kind);
    out.band_count = out.column_count = 0;
  }
  a.tiles[head] = 0;
  a.tickets[2 * head] = a.tickets[2 * head + 1] = 0;
}

__device__ void finish_bands(const IndexKernelArgs& a, const HeadPlan& p, const HeadSelection& selection,
                             SelectShared& shared) {
  fill_band_tiles(selection.bands, selection.band_count, a.band_tiles + p.slot * a.unit_stride, shared);
  fill_needed(selection.bands, selection.band_count, a.needed + int64_t(p.slot) * MI_BLOCK * a.needed_words,
              a.needed_words);
}

__global__ void __launch_bounds__(kSelectThreads) select_kernel(const __grid_constant__ IndexKernelArgs a) {
  __shared__ SelectShared shared;
  const int head = blockIdx.x / 2;
  const bool for_bands = blockIdx.x % 2 != 0;
  const HeadPlan& p = a.heads[head];
  if (!for_bands && threadIdx.x == 0) start_list_head(a, head);
  if (p.kind != MI_VERTICAL_SLASH || p.mass > 0) return;
  ListHead& out = a.list_head(head);
  if (for_bands) {
    HeadSelection selection(a, head, shared);
    selection.take_bands(p.unit_limit);
    if (threadIdx.x == 0) out.kind = MI_VERTICAL_SLASH, out.band_count = uint32_t(selection.band_count);
    finish_bands(a, p, selection, shared);
  } else {
    const float* mass = a.vertical + int64_t(head) * a.probe.kv_len;
    int32_t* columns = a.at<int32_t>(p.columns_at);
    const Peaks peaks{p.column_peaks ? a.peaks_of(p.slot, 0) : nullptr,
                      a.column_groups + p.slot * a.column_stride};
    const int64_t count = select_top(mass, a.probe.kv_len, p.columns, kForcedColumns, peaks, shared,
                                     [&](int64_t at, int64_t j) { columns[at] = int32_t(j); });
    if (threadIdx.x == 0) out.column_count = uint32_t(count);
  }
}

__global__ void __launch_bounds__(kSelectThreads)
    select_by_mass_kernel(const __grid_constant__ IndexKernelArgs a) {
  __shared__ SelectShared shared;
  const int head = blockIdx.x;
  const HeadPlan& p = a.heads[head];
  if (p.kind != MI_VERTICAL_SLASH || p.mass <= 0) return;
  HeadSelection selection(a, head, shared);
  const bool sparse = selection.fill_by_mass();
  if (threadIdx.x == 0) {
    ListHead& out = a.list_head(head);
    out.kind = sparse ? MI_VERTICAL_SLASH : MI_DENSE;
    out.band_count = sparse ? uint32_t(selection.band_count) : 0;
    out.column_count = sparse ? uint32_t(selection.column_count) : 0;
  }
  if (sparse) finish_bands(a, p, selection, shared);
}

// Columns for what the rows below the floor lack, merged in ascending order with those of the list.
__global__ void __launch_bounds__(kSelectThreads)
    add_columns_kernel(const __grid_constant__ IndexKernelArgs a) {
  __shared__ SelectShared shared;
  const int head = blockIdx.x;
  const HeadPlan& p = a.heads[head];
  ListHead& list = a.list_head(head);
  if (p.kind != MI_VERTICAL_SLASH || p.mass <= 0 || list.kind != MI_VERTICAL_SLASH) return;
  const float floor = kRowFloor * p.mass;
  double lack = 0;
  for (int i = 0; i < a.probe.probes; i++) {
    const float mass = a.row_mass[head * kProbes + i];
    if (mass < floor) lack += double(floor) - double(mass);
  }
  if (lack <= 0) return;
  float* missing = a.key_mass + p.slot * int64_t(a.probe.kv_len);
  int32_t* columns = a.at<int32_t>(p.columns_at);
  const int64_t count = list.column_count;
  for (int64_t c = threadIdx.x; c < count; c += kSelectThreads)
    missing[columns[c]] = INFINITY;  // stay chosen
  __syncthreads();
  const int64_t more = int64_t(
      fewest_for_sum(missing, a.probe.kv_len, uint64_t(lack * kMassUnit), p.columns - count, shared).count);
  select_top(missing, a.probe.kv_len, count + more, 0, Peaks{}, shared,
             [&](int64_t at, int64_t j) { columns[at] = int32_t(j); });
  if (threadIdx.x == 0) list.column_count = uint32_t(count + more);
}

}  // namespace

mi_status queue_add_columns(const Launch& launch, const IndexKernelArgs& a, mi_error* error) {
  add_columns_kernel<<<unsigned(a.probe.q_heads), kSelectThreads, 0, launch.stream>>>(a);
  return check_launch("index: columns of neglected rows", error);
}

mi_status queue_select(const Launch& launch, const IndexKernelArgs& a, mi_error* error) {
  select_kernel<<<unsigned(2 * a.probe.q_heads), kSelectThreads, 0, launch.stream>>>(a);
  return check_launch("index: selection", error);
}

mi_status queue_select_by_mass(const Launch& launch, const IndexKernelArgs& a, mi_error* error) {
  select_by_mass_kernel<<<unsigned(a.probe.q_heads), kSelectThreads, 0, launch.stream>>>(a);
  return check_launch("index: selection by mass", error);
}

}  // namespace mi::cuda
