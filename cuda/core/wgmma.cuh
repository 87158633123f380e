// Warpgroup matrix products of sm_90a: D[64 x N] += A[64 x 16] B[16 x N], 16-bit operands, f32 sums. A warpgroup issues
// them together, and they run on their own until wgmma_wait; till then neither their registers nor their operands in
// shared memory may be touched. Fragments lie as softmax.cuh has it.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace mi::cuda {

// Orders the issuing warps' own register accesses before the products that follow.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most kPending committed groups are under way.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving accesses of an accumulator across a point of issue or of waiting.
template <int kCount>
__device__ __forceinline__ void wgmma_pin(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// Descriptor of an operand in shared memory in the 128-byte swizzle: 8-row groups 1024 bytes apart, `chunk_stride` bytes
// from one 64-column chunk to the next (used where the operand is transposed).
__device__ __forceinline__ uint64_t wgmma_operand(uint32_t address, uint32_t chunk_stride) {
  constexpr uint64_t kSwizzle128 = uint64_t(1) << 62, kGroupStride = uint64_t(1024 >> 4) << 32;
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(chunk_stride >> 4) << 16 | kGroupStride | kSwizzle128;
}
// The same operand `bytes` further.
__device__ __forceinline__ uint64_t wgmma_advance(uint64_t operand, uint32_t bytes) {
  return (operand & 0xffffffff00000000ull) | (uint32_t(operand) + (bytes >> 4));
}

#define MI_D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
                 "+f"(d[i + 6]), "+f"(d[i + 7])
#define MI_D32(i) MI_D8(i), MI_D8(i + 8), MI_D8(i + 16), MI_D8(i + 24)
#define MI_R32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
               "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define MI_R64 MI_R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
               "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// A and B from shared memory, both with the depth contiguous (D = A B^T of row-major matrices). D = A B without
// `accumulate`.
#define MI_WGMMA_SS_N128(TYPE)                                                                                         \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                                            \
               "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {" MI_R64 "}, %64, %65, p, 1, 1, 0, 0;\n}" \
               : MI_D32(0), MI_D32(32) : "l"(a), "l"(b), "r"(int(accumulate)))

// A from registers, B from shared memory with the columns contiguous (row-major [depth, N]). Adds to D.
#define MI_WGMMA_RS_N128(TYPE)                                                                                         \
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                                              \
               "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {" MI_R64 "}, {%64, %65, %66, %67}, %68, " \
               "p, 1, 1, 1;\n}"                                                                                        \
               : MI_D32(0), MI_D32(32) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define MI_WGMMA_RS_N64(TYPE)                                                                                          \
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                                              \
               "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " {" MI_R32 "}, {%32, %33, %34, %35}, %36, " \
               "p, 1, 1, 1;\n}"                                                                                        \
               : MI_D32(0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

template <class T>
__device__ __forceinline__ void wgmma_ss(float (&d)[64], uint64_t a, uint64_t b, bool accumulate);
template <>
__device__ __forceinline__ void wgmma_ss<__nv_bfloat16>(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  MI_WGMMA_SS_N128("bf16");
}
template <>
__device__ __forceinline__ void wgmma_ss<__half>(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  MI_WGMMA_SS_N128("f16");
}

template <class T>
__device__ __forceinline__ void wgmma_rs(float (&d)[64], const uint32_t* a, uint64_t b);
template <>
__device__ __forceinline__ void wgmma_rs<__nv_bfloat16>(float (&d)[64], const uint32_t* a, uint64_t b) {
  MI_WGMMA_RS_N128("bf16");
}
template <>
__device__ __forceinline__ void wgmma_rs<__half>(float (&d)[64], const uint32_t* a, uint64_t b) {
  MI_WGMMA_RS_N128("f16");
}
template <class T>
__device__ __forceinline__ void wgmma_rs(float (&d)[32], const uint32_t* a, uint64_t b);
template <>
__device__ __forceinline__ void wgmma_rs<__nv_bfloat16>(float (&d)[32], const uint32_t* a, uint64_t b) {
  MI_WGMMA_RS_N64("bf16");
}
template <>
__device__ __forceinline__ void wgmma_rs<__half>(float (&d)[32], const uint32_t* a, uint64_t b) {
  MI_WGMMA_RS_N64("f16");
}

#undef MI_WGMMA_SS_N128
#undef MI_WGMMA_RS_N128
#undef MI_WGMMA_RS_N64
#undef MI_D8
#undef MI_D32
#undef MI_R32
#undef MI_R64

}  // namespace mi::cuda
