// Device time per operation, from a pair of events around each.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "../include/minference.h"

namespace mi::cuda {

class Timer {
 public:
  ~Timer() {
    for (const Pair& p : pending_) give_back(p);
    for (cudaEvent_t e : spare_) cudaEventDestroy(e);
  }
  void start(int op, cudaStream_t stream) {
    std::lock_guard<std::mutex> lock(mutex_);
    pending_.push_back({op, take(), take(), false});
    cudaEventRecord(pending_.back().start, stream);
  }
  void stop(cudaStream_t stream) {
    std::lock_guard<std::mutex> lock(mutex_);
    cudaEventRecord(pending_.back().stop, stream);
    pending_.back().stopped = true;
    collect();
  }
  // Nanoseconds of the operations that have finished since the last call.
  void read(uint64_t out[MI_OP_COUNT]) {
    std::lock_guard<std::mutex> lock(mutex_);
    collect();
    for (int op = 0; op < MI_OP_COUNT; op++) {
      out[op] = nanoseconds_[op];
      nanoseconds_[op] = 0;
    }
  }

 private:
  struct Pair {
    int op;
    cudaEvent_t start, stop;
    bool stopped;
  };
  cudaEvent_t take() {
    cudaEvent_t e = nullptr;
    if (spare_.empty()) {
      cudaEventCreate(&e);
    } else {
      e = spare_.back();
      spare_.pop_back();
    }
    return e;
  }
  void give_back(const Pair& p) {
    spare_.push_back(p.start);
    spare_.push_back(p.stop);
  }
  void collect() {
    float ms = 0;
    while (!pending_.empty() && pending_.front().stopped &&
           cudaEventQuery(pending_.front().stop) == cudaSuccess) {
      const Pair& p = pending_.front();
      if (cudaEventElapsedTime(&ms, p.start, p.stop) == cudaSuccess)
        nanoseconds_[p.op] += uint64_t(double(ms) * 1e6);
      give_back(p);
      pending_.pop_front();
    }
  }

  std::mutex mutex_;
  std::deque<Pair> pending_;
  std::vector<cudaEvent_t> spare_;
  uint64_t nanoseconds_[MI_OP_COUNT] = {};
};

}  // namespace mi::cuda
