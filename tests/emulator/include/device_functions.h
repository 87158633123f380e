// What CUDA C++ has beyond C++: qualifiers, warp and block functions, atomics, bit and arithmetic intrinsics.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <type_traits>

#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static  // one block runs at a time

// ---- a warp ------------------------------------------------------------------------------------------

namespace emu {

template <class T>
struct Shuffle {
  T in, out;
  int from;  // lane
};
template <class T>
T shuffle(uint32_t mask, T value, int from, const char* what) {
  Shuffle<T> mine{value, value, from};
  meet(mask, what, &mine, [](void* const* slots, uint32_t lanes) {
    for (int i = 0; i < 32; i++) {
      if (!(lanes >> i & 1)) continue;
      auto& s = *static_cast<Shuffle<T>*>(slots[i]);
      if (s.from < 0 || s.from >= 32) continue;  // its own
      if (!(lanes >> s.from & 1)) fatal("%s: lane %d reads lane %d, which takes no part", "shuffle", i, s.from);
      s.out = static_cast<Shuffle<T>*>(slots[s.from])->in;
    }
  });
  return mine.out;
}

// All lanes get fold(...) of what they bring.
template <class T, class Fold>
T fold(uint32_t mask, T value, const char* what, Fold) {
  Shuffle<T> mine{value, value, 0};
  meet(mask, what, &mine, [](void* const* slots, uint32_t lanes) {
    T all{};
    bool first = true;
    for (int i = 0; i < 32; i++) {
      if (!(lanes >> i & 1)) continue;
      const T in = static_cast<Shuffle<T>*>(slots[i])->in;
      all = first ? in : Fold::of(all, in);
      first = false;
    }
    for (int i = 0; i < 32; i++)
      if (lanes >> i & 1) static_cast<Shuffle<T>*>(slots[i])->out = all;
  });
  return mine.out;
}
struct Or { template <class T> static T of(T a, T b) { return a | b; } };
struct And { template <class T> static T of(T a, T b) { return a & b; } };
struct Add { template <class T> static T of(T a, T b) { return a + b; } };
struct Most { template <class T> static T of(T a, T b) { return a > b ? a : b; } };
struct Least { template <class T> static T of(T a, T b) { return a < b ? a : b; } };

// The lane of the same group of `width` lanes, or -1: outside.
inline int in_group(int from, int width) { return from / width == lane() / width && from >= 0 ? from : -1; }

}  // namespace emu

template <class T>
T __shfl_sync(uint32_t mask, T v, int from, int width = 32) {
  return emu::shuffle(mask, v, emu::lane() / width * width + (from & (width - 1)), "__shfl_sync");
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T v, int bits, int width = 32) {
  return emu::shuffle(mask, v, emu::in_group(emu::lane() ^ bits, width), "__shfl_xor_sync");
}
template <class T>
T __shfl_up_sync(uint32_t mask, T v, int by, int width = 32) {
  return emu::shuffle(mask, v, emu::in_group(emu::lane() - by, width), "__shfl_up_sync");
}
template <class T>
T __shfl_down_sync(uint32_t mask, T v, int by, int width = 32) {
  return emu::shuffle(mask, v, emu::in_group(emu::lane() + by, width), "__shfl_down_sync");
}
inline uint32_t __ballot_sync(uint32_t mask, int vote) {
  return emu::fold(mask, uint32_t(vote != 0) << emu::lane(), "__ballot_sync", emu::Or{});
}
inline int __any_sync(uint32_t mask, int vote) { return emu::fold(mask, int(vote != 0), "__any_sync", emu::Or{}); }
inline int __all_sync(uint32_t mask, int vote) { return emu::fold(mask, int(vote != 0), "__all_sync", emu::And{}); }
inline void __syncwarp(uint32_t mask = 0xffffffffu) { emu::meet(mask, "__syncwarp", nullptr, nullptr); }
template <class T>
T __reduce_add_sync(uint32_t mask, T v) { return emu::fold(mask, v, "__reduce_add_sync", emu::Add{}); }
template <class T>
T __reduce_max_sync(uint32_t mask, T v) { return emu::fold(mask, v, "__reduce_max_sync", emu::Most{}); }
template <class T>
T __reduce_min_sync(uint32_t mask, T v) { return emu::fold(mask, v, "__reduce_min_sync", emu::Least{}); }
inline uint32_t __reduce_or_sync(uint32_t mask, uint32_t v) { return emu::fold(mask, v, "__reduce_or_sync", emu::Or{}); }

template <class T>
uint32_t __match_any_sync(uint32_t mask, T v) {
  struct Slot { T in; uint32_t out; } mine{v, 0};
  emu::meet(mask, "__match_any_sync", &mine, [](void* const* slots, uint32_t lanes) {
    for (int i = 0; i < 32; i++)
      for (int j = 0; j < 32; j++)
        if (lanes >> i & lanes >> j & 1 && static_cast<Slot*>(slots[i])->in == static_cast<Slot*>(slots[j])->in)
          static_cast<Slot*>(slots[i])->out |= 1u << j;
  });
  return mine.out;
}

// ---- a block -----------------------------------------------------------------------------------------

inline void __syncthreads() { emu::barrier_sync(0, 0); }
inline int __syncthreads_or(int vote) { return int(emu::barrier_sync(0, 0, vote != 0).any); }
inline int __syncthreads_count(int vote) { return int(emu::barrier_sync(0, 0, vote != 0).count); }
inline int __syncthreads_and(int vote) { return emu::barrier_sync(0, 0, vote == 0).any == 0; }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __threadfence(); }
inline void __threadfence_system() { __threadfence(); }
[[noreturn]] inline void __trap() { emu::fatal("__trap"); }
inline void __nanosleep(unsigned) {}

// ---- atomics -----------------------------------------------------------------------------------------

namespace emu {
template <class T, class F>
T update(T* p, F f) {  // threads of a grid run one after the other
  const T old = *p;
  *p = f(old);
  return old;
}
template <class T>
using Same = std::common_type_t<T>;  // not deduced
}  // namespace emu

template <class T>
T atomicAdd(T* p, emu::Same<T> v) { return emu::update(p, [=](T x) { return T(x + v); }); }
template <class T>
T atomicOr(T* p, emu::Same<T> v) { return emu::update(p, [=](T x) { return T(x | v); }); }
template <class T>
T atomicAnd(T* p, emu::Same<T> v) { return emu::update(p, [=](T x) { return T(x & v); }); }
template <class T>
T atomicXor(T* p, emu::Same<T> v) { return emu::update(p, [=](T x) { return T(x ^ v); }); }
template <class T>
T atomicMax(T* p, emu::Same<T> v) { return emu::update(p, [=](T x) { return x > v ? x : v; }); }
template <class T>
T atomicMin(T* p, emu::Same<T> v) { return emu::update(p, [=](T x) { return x < v ? x : v; }); }
template <class T>
T atomicExch(T* p, emu::Same<T> v) { return emu::update(p, [=](T) { return v; }); }
template <class T>
T atomicCAS(T* p, emu::Same<T> was, emu::Same<T> v) { return emu::update(p, [=](T x) { return x == was ? v : x; }); }

// ---- bits and arithmetic -----------------------------------------------------------------------------

namespace emu {
template <class To, class From>
To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From), "");
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
}  // namespace emu

inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __popcll(uint64_t x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(uint32_t(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(uint64_t(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline uint32_t __brev(uint32_t x) {
  uint32_t y = 0;
  for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
  return y;
}
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t by) {
  return uint32_t((uint64_t(high) << 32 | low) >> (by & 31));
}
inline uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t by) {
  return uint32_t((uint64_t(high) << 32 | low) << (by & 31) >> 32);
}
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t r = 0;
  for (int i = 0; i < 4; i++) r |= uint32_t(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return r;
}
inline float __uint_as_float(uint32_t x) { return emu::bits_as<float>(x); }
inline float __int_as_float(int x) { return emu::bits_as<float>(x); }
inline uint32_t __float_as_uint(float x) { return emu::bits_as<uint32_t>(x); }
inline int __float_as_int(float x) { return emu::bits_as<int>(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline void sincospif(float a, float* sine, float* cosine) {
  *sine = float(std::sin(M_PI * a));
  *cosine = float(std::cos(M_PI * a));
}
inline float __expf(float a) { return std::exp(a); }
inline float __logf(float a) { return std::log(a); }
inline int __float2int_rn(float a) { return int(std::nearbyint(a)); }
inline int __float2int_rz(float a) { return int(a); }
inline int __float2int_rd(float a) { return int(std::floor(a)); }
inline unsigned __float2uint_rn(float a) { return unsigned(std::nearbyint(a)); }
inline float __saturatef(float a) { return a < 0 ? 0 : a > 1 ? 1 : a; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)(a)*b >> 64); }
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += int(int8_t(a >> 8 * i)) * int(int8_t(b >> 8 * i));
  return c;
}

using std::isfinite;
using std::isinf;
using std::isnan;

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }

template <class T>
T __ldg(const T* p) { return *p; }
template <class T>
T __ldcs(const T* p) { return *p; }
template <class T>
T __ldcg(const T* p) { return *p; }
template <class T>
T __ldca(const T* p) { return *p; }
template <class T>
T __ldcv(const T* p) { return *p; }
template <class T>
void __stcs(T* p, emu::Same<T> v) { *p = v; }
template <class T>
void __stcg(T* p, emu::Same<T> v) { *p = v; }

// Shared memory lies in the low 4 GB.
inline size_t __cvta_generic_to_shared(const void* p) {
  const size_t address = reinterpret_cast<size_t>(p);
  if (address >> 32) emu::fatal("an address in static shared memory, which the emulator cannot express in 32 bits");
  return address;
}
inline long long clock64() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000ll + t.tv_nsec;
}
