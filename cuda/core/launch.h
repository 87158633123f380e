// What an operation needs to know to queue its kernels.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "status.h"

namespace mi::cuda {

struct Launch {
  cudaStream_t stream;
  int sm_count;
  int arch;    // kernel path: 90 (sm_90a code) or 80 (portable)
  int device;  // CUDA ordinal
  int shared_bytes;  // most shared memory of a block
  const uint32_t* cancel;  // device memory: not 0 once the work is cancelled; null = never
};

// The error, if any, of the launches just queued by this thread.
inline mi_status check_launch(const char* what, mi_error* error) {
  const cudaError_t code = cudaGetLastError();
  if (code == cudaSuccess) return MI_OK;
  fail(error, MI_CUDA, "%s: %s (%s)", what, cudaGetErrorString(code), cudaGetErrorName(code));
  if (error) error->native = code;
  return MI_CUDA;
}

}  // namespace mi::cuda
