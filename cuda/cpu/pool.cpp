#include "pool.h"

#include <cstdlib>
#include <new>

namespace mi::cpu {

namespace {
void* aligned(size_t bytes) {
  void* p = std::aligned_alloc(64, bytes);
  if (!p) throw std::bad_alloc();
  return p;
}
}  // namespace

void Pool::Free::operator()(void* p) const { std::free(p); }

Pool::Pool(int threads, mi_isa isa) : isa_(best_isa()), shared_(aligned(kSharedBytes)) {
  if (isa != MI_ISA_BEST && isa < isa_) isa_ = isa;
  if (threads < 1) threads = 1;
  for (int i = 0; i < threads; i++) scratch_.emplace_back(aligned(kScratchBytes));
  try {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { worker(i); });
  } catch (...) {  // no more threads to be had: those there are must end before the rest of this goes
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  start_.notify_all();
  for (auto& t : workers_) t.join();
}

void Pool::work(int thread) {
  const int64_t items = items_.load(std::memory_order_relaxed);
  while (!cancelled()) {
    const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= items) break;
    thunk_(body_, i, thread);
    done_.fetch_add(1, std::memory_order_relaxed);
  }
}

void Pool::run(int64_t items, Thunk thunk, const void* body) {
  thunk_ = thunk;
  body_ = body;
  next_.store(0, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  items_.store(items, std::memory_order_relaxed);
  if (items <= 1 || workers_.empty()) return work(0);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    generation_++;
    running_ = (int)workers_.size();
  }
  start_.notify_all();
  work(0);
  std::unique_lock<std::mutex> lock(mutex_);
  finish_.wait(lock, [this] { return running_ == 0; });
}

void Pool::worker(int thread) {
  uint64_t seen = 0;
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      start_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
    }
    work(thread);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (--running_ == 0) finish_.notify_one();
    }
  }
}

mi_isa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return MI_ISA_PORTABLE;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return MI_ISA_AVX2;
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni")) return MI_ISA_AVX512;
  return MI_ISA_AVX512_BF16;
#else
  return MI_ISA_PORTABLE;
#endif
}

}  // namespace mi::cpu
