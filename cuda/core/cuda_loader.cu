#include "cuda_loader.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "status.h"

namespace mi::cuda {

Loader::~Loader() {
  for (cudaEvent_t e : copied_)
    if (e) cudaEventDestroy(e);
  if (ring_) cudaFreeHost(ring_);
}

cudaError_t Loader::prepare() {
  if (ring_) return cudaSuccess;
  for (cudaEvent_t& e : copied_)
    if (!e)
      if (const cudaError_t code = cudaEventCreateWithFlags(&e, cudaEventDisableTiming); code != cudaSuccess)
        return code;
  return cudaHostAlloc(reinterpret_cast<void**>(&ring_), kPieces * kPieceBytes, cudaHostAllocDefault);
}

mi_status Loader::load(char* dst, const char* path, uint64_t offset, uint64_t bytes, cudaStream_t stream,
                       mi_error* error) {
  cudaError_t code = prepare();
  if (code != cudaSuccess) {
    fail(error, MI_CUDA, "load: no pinned memory: %s", cudaGetErrorString(code));
    if (error) error->native = code;
    return MI_CUDA;
  }
  const int file = ::open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    fail(error, MI_IO, "cannot open %.150s: %s", path, std::strerror(errno));
    if (error) error->native = errno;
    return MI_IO;
  }
  ::posix_fadvise(file, off_t(offset), off_t(bytes), POSIX_FADV_SEQUENTIAL);
  uint64_t done = 0;
  int failure = 0;  // errno, or -1 at the end of the file
  for (int piece = 0; done < bytes && failure == 0 && code == cudaSuccess; piece = (piece + 1) % kPieces) {
    code = cudaEventSynchronize(copied_[piece]);
    if (code != cudaSuccess) break;
    char* to = ring_ + piece * kPieceBytes;
    const uint64_t want = bytes - done < kPieceBytes ? bytes - done : kPieceBytes;
    uint64_t have = 0;
    while (have < want && failure == 0) {
      const ssize_t n = ::pread(file, to + have, want - have, off_t(offset + done + have));
      if (n > 0) have += uint64_t(n);
      else if (n == 0) failure = -1;
      else if (errno != EINTR) failure = errno;
    }
    code = cudaMemcpyAsync(dst + done, to, have, cudaMemcpyHostToDevice, stream);
    if (code == cudaSuccess) code = cudaEventRecord(copied_[piece], stream);
    done += have;
  }
  ::close(file);
  const cudaError_t finished = cudaStreamSynchronize(stream);
  if (code == cudaSuccess) code = finished;
  if (code != cudaSuccess) {
    fail(error, MI_CUDA, "load: %s", cudaGetErrorString(code));
    if (error) error->native = code;
    return MI_CUDA;
  }
  if (failure == 0) return MI_OK;
  fail(error, MI_IO, "cannot read %.120s: %s after %llu of %llu bytes at offset %llu", path,
       failure > 0 ? std::strerror(failure) : "end of file", (unsigned long long)done,
       (unsigned long long)bytes, (unsigned long long)offset);
  if (error) error->native = failure > 0 ? failure : 0;
  return MI_IO;
}

}  // namespace mi::cuda
