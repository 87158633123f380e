// The CPU backend's queue: one executor thread takes tasks in order and runs them on the pool.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "../cpu/pool.h"
#include "device.h"
#include "host_memory.h"
#include "status.h"

namespace mi {

namespace {

void run(cpu::Pool& pool, const Operation& operation) {
  struct Visitor {
    cpu::Pool& pool;
    void operator()(const EmbedArgs& a) const { cpu::embed(pool, a); }
    void operator()(const RmsNormArgs& a) const { cpu::rms_norm(pool, a); }
    void operator()(const RopeArgs& a) const { cpu::rope(pool, a); }
    void operator()(const CopyArgs& a) const { cpu::copy(pool, a); }
    void operator()(const LinearArgs& a) const { cpu::linear(pool, a); }
    void operator()(const SiluMulArgs& a) const { cpu::silu_mul(pool, a); }
    void operator()(const SampleArgs& a) const { cpu::sample(pool, a); }
    void operator()(const ConvertArgs& a) const { cpu::convert(pool, a); }
    void operator()(const QuantiseArgs& a) const { cpu::quantise(pool, a); }
    void operator()(const DequantiseArgs& a) const { cpu::dequantise(pool, a); }
    void operator()(const QuantiseRowsArgs& a) const { cpu::quantise_rows(pool, a); }
    void operator()(const AttentionArgs& a) const { cpu::attention(pool, a); }
    void operator()(const EstimateArgs& a) const { cpu::estimate(pool, a); }
    void operator()(const IndexArgs& a) const { cpu::index(pool, a); }
  };
  std::visit(Visitor{pool}, operation.args);
}

struct WorkspaceOf {
  const cpu::Pool& pool;
  uint64_t operator()(const LinearArgs& a) const { return cpu::linear_workspace(pool, a); }
  uint64_t operator()(const AttentionArgs& a) const { return cpu::attention_workspace(pool, a); }
  uint64_t operator()(const EstimateArgs& a) const { return cpu::estimate_workspace(pool, a); }
  uint64_t operator()(const IndexArgs& a) const { return cpu::index_workspace(pool, a); }
  template <class Other>
  uint64_t operator()(const Other&) const { return 0; }
};

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, 10, "model name") == 0) {
      const size_t colon = line.find(": ");
      if (colon != std::string::npos) return line.substr(colon + 2);
    }
  return "CPU";
}

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(const mi_device_options& o)
      : pool_(o.threads > 0 ? o.threads : (int)std::thread::hardware_concurrency(), (mi_isa)o.isa),
        profile_(o.profile != 0),
        executor_([this] { execute(); }) {}

  ~CpuDevice() override {
    cancel();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    executor_.join();
  }

  mi_status info(mi_device_info* info, mi_error*) override {
    info->kind = MI_CPU;
    info->threads = pool_.threads();
    info->isa = pool_.isa();
    info->total_memory = total_memory();
    info->free_memory = info->host_free_memory = available_memory();
    std::snprintf(info->name, sizeof info->name, "%s", cpu_name().c_str());
    return MI_OK;
  }

  mi_status allocate(uint64_t bytes, Place, void** data, mi_error* error) override {
    // The kernel overcommits, so malloc alone would let a hopeless request through to the OOM killer.
    uint64_t available = available_memory();
    if (bytes > available) {  // memory that was freed behind queued work may be all that is missing
      std::unique_lock<std::mutex> lock(mutex_);
      const uint64_t target = submitted_;
      idle_.wait(lock, [&] { return completed_ >= target; });
      lock.unlock();
      available = available_memory();
    }
    void* p = bytes <= available ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
    if (!p) return out_of_memory(error, bytes, available);
    *data = p;
    return MI_OK;
  }
  // Queued operations hold their Buffers, so nothing uses the bytes any more.
  void release(const Buffer& buffer) override { std::free(buffer.data); }

  mi_status write(void* dst, const void* src, uint64_t bytes, mi_error* error) override {
    return transfer([=] { std::memcpy(dst, src, bytes); return MI_OK; }, error);
  }
  mi_status read(void* dst, const void* src, uint64_t bytes, mi_error* error) override {
    return write(dst, src, bytes, error);
  }
  mi_status start_read(const void* src, uint64_t bytes, std::shared_ptr<Buffer> keep,
                       std::shared_ptr<PendingRead>* read, mi_error*) override {
    auto pending = std::make_shared<QueuedRead>(*this, bytes);
    push({[=, keep = std::move(keep)] {
            std::memcpy(pending->bytes.data(), src, bytes);
            std::lock_guard<std::mutex> lock(mutex_);
            pending->finished = true;
          },
          0, true});
    *read = std::move(pending);
    return MI_OK;
  }
  mi_status load(void* dst, const char* path, uint64_t file_offset, uint64_t bytes, mi_error* error) override {
    return transfer([=] { return read_file(dst, path, file_offset, bytes, error); }, error);
  }
  mi_status copy(const Spot& dst, const Spot& src, uint64_t bytes, mi_error*) override {
    push({[=] { std::memmove(dst.data(), src.data(), bytes); }, 0, false});
    return MI_OK;
  }

  mi_status submit(std::unique_ptr<Operation> operation, mi_error*) override {
    const int op = operation->op;
    push({[this, operation = std::shared_ptr<Operation>(std::move(operation))] { run(pool_, *operation); }, op, false});
    return MI_OK;
  }
  mi_status submit_batch(Batch batch, mi_error* error) override {
    for (std::unique_ptr<Operation>& operation : batch) submit(std::move(operation), error);
    return MI_OK;
  }
  uint64_t workspace(const Operation& operation) override { return std::visit(WorkspaceOf{pool_}, operation.args); }

  mi_status sync(mi_error* error) override {
    std::unique_lock<std::mutex> lock(mutex_);
    const uint64_t target = submitted_;
    idle_.wait(lock, [&] { return completed_ >= target; });
    if (!dropped_) return MI_OK;
    dropped_ = false;
    return fail(error, MI_CANCELLED, "cancelled: queued work was dropped");
  }

  void cancel() override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (submitted_ == completed_) return;
    cancel_until_ = submitted_;
    dropped_ = true;
    pool_.cancel();
  }

  void progress(uint64_t out[4]) override {
    std::lock_guard<std::mutex> lock(mutex_);
    out[0] = submitted_;
    out[1] = completed_;
    out[2] = (uint64_t)pool_.done();
    out[3] = (uint64_t)pool_.items();
  }

  void timings(uint64_t out[MI_OP_COUNT]) override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (int i = 0; i < MI_OP_COUNT; i++) {
      out[i] = nanoseconds_[i];
      nanoseconds_[i] = 0;
    }
  }
  void profile(bool on) override {
    std::lock_guard<std::mutex> lock(mutex_);
    profile_ = on;
  }

 private:
  struct Task {
    std::function<void()> run;
    int op;         // mi_op, 0 for copies
    bool transfer;  // runs even when the work before it is cancelled: somebody waits for it
  };

  void push(Task task) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      queue_.push_back(std::move(task));
      submitted_++;
    }
    wake_.notify_one();
  }

  struct QueuedRead final : PendingRead {
    QueuedRead(CpuDevice& device, uint64_t size) : device(device), bytes(size) {}
    mi_status finish(void* dst, mi_error*) override {
      std::unique_lock<std::mutex> lock(device.mutex_);
      device.idle_.wait(lock, [&] { return finished; });
      std::memcpy(dst, bytes.data(), bytes.size());
      return MI_OK;
    }

    CpuDevice& device;
    std::vector<char> bytes;
    bool finished = false;
  };

  template <class Body>
  mi_status transfer(Body body, mi_error*) {
    mi_status status = MI_OK;
    bool finished = false;
    push({[&] {
            status = body();
            std::lock_guard<std::mutex> lock(mutex_);
            finished = true;
          },
          0, true});
    std::unique_lock<std::mutex> lock(mutex_);
    idle_.wait(lock, [&] { return finished; });
    return status;
  }

  void execute() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;
      Task task = std::move(queue_.front());
      queue_.pop_front();
      const bool cancelled = completed_ < cancel_until_;
      if (!cancelled) pool_.resume();
      lock.unlock();
      const auto start = std::chrono::steady_clock::now();
      if (!cancelled || task.transfer) task.run();
      const auto spent = std::chrono::steady_clock::now() - start;
      const int op = task.op;
      task.run = nullptr;  // frees the buffers it holds before completion is visible
      lock.lock();
      if (profile_ && !cancelled)
        nanoseconds_[op] += (uint64_t)std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count();
      completed_++;
      idle_.notify_all();
    }
  }

  static mi_status read_file(void* dst, const char* path, uint64_t offset, uint64_t bytes, mi_error* error) {
    const int file = ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
      fail(error, MI_IO, "cannot open %.150s: %s", path, std::strerror(errno));
      if (error) error->native = errno;
      return MI_IO;
    }
    uint64_t done = 0;
    int failure = 0;
    while (done < bytes) {
      // pread stops at 2 GiB anyway; smaller pieces let a cancelled load end early.
      const size_t piece = (size_t)(bytes - done < (64u << 20) ? bytes - done : (64u << 20));
      const ssize_t n = ::pread(file, (char*)dst + done, piece, (off_t)(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        failure = n < 0 ? errno : -1;
        break;
      }
      done += (uint64_t)n;
    }
    ::close(file);
    if (done == bytes) return MI_OK;
    fail(error, MI_IO, "cannot read %.120s: %s after %llu of %llu bytes at offset %llu", path,
         failure > 0 ? std::strerror(failure) : "end of file", (unsigned long long)done, (unsigned long long)bytes,
         (unsigned long long)offset);
    if (error) error->native = failure > 0 ? failure : 0;
    return MI_IO;
  }

  cpu::Pool pool_;
  std::mutex mutex_;  // guards what follows
  bool profile_;
  std::condition_variable wake_, idle_;
  std::deque<Task> queue_;
  uint64_t submitted_ = 0, completed_ = 0;
  uint64_t cancel_until_ = 0;  // tasks numbered below this are dropped
  bool dropped_ = false, stop_ = false;
  uint64_t nanoseconds_[MI_OP_COUNT] = {};
  std::thread executor_;  // last: starts when everything above exists
};

}  // namespace

mi_status open_cpu(const mi_device_options& options, std::unique_ptr<Device>* device, mi_error* error) {
  try {
    device->reset(new CpuDevice(options));
    return MI_OK;
  } catch (const std::bad_alloc&) {
    return out_of_memory(error, cpu::Pool::kSharedBytes, available_memory());
  } catch (const std::exception& e) {
    return fail(error, MI_INTERNAL, "cannot start the CPU device: %s", e.what());
  }
}

}  // namespace mi
