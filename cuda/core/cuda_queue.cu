// The queue of CudaDevice: tasks go to the stream in order, a bounded number ahead of the GPU; those that are cancelled
// before are dropped; the first failure is kept for the next sync.
#include <cuda.h>

#include "cuda_device.h"
#include "cuda_errors.h"
#include "status.h"

namespace mi::cuda {

namespace {

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

}  // namespace

bool CudaDevice::can_report_progress() { return write_value() != nullptr; }

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
  const auto run = [&](mi_error* failure) {
    const mi_status result = body(failure);
    std::lock_guard<std::mutex> lock(mutex_);
    if (error && result != MI_OK) *error = *failure;
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
    if (status != MI_OK) cudaGetLastError();  // told; not to be taken for the next operation's
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

}  // namespace mi::cuda
