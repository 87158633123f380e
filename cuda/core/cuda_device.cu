#include "cuda_device.h"

#include <cuda.h>

#include <cstdio>
#include <cstring>
#include <new>

#include "host_memory.h"
#include "status.h"

namespace mi {
namespace cuda {

namespace {

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

// The driver call that lets the GPU report progress, found at run time: the library does not link libcuda.
using WriteValue = decltype(&cuStreamWriteValue64);
WriteValue write_value() {
  static const WriteValue function = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t code =
        cudaGetDriverEntryPointByVersion("cuStreamWriteValue64", &f, 12000, cudaEnableDefault, &found);
    return code == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<WriteValue>(f)
                                                                       : nullptr;
  }();
  return function;
}

// Errors after which the context answers nothing but the same error.
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
  if (!write_value())
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

mi_status CudaDevice::report_lost(mi_error* error) const {
  fail(error, MI_DEVICE_LOST, "the device is lost since an earlier failure: %.170s", failure_.text);
  if (error) error->native = failure_.native;
  return MI_DEVICE_LOST;
}

// `first` to `last`: the tasks that may have failed. Call with the mutex held.
void CudaDevice::keep_failure(const mi_error& failure, uint64_t first, uint64_t last) {
  if (failure_.code != 0) return;  // the first one counts
  failure_ = failure;
  lost_ = is_sticky(cudaError_t(failure.native));
  if (!lost_ || first > last || last - first >= 2 * kWindow) return;
  const char* name = operations_.name(recent_ops_[first % (2 * kWindow)]);
  fail(&failure_, MI_DEVICE_LOST, "%s failed: %.180s", name, failure.text);
  failure_.native = failure.native;
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

mi_status CudaDevice::push(Task task, mi_error* error) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (lost_) return report_lost(error);
    queue_.push_back(std::move(task));
    submitted_++;
  }
  wake_.notify_one();
  return MI_OK;
}

// Queues `body` and waits for it: it returns when its bytes have left `memory` or arrived there.
mi_status CudaDevice::transfer(const void* memory, const Body& body, mi_error* error) {
  mi_status status = MI_OK;
  bool finished = false;
  const auto run = [&](mi_error*) {
    const mi_status result = body(error);
    std::lock_guard<std::mutex> lock(mutex_);
    status = result;
    finished = true;
    return result;
  };
  const mi_status queued = push({run, 0, true, {memory}}, error);
  if (queued != MI_OK) return queued;
  std::unique_lock<std::mutex> lock(mutex_);
  idle_.wait(lock, [&] { return finished; });
  return lost_ ? report_lost(error) : status;
}

void CudaDevice::execute() {
  cudaSetDevice(options_.index);
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;
    Task task = std::move(queue_.front());
    queue_.pop_front();
    const uint64_t sequence = launched_ + 1;
    const bool cancelled = sequence <= cancel_until_;
    const bool skip = lost_ || (cancelled && !task.transfer);
    recent_ops_[sequence % (2 * kWindow)] = uint8_t(task.op);
    if (!cancelled && flag_raised_) {
      // The flag belongs to the cancelled tasks; all of them are in the stream before this one.
      cudaStreamSynchronize(side_stream_);
      cudaMemsetAsync(cancel_flag_, 0, sizeof *cancel_flag_, stream_);
      flag_raised_ = false;
    }
    lock.unlock();
    mi_error failure{};
    const mi_status status = launch(task, sequence, skip, &failure);
    task.body = nullptr;  // frees the buffers it holds, in stream order
    lock.lock();
    // A transfer's caller gets its failure itself, unless the whole device is gone.
    if (status != MI_OK && (!task.transfer || is_sticky(cudaError_t(failure.native))))
      keep_failure(failure, *finished_ + 1, sequence);
    launched_ = sequence;
    idle_.notify_all();
  }
}

// On the executor thread.
mi_status CudaDevice::launch(Task& task, uint64_t sequence, bool skip, mi_error* error) {
  const bool at_marker = sequence % (kWindow / 2) == 0;
  cudaEvent_t marker = markers_[sequence / (kWindow / 2) % 2];
  mi_status status = MI_OK;
  if (at_marker) status = check(cudaEventSynchronize(marker), "an operation", error);
  if (!skip && status == MI_OK) status = check(transfers_.settle(task.memory, stream_), "a copy", error);
  if (!skip && status == MI_OK) {
    const bool timed = profile_ && task.op != 0 && task.op != kBatchOp;  // a batch times its own
    if (timed) timer_.start(task.op, stream_);
    status = task.body(error);
    if (timed) timer_.stop(stream_);
  } else if (task.transfer) {
    task.body(error);  // on a lost device: fails at once and wakes its caller
  }
  write_value()(stream_, reinterpret_cast<CUdeviceptr>(finished_), sequence, CU_STREAM_WRITE_VALUE_DEFAULT);
  if (at_marker) cudaEventRecord(marker, stream_);
  return status;
}

// Waits until all that was submitted so far is in the stream or dropped.
mi_status CudaDevice::wait_launched(mi_error* error) {
  std::unique_lock<std::mutex> lock(mutex_);
  const uint64_t target = submitted_;
  idle_.wait(lock, [&] { return launched_ >= target; });
  return lost_ ? report_lost(error) : MI_OK;
}

mi_status CudaDevice::check(cudaError_t code, const char* what, mi_error* error) {
  if (code == cudaSuccess) return MI_OK;
  return cuda_failure(code, what, error);
}

mi_status CudaDevice::sync(mi_error* error) {
  CurrentDevice current(options_.index);
  mi_status status = wait_launched(error);
  if (status != MI_OK) return status;
  mi_error failure{};
  status = check(cudaStreamSynchronize(stream_), "an operation", &failure);
  if (status == MI_OK) status = check(transfers_.finish(), "a copy", &failure);
  std::lock_guard<std::mutex> lock(mutex_);
  if (status != MI_OK) keep_failure(failure, *finished_ + 1, launched_);
  if (lost_) return report_lost(error);
  if (failure_.code != 0) {
    if (error) *error = failure_;
    status = mi_status(failure_.code);
    failure_ = {};
    return status;
  }
  if (!dropped_) return MI_OK;
  dropped_ = false;
  return fail(error, MI_CANCELLED, "cancelled: queued work was dropped");
}

void CudaDevice::cancel() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (lost_ || submitted_ == *finished_) return;
  CurrentDevice current(options_.index);
  cancel_until_ = submitted_;
  dropped_ = true;
  flag_raised_ = true;
  cudaMemsetAsync(cancel_flag_, 1, sizeof *cancel_flag_, side_stream_);
}

void CudaDevice::progress(uint64_t out[4]) {
  std::lock_guard<std::mutex> lock(mutex_);
  out[0] = submitted_;
  out[1] = *finished_;
  out[2] = 0;
  out[3] = submitted_ > *finished_ ? 1 : 0;
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
