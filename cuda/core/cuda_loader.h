// File to device memory through a ring of pinned pieces: reading the next piece overlaps the copy of the
// last.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "../include/minference.h"

namespace mi::cuda {

class Loader {
 public:
  ~Loader();
  // Returns when the bytes have arrived.
  mi_status load(char* dst, const char* path, uint64_t offset, uint64_t bytes, cudaStream_t stream,
                 mi_error* error);

 private:
  static constexpr int kPieces = 4;
  static constexpr uint64_t kPieceBytes = uint64_t(8) << 20;

  cudaError_t prepare();  // takes the ring at the first load

  char* ring_ = nullptr;
  cudaEvent_t copied_[kPieces] = {};
};

}  // namespace mi::cuda
