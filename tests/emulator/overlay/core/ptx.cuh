// Stands in for cuda/core/ptx.cuh: the same functions, in C++.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace mi::cuda {

inline uint32_t smem_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
inline char* at_smem(uint32_t address) { return reinterpret_cast<char*>(uintptr_t(address)); }

// ---- asynchronous copies: made when they are waited for ----------------------------------------------

inline void cp_async_16(uint32_t dst, const void* src, int bytes) {
  if (dst % 16 || (bytes > 0 && reinterpret_cast<uintptr_t>(src) % 16)) emu::fatal("cp.async: not on 16 bytes");
  emu::enqueue(emu::Queue::kCopies, [=] {
    std::memset(at_smem(dst), 0, 16);
    if (bytes > 0) std::memcpy(at_smem(dst), src, bytes);
  });
}
inline void cp_async_commit() { emu::commit(emu::Queue::kCopies); }
template <int kPending>
void cp_async_wait() { emu::wait(emu::Queue::kCopies, kPending); }

// ---- matrix fragments --------------------------------------------------------------------------------

inline void ldmatrix(uint32_t (&r)[4], uint32_t address, const char* what, bool transposed) {
  struct Slot {
    uint32_t address;
    uint32_t* r;
    bool transposed;
  } mine{address, r, transposed};
  emu::meet(0xffffffffu, what, &mine, [](void* const* slots, uint32_t) {
    for (int lane = 0; lane < 32; lane++) {
      const auto& to = *static_cast<Slot*>(slots[lane]);
      for (int m = 0; m < 4; m++) {
        uint16_t pair[2];
        for (int i = 0; i < 2; i++) {
          const int across = lane / 4, along = 2 * (lane % 4) + i;
          const int row = to.transposed ? along : across, column = to.transposed ? across : along;
          const uint32_t from = static_cast<Slot*>(slots[8 * m + row])->address;
          if (from % 16) emu::fatal("ldmatrix: not on 16 bytes");
          std::memcpy(&pair[i], at_smem(from) + 2 * column, 2);
        }
        to.r[m] = pair[0] | uint32_t(pair[1]) << 16;
      }
    }
  });
}
inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) { ldmatrix(r, address, "ldmatrix", false); }
inline void ldmatrix_x4_transposed(uint32_t (&r)[4], uint32_t address) { ldmatrix(r, address, "ldmatrix.trans", true); }

template <class T>
float to_float(uint16_t bits);
template <>
inline float to_float<__nv_bfloat16>(uint16_t bits) { return __bfloat162float({bits}); }
template <>
inline float to_float<__half>(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

template <class T>
void mma_16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Slot {
    float* c;
    const uint32_t* a;
    uint32_t b[2];
  } mine{c, a, {b0, b1}};
  emu::meet(0xffffffffu, "mma", &mine, [](void* const* slots, uint32_t) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
      const auto& s = *static_cast<Slot*>(slots[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 4; i++)
          a[g + 8 * (i % 2)][8 * (i / 2) + 2 * t + half] = to_float<T>(uint16_t(s.a[i] >> 16 * half));
        for (int i = 0; i < 2; i++) b[8 * i + 2 * t + half][g] = to_float<T>(uint16_t(s.b[i] >> 16 * half));
      }
    }
    for (int lane = 0; lane < 32; lane++)
      for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
        static_cast<Slot*>(slots[lane])->c[i] += sum;
      }
  });
}

// ---- arithmetic --------------------------------------------------------------------------------------

inline float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < 1.17549435e-38f ? 0.0f : y;  // results that are not normal are flushed
}

template <class T>
T from_float(float x);
template <>
inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <>
inline __half from_float<__half>(float x) { return __float2half_rn(x); }

template <class T>
uint32_t mul_16x2(uint32_t a, uint32_t b) {
  const auto product = [&](int shift) {
    const float x = to_float<T>(uint16_t(a >> shift)), y = to_float<T>(uint16_t(b >> shift));
    return uint32_t(emu::bits_as<uint16_t>(from_float<T>(x * y))) << shift;
  };
  return product(0) | product(16);
}

template <class T>
uint32_t pack_16(float low, float high) {
  return emu::bits_as<uint16_t>(from_float<T>(low)) | uint32_t(emu::bits_as<uint16_t>(from_float<T>(high))) << 16;
}

}  // namespace mi::cuda
