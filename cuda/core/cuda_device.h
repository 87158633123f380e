// The CUDA backend's queue: one executor thread launches operations on one stream, a bounded number
// ahead of the GPU, so that what is cancelled is mostly work that was never launched. Copies from and to host memory
// run on a stream beside it.
#pragma once
#include <cuda_runtime_api.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "cuda_batch.h"
#include "cuda_loader.h"
#include "cuda_ops.h"
#include "cuda_read.h"
#include "cuda_timer.h"
#include "cuda_transfers.h"
#include "device.h"

namespace mi::cuda {

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(const mi_device_options& options) : options_(options) {}
  ~CudaDevice() override;
  mi_status open(mi_error* error);  // once, before anything else

  mi_status info(mi_device_info* info, mi_error* error) override;
  mi_status allocate(uint64_t bytes, Place place, void** data, mi_error* error) override;
  void release(const Buffer& buffer) override;
  mi_status write(void* dst, const void* src, uint64_t bytes, mi_error* error) override;
  mi_status read(void* dst, const void* src, uint64_t bytes, mi_error* error) override;
  mi_status start_read(const void* src, uint64_t bytes, std::shared_ptr<Buffer> keep,
                       std::shared_ptr<PendingRead>* read, mi_error* error) override;
  mi_status load(void* dst, const char* path, uint64_t file_offset, uint64_t bytes, mi_error* error) override;
  mi_status copy(const Spot& dst, const Spot& src, uint64_t bytes, mi_error* error) override;
  mi_status submit(std::unique_ptr<Operation> operation, mi_error* error) override;
  mi_status submit_batch(Batch batch, mi_error* error) override;
  uint64_t workspace(const Operation& operation) override { return operations_.workspace(operation); }
  mi_status sync(mi_error* error) override;
  void cancel() override;
  void progress(uint64_t out[4]) override;
  void timings(uint64_t out[MI_OP_COUNT]) override;
  void profile(bool on) override { profile_ = on; }

 private:
  using Body = std::function<mi_status(mi_error*)>;
  struct Task {
    Body body;
    int op;         // mi_op, 0 for copies and transfers, kBatchOp
    bool transfer;  // runs even when the work before it is cancelled: somebody waits for it
    std::vector<const void*> memory;  // that it touches on the device; copies beside the queue do not count
  };

  struct QueuedRead;
  mi_status finish_read(QueuedRead& read, void* dst, mi_error* error);
  mi_status run_timed(const Batch& batch, mi_error* error);
  mi_status allocate_host(uint64_t bytes, void** data, mi_error* error);
  mi_status copy_host(const Spot& dst, const Spot& src, uint64_t bytes, mi_error* error);
  mi_status check(cudaError_t code, const char* what, mi_error* error);

  // ---- the queue: cuda_queue.cu ----
  static bool can_report_progress();
  mi_status push(Task task, mi_error* error);
  mi_status transfer(const void* memory, const Body& body, mi_error* error);
  void execute();
  mi_status launch(Task& task, uint64_t sequence, bool skip, mi_error* error);
  mi_status wait_launched(mi_error* error);
  mi_status report_lost(mi_error* error) const;
  void keep_failure(const mi_error& failure, uint64_t first, uint64_t last);

  const mi_device_options options_;
  Launch launch_{};
  Operations operations_{launch_};
  cudaMemPool_t pool_ = nullptr;
  cudaStream_t stream_ = nullptr,
               side_stream_ = nullptr;  // the second raises the cancel flag beside running work
  char name_[128] = {};
  int major_ = 0, minor_ = 0;
  Loader loader_;
  ReadSlots read_slots_;
  Transfers transfers_;
  BatchRunner batches_;  // the executor's
  Timer timer_;
  std::atomic<bool> profile_{options_.profile != 0};

  volatile uint64_t* finished_ =
      nullptr;  // host memory: the GPU writes the number of each task it has finished
  uint32_t* cancel_flag_ = nullptr;        // device memory, polled by long kernels

  // An event every kWindow / 2 tasks bounds how far launching runs ahead of the GPU.
  static constexpr uint64_t kWindow = 64;
  cudaEvent_t markers_[2] = {};

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_, idle_;
  std::deque<Task> queue_;
  uint64_t submitted_ = 0, launched_ = 0;  // tasks are numbered from 1
  uint64_t cancel_until_ = 0;              // tasks up to this number are dropped
  bool dropped_ = false, flag_raised_ = false, stop_ = false, lost_ = false;
  mi_error failure_{};                // first failure since the last sync; for good once the device is lost
  uint8_t recent_ops_[2 * kWindow] = {};  // mi_op by task number, to name the one that failed
  std::thread executor_;
};

}  // namespace mi::cuda
