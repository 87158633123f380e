// Generation-checked handles: a u64 of {generation, slot + 1}. A stale or foreign handle finds nothing.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace mi {

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
    s->generation++;
    free_.push_back((uint32_t)(s - slots_.data()));
    return std::move(s->value);
  }

 private:
  struct Slot {
    uint32_t generation = 1;
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
