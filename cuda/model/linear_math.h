// The product of a linear layer in its three arithmetics: f32, bf16 operands, and 8-bit blocks. Each class
// converts the activations of a chunk of rows once, packs the weights of kPanel output features at a time and
// multiplies the two.
#pragma once
#include <cstring>

#include "../core/ops.h"
#include "../cpu/convert_rows.h"
#include "../cpu/half.h"
#include "../cpu/tile.h"
#include "../index/work_list.h"

namespace mi::cpu {

constexpr int64_t kPanel = 64;    // output features of a panel: the widest block of the micro-kernels
constexpr int64_t kDepth = 1024;  // input features of a panel: a multiple of every weight block

// A packed panel and the rows it is made of; part of a thread's scratch.
struct Panel {
  float words[kDepth * kPanel];
  float scales[kDepth / 32 * kPanel];  // 8-bit blocks only
  float staging[kDepth * kPanel];
};

inline const char* element_of(const View& v, int64_t row, int64_t column = 0) {
  return static_cast<const char*>(v.data) + bytes_of(v.dtype, row * v.row_stride + column);
}

// visit(k, values, n) with input features [k, k + n) of a row of x as f32, piece by piece.
template <class Visit>
void for_each_piece(const LinearArgs& a, mi_isa isa, int64_t row, const Visit& visit) {
  float buffer[kDepth];
  for (int64_t k = 0; k < a.in_features; k += kDepth) {
    const int64_t n = min64(kDepth, a.in_features - k);
    const void* x = element_of(a.x, row, k);
    if (a.x.dtype != MI_F32) row_to_f32(isa, a.x.dtype)(x, buffer, n);
    visit(k, a.x.dtype == MI_F32 ? static_cast<const float*>(x) : buffer, n);
  }
}

class LinearF32 {
 public:
  static int64_t row_bytes(const LinearArgs& a) {
    return a.x.dtype == MI_F32 ? 0 : round_up(int64_t(a.in_features) * 4, 64);
  }
  LinearF32(const LinearArgs& a, const TileKernels& kernels, void* rows, int64_t)
      : a_(a), kernels_(kernels), rows_(static_cast<float*>(rows)), stride_(row_bytes(a) / 4) {}

  // Row `row` of x becomes row `at` of the chunk. Called for every row if row_bytes() is not 0.
  void convert(int64_t row, int64_t at) const {
    row_to_f32(kernels_.isa, a_.x.dtype)(element_of(a_.x, row), rows_ + at * stride_, a_.in_features);
  }

  // Output features from `feature`, input features [k, k + depth). Features past the last become zero.
  void pack(int64_t feature, int64_t k, int64_t depth, Panel& panel) const {
    stage(a_, kernels_.isa, feature, k, depth, depth, panel.staging);
    kernels_.transpose(kPanel, depth, panel.staging, depth, panel.words, kPanel);
  }

  // c[m][kPanel] = rows `at`.. of the chunk that began with row `first`, times the panel.
  void multiply(int64_t first, int64_t at, int64_t m, int64_t k, int64_t depth, const Panel& panel, float* c,
                int64_t ldc, bool accumulate) const {
    const bool in_place = a_.x.dtype == MI_F32;
    const float* x =
        in_place ? reinterpret_cast<const float*>(element_of(a_.x, first + at)) : rows_ + at * stride_;
    const int64_t stride = in_place ? a_.x.row_stride : stride_;
    constexpr int64_t kStep = 128;  // 32 KiB of the panel: sums are stored seldom, the panel stays close
    for (int64_t p = 0; p < depth; p += kStep)
      kernels_.gemm(m, kPanel, min64(kStep, depth - p), x + k + p, stride, 1, panel.words + p * kPanel,
                    kPanel, c, ldc, accumulate || p > 0);
  }

  // Weights as f32 rows [kPanel][stride], zero from `depth` on.
  static void stage(const LinearArgs& a, mi_isa isa, int64_t feature, int64_t k, int64_t depth,
                    int64_t stride, float* rows) {
    const RowToF32 to_f32 = row_to_f32(isa, a.w.dtype);
    for (int64_t j = 0; j < kPanel; j++, rows += stride) {
      const int64_t filled = feature + j < a.out_features ? depth : 0;
      if (filled) to_f32(element_of(a.w, feature + j, k), rows, depth);
      if (filled && a.w_scales)
        for (int64_t i = 0; i < depth; i++) rows[i] *= a.w_scales[feature + j];
      std::memset(rows + filled, 0, size_t(stride - filled) * sizeof(float));
    }
  }

 private:
  const LinearArgs& a_;
  const TileKernels& kernels_;
  float* rows_;
  int64_t stride_;
};

// Operands rounded to bf16. An odd number of input features is filled up with a zero.
class LinearBf16 {
 public:
  static bool in_place(const LinearArgs& a) { return a.x.dtype == MI_BF16 && a.in_features % 2 == 0; }
  static int64_t row_bytes(const LinearArgs& a) {
    return in_place(a) ? 0 : round_up(int64_t(a.in_features) * 2, 64);
  }
  LinearBf16(const LinearArgs& a, const TileKernels& kernels, void* rows, int64_t)
      : a_(a), kernels_(kernels), rows_(static_cast<uint16_t*>(rows)), stride_(row_bytes(a) / 2) {}

  void convert(int64_t row, int64_t at) const {
    uint16_t* to = rows_ + at * stride_;
    for_each_piece(a_, kernels_.isa, row, [&](int64_t k, const float* values, int64_t n) {
      row_from_f32(kernels_.isa, MI_BF16)(values, to + k, n);
    });
    if (a_.in_features % 2) to[a_.in_features] = 0;
  }

  void pack(int64_t feature, int64_t k, int64_t depth, Panel& panel) const {
    const int64_t even = round_up(depth, 2);
    LinearF32::stage(a_, kernels_.isa, feature, k, depth, even, panel.words);
    row_from_f32(kernels_.isa, MI_BF16)(panel.words, panel.staging, kPanel * even);
    kernels_.transpose(kPanel, even / 2, panel.staging, even / 2, panel.words, kPanel);
  }

  void multiply(int64_t first, int64_t at, int64_t m, int64_t k, int64_t depth, const Panel& panel, float* c,
                int64_t ldc, bool accumulate) const {
    const bool direct = in_place(a_);
    const uint16_t* x =
        direct ? reinterpret_cast<const uint16_t*>(element_of(a_.x, first + at)) : rows_ + at * stride_;
    const int64_t stride = direct ? a_.x.row_stride : stride_;
    const auto* pairs = reinterpret_cast<const uint32_t*>(panel.words);
    constexpr int64_t kStep = 256;
    for (int64_t p = 0; p < depth; p += kStep)
      kernels_.gemm_bf16(m, kPanel, round_up(min64(kStep, depth - p), 2), x + k + p, stride, 2,
                         pairs + p / 2 * kPanel, kPanel, c, ldc, accumulate || p > 0);
  }

 private:
  const LinearArgs& a_;
  const TileKernels& kernels_;
  uint16_t* rows_;
  int64_t stride_;
};

// Q8_0 weights as they are, activations quantised in blocks of 32 likewise.
class LinearQ8 {
 public:
  static int64_t row_bytes(const LinearArgs& a) { return int64_t(a.in_features) + a.in_features / 32 * 8; }
  LinearQ8(const LinearArgs& a, const TileKernels& kernels, void* rows, int64_t chunk)
      : a_(a), kernels_(kernels), blocks_(a.in_features / 32) {
    quants_ = static_cast<int8_t*>(rows);
    scales_ = reinterpret_cast<float*>(quants_ + chunk * a.in_features);
    offset_ = reinterpret_cast<int32_t*>(scales_ + chunk * blocks_);
  }

  void convert(int64_t row, int64_t at) const {
    for_each_piece(a_, kernels_.isa, row, [&](int64_t k, const float* values, int64_t n) {
      const int64_t block = at * blocks_ + k / 32;
      kernels_.quantise_q8(n / 32, values, quants_ + 32 * block, scales_ + block, offset_ + block);
    });
  }

  void pack(int64_t feature, int64_t k, int64_t depth, Panel& panel) const {
    auto* bytes = reinterpret_cast<uint8_t*>(panel.staging);
    for (int64_t j = 0; j < kPanel; j++) {
      const bool present = feature + j < a_.out_features;
      const char* block = present ? element_of(a_.w, feature + j, k) : nullptr;
      for (int64_t b = 0; b < depth / 32; b++) {
        float& scale = panel.scales[b * kPanel + j];
        uint8_t* to = bytes + j * depth + 32 * b;
        scale = 0;
        std::memset(to, 0, 32);
        if (!present) continue;
        uint16_t half;
        std::memcpy(&half, block, sizeof half);
        scale = f16_to_f32(half);
        std::memcpy(to, block + 2, 32);
        for (int i = 0; i < 32; i++) to[i] ^= 0x80;  // signed to unsigned with 128 added
        block += block_bytes(MI_Q8_0);
      }
    }
    kernels_.transpose(kPanel, depth / 4, bytes, depth / 4, panel.words, kPanel);
  }

  void multiply(int64_t, int64_t at, int64_t m, int64_t k, int64_t depth, const Panel& panel, float* c,
                int64_t ldc, bool accumulate) const {
    kernels_.gemm_q8(m, kPanel, depth / 32, rows(at, k), blocks_,
                     reinterpret_cast<const uint32_t*>(panel.words), panel.scales, kPanel, c, ldc,
                     accumulate);
  }

  Q8Rows rows(int64_t at, int64_t k) const {
    const int64_t block = at * blocks_ + k / 32;
    return {quants_ + 32 * block, scales_ + block, offset_ + block};
  }

 private:
  const LinearArgs& a_;
  const TileKernels& kernels_;
  int64_t blocks_;
  int8_t* quants_;
  float* scales_;
  int32_t* offset_;
};

}  // namespace mi::cpu
