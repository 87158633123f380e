#include "cuda_batch.h"

namespace mi::cuda {

BatchRunner::~BatchRunner() {
  for (cudaGraphExec_t graph : graphs_)
    if (graph) cudaGraphExecDestroy(graph);
  if (stream_) cudaStreamDestroy(stream_);
}

mi_status BatchRunner::run(const Launch& launch, Operations& operations, const Batch& batch, mi_error* error) {
  // The first batch runs as it is: its kernels may have to be loaded, which is not for the middle of a capture.
  cudaGraphExec_t* const graph = loaded_ ? captured(launch, operations, batch) : nullptr;
  loaded_ = true;
  if (graph) {
    cudaGraphLaunch(*graph, launch.stream);
    return check_launch("a batch", error);
  }
  // What cannot be captured may still run; what cannot run says here why.
  for (size_t i = 0; i < batch.size();) {
    const size_t count = operations.together(batch, i);
    const mi_status status = operations.run(launch, batch, i, count, error);
    if (status != MI_OK) return status;
    i += count;
  }
  return MI_OK;
}

// The batch as a graph that can be launched, or null.
cudaGraphExec_t* BatchRunner::captured(const Launch& launch, Operations& operations, const Batch& batch) {
  const auto unable = [] {
    cudaGetLastError();  // the batch runs without a graph
    return nullptr;
  };
  if (!stream_ && cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) != cudaSuccess) return unable();
  Launch capturing = launch;
  capturing.stream = stream_;
  // Relaxed: other threads allocate and copy meanwhile, on other streams.
  if (cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed) != cudaSuccess) return unable();
  mi_status status = MI_OK;
  for (size_t i = 0; i < batch.size() && status == MI_OK;) {
    const size_t count = operations.together(batch, i);
    status = operations.run(capturing, batch, i, count, nullptr);
    i += count;
  }
  cudaGraph_t graph = nullptr;
  const bool ended = cudaStreamEndCapture(stream_, &graph) == cudaSuccess && graph;
  cudaGraphExec_t& runnable = graphs_[turn_];
  turn_ ^= 1;
  bool ready = false;
  if (ended && status == MI_OK) {
    cudaGraphExecUpdateResultInfo result{};
    ready = runnable && cudaGraphExecUpdate(runnable, graph, &result) == cudaSuccess;
    if (!ready) {  // other kernels than last time
      if (runnable) cudaGraphExecDestroy(runnable);
      runnable = nullptr;
      ready = cudaGraphInstantiate(&runnable, graph, 0) == cudaSuccess;
    }
  }
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError();  // whatever failed above shows again, or does not, where the batch runs as it is
  return ready ? &runnable : nullptr;
}

}  // namespace mi::cuda
