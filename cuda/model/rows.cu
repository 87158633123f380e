// Row-wise copies: embedding lookup, copy with conversion, weight conversion, the SiLU gate.
#include "../core/cuda_ops.h"
#include "../index/work_list.h"
#include "blocks.cuh"

namespace mi::cuda {

namespace {

constexpr int kThreads = 128;

// Grid of kThreads-wide blocks over [lanes of a row, rows], rows beyond the grid's limit by striding.
dim3 lane_grid(int64_t dim, int64_t rows) {
  return dim3(unsigned(ceil_div(ceil_div(dim, kLane), kThreads)), unsigned(min64(rows, 65535)));
}

__global__ void __launch_bounds__(kThreads)
    embed_kernel(const int32_t* ids, DeviceView table, DeviceView out, int rows, int dim, int vocab) {
  const int64_t lane = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (lane * kLane >= dim) return;
  for (int row = blockIdx.y; row < rows; row += gridDim.y) {
    const int32_t id = ids[row];
    float v[kLane];
    load_weights(table.row(0, id >= 0 && id < vocab ? id : 0), lane, dim, table.dtype, table.wide, v);
    store_lane(out.row(0, row), lane * kLane, dim, out.dtype, out.wide, v);
  }
}

constexpr int kCopyRows = 4;  // of a thread: as many loads under way

// Block: [lanes, rows], for a head's row may be shorter than a warp; grid: [rows, heads, lanes].
__global__ void __launch_bounds__(kThreads) copy_kernel(DeviceView src, DeviceView dst, int rows, int dim) {
  const int64_t at = (int64_t(blockIdx.z) * blockDim.x + threadIdx.x) * kLane;
  const int64_t first = int64_t(blockIdx.x) * blockDim.y * kCopyRows + threadIdx.y;
  if (at >= dim) return;
  float v[kCopyRows][kLane];
#pragma unroll
  for (int i = 0; i < kCopyRows; i++) {
    const int64_t row = first + i * blockDim.y;
    if (row < rows) load_lane(src.row(blockIdx.y, row), at, dim, src.dtype, src.wide, v[i]);
  }
#pragma unroll
  for (int i = 0; i < kCopyRows; i++) {
    const int64_t row = first + i * blockDim.y;
    if (row < rows) store_lane(dst.row(blockIdx.y, row), at, dim, dst.dtype, dst.wide, v[i]);
  }
}

__device__ void silu_mul_lane(float (&g)[kLane], const float (&u)[kLane]) {
#pragma unroll
  for (int j = 0; j < kLane; j++) g[j] = __fdividef(g[j], 1.0f + __expf(-g[j])) * u[j];
}

constexpr int kSiluRows = 4;  // of a thread: eight loads under way

__global__ void __launch_bounds__(kThreads)
    silu_mul_kernel(DeviceView gate, DeviceView up, DeviceView out, int rows, int dim) {
  const int64_t at = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kLane;
  if (at >= dim) return;
  float g[kLane], u[kLane];
  for (int64_t first = int64_t(blockIdx.y) * kSiluRows; first < rows;
       first += int64_t(gridDim.y) * kSiluRows) {
    if (gate.wide && up.wide && first + kSiluRows <= rows) {
      RawLane gates[kSiluRows], ups[kSiluRows];
#pragma unroll
      for (int r = 0; r < kSiluRows; r++) {
        gates[r] = load_raw(gate.row(0, first + r), at, gate.dtype);
        ups[r] = load_raw(up.row(0, first + r), at, up.dtype);
      }
#pragma unroll
      for (int r = 0; r < kSiluRows; r++) {
        unpack(gates[r], gate.dtype, g);
        unpack(ups[r], up.dtype, u);
        silu_mul_lane(g, u);
        store_lane(out.row(0, first + r), at, dim, out.dtype, out.wide, g);
      }
    } else {
      for (int64_t row = first; row < first + kSiluRows && row < rows; row++) {
        load_lane(gate.row(0, row), at, dim, gate.dtype, gate.wide, g);
        load_lane(up.row(0, row), at, dim, up.dtype, up.wide, u);
        silu_mul_lane(g, u);
        store_lane(out.row(0, row), at, dim, out.dtype, out.wide, g);
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    convert_kernel(const char* src, char* dst, int32_t src_dtype, int32_t dst_dtype, bool src_wide,
                   bool dst_wide, int64_t n) {
  const int64_t lanes = (n + kLane - 1) / kLane, step = int64_t(gridDim.x) * kThreads;
  for (int64_t lane = int64_t(blockIdx.x) * kThreads + threadIdx.x; lane < lanes; lane += step) {
    float v[kLane];
    // The last lane of a ragged range goes element by element.
    load_weights(src, lane, n, src_dtype, src_wide && lane * kLane + kLane <= n, v);
    store_lane(dst, lane * kLane, n, dst_dtype, dst_wide && lane * kLane + kLane <= n, v);
  }
}

// A warp per block of 32: scale = largest magnitude / 127; a non-finite element makes the scale NaN.
__global__ void __launch_bounds__(kThreads) quantise_q8_kernel(const char* src, uint8_t* dst, int32_t dtype,
                                                               int64_t blocks) {
  const int lane = threadIdx.x % 32;
  const int64_t step = int64_t(gridDim.x) * (kThreads / 32);
  for (int64_t b = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; b < blocks; b += step) {
    const float x = load_element(src, b * 32 + lane, dtype);
    float largest = isfinite(x) ? fabsf(x) : __int_as_float(0x7f800000);
#pragma unroll
    for (int o = 16; o; o /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, o));
    const float d = isfinite(largest) ? __fdiv_rn(largest, 127.0f) : __int_as_float(0x7fc00000);
    const float inverse = __fdiv_rn(1.0f, d), q = d >= 0x1p-126f ? x * inverse : 0.0f;
    uint8_t* block = dst + b * 34;
    if (lane == 0) *reinterpret_cast<uint16_t*>(block) = __half_as_ushort(__float2half_rn(d));
    block[2 + lane] = uint8_t(int8_t(__float2int_rn(fminf(fmaxf(q, -127.0f), 127.0f))));
  }
}

bool is_wide(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

mi_status embed(const Launch& launch, const EmbedArgs& a, mi_error* error) {
  embed_kernel<<<lane_grid(a.dim, a.rows), kThreads, 0, launch.stream>>>(
      a.ids, device_view(a.table, 1, a.vocab, a.dim), device_view(a.out, 1, a.rows, a.dim), a.rows, a.dim,
      a.vocab);
  return check_launch("embed", error);
}

mi_status copy(const Launch& launch, const CopyArgs& a, mi_error* error) {
  const int64_t lanes = ceil_div(a.dim, kLane);
  unsigned width = 1;  // lanes of a block
  while (width < kThreads && width < lanes) width *= 2;
  const dim3 block(width, kThreads / width);
  const dim3 grid(unsigned(ceil_div(a.rows, block.y * kCopyRows)), unsigned(a.heads), unsigned(ceil_div(lanes, width)));
  copy_kernel<<<grid, block, 0, launch.stream>>>(
      device_view(a.src, a.heads, a.rows, a.dim), device_view(a.dst, a.heads, a.rows, a.dim), a.rows, a.dim);
  return check_launch("copy", error);
}

mi_status silu_mul(const Launch& launch, const SiluMulArgs& a, mi_error* error) {
  silu_mul_kernel<<<lane_grid(a.dim, ceil_div(a.rows, kSiluRows)), kThreads, 0, launch.stream>>>(
      device_view(a.gate, 1, a.rows, a.dim), device_view(a.up, 1, a.rows, a.dim),
      device_view(a.out, 1, a.rows, a.dim), a.rows, a.dim);
  return check_launch("silu_mul", error);
}

mi_status convert(const Launch& launch, const ConvertArgs& a, mi_error* error) {
  const int64_t most = int64_t(launch.sm_count) * 16;
  if (a.dst_dtype == MI_Q8_0) {
    const int64_t blocks = a.elements / 32;
    quantise_q8_kernel<<<unsigned(min64(ceil_div(blocks, kThreads / 32), most)), kThreads, 0,
                         launch.stream>>>(static_cast<const char*>(a.src), static_cast<uint8_t*>(a.dst),
                                          a.src_dtype, blocks);
  } else {
    convert_kernel<<<unsigned(min64(ceil_div(a.elements, kLane * kThreads), most)), kThreads, 0,
                     launch.stream>>>(static_cast<const char*>(a.src), static_cast<char*>(a.dst), a.src_dtype,
                                      a.dst_dtype, is_wide(a.src), is_wide(a.dst), a.elements);
  }
  return check_launch("convert", error);
}

}  // namespace mi::cuda
