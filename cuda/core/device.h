// What a backend provides. abi.cpp owns handles and buffers; validate.cpp makes Operations.
#pragma once
#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "ops.h"

namespace mi {

class Device;

// Where a buffer is. Host memory is page-locked where that matters; operations do not take it, copies do.
enum class Place { kDevice, kHost };

// Memory with a lifetime: the handle table and every queued operation hold a reference, so the bytes outlive mi_free
// until the work that uses them is done.
struct Buffer {
  Buffer(Device& device, void* data, uint64_t bytes, Place place)
      : device(device), data(data), bytes(bytes), place(place) {}
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  Device& device;
  void* data;
  uint64_t bytes;
  Place place;
};

// Where in a buffer a copy begins.
struct Spot {
  char* data() const { return static_cast<char*>(buffer->data) + offset; }

  std::shared_ptr<Buffer> buffer;
  uint64_t offset;
};

// One validated operation. `op` says which alternative `args` holds.
struct Operation {
  mi_op op;
  std::variant<EmbedArgs, RmsNormArgs, RopeArgs, CopyArgs, LinearArgs, SiluMulArgs, SampleArgs, ConvertArgs,
               QuantiseArgs, DequantiseArgs, QuantiseRowsArgs, AttentionArgs, EstimateArgs, IndexArgs>
      args;
  std::vector<mi_pattern> patterns;             // IndexArgs::patterns points here
  std::vector<std::shared_ptr<Buffer>> buffers;  // kept alive until the operation has run
};

using Batch = std::vector<std::unique_ptr<Operation>>;

// A read in the queue.
class PendingRead {
 public:
  virtual ~PendingRead() = default;
  virtual mi_status finish(void* dst, mi_error* error) = 0;  // waits, then copies
};

// An in-order queue with its memory. Every function may be called from any thread.
class Device {
 public:
  virtual ~Device() = default;

  virtual mi_status info(mi_device_info* info, mi_error* error) = 0;

  // `release` takes effect after all work queued so far.
  virtual mi_status allocate(uint64_t bytes, Place place, void** data, mi_error* error) = 0;
  virtual void release(const Buffer& buffer) = 0;

  // In queue order; return when the bytes have arrived.
  virtual mi_status write(void* dst, const void* src, uint64_t bytes, mi_error* error) = 0;
  virtual mi_status read(void* dst, const void* src, uint64_t bytes, mi_error* error) = 0;
  // At most MI_QUEUED_READ bytes; `keep` holds their buffer.
  virtual mi_status start_read(const void* src, uint64_t bytes, std::shared_ptr<Buffer> keep,
                               std::shared_ptr<PendingRead>* read, mi_error* error) = 0;
  virtual mi_status load(void* dst, const char* path, uint64_t file_offset, uint64_t bytes, mi_error* error) = 0;
  // Queued. Between host and device it may run beside what is queued after it and does not touch the two buffers.
  virtual mi_status copy(const Spot& dst, const Spot& src, uint64_t bytes, mi_error* error) = 0;
  virtual mi_status submit(std::unique_ptr<Operation> operation, mi_error* error) = 0;
  virtual mi_status submit_batch(Batch batch, mi_error* error) = 0;
  // Bytes of workspace; pointers in the arguments are null.
  virtual uint64_t workspace(const Operation& operation) = 0;

  virtual mi_status sync(mi_error* error) = 0;
  virtual void cancel() = 0;
  virtual void progress(uint64_t out[4]) = 0;
  virtual void timings(uint64_t out[MI_OP_COUNT]) = 0;
  virtual void profile(bool on) = 0;
};

// Bytes the caller may still take under options.memory_limit are tracked by abi.cpp.
mi_status open_cpu(const mi_device_options& options, std::unique_ptr<Device>* device, mi_error* error);

#if defined(MINFERENCE_CUDA)
int32_t cuda_device_count(mi_error* error);  // >= 0, or MI_NO_DEVICE with the reason
mi_status open_cuda(const mi_device_options& options, std::unique_ptr<Device>* device, mi_error* error);
#endif

}  // namespace mi
