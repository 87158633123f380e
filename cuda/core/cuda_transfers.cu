#include "cuda_transfers.h"

namespace mi::cuda {

Transfers::~Transfers() {
  if (stream_) cudaStreamSynchronize(stream_);
  for (const auto& [data, flight] : flights_) cudaEventDestroy(flight.landed);
  for (cudaEvent_t event : spare_) cudaEventDestroy(event);
  if (ready_) cudaEventDestroy(ready_);
  if (stream_) cudaStreamDestroy(stream_);
}

cudaError_t Transfers::open() {
  const cudaError_t code = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
  return code == cudaSuccess ? cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming) : code;
}

cudaError_t Transfers::start(void* dst, const void* src, uint64_t bytes, const void* device_data,
                             uint64_t device_bytes, cudaStream_t main) {
  std::lock_guard<std::mutex> lock(mutex_);
  Flight& flight = flights_[reinterpret_cast<uintptr_t>(device_data)];
  flight.bytes = device_bytes;
  cudaError_t code = cudaSuccess;
  if (!flight.landed) {
    if (spare_.empty()) {
      code = cudaEventCreateWithFlags(&flight.landed, cudaEventDisableTiming);
    } else {
      flight.landed = spare_.back();
      spare_.pop_back();
    }
  }
  if (code == cudaSuccess) code = cudaEventRecord(ready_, main);
  if (code == cudaSuccess) code = cudaStreamWaitEvent(stream_, ready_, 0);
  if (code == cudaSuccess) code = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, stream_);
  // Recorded anew for each copy: waits that were queued before keep the moment they were queued for.
  if (flight.landed) {
    const cudaError_t recorded = cudaEventRecord(flight.landed, stream_);
    if (code == cudaSuccess) code = recorded;
  } else {
    flights_.erase(reinterpret_cast<uintptr_t>(device_data));
  }
  return code;
}

cudaError_t Transfers::settle(const std::vector<const void*>& memory, cudaStream_t main) {
  std::lock_guard<std::mutex> lock(mutex_);
  cudaError_t code = cudaSuccess;
  for (size_t i = 0; i < memory.size() && !flights_.empty() && code == cudaSuccess; i++) {
    const auto address = reinterpret_cast<uintptr_t>(memory[i]);
    auto at = flights_.upper_bound(address);
    if (at == flights_.begin() || address - (--at)->first >= at->second.bytes) continue;
    code = cudaStreamWaitEvent(main, at->second.landed, 0);
    spare_.push_back(at->second.landed);
    flights_.erase(at);
  }
  return code;
}

cudaError_t Transfers::finish() { return cudaStreamSynchronize(stream_); }

}  // namespace mi::cuda
