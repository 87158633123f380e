// CUDA's errors as the library reports them, and the thread's current device.
#pragma once
#include <cuda_runtime_api.h>

#include "../include/minference.h"

namespace mi::cuda {

// Whether the context answers nothing but the same error from now on.
bool is_sticky(cudaError_t code);

// `what` failed with `code`. Returns MI_CUDA.
mi_status cuda_failure(cudaError_t code, const char* what, mi_error* error);

// Calls come from any thread, and the current device is a property of the thread.
class CurrentDevice {
 public:
  explicit CurrentDevice(int index) {
    cudaGetDevice(&previous_);
    if (previous_ != index) cudaSetDevice(index);
    index_ = index;
  }
  ~CurrentDevice() {
    if (previous_ != index_) cudaSetDevice(previous_);
  }

 private:
  int previous_ = 0, index_;
};

}  // namespace mi::cuda
