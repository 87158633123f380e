// The two products of attention on one key tile, S^T = K Q^T and O^T += V^T P^T, in f32 and on bf16 operands.
// K and V are read where they lie; only converted dtypes, gathered columns and V's bf16 pairs go through
// scratch.
#pragma once
#include <cstring>

#include "lanes.h"

namespace mi::cpu {

// Hands out a thread's scratch, 64-byte aligned.
class Arena {
 public:
  explicit Arena(void* base) : at_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(at_);
    at_ += round_up(count * int64_t(sizeof(T)), 64);
    return p;
  }

 private:
  char* at_;
};

inline int64_t key_of(const KeyTile& tile, int i) { return tile.columns ? tile.columns[i] : tile.first + i; }

class F32Math {
 public:
  F32Math(const AttentionArgs& a, const TileKernels& kernels, Arena& arena)
      : a_(a),
        kernels_(kernels),
        to_f32_{row_to_f32(kernels.isa, a.k.dtype), row_to_f32(kernels.isa, a.v.dtype)} {
    queries_ = arena.take<float>(int64_t(a.head_dim) * kMaxLanes);
    rows_ = arena.take<float>(int64_t(a.head_dim) * kMaxLanes);
  }

  // rows: [lanes][head_dim]
  void set_queries(const float* rows, int lanes) {
    kernels_.transpose(lanes, a_.head_dim, rows, a_.head_dim, queries_, lanes);
  }

  void scores(const KeyTile& tile, int64_t kv_head, float* s, int lanes) {
    const Rows k = rows(a_.k, to_f32_[0], a_.k_scales, kv_head, tile);
    kernels_.gemm(tile.count, lanes, a_.head_dim, k.data, k.stride, 1, queries_, lanes, s, lanes, false);
  }

  // Replaces s by its weights.
  void accumulate(const KeyTile& tile, int64_t kv_head, float* s, LaneState& state) {
    const int lanes = state.lanes();
    kernels_.exp2(tile.count, lanes, s, lanes, state.scale(), state.shift(), state.sum());
    const Rows v = rows(a_.v, to_f32_[1], a_.v_scales, kv_head, tile);
    kernels_.gemm(a_.head_dim, lanes, tile.count, v.data, 1, v.stride, s, lanes, state.out(), lanes,
                  state.accumulate());
  }

 private:
  struct Rows {
    const float* data;
    int64_t stride;
  };
  // scales: null unless the view is e4m3.
  Rows rows(const View& view, RowToF32 to_f32, const float* scales, int64_t kv_head, const KeyTile& tile) {
    if (view.dtype == MI_F32 && !tile.columns)
      return {reinterpret_cast<const float*>(head_row(view, kv_head, tile.first)), view.row_stride};
    for (int i = 0; i < tile.count; i++) {
      float* const row = rows_ + int64_t(i) * a_.head_dim;
      const int64_t key = key_of(tile, i);
      to_f32(head_row(view, kv_head, key), row, a_.head_dim);
      if (!scales) continue;
      const float scale = scales[kv_head * a_.scale_stride + key / MI_KV_BLOCK];
      for (int c = 0; c < a_.head_dim; c++) row[c] *= scale;
    }
    return {rows_, a_.head_dim};
  }

  const AttentionArgs& a_;
  const TileKernels& kernels_;
  RowToF32 to_f32_[2];  // of k, of v
  float* queries_;      // [head_dim][lanes]
  float* rows_;         // [64][head_dim]: K, then V of the tile
};

class Bf16Math {
 public:
  Bf16Math(const AttentionArgs& a, const TileKernels& kernels, Arena& arena) : a_(a), kernels_(kernels) {
    queries_ = arena.take<uint32_t>(int64_t(a.head_dim) / 2 * kMaxLanes);
    rows_ = arena.take<uint16_t>(int64_t(a.head_dim) * kMaxLanes);
    pairs_ = arena.take<uint32_t>(int64_t(a.head_dim) * kMaxLanes / 2);
    weights_ = arena.take<uint32_t>(kMaxLanes * kMaxLanes / 2);
    zeros_ = arena.take<uint16_t>(a.head_dim);
    std::memset(zeros_, 0, size_t(a.head_dim) * sizeof *zeros_);
  }

  void set_queries(const float* rows, int lanes) {
    row_from_f32(kernels_.isa, MI_BF16)(rows, rows_, int64_t(lanes) * a_.head_dim);
    kernels_.transpose(lanes, a_.head_dim / 2, rows_, a_.head_dim / 2, queries_, lanes);
  }

  void scores(const KeyTile& tile, int64_t kv_head, float* s, int lanes) {
    const uint16_t* k = key_row(a_.k, kv_head, tile, 0);
    int64_t stride = a_.k.row_stride;
    if (tile.columns) {
      for (int i = 0; i < tile.count; i++)
        std::memcpy(rows_ + int64_t(i) * a_.head_dim, key_row(a_.k, kv_head, tile, i),
                    size_t(a_.head_dim) * sizeof *rows_);
      k = rows_, stride = a_.head_dim;
    }
    kernels_.gemm_bf16(tile.count, lanes, a_.head_dim, k, stride, 2, queries_, lanes, s, lanes, false);
  }

  // An odd tile is filled up with a key of weight 0. s has room for it.
  void accumulate(const KeyTile& tile, int64_t kv_head, float* s, LaneState& state) {
    const int lanes = state.lanes(), keys = int(round_up(tile.count, 2));
    if (keys > tile.count)
      for (int j = 0; j < lanes; j++)
        s[int64_t(tile.count) * lanes + j] = -std::numeric_limits<float>::infinity();
    kernels_.exp2_bf16(keys, lanes, s, lanes, state.scale(), state.shift(), state.sum(), weights_, lanes);
    for (int i = 0; i < keys; i += 2)
      kernels_.pair_rows(a_.head_dim, key_row(a_.v, kv_head, tile, i),
                         i + 1 < tile.count ? key_row(a_.v, kv_head, tile, i + 1) : zeros_,
                         pairs_ + int64_t(i) / 2 * a_.head_dim);
    kernels_.gemm_bf16(a_.head_dim, lanes, keys, reinterpret_cast<const uint16_t*>(pairs_), 2,
                       2 * a_.head_dim, weights_, lanes, state.out(), lanes, state.accumulate());
  }

 private:
  static const uint16_t* key_row(const View& view, int64_t kv_head, const KeyTile& tile, int i) {
    return reinterpret_cast<const uint16_t*>(head_row(view, kv_head, key_of(tile, i)));
  }

  const AttentionArgs& a_;
  const TileKernels& kernels_;
  uint32_t* queries_;  // [head_dim / 2][lanes], pairs along head_dim
  uint16_t* rows_;     // [64][head_dim]: gathered K
  uint32_t* pairs_;    // [32][head_dim]: V of the tile, pairs of keys
  uint32_t* weights_;  // [32][lanes], pairs of keys
  uint16_t* zeros_;    // [head_dim]
};

}  // namespace mi::cpu
