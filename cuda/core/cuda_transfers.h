// Copies between host and device memory on a stream of their own: they run beside the device's work, and what touches
// memory that one of them reads or writes waits for it.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace mi::cuda {

class Transfers {
 public:
  ~Transfers();
  cudaError_t open();
  // Queues a copy behind all that `main` holds so far and the copies before it. [device_data, device_data + device_bytes)
  // is the allocation on the device, whichever of the two pointers lies in it.
  cudaError_t start(void* dst, const void* src, uint64_t bytes, const void* device_data, uint64_t device_bytes,
                    cudaStream_t main);
  // What is queued on `main` from now on finds the allocations around these addresses at rest.
  cudaError_t settle(const std::vector<const void*>& memory, cudaStream_t main);
  // Waits until every copy has run.
  cudaError_t finish();

 private:
  struct Flight {
    uint64_t bytes = 0;            // of the allocation
    cudaEvent_t landed = nullptr;  // follows the last copy that touches it
  };

  cudaStream_t stream_ = nullptr;
  cudaEvent_t ready_ = nullptr;  // the main stream's work so far
  std::mutex mutex_;             // guards what follows
  std::map<uintptr_t, Flight> flights_;  // by address of the allocation; gone once the main stream waits for it
  std::vector<cudaEvent_t> spare_;
};

}  // namespace mi::cuda
