// The exported functions: handles and lifetimes, then validate -> device. Nothing throws past here.
#include <cstring>
#include <new>

#include "device.h"
#include "handles.h"
#include "layout.h"
#include "status.h"
#include "validate.h"

namespace mi {

Buffer::~Buffer() {
  if (data) device.release(*this);
}

namespace {

struct OpenDevice {
  std::unique_ptr<Device> device;
  uint64_t memory_limit = 0;
  std::mutex mutex;  // guards what follows
  uint64_t allocated = 0, peak = 0, host_allocated = 0;
  // Declared after `device`: buffers still in the table must be released while it lives.
  Handles<Buffer> buffers;
  Handles<PendingRead> reads;
};

// Process-wide, because handles cross threads and modules. Leaked on purpose: exit order is then harmless.
Handles<OpenDevice>& devices() {
  static auto* table = new Handles<OpenDevice>;
  return *table;
}

// Runs body with exceptions turned into statuses.
template <class Body>
int32_t guarded(mi_error* error, const Body& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return fail(error, MI_OUT_OF_MEMORY, "out of host memory");
  } catch (const std::exception& e) {
    return fail(error, MI_INTERNAL, "internal error: %s", e.what());
  } catch (...) {
    return fail(error, MI_INTERNAL, "internal error");
  }
}

template <class Body>
int32_t with_device(uint64_t handle, mi_error* error, const Body& body) noexcept {
  return guarded(error, [&]() -> int32_t {
    const std::shared_ptr<OpenDevice> d = devices().find(handle);
    if (!d) return fail(error, MI_BAD_HANDLE, "no such device (closed?)");
    return body(*d);
  });
}

// The buffer around a range, wherever it is, or null with the failure written.
std::shared_ptr<Buffer> range_anywhere(OpenDevice& d, uint64_t handle, uint64_t offset, uint64_t bytes, mi_error* error) {
  std::shared_ptr<Buffer> b = d.buffers.find(handle);
  if (!b) {
    fail(error, MI_BAD_HANDLE, "no such buffer on this device (freed?)");
  } else if (offset > b->bytes || bytes > b->bytes - offset) {
    fail(error, MI_SHAPE, "%llu bytes at offset %llu do not fit a buffer of %llu bytes", (unsigned long long)bytes,
         (unsigned long long)offset, (unsigned long long)b->bytes);
    b = nullptr;
  }
  return b;
}
// The same on the device.
std::shared_ptr<Buffer> range(OpenDevice& d, uint64_t handle, uint64_t offset, uint64_t bytes, mi_error* error) {
  std::shared_ptr<Buffer> b = range_anywhere(d, handle, offset, bytes, error);
  if (b && b->place == Place::kHost) {
    fail(error, MI_INVALID_ARGUMENT, "a buffer of host memory is copied from and to, and nothing else");
    b = nullptr;
  }
  return b;
}
char* at(const std::shared_ptr<Buffer>& b, uint64_t offset) { return static_cast<char*>(b->data) + offset; }

mi_status prepare(OpenDevice& d, const mi_header* params, bool planning, Operation* operation, mi_error* error) {
  return validate(params, planning, [&](uint64_t handle) { return d.buffers.find(handle); }, operation, error);
}

struct GivenWorkspace {
  template <class Args>
  auto operator()(const Args& a) const -> decltype(a.workspace_bytes) { return get(a, 0); }
  uint64_t operator()(...) const { return 0; }
  template <class Args>
  static auto get(const Args& a, int) -> decltype(a.workspace_bytes) { return a.workspace_bytes; }
};

// Checks the workspace, too.
mi_status prepare_to_run(OpenDevice& d, const mi_header* params, Operation* operation, mi_error* error) {
  const mi_status status = prepare(d, params, false, operation, error);
  if (status != MI_OK) return status;
  const uint64_t given = std::visit(GivenWorkspace{}, operation->args);
  const uint64_t needed = d.device->workspace(*operation);
  if (given >= needed) return MI_OK;
  return fail(error, MI_SHAPE, "operation %u needs %llu bytes of workspace, got %llu", params->op,
              (unsigned long long)needed, (unsigned long long)given);
}

int32_t allocate(uint64_t handle, uint64_t bytes, Place place, uint64_t* buffer, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    if (!buffer || bytes == 0) return fail(error, MI_INVALID_ARGUMENT, "cannot allocate %llu bytes", (unsigned long long)bytes);
    uint64_t& held = place == Place::kHost ? d.host_allocated : d.allocated;
    {
      std::lock_guard<std::mutex> lock(d.mutex);
      const uint64_t all = d.allocated + d.host_allocated;
      if (d.memory_limit && (bytes > d.memory_limit || all > d.memory_limit - bytes))
        return out_of_memory(error, bytes, d.memory_limit - all);
      held += bytes;
    }
    void* data = nullptr;
    const mi_status status = d.device->allocate(bytes, place, &data, error);  // host memory takes its time
    if (status == MI_OK) *buffer = d.buffers.insert(std::make_shared<Buffer>(*d.device, data, bytes, place));
    std::lock_guard<std::mutex> lock(d.mutex);
    if (status != MI_OK) held -= bytes;
    else if (d.allocated > d.peak) d.peak = d.allocated;
    return status;
  });
}

int32_t bad_status(const mi_error* error, mi_status fallback) { return error && error->code ? error->code : fallback; }

}  // namespace
}  // namespace mi

using namespace mi;

extern "C" {

uint32_t mi_abi_version(void) { return MI_ABI_VERSION; }

uint64_t mi_describe(char* text, uint64_t capacity) {
  uint64_t size = 0;
  guarded(nullptr, [&]() -> int32_t {
    const std::string s = describe();
    size = s.size();
    if (text) std::memcpy(text, s.data(), size < capacity ? size : capacity);
    return MI_OK;
  });
  return size;
}

int32_t mi_device_count(int32_t kind, mi_error* error) {
  return guarded(error, [&]() -> int32_t {
    if (kind == MI_CPU) return 1;
    if (kind != MI_CUDA_GPU) return fail(error, MI_INVALID_ARGUMENT, "unknown device kind %d", kind);
#if defined(MINFERENCE_CUDA)
    return cuda_device_count(error);
#else
    return fail(error, MI_NO_DEVICE, "this library was built without CUDA");
#endif
  });
}

int32_t mi_device_open(const mi_device_options* options, uint64_t* device, mi_error* error) {
  return guarded(error, [&]() -> int32_t {
    if (!options || !device || options->size != sizeof *options)
      return fail(error, MI_INVALID_ARGUMENT, "device options of %u bytes, this library expects %zu",
                  options ? options->size : 0, sizeof *options);
    if (options->threads < 0 || options->threads > 4096)
      return fail(error, MI_INVALID_ARGUMENT, "threads must be in 0..4096, got %d", options->threads);
    auto open = std::make_shared<OpenDevice>();
    open->memory_limit = options->memory_limit;
    mi_status status;
    if (options->kind == MI_CPU) {
      status = open_cpu(*options, &open->device, error);
    } else if (options->kind == MI_CUDA_GPU) {
#if defined(MINFERENCE_CUDA)
      status = open_cuda(*options, &open->device, error);
#else
      status = fail(error, MI_NO_DEVICE, "this library was built without CUDA");
#endif
    } else {
      status = fail(error, MI_INVALID_ARGUMENT, "unknown device kind %d", options->kind);
    }
    if (status == MI_OK) *device = devices().insert(std::move(open));
    return status;
  });
}

int32_t mi_device_close(uint64_t handle, mi_error* error) {
  return guarded(error, [&]() -> int32_t {
    const std::shared_ptr<OpenDevice> d = devices().remove(handle);
    if (!d) return fail(error, MI_BAD_HANDLE, "no such device (closed?)");
    d->device->cancel();
    d->device->sync(nullptr);
    return MI_OK;
  });
}

int32_t mi_device_info_get(uint64_t handle, mi_device_info* info, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    if (!info || info->size != sizeof *info)
      return fail(error, MI_INVALID_ARGUMENT, "device info of %u bytes, this library expects %zu", info ? info->size : 0,
                  sizeof *info);
    std::memset(info, 0, sizeof *info);
    info->size = sizeof *info;
    {
      std::lock_guard<std::mutex> lock(d.mutex);
      info->allocated = d.allocated;
      info->peak = d.peak;
      info->host_allocated = d.host_allocated;
    }
    return d.device->info(info, error);
  });
}

int32_t mi_alloc(uint64_t handle, uint64_t bytes, uint64_t* buffer, mi_error* error) {
  return allocate(handle, bytes, Place::kDevice, buffer, error);
}

int32_t mi_alloc_host(uint64_t handle, uint64_t bytes, uint64_t* buffer, mi_error* error) {
  return allocate(handle, bytes, Place::kHost, buffer, error);
}

int32_t mi_free(uint64_t handle, uint64_t buffer, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    const std::shared_ptr<Buffer> b = d.buffers.remove(buffer);
    if (!b) return fail(error, MI_BAD_HANDLE, "no such buffer on this device (freed?)");
    std::lock_guard<std::mutex> lock(d.mutex);
    (b->place == Place::kHost ? d.host_allocated : d.allocated) -= b->bytes;
    return MI_OK;
  });
}

int32_t mi_write(uint64_t handle, uint64_t buffer, uint64_t offset, const void* data, uint64_t bytes, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    const auto b = range(d, buffer, offset, bytes, error);
    if (!b) return bad_status(error, MI_SHAPE);
    return bytes ? d.device->write(at(b, offset), data, bytes, error) : MI_OK;
  });
}

int32_t mi_read(uint64_t handle, uint64_t buffer, uint64_t offset, void* data, uint64_t bytes, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    const auto b = range(d, buffer, offset, bytes, error);
    if (!b) return bad_status(error, MI_SHAPE);
    return bytes ? d.device->read(data, at(b, offset), bytes, error) : MI_OK;
  });
}

int32_t mi_read_start(uint64_t handle, uint64_t buffer, uint64_t offset, uint64_t bytes, uint64_t* read, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    if (!read || bytes == 0 || bytes > MI_QUEUED_READ)
      return fail(error, MI_INVALID_ARGUMENT, "a queued read takes 1 to %d bytes, got %llu", MI_QUEUED_READ,
                  (unsigned long long)bytes);
    const auto b = range(d, buffer, offset, bytes, error);
    if (!b) return bad_status(error, MI_SHAPE);
    std::shared_ptr<PendingRead> pending;
    const mi_status status = d.device->start_read(at(b, offset), bytes, b, &pending, error);
    if (status == MI_OK) *read = d.reads.insert(std::move(pending));
    return status;
  });
}

int32_t mi_read_finish(uint64_t handle, uint64_t read, void* data, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    const std::shared_ptr<PendingRead> pending = d.reads.remove(read);
    if (!pending) return fail(error, MI_BAD_HANDLE, "no such read on this device (finished?)");
    return pending->finish(data, error);
  });
}

int32_t mi_load(uint64_t handle, uint64_t buffer, uint64_t offset, const char* path, uint64_t file_offset, uint64_t bytes,
                mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    const auto b = range(d, buffer, offset, bytes, error);
    if (!b) return bad_status(error, MI_SHAPE);
    if (!path) return fail(error, MI_INVALID_ARGUMENT, "path is missing");
    return bytes ? d.device->load(at(b, offset), path, file_offset, bytes, error) : MI_OK;
  });
}

int32_t mi_copy(uint64_t handle, uint64_t dst, uint64_t dst_offset, uint64_t src, uint64_t src_offset, uint64_t bytes,
                mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    const auto to = range_anywhere(d, dst, dst_offset, bytes, error);
    if (!to) return bad_status(error, MI_SHAPE);
    const auto from = range_anywhere(d, src, src_offset, bytes, error);
    if (!from) return bad_status(error, MI_SHAPE);
    return bytes ? d.device->copy({to, dst_offset}, {from, src_offset}, bytes, error) : MI_OK;
  });
}

int32_t mi_plan(uint64_t handle, const mi_header* params, uint64_t* out, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    Operation operation{};
    const mi_status status = prepare(d, params, true, &operation, error);
    if (status != MI_OK) return status;
    out[0] = d.device->workspace(operation);
    out[1] = operation.op == MI_OP_INDEX ? std::get<IndexArgs>(operation.args).list_bytes : 0;
    return MI_OK;
  });
}

int32_t mi_submit(uint64_t handle, const mi_header* params, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    auto operation = std::make_unique<Operation>();
    const mi_status status = prepare_to_run(d, params, operation.get(), error);
    return status == MI_OK ? d.device->submit(std::move(operation), error) : status;
  });
}

int32_t mi_submit_batch(uint64_t handle, const void* params, uint64_t bytes, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    Batch batch;
    const char* next = static_cast<const char*>(params);
    for (uint64_t left = bytes; left > 0;) {
      const mi_header* header = reinterpret_cast<const mi_header*>(next);
      if (left < sizeof *header || header->size < sizeof *header || header->size > left || header->size % 8 != 0)
        return fail(error, MI_INVALID_ARGUMENT, "operation %zu of a batch does not fit the %llu bytes left", batch.size(),
                    (unsigned long long)left);
      batch.push_back(std::make_unique<Operation>());
      const mi_status status = prepare_to_run(d, header, batch.back().get(), error);
      if (status != MI_OK) return status;
      next += header->size;
      left -= header->size;
    }
    return batch.empty() ? MI_OK : d.device->submit_batch(std::move(batch), error);
  });
}

int32_t mi_sync(uint64_t handle, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t { return d.device->sync(error); });
}

int32_t mi_cancel(uint64_t handle, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    d.device->cancel();
    return MI_OK;
  });
}

int32_t mi_progress(uint64_t handle, uint64_t* out, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    d.device->progress(out);
    return MI_OK;
  });
}

int32_t mi_timings(uint64_t handle, uint64_t* out, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    d.device->timings(out);
    return MI_OK;
  });
}

int32_t mi_profile(uint64_t handle, int32_t on, mi_error* error) {
  return with_device(handle, error, [&](OpenDevice& d) -> int32_t {
    d.device->profile(on != 0);
    return MI_OK;
  });
}

}  // extern "C"
