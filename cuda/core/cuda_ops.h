// The CUDA backend's operations, and what an open device keeps for them. Each operation queues its
// kernels on launch.stream and returns; none allocates, waits or copies to the host.
#pragma once
#include <memory>

#include "../model/cublaslt.h"
#include "device.h"
#include "launch.h"

namespace mi::cuda {

mi_status embed(const Launch&, const EmbedArgs&, mi_error*);
mi_status rms_norm(const Launch&, const RmsNormArgs&, mi_error*);
mi_status rope(const Launch&, const RopeArgs&, mi_error*);
mi_status copy(const Launch&, const CopyArgs&, mi_error*);
mi_status linear(const Launch&, CublasLt&, const LinearArgs&, mi_error*);
// Linear layers of the same few rows (q, k and v; gate and up) in one launch: does `next` join `group`?
constexpr int kMostTogether = 3;
bool linear_joins(const LinearArgs* const* group, int count, const LinearArgs& next);
mi_status linear_together(const Launch&, const LinearArgs* const* group, int count, mi_error*);
mi_status silu_mul(const Launch&, const SiluMulArgs&, mi_error*);
mi_status sample(const Launch&, const SampleArgs&, mi_error*);
mi_status convert(const Launch&, const ConvertArgs&, mi_error*);
mi_status quantise(const Launch&, const QuantiseArgs&, mi_error*);
mi_status dequantise(const Launch&, const DequantiseArgs&, mi_error*);
mi_status quantise_rows(const Launch&, const QuantiseRowsArgs&, mi_error*);
mi_status attention(const Launch&, const AttentionArgs&, mi_error*);
mi_status estimate(const Launch&, const EstimateArgs&, mi_error*);
mi_status index(const Launch&, const IndexArgs&, mi_error*);

constexpr int kMostIndexHeads = 256;  // heads of one index operation: their plans are a kernel argument
int least_antidiagonal_bytes(int head_dim);  // shared memory without which no antidiagonal scores are computed

// Workspace in bytes. Pointers in the arguments are null when these are asked.
uint64_t linear_workspace(const Launch&, const LinearArgs&);
uint64_t attention_workspace(const Launch&, const AttentionArgs&);
uint64_t estimate_workspace(const Launch&, const EstimateArgs&);
uint64_t index_workspace(const Launch&, const IndexArgs&);

constexpr int kBatchOp = MI_OP_COUNT;  // stands for a batch where an mi_op is asked for

// The table over mi_op: what one device can run.
class Operations {
 public:
  explicit Operations(const Launch& launch) : launch_(launch) {}
  const char* name(int op) const;  // mi_op or kBatchOp
  // A valid request that this backend cannot serve is refused here, before it is queued.
  mi_status accept(const Operation& operation, mi_error* error);
  mi_status run(const Launch& launch, const Operation& operation, mi_error* error);
  // How many operations of a batch, from `first` on, one launch serves; and that launch.
  size_t together(const Batch& batch, size_t first) const;
  mi_status run(const Launch& launch, const Batch& batch, size_t first, size_t count, mi_error* error);
  uint64_t workspace(const Operation& operation) const;

 private:
  const Launch& launch_;
  CublasLt cublaslt_;
};

}  // namespace mi::cuda
