// Attention on a GPU: checks what only this backend asks for, lays out the workspace and picks a kernel.
#include "../core/cuda_ops.h"
#include "decode.cuh"
#include "forward_sm80.cuh"
#include "forward_sm90.cuh"
#include "gather.cuh"

namespace mi::cuda {

namespace {

constexpr float kLog2E = 1.44269504088896341f;

// Workspace: the item counter, each head's first gathered row, gathered K, gathered V, partial results of decoding.
struct Layout {
  uint64_t counter, first, k, v, partials, bytes;
  int32_t capacity;  // gathered rows

  Layout(const Launch& launch, const AttentionArgs& a) : bytes(0) {
    const auto take = [&](int64_t size) {
      const uint64_t at = bytes;
      bytes += uint64_t(round_up(size, 256));
      return at;
    };
    const bool listed = a.list_bytes != 0;
    capacity = listed ? int32_t(min64(column_capacity(a.list_bytes, ceil_div(a.q_len, MI_BLOCK)), kMostKeys)) : 0;
    counter = take(sizeof(int32_t));
    first = take(a.q_heads * int64_t(sizeof(int32_t)));
    k = take(int64_t(capacity) * a.head_dim * 2);
    v = take(int64_t(capacity) * a.head_dim * 2);
    partials = take(int64_t(decode_workspace(launch, a)));
  }
};

Problem make_problem(const AttentionArgs& a, const Layout& layout, const Launch& launch) {
  char* workspace = static_cast<char*>(a.workspace);
  Problem p{};
  p.q = rows_of(a.q), p.k = rows_of(a.k), p.v = rows_of(a.v), p.out = rows_of(a.out);
  p.lse = a.lse;
  p.list = static_cast<const char*>(a.list);
  p.list_bytes = a.list_bytes;
  p.columns = {workspace + layout.k, workspace + layout.v, reinterpret_cast<int32_t*>(workspace + layout.first),
               layout.capacity};
  p.cancel = launch.cancel;
  p.q_heads = a.q_heads;
  p.group = a.q_heads / a.kv_heads;
  p.head_dim = a.head_dim;
  p.q_len = a.q_len;
  p.kv_len = a.kv_len;
  p.row_blocks = int32_t(ceil_div(a.q_len, MI_BLOCK));
  p.causal = a.causal || a.list;
  // A scale of 0 would make the score of a masked key NaN; this one makes all weights equal as well.
  p.scale_log2 = a.scale == 0 ? 1e-30f : std::fabs(a.scale) * kLog2E;
  p.negate = a.scale < 0;
  return p;
}

mi_status check_view(const char* name, const View& v, int32_t dtype, int64_t heads, int64_t rows, mi_error* error) {
  if (v.dtype != dtype)
    return fail(error, MI_UNSUPPORTED, "attention: on a GPU %s must have dtype %d beside this q, got %d", name, dtype,
                v.dtype);
  if (!rows_on_16_bytes(v, heads, rows))
    return fail(error, MI_UNSUPPORTED, "attention: on a GPU every row of %s must start on 16 bytes", name);
  return MI_OK;
}

mi_status check(const AttentionArgs& a, uint64_t workspace, mi_error* error) {
  if (a.q.dtype != MI_F16 && a.q.dtype != MI_BF16)
    return fail(error, MI_UNSUPPORTED, "attention: on a GPU q, k and v must be f16 or bf16, got dtype %d", a.q.dtype);
  if (a.kv_len > kMostKeys)
    return fail(error, MI_UNSUPPORTED, "attention: on a GPU kv_len may be up to %d, got %d", kMostKeys, a.kv_len);
  if (a.workspace_bytes < workspace)
    return fail(error, MI_SHAPE, "attention: workspace of %llu bytes, %llu are needed",
                (unsigned long long)a.workspace_bytes, (unsigned long long)workspace);
  const bool quantised = a.k.dtype == MI_E4M3;
  if (quantised && (a.q.dtype != MI_BF16 || !decodes(a) || a.head_dim % 16 != 0))
    return fail(error, MI_UNSUPPORTED,
                "attention: on a GPU e4m3 keys take bf16 queries, no list, few rows (64 a KV head, got %lld) and a "
                "head_dim that is a multiple of 16 (got %d)",
                (long long)a.q_len * (a.q_heads / a.kv_heads), a.head_dim);
  const int32_t keys = quantised ? int32_t(MI_E4M3) : a.q.dtype;
  const struct {
    const char* name;
    const View& view;
    int32_t dtype, heads, rows;
  } views[] = {{"q", a.q, a.q.dtype, a.q_heads, a.q_len},
               {"k", a.k, keys, a.kv_heads, a.kv_len},
               {"v", a.v, keys, a.kv_heads, a.kv_len},
               {"out", a.out, a.q.dtype, a.q_heads, a.q_len}};
  for (const auto& v : views)
    if (const mi_status status = check_view(v.name, v.view, v.dtype, v.heads, v.rows, error); status != MI_OK)
      return status;
  return MI_OK;
}

mi_status queue_sm90(const Launch& launch, const AttentionArgs& a, const Problem& p, int32_t* counter,
                     mi_error* error) {
  ForwardParams params{};
  params.problem = p;
  params.schedule = make_schedule(p, 2);
  params.counter = counter;
  const auto map = [&](const Rows& r, int64_t heads, int64_t rows, CUtensorMap* to) {
    return make_tensor_map(r.data, a.q.dtype, heads, rows, a.head_dim, r.head_stride, r.row_stride, to, error);
  };
  mi_status status = map(p.q, a.q_heads, a.q_len, &params.q);
  if (status == MI_OK) status = map(p.k, a.kv_heads, a.kv_len, &params.k);
  if (status == MI_OK) status = map(p.v, a.kv_heads, a.kv_len, &params.v);
  params.column_k = params.k, params.column_v = params.v;
  if (p.columns.capacity > 0) {
    const int64_t row_bytes = int64_t(a.head_dim) * 2;
    if (status == MI_OK) status = map({p.columns.k, 0, row_bytes}, 1, p.columns.capacity, &params.column_k);
    if (status == MI_OK) status = map({p.columns.v, 0, row_bytes}, 1, p.columns.capacity, &params.column_v);
  }
  if (status != MI_OK) return status;
  cudaMemsetAsync(counter, 0, sizeof *counter, launch.stream);
  return forward_sm90(launch, params, a.q.dtype == MI_F16, error);
}

}  // namespace

uint64_t attention_workspace(const Launch& launch, const AttentionArgs& a) { return Layout(launch, a).bytes; }

mi_status attention(const Launch& launch, const AttentionArgs& a, mi_error* error) {
  const Layout layout(launch, a);
  if (const mi_status status = check(a, layout.bytes, error); status != MI_OK) return status;
  const Problem p = make_problem(a, layout, launch);
  char* workspace = static_cast<char*>(a.workspace);
  if (decodes(a)) return decode(launch, a, p, workspace + layout.partials, error);
  if (p.columns.capacity > 0)
    if (const mi_status status = gather_columns(launch, p, error); status != MI_OK) return status;
  // The sign of a negative scale goes into the queries' registers, which only the portable kernel has them in.
  if (launch.arch == 90 && a.head_dim <= 128 && !p.negate)
    return queue_sm90(launch, a, p, reinterpret_cast<int32_t*>(workspace + layout.counter), error);
  return forward_sm80(launch, p, a.q.dtype == MI_F16, error);
}

}  // namespace mi::cuda
