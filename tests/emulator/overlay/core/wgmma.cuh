// Stands in for cuda/core/wgmma.cuh: the same functions, in C++. Products are made when they are waited for, so that
// operands which were let go too early give wrong results here, too.
#pragma once
#include "ptx.cuh"

namespace mi::cuda {

inline void wgmma_fence() {}
inline void wgmma_commit() { emu::commit(emu::Queue::kProducts); }
// Lanes read each other's registers: all have issued before the first computes, and computed before the first goes on.
template <int kPending>
void wgmma_wait() {
  emu::meet(0xffffffffu, "wgmma.wait_group", nullptr, nullptr);
  emu::wait(emu::Queue::kProducts, kPending);
  emu::meet(0xffffffffu, "wgmma.wait_group, done", nullptr, nullptr);
}
template <int kCount>
void wgmma_pin(float (&)[kCount]) {}

inline uint64_t wgmma_operand(uint32_t address, uint32_t chunk_stride) {
  constexpr uint64_t kSwizzle128 = uint64_t(1) << 62, kGroupStride = uint64_t(1024 >> 4) << 32;
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(chunk_stride >> 4) << 16 | kGroupStride | kSwizzle128;
}
inline uint64_t wgmma_advance(uint64_t operand, uint32_t bytes) { return operand + (bytes >> 4); }

// Byte of an operand's element: `row` counts across 128-byte rows, `byte` along them and on into the next chunk.
inline const char* wgmma_element(uint64_t operand, int row, int byte) {
  const uint32_t start = uint32_t(operand & 0x3fff) << 4, chunk_stride = uint32_t(operand >> 16 & 0x3fff) << 4,
                 group_stride = uint32_t(operand >> 32 & 0x3fff) << 4;
  const uint32_t at = start + row / 8 * group_stride + row % 8 * 128 + byte / 128 * chunk_stride + byte % 128;
  const uintptr_t window = reinterpret_cast<uintptr_t>(emu::dynamic_shared());  // on 256 KB
  return reinterpret_cast<const char*>(window + ((at ^ (at >> 7 & 7) << 4) & 0x3ffff));
}
template <class T>
float wgmma_load(uint64_t operand, int row, int byte) {
  uint16_t bits;
  std::memcpy(&bits, wgmma_element(operand, row, byte), 2);
  return to_float<T>(bits);
}

// The thread's elements of D: row g + 8 (j / 2 % 2) of its warp's 16, column 8 (j / 4) + 2 t + j % 2.
template <class A, class B>
void wgmma_accumulate(float* d, int count, const A& a, const B& b, bool accumulate) {
  const int g = emu::lane() / 4, t = emu::lane() % 4;
  float rows[2][16];
  for (int r = 0; r < 2; r++)
    for (int k = 0; k < 16; k++) rows[r][k] = a(g + 8 * r, k);
  for (int j = 0; j < count; j++) {
    const float* row = rows[j / 2 % 2];
    float sum = accumulate ? d[j] : 0;
    for (int k = 0; k < 16; k++) sum += row[k] * b(k, 8 * (j / 4) + 2 * t + j % 2);
    d[j] = sum;
  }
}

template <class T>
void wgmma_ss(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  const int first = threadIdx.x % 128 / 32 * 16;
  float* out = d;
  emu::enqueue(emu::Queue::kProducts, [=] {
    wgmma_accumulate(
        out, 64, [=](int row, int k) { return wgmma_load<T>(a, first + row, 2 * k); },
        [=](int k, int column) { return wgmma_load<T>(b, column, 2 * k); }, accumulate);
  });
}

template <class T, int kCount>
void wgmma_rs(float (&d)[kCount], const uint32_t* a, uint64_t b) {
  struct Registers {
    const uint32_t *mine, *of[32];
  } registers{a, {}};
  emu::meet(0xffffffffu, "wgmma", &registers, [](void* const* slots, uint32_t) {
    for (int i = 0; i < 32; i++)
      for (int j = 0; j < 32; j++) static_cast<Registers*>(slots[i])->of[j] = static_cast<Registers*>(slots[j])->mine;
  });
  float* out = d;
  emu::enqueue(emu::Queue::kProducts, [=] {
    wgmma_accumulate(
        out, kCount,
        [&](int row, int k) {
          const uint32_t word = registers.of[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
          return to_float<T>(uint16_t(word >> k % 2 * 16));
        },
        [=](int k, int column) { return wgmma_load<T>(b, k, 2 * column); }, true);
  });
}

}  // namespace mi::cuda
