// A cache of e4m3 rows with a scale for every 128.
#include "../core/cancel.cuh"
#include "../core/cuda_ops.h"
#include "../index/work_list.h"
#include "elements.cuh"
#include "kv_scale.h"

namespace mi::cuda {

namespace {

constexpr int kThreads = 256;

// Rows of codes; `wide`: every row starts on 8 bytes and holds whole lanes.
struct Codes {
  uint8_t* data;
  int64_t head_stride, row_stride;
  bool wide;

  __device__ uint8_t* at(int64_t head, int64_t row) const { return data + head * head_stride + row * row_stride; }

  // v = codes [i, i + 8) of a row of n; those past the end are 0.
  __device__ static void load(const uint8_t* row, int i, int n, bool wide, float (&v)[kLane]) {
    uint2 raw = make_uint2(0, 0);
    if (wide) raw = *reinterpret_cast<const uint2*>(row + i);
#pragma unroll
    for (int j = 0; j < kLane; j++) {
      uint8_t code = uint8_t((j < 4 ? raw.x : raw.y) >> 8 * (j % 4));
      if (!wide && i + j < n) code = row[i + j];
      v[j] = float_from_e4m3(code);
    }
  }

  __device__ static void store(uint8_t* row, int i, int n, bool wide, const float (&v)[kLane], float factor) {
    uint32_t word[2] = {};
#pragma unroll
    for (int j = 0; j < kLane; j++) {
      const uint8_t code = e4m3_from_float(v[j] * factor);
      word[j / 4] |= uint32_t(code) << 8 * (j % 4);
      if (!wide && i + j < n) row[i + j] = code;
    }
    if (wide) *reinterpret_cast<uint2*>(row + i) = make_uint2(word[0], word[1]);
  }
};

Codes codes_of(const View& v, int64_t heads, int64_t rows, int64_t dim) {
  Codes c{static_cast<uint8_t*>(v.data), v.head_stride, v.row_stride, false};
  c.wide = reinterpret_cast<uintptr_t>(v.data) % kLane == 0 && (rows <= 1 || v.row_stride % kLane == 0) &&
           (heads <= 1 || v.head_stride % kLane == 0) && dim % kLane == 0;
  return c;
}

struct Quantise {
  DeviceView src;
  Codes dst;
  float* scales;
  int64_t scale_stride;
  int32_t position, rows, dim;
  const uint32_t* cancel;  // may be null
};

// Grid: [blocks of 128 rows that are written to, heads]. Left alone, the compiler aims at 32 registers and spills.
__global__ void __launch_bounds__(kThreads, 4) quantise_kernel(const __grid_constant__ Quantise q) {
  __shared__ uint32_t largest_of[kThreads / 32];
  // What a cancelled operation left behind must not reach the scale of rows that stay; either a whole block is written
  // or none of it.
  if (block_cancelled(q.cancel)) return;

  const int head = blockIdx.y, block = q.position / MI_KV_BLOCK + int(blockIdx.x);
  const KvBlockRows rows(block, q.position, q.rows);
  const int lanes = (q.dim + kLane - 1) / kLane;
  float* const scale = q.scales + head * q.scale_stride + block;
  const uint32_t before = rows.first > rows.begin ? magnitude_bits(*scale) : 0;
  // body(row, element) for every lane of rows [first, last).
  const auto for_each_lane = [&](int64_t first, int64_t last, const auto& body) {
    for (int i = threadIdx.x; i < int(last - first) * lanes; i += kThreads) body(first + i / lanes, i % lanes * kLane);
  };
  const auto load = [&](int64_t row, int i, float (&v)[kLane]) {
    load_lane(q.src.row(head, row - q.position), i, q.dim, q.src.dtype, q.src.wide, v);
  };

  uint32_t largest = 0;
  for_each_lane(rows.first, rows.last, [&](int64_t row, int i) {
    float v[kLane];
    load(row, i, v);
#pragma unroll
    for (int j = 0; j < kLane; j++) largest = max(largest, magnitude_bits(v[j]));
  });
#pragma unroll
  for (int o = 16; o; o /= 2) largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, o));
  if (threadIdx.x % 32 == 0) largest_of[threadIdx.x / 32] = largest;
  __syncthreads();  // everybody has read the scale before, too
#pragma unroll
  for (int w = 0; w < kThreads / 32; w++) largest = max(largest, largest_of[w]);

  const uint32_t bits = max(before, scale_bits(largest));
  const float inverse = inverse_scale(bits);
  if (before > 0 && bits > before) {
    const float factor = float_of_bits(before) * inverse;
    for_each_lane(rows.begin, rows.first, [&](int64_t row, int i) {
      float v[kLane];
      Codes::load(q.dst.at(head, row), i, q.dim, q.dst.wide, v);
      Codes::store(q.dst.at(head, row), i, q.dim, q.dst.wide, v, factor);
    });
  }
  if (threadIdx.x == 0) *scale = float_of_bits(bits);
  for_each_lane(rows.first, rows.last, [&](int64_t row, int i) {
    float v[kLane];
    load(row, i, v);
    Codes::store(q.dst.at(head, row), i, q.dim, q.dst.wide, v, inverse);
  });
}

// Grid: [lanes of all rows in pieces of kThreads, heads].
__global__ void __launch_bounds__(kThreads)
    dequantise_kernel(Codes src, DeviceView dst, const float* scales, int64_t scale_stride, int rows, int dim) {
  const int lanes = (dim + kLane - 1) / kLane;
  const int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x, row = at / lanes;
  if (row >= rows) return;
  const int head = blockIdx.y, i = int(at % lanes) * kLane;
  const float scale = scales[head * scale_stride + row / MI_KV_BLOCK];
  float v[kLane];
  Codes::load(src.at(head, row), i, dim, src.wide, v);
#pragma unroll
  for (int j = 0; j < kLane; j++) v[j] *= scale;
  store_lane(dst.row(head, row), i, dim, dst.dtype, dst.wide, v);
}

}  // namespace

mi_status quantise(const Launch& launch, const QuantiseArgs& a, mi_error* error) {
  const int64_t end = int64_t(a.position) + a.rows;
  Quantise q{};
  q.src = device_view(a.src, a.heads, a.rows, a.dim);
  q.dst = codes_of(a.dst, a.heads, end, a.dim);
  q.scales = a.scales;
  q.scale_stride = a.scale_stride;
  q.position = a.position;
  q.rows = a.rows;
  q.dim = a.dim;
  q.cancel = launch.cancel;
  const dim3 grid(unsigned(ceil_div(end, MI_KV_BLOCK) - a.position / MI_KV_BLOCK), unsigned(a.heads));
  quantise_kernel<<<grid, kThreads, 0, launch.stream>>>(q);
  return check_launch("quantise", error);
}

mi_status dequantise(const Launch& launch, const DequantiseArgs& a, mi_error* error) {
  const dim3 grid(unsigned(ceil_div(a.rows * ceil_div(a.dim, kLane), kThreads)), unsigned(a.heads));
  dequantise_kernel<<<grid, kThreads, 0, launch.stream>>>(codes_of(a.src, a.heads, a.rows, a.dim),
                                                          device_view(a.dst, a.heads, a.rows, a.dim), a.scales,
                                                          a.scale_stride, a.rows, a.dim);
  return check_launch("dequantise", error);
}

}  // namespace mi::cuda
