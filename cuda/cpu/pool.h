// The CPU device's worker threads. One executor thread takes operations from the queue and calls
// parallel(); the workers and the executor share the items through one atomic counter.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "../include/minference.h"

namespace mi::cpu {

class Pool {
 public:
  // `isa` is the highest instruction set to use; the CPU may offer less. Throws std::bad_alloc.
  Pool(int threads, mi_isa isa);
  ~Pool();

  // Runs body(item, thread) for item in [0, items), thread in [0, threads()). Items start in order and
  // are handed out one at a time; after cancel() no further item starts. Not reentrant.
  template <class Body>
  void parallel(int64_t items, const Body& body) {
    run(items, [](const void* b, int64_t i, int t) { (*static_cast<const Body*>(b))(i, t); }, &body);
  }

  int threads() const { return (int)scratch_.size(); }
  mi_isa isa() const { return isa_; }
  // Private to the thread for the length of one item; 64-byte aligned.
  static constexpr size_t kScratchBytes = size_t(2) << 20;
  void* scratch(int thread) const { return scratch_[thread].get(); }
  // Shared by all threads for the length of one operation; 64-byte aligned.
  static constexpr size_t kSharedBytes = size_t(8) << 20;
  void* shared() const { return shared_.get(); }

  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  void resume() { cancelled_.store(false, std::memory_order_relaxed); }
  // Long items poll this between tiles and return early; their output is then unspecified.
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // Items done and all of the running operation.
  int64_t done() const { return done_.load(std::memory_order_relaxed); }
  int64_t items() const { return items_.load(std::memory_order_relaxed); }

 private:
  using Thunk = void (*)(const void*, int64_t, int);
  void run(int64_t items, Thunk thunk, const void* body);
  void work(int thread);
  void worker(int thread);
  void stop();

  struct Free { void operator()(void* p) const; };
  mi_isa isa_;
  std::vector<std::unique_ptr<void, Free>> scratch_;
  std::unique_ptr<void, Free> shared_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable start_, finish_;
  uint64_t generation_ = 0;
  int running_ = 0;
  bool stop_ = false;
  Thunk thunk_ = nullptr;
  const void* body_ = nullptr;
  std::atomic<int64_t> next_{0}, done_{0}, items_{0};
  std::atomic<bool> cancelled_{false};
};

// Best instruction set of this CPU.
mi_isa best_isa();

}  // namespace mi::cpu
