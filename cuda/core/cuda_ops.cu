#include "cuda_ops.h"

#include "../index/probe.cuh"
#include "status.h"

namespace mi::cuda {

namespace {

bool is_16_bit(int32_t dtype) { return dtype == MI_F16 || dtype == MI_BF16; }

template <class Args>
mi_status accept_keys(const Launch& launch, const char* op, const Args& a, mi_error* error) {
  const int wanted = least_probe_bytes(a.head_dim);
  if (wanted > launch.shared_bytes)
    return fail(error, MI_UNSUPPORTED,
                "%s: head_dim %d takes %d bytes of shared memory, this GPU offers a block %d", op, a.head_dim,
                wanted, launch.shared_bytes);
  if (!is_16_bit(a.k.dtype))
    return fail(error, MI_UNSUPPORTED, "%s: on a GPU k must be f16 or bf16, got dtype %d", op, a.k.dtype);
  if (!rows_on_16_bytes(a.k, a.kv_heads, a.kv_len))
    return fail(error, MI_UNSUPPORTED, "%s: on a GPU every row of k must start on 16 bytes", op);
  return MI_OK;
}

struct Accept {
  const Launch& launch;
  mi_error* error;
  mi_status operator()(const EstimateArgs& a) const { return accept_keys(launch, "estimate", a, error); }
  mi_status operator()(const IndexArgs& a) const {
    if (a.q_heads > kMostIndexHeads)
      return fail(error, MI_UNSUPPORTED, "index: on a GPU at most %d query heads, got %d", kMostIndexHeads,
                  a.q_heads);
    const int wanted = least_antidiagonal_bytes(a.head_dim);
    for (int h = 0; h < a.q_heads; h++)
      if (a.patterns[h].kind == MI_BLOCK_SPARSE && a.patterns[h].flags & MI_ANTIDIAGONAL &&
          wanted > launch.shared_bytes)
        return fail(error, MI_UNSUPPORTED,
                    "index: head %d: antidiagonal scores with head_dim %d take %d bytes of shared memory, this GPU "
                    "offers a block %d", h, a.head_dim, wanted, launch.shared_bytes);
    return accept_keys(launch, "index", a, error);
  }
  template <class Other>
  mi_status operator()(const Other&) const { return MI_OK; }
};

struct Run {
  const Launch& launch;
  CublasLt& cublaslt;
  mi_error* error;
  mi_status operator()(const EmbedArgs& a) const { return embed(launch, a, error); }
  mi_status operator()(const RmsNormArgs& a) const { return rms_norm(launch, a, error); }
  mi_status operator()(const RopeArgs& a) const { return rope(launch, a, error); }
  mi_status operator()(const CopyArgs& a) const { return copy(launch, a, error); }
  mi_status operator()(const LinearArgs& a) const { return linear(launch, cublaslt, a, error); }
  mi_status operator()(const SiluMulArgs& a) const { return silu_mul(launch, a, error); }
  mi_status operator()(const SampleArgs& a) const { return sample(launch, a, error); }
  mi_status operator()(const ConvertArgs& a) const { return convert(launch, a, error); }
  mi_status operator()(const QuantiseArgs& a) const { return quantise(launch, a, error); }
  mi_status operator()(const DequantiseArgs& a) const { return dequantise(launch, a, error); }
  mi_status operator()(const QuantiseRowsArgs& a) const { return quantise_rows(launch, a, error); }
  mi_status operator()(const AttentionArgs& a) const { return attention(launch, a, error); }
  mi_status operator()(const EstimateArgs& a) const { return estimate(launch, a, error); }
  mi_status operator()(const IndexArgs& a) const { return index(launch, a, error); }
};

struct WorkspaceOf {
  const Launch& launch;
  uint64_t operator()(const LinearArgs& a) const { return linear_workspace(launch, a); }
  uint64_t operator()(const AttentionArgs& a) const { return attention_workspace(launch, a); }
  uint64_t operator()(const EstimateArgs& a) const { return estimate_workspace(launch, a); }
  uint64_t operator()(const IndexArgs& a) const { return index_workspace(launch, a); }
  template <class Other>
  uint64_t operator()(const Other&) const { return 0; }
};

}  // namespace

const char* Operations::name(int op) const {
  static constexpr const char* kNames[MI_OP_COUNT] = {"a copy",  "embed",     "rms_norm", "rope",
                                                      "copy",    "linear",    "silu_mul", "sample",
                                                      "convert", "attention", "estimate", "index",
                                                      "quantise", "dequantise", "quantise_rows"};
  if (op == kBatchOp) return "a batch of operations";
  return op >= 0 && op < MI_OP_COUNT ? kNames[op] : "an operation";
}

mi_status Operations::accept(const Operation& operation, mi_error* error) {
  return std::visit(Accept{launch_, error}, operation.args);
}

mi_status Operations::run(const Launch& launch, const Operation& operation, mi_error* error) {
  return std::visit(Run{launch, cublaslt_, error}, operation.args);
}

size_t Operations::together(const Batch& batch, size_t first) const {
  const LinearArgs* group[kMostTogether];
  int count = 0;
  for (size_t i = first; i < batch.size() && count < kMostTogether; i++) {
    const LinearArgs* const next = std::get_if<LinearArgs>(&batch[i]->args);
    if (!next || !linear_joins(group, count, *next)) break;
    group[count++] = next;
  }
  return count > 1 ? size_t(count) : 1;
}

mi_status Operations::run(const Launch& launch, const Batch& batch, size_t first, size_t count, mi_error* error) {
  if (count == 1) return run(launch, *batch[first], error);
  const LinearArgs* group[kMostTogether];
  for (size_t i = 0; i < count; i++) group[i] = &std::get<LinearArgs>(batch[first + i]->args);
  return linear_together(launch, group, int(count), error);
}

uint64_t Operations::workspace(const Operation& operation) const {
  return std::visit(WorkspaceOf{launch_}, operation.args);
}

}  // namespace mi::cuda
