// Stands in for cuda/core/tma.cuh: the same functions, in C++. Copies arrive some time after they were asked for.
#pragma once
#include <cuda.h>

#include "ptx.cuh"

namespace mi::cuda {

// ---- mbarriers ---------------------------------------------------------------------------------------

struct Mbarrier {
  uint32_t phase : 1, expected : 15, pending : 15, reserved : 1;
  int32_t bytes;  // announced and not yet arrived

  static Mbarrier& at(uint32_t address) {
    if (address % 8) emu::fatal("mbarrier: not on 8 bytes");
    return *reinterpret_cast<Mbarrier*>(uintptr_t(address));
  }
  void complete() {
    if (pending > 0 || bytes != 0) return;
    phase ^= 1;
    pending = expected;
  }
  void arrive(int count) {
    if (count > int(pending)) emu::fatal("mbarrier: %d arrivals, %d are pending", count, int(pending));
    pending -= count;
    complete();
  }
};

inline void mbarrier_init(uint32_t barrier, int count) {
  Mbarrier::at(barrier) = {0, uint32_t(count), uint32_t(count), 0, 0};
}
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive(uint32_t barrier, int count = 1) {
  Mbarrier::at(barrier).arrive(count);
  emu::progress();
}
inline void mbarrier_expect(uint32_t barrier, int bytes) {
  Mbarrier::at(barrier).bytes += bytes;
  mbarrier_arrive(barrier);
}
inline bool mbarrier_try_wait(uint32_t barrier, uint32_t parity) { return Mbarrier::at(barrier).phase != parity; }
inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  emu::wait_until([=] { return mbarrier_try_wait(barrier, parity); }, "an mbarrier");
}

// ---- bulk tensor copies ------------------------------------------------------------------------------

inline void tma_load(uint32_t dst, const CUtensorMap* map, uint32_t barrier, int column, int row, int head) {
  if (dst % 1024) emu::fatal("TMA: a swizzled box not on 1024 bytes");
  emu::defer([=] {
    for (int r = 0; r < int(map->box[1]); r++)
      for (int c = 0; c < int(map->box[0]); c++) {
        const int64_t at[3] = {column + c, row + r, head};
        bool inside = true;
        for (int i = 0; i < 3; i++) inside = inside && at[i] >= 0 && at[i] < int64_t(map->sizes[i]);
        uint16_t element = 0;
        if (inside)
          std::memcpy(&element, map->data + at[2] * map->strides[1] + at[1] * map->strides[0] + 2 * at[0], 2);
        const uint32_t to = dst + r * 128 + 2 * c;
        std::memcpy(at_smem(to ^ (to >> 7 & 7) << 4), &element, 2);
      }
    Mbarrier& full = Mbarrier::at(barrier);
    full.bytes -= int(map->box[0] * map->box[1] * 2);
    full.complete();
  });
}

// ---- named barriers and registers --------------------------------------------------------------------

inline void named_barrier_sync(int barrier, int threads) { emu::barrier_sync(barrier, threads); }
inline void named_barrier_arrive(int barrier, int threads) { emu::barrier_arrive(barrier, threads); }
template <int kRegisters>
void give_registers() {}
template <int kRegisters>
void take_registers() {}

}  // namespace mi::cuda
