#include "cuda_errors.h"

#include "status.h"

namespace mi::cuda {

bool is_sticky(cudaError_t code) {
  switch (code) {
    case cudaErrorIllegalAddress: case cudaErrorLaunchTimeout: case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction: case cudaErrorMisalignedAddress: case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable: case cudaErrorExternalDevice: case cudaErrorUnknown:
    case cudaErrorContained: case cudaErrorTensorMemoryLeak: return true;
    default: return false;
  }
}

mi_status cuda_failure(cudaError_t code, const char* what, mi_error* error) {
  fail(error, MI_CUDA, "%s: %s (%s)", what, cudaGetErrorString(code), cudaGetErrorName(code));
  if (error) error->native = code;
  return MI_CUDA;
}

}  // namespace mi::cuda
