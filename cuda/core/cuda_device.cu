#include "cuda_device.h"

#include <cstdio>
#include <cstring>
#include <new>

#include "cuda_errors.h"
#include "host_memory.h"
#include "status.h"

namespace mi {
namespace cuda {

namespace {

void add_memory(const Operation& operation, std::vector<const void*>* memory) {
  for (const std::shared_ptr<Buffer>& buffer : operation.buffers) memory->push_back(buffer->data);
}

}  // namespace

mi_status CudaDevice::open(mi_error* error) {
  const int index = options_.index;
  const int32_t count = cuda_device_count(error);
  if (count < 0) return mi_status(count);
  if (index < 0 || index >= count)
    return fail(error, MI_NO_DEVICE, "CUDA device %d wanted, this machine has %d", index, count);
  CurrentDevice current(index);
  cudaDeviceProp properties;
  if (const cudaError_t code = cudaGetDeviceProperties(&properties, index); code != cudaSuccess)
    return cuda_failure(code, "cudaGetDeviceProperties", error);
  std::snprintf(name_, sizeof name_, "%.*s", int(sizeof name_) - 1, properties.name);
  major_ = properties.major;
  minor_ = properties.minor;
  if (major_ < 8)
    return fail(error, MI_UNSUPPORTED_DEVICE, "%.100s has compute capability %d.%d, 8.0 or newer is needed",
                name_, major_, minor_);
  // sm_90a code runs on capability 9.0 alone, not on newer chips.
  launch_.arch = major_ == 9 && minor_ == 0 && options_.isa != 80 ? 90 : 80;
  launch_.sm_count = properties.multiProcessorCount;
  launch_.device = index;
  launch_.shared_bytes = int(properties.sharedMemPerBlockOptin);

  cudaMemPoolProps pool{};
  pool.allocType = cudaMemAllocationTypePinned;
  pool.location.type = cudaMemLocationTypeDevice;
  pool.location.id = index;
  uint64_t keep =
      UINT64_MAX;  // freed memory stays in the pool until an allocation fails or the device closes
  cudaError_t code = cudaMemPoolCreate(&pool_, &pool);
  if (code == cudaSuccess) code = cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep);
  if (code == cudaSuccess) code = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
  if (code == cudaSuccess) code = cudaStreamCreateWithFlags(&side_stream_, cudaStreamNonBlocking);
  if (code == cudaSuccess) code = transfers_.open();
  for (cudaEvent_t& marker : markers_)
    if (code == cudaSuccess) code = cudaEventCreateWithFlags(&marker, cudaEventDisableTiming);
  void* finished = nullptr;
  if (code == cudaSuccess) code = cudaHostAlloc(&finished, sizeof *finished_, cudaHostAllocDefault);
  if (code == cudaSuccess) code = cudaMalloc(&cancel_flag_, sizeof *cancel_flag_);
  if (code == cudaSuccess) code = cudaMemset(cancel_flag_, 0, sizeof *cancel_flag_);
  if (code != cudaSuccess) return cuda_failure(code, "opening the device", error);
  finished_ = static_cast<volatile uint64_t*>(finished);
  *finished_ = 0;
  if (!can_report_progress())
    return fail(error, MI_UNSUPPORTED_DEVICE, "the driver offers no stream memory operations");
  launch_.stream = stream_;
  launch_.cancel = cancel_flag_;
  executor_ = std::thread([this] { execute(); });
  return MI_OK;
}

CudaDevice::~CudaDevice() {
  if (executor_.joinable()) {
    cancel();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    executor_.join();
  }
  CurrentDevice current(options_.index);
  if (stream_) cudaStreamSynchronize(stream_);
  for (cudaEvent_t marker : markers_)
    if (marker) cudaEventDestroy(marker);
  if (cancel_flag_) cudaFree(cancel_flag_);
  if (finished_) cudaFreeHost(const_cast<uint64_t*>(finished_));
  if (side_stream_) cudaStreamDestroy(side_stream_);
  if (stream_) cudaStreamDestroy(stream_);
  if (pool_) cudaMemPoolDestroy(pool_);
}

mi_status CudaDevice::check(cudaError_t code, const char* what, mi_error* error) {
  if (code == cudaSuccess) return MI_OK;
  return cuda_failure(code, what, error);
}

mi_status CudaDevice::info(mi_device_info* info, mi_error* error) {
  CurrentDevice current(options_.index);
  size_t free = 0, total = 0;
  uint64_t reserved = 0, used = 0;
  cudaError_t code = cudaMemGetInfo(&free, &total);
  if (code == cudaSuccess)
    code = cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved);
  if (code == cudaSuccess) code = cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used);
  if (code != cudaSuccess) return check(code, "info", error);
  info->kind = MI_CUDA_GPU;
  info->index = options_.index;
  info->threads = launch_.sm_count;
  info->capability_major = major_;
  info->capability_minor = minor_;
  info->isa = launch_.arch;
  info->total_memory = total;
  info->free_memory = free + (reserved - used);  // what the pool holds back can be had again
  info->host_free_memory = available_memory();
  std::snprintf(info->name, sizeof info->name, "%s", name_);
  return MI_OK;
}

mi_status CudaDevice::allocate(uint64_t bytes, Place place, void** data, mi_error* error) {
  CurrentDevice current(options_.index);
  if (place == Place::kHost) return allocate_host(bytes, data, error);
  cudaError_t code = cudaMallocFromPoolAsync(data, bytes, pool_, stream_);
  if (code == cudaErrorMemoryAllocation) {
    // Queued frees and blocks kept for reuse may be all that stands in the way.
    cudaGetLastError();
    mi_status status = wait_launched(error);
    if (status != MI_OK) return status;
    cudaStreamSynchronize(stream_);
    cudaMemPoolTrimTo(pool_, 0);
    code = cudaMallocFromPoolAsync(data, bytes, pool_, stream_);
  }
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    return out_of_memory(error, bytes, free);
  }
  return check(code, "allocate", error);
}

mi_status CudaDevice::allocate_host(uint64_t bytes, void** data, mi_error* error) {
  // Locked pages cannot be taken back: a request for more than there is would end in the OOM killer.
  uint64_t available = available_memory();
  if (bytes > available) {  // memory that was freed behind queued work may be all that is missing
    const mi_status status = wait_launched(error);
    if (status != MI_OK) return status;
    available = available_memory();
  }
  if (bytes > available) return out_of_memory(error, bytes, available);
  const cudaError_t code = cudaHostAlloc(data, bytes, cudaHostAllocDefault);
  if (code != cudaErrorMemoryAllocation) return check(code, "allocate in host memory", error);
  cudaGetLastError();
  return out_of_memory(error, bytes, available);
}

void CudaDevice::release(const Buffer& buffer) {
  CurrentDevice current(options_.index);
  if (buffer.place == Place::kDevice) {
    transfers_.settle({buffer.data}, stream_);
    cudaFreeAsync(buffer.data, stream_);
    return;
  }
  // Unlocking gigabytes takes its time, which the caller may not have.
  const auto body = [this, data = buffer.data](mi_error*) {
    transfers_.finish();
    cudaFreeHost(data);
    return MI_OK;
  };
  if (push({body, 0, true, {}}, nullptr) != MI_OK) body(nullptr);
}

mi_status CudaDevice::write(void* dst, const void* src, uint64_t bytes, mi_error* error) {
  return transfer(
      dst,
      [=](mi_error* e) {
        cudaError_t code = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, stream_);
        if (code == cudaSuccess) code = cudaStreamSynchronize(stream_);
        return code == cudaSuccess ? MI_OK : cuda_failure(code, "write", e);
      },
      error);
}

mi_status CudaDevice::read(void* dst, const void* src, uint64_t bytes, mi_error* error) {
  if (bytes <= MI_QUEUED_READ) {
    std::shared_ptr<PendingRead> pending;
    const mi_status status = start_read(src, bytes, nullptr, &pending, error);  // the caller holds the buffer
    return status == MI_OK ? pending->finish(dst, error) : status;
  }
  return transfer(
      src,
      [=](mi_error* e) {
        cudaError_t code = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, stream_);
        if (code == cudaSuccess) code = cudaStreamSynchronize(stream_);
        return code == cudaSuccess ? MI_OK : cuda_failure(code, "read", e);
      },
      error);
}

struct CudaDevice::QueuedRead final : PendingRead {
  QueuedRead(CudaDevice& owner, uint64_t size) : device(owner), bytes(size) {}
  ~QueuedRead() override {
    if (slot.host) device.read_slots_.give(slot);
  }
  mi_status finish(void* dst, mi_error* error) override { return device.finish_read(*this, dst, error); }

  CudaDevice& device;
  const uint64_t bytes;
  ReadSlot slot;
  bool launched = false;  // this and the next guarded by the device's mutex
  cudaError_t code = cudaSuccess;
};

mi_status CudaDevice::start_read(const void* src, uint64_t bytes, std::shared_ptr<Buffer> keep,
                                 std::shared_ptr<PendingRead>* read, mi_error* error) {
  CurrentDevice current(options_.index);
  auto queued = std::make_shared<QueuedRead>(*this, bytes);
  mi_status status = check(read_slots_.take(&queued->slot), "read", error);
  if (status != MI_OK) return status;
  const auto body = [this, src, queued, keep = std::move(keep)](mi_error* e) {
    cudaError_t code = cudaMemcpyAsync(queued->slot.host, src, queued->bytes, cudaMemcpyDeviceToHost, stream_);
    if (code == cudaSuccess) code = cudaEventRecord(queued->slot.arrived, stream_);
    std::lock_guard<std::mutex> lock(mutex_);
    queued->launched = true;
    queued->code = code;
    return check(code, "read", e);
  };
  status = push({body, 0, true, {src}}, error);
  if (status == MI_OK) *read = std::move(queued);
  return status;
}

// On the caller's thread: the executor goes on launching what follows.
mi_status CudaDevice::finish_read(QueuedRead& read, void* dst, mi_error* error) {
  CurrentDevice current(options_.index);
  {
    std::unique_lock<std::mutex> lock(mutex_);
    idle_.wait(lock, [&] { return read.launched; });
    if (lost_) return report_lost(error);
  }
  const cudaError_t code = read.code == cudaSuccess ? cudaEventSynchronize(read.slot.arrived) : read.code;
  if (code == cudaSuccess) {
    std::memcpy(dst, read.slot.host, read.bytes);
    return MI_OK;
  }
  mi_error failure{};
  const mi_status status = cuda_failure(code, "read", &failure);
  std::lock_guard<std::mutex> lock(mutex_);
  if (is_sticky(code)) keep_failure(failure, *finished_ + 1, launched_);
  if (lost_) return report_lost(error);
  if (error) *error = failure;
  return status;
}

mi_status CudaDevice::load(void* dst, const char* path, uint64_t file_offset, uint64_t bytes,
                           mi_error* error) {
  return transfer(
      dst,
      [=](mi_error* e) {
        return loader_.load(static_cast<char*>(dst), path, file_offset, bytes, stream_, e);
      },
      error);
}

mi_status CudaDevice::copy(const Spot& dst, const Spot& src, uint64_t bytes, mi_error* error) {
  if (dst.buffer->place == Place::kHost || src.buffer->place == Place::kHost)
    return push({[=](mi_error* e) { return copy_host(dst, src, bytes, e); }, 0, false, {}}, error);
  const auto body = [=](mi_error* e) {
    return check(cudaMemcpyAsync(dst.data(), src.data(), bytes, cudaMemcpyDeviceToDevice, stream_), "copy", e);
  };
  return push({body, 0, false, {dst.data(), src.data()}}, error);
}

// On the executor thread.
mi_status CudaDevice::copy_host(const Spot& dst, const Spot& src, uint64_t bytes, mi_error* error) {
  if (dst.buffer->place == src.buffer->place) {
    const cudaError_t code = transfers_.finish();
    if (code == cudaSuccess) std::memmove(dst.data(), src.data(), bytes);
    return check(code, "copy in host memory", error);
  }
  const Buffer& inside = dst.buffer->place == Place::kDevice ? *dst.buffer : *src.buffer;
  return check(transfers_.start(dst.data(), src.data(), bytes, inside.data, inside.bytes, stream_),
               "copy from or to host memory", error);
}

mi_status CudaDevice::submit(std::unique_ptr<Operation> operation, mi_error* error) {
  const mi_status status = operations_.accept(*operation, error);
  if (status != MI_OK) return status;
  const int op = operation->op;
  std::vector<const void*> memory;
  add_memory(*operation, &memory);
  return push({[this, operation = std::shared_ptr<Operation>(std::move(operation))](mi_error* e) {
                 return operations_.run(launch_, *operation, e);
               },
               op, false, std::move(memory)},
              error);
}

mi_status CudaDevice::submit_batch(Batch batch, mi_error* error) {
  std::vector<const void*> memory;
  for (const std::unique_ptr<Operation>& operation : batch) {
    const mi_status status = operations_.accept(*operation, error);
    if (status != MI_OK) return status;
    add_memory(*operation, &memory);
  }
  const auto body = [this, shared = std::make_shared<const Batch>(std::move(batch))](mi_error* e) {
    return profile_ ? run_timed(*shared, e) : batches_.run(launch_, operations_, *shared, e);
  };
  return push({body, kBatchOp, false, std::move(memory)}, error);
}

// One launch after the other: the operations of a graph cannot be timed apart.
mi_status CudaDevice::run_timed(const Batch& batch, mi_error* error) {
  for (size_t i = 0; i < batch.size();) {
    const size_t count = operations_.together(batch, i);
    timer_.start(batch[i]->op, stream_);
    const mi_status status = operations_.run(launch_, batch, i, count, error);
    timer_.stop(stream_);
    if (status != MI_OK) return status;
    i += count;
  }
  return MI_OK;
}

void CudaDevice::timings(uint64_t out[MI_OP_COUNT]) {
  CurrentDevice current(options_.index);
  timer_.read(out);
}

}  // namespace cuda

int32_t cuda_device_count(mi_error* error) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  fail(error, MI_NO_DEVICE, "no CUDA device: %s",
       code == cudaSuccess ? "the driver lists none" : cudaGetErrorString(code));
  if (error) error->native = code;
  return MI_NO_DEVICE;
}

mi_status open_cuda(const mi_device_options& options, std::unique_ptr<Device>* device, mi_error* error) {
  auto cuda = std::make_unique<cuda::CudaDevice>(options);
  const mi_status status = cuda->open(error);
  if (status == MI_OK) *device = std::move(cuda);
  return status;
}

}  // namespace mi
