// Page-locked memory for reads that wait in the queue: the bytes land in a slot, and an event says when.
#pragma once
#include <cuda_runtime_api.h>

#include <mutex>
#include <vector>

#include "../include/minference.h"

namespace mi::cuda {

struct ReadSlot {
  void* host = nullptr;  // MI_QUEUED_READ bytes
  cudaEvent_t arrived = nullptr;
};

class ReadSlots {
 public:
  ~ReadSlots() {
    for (const ReadSlot& slot : spare_) destroy(slot);
  }
  cudaError_t take(ReadSlot* slot) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!spare_.empty()) {
        *slot = spare_.back();
        spare_.pop_back();
        return cudaSuccess;
      }
    }
    cudaError_t code = cudaHostAlloc(&slot->host, MI_QUEUED_READ, cudaHostAllocDefault);
    if (code == cudaSuccess) code = cudaEventCreateWithFlags(&slot->arrived, cudaEventDisableTiming);
    if (code != cudaSuccess) destroy(*slot), *slot = {};
    return code;
  }
  void give(const ReadSlot& slot) {
    std::lock_guard<std::mutex> lock(mutex_);
    spare_.push_back(slot);
  }

 private:
  static void destroy(const ReadSlot& slot) {
    if (slot.arrived) cudaEventDestroy(slot.arrived);
    if (slot.host) cudaFreeHost(slot.host);
  }

  std::mutex mutex_;
  std::vector<ReadSlot> spare_;
};

}  // namespace mi::cuda
