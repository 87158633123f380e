// Runs a batch of operations as one CUDA graph. A step of decoding is some hundred short kernels: launched one by one,
// they would wait for their launches.
#pragma once
#include <cuda_runtime_api.h>

#include "cuda_ops.h"

namespace mi::cuda {

// For one thread. Every batch is captured anew, which takes the CPU a microsecond an operation while the GPU runs the
// batch before; where it has the kernels of an earlier one, only their parameters change in the graph that exists.
class BatchRunner {
 public:
  ~BatchRunner();
  // Queues the batch on launch.stream.
  mi_status run(const Launch& launch, Operations& operations, const Batch& batch, mi_error* error);

 private:
  cudaGraphExec_t* captured(const Launch& launch, Operations& operations, const Batch& batch);

  cudaStream_t stream_ = nullptr;      // for capture alone: nothing else may be queued on it
  cudaGraphExec_t graphs_[2] = {};     // taking turns: one is changed while the other runs
  int turn_ = 0;
  bool loaded_ = false;  // a batch has run
};

}  // namespace mi::cuda
