// Generation-checked handles: a u64 of {generation, slot + 1}. Generations are the process's, not the table's: a stale
// handle finds nothing, nor does one of another table.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace mi {

inline std::atomic<uint32_t> next_generation{1};

template <class T>
class Handles {
 public:
  uint64_t insert(std::shared_ptr<T> value) {
    std::lock_guard<std::mutex> lock(mutex_);
    uint32_t slot;
    if (free_.empty()) {
      slot = (uint32_t)slots_.size();
      slots_.emplace_back();
    } else {
      slot = free_.back();
      free_.pop_back();
    }
    slots_[slot].value = std::move(value);
    slots_[slot].generation = next_generation++;
    return (uint64_t)slots_[slot].generation << 32 | (slot + 1);
  }
  std::shared_ptr<T> find(uint64_t handle) {
    std::lock_guard<std::mutex> lock(mutex_);
    Slot* s = slot(handle);
    return s ? s->value : nullptr;
  }
  std::shared_ptr<T> remove(uint64_t handle) {
    std::lock_guard<std::mutex> lock(mutex_);
    Slot* s = slot(handle);
    if (!s) return nullptr;
    free_.push_back((uint32_t)(s - slots_.data()));
    return std::move(s->value);
  }

 private:
  struct Slot {
    uint32_t generation = 0;
    std::shared_ptr<T> value;
  };
  Slot* slot(uint64_t handle) {
    const uint64_t index = (handle & 0xffffffffu) - 1;
    if (index >= slots_.size()) return nullptr;
    Slot& s = slots_[index];
    return s.generation == handle >> 32 && s.value ? &s : nullptr;
  }
  std::mutex mutex_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
};

}  // namespace mi
