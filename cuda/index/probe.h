// The probe: the last query rows of each head, whose attention over all keys stands for the whole prompt's
// (arXiv 2407.02490, section 3.3). Their scores are computed tile by tile and never kept.
#pragma once
#include <cfloat>
#include <cmath>

#include "../attention/tile_math.h"
#include "../core/ops.h"
#include "../cpu/pool.h"
#include "work_list.h"

namespace mi::cpu {

// A vector of f32, wherever it lies; the compiler cuts it to what the machine has.
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

struct Probe {
  View q, k;
  int32_t q_heads, kv_heads, head_dim;
  int64_t q_len, kv_len;
  int32_t rows;  // at most 64
  float scale;

  template <class Args>  // EstimateArgs, IndexArgs
  static Probe of(const Args& a) {
    const auto rows = int32_t(min64(a.last_q, a.q_len));
    return {a.q, a.k, a.q_heads, a.kv_heads, a.head_dim, a.q_len, a.kv_len, rows, a.scale};
  }
  int64_t first_position() const { return kv_len - rows; }
  int64_t offset() const { return kv_len - q_len; }
  int64_t row_blocks() const { return ceil_div(q_len, MI_BLOCK); }
  int64_t end(int64_t m) const { return offset() + MI_BLOCK * (m + 1); }  // work_list.h
};

// The probe rows of one row block; there are two such blocks unless the probe fits the last one.
struct ProbeBlock {
  int64_t row_block;
  int32_t first, last;  // probe rows [first, last)
};
struct ProbeBlocks {
  explicit ProbeBlocks(const Probe& p) {
    const int64_t first_row = p.q_len - p.rows, last_block = p.row_blocks() - 1;
    const auto split = int32_t(max64(0, MI_BLOCK * last_block - first_row));
    if (split > 0) block[count++] = {last_block - 1, 0, split};
    block[count++] = {last_block, split, p.rows};
  }
  ProbeBlock block[2];
  int count = 0;
};

// Work is cut into key ranges of this length whatever the number of threads, so that sums come out the same.
constexpr int64_t kRangeKeys = 2048;

struct KeyRange {
  int64_t first, last;  // keys [first, last)
};
inline int64_t key_ranges(int64_t kv_len) { return ceil_div(kv_len, kRangeKeys); }
inline KeyRange key_range(int64_t kv_len, int64_t i) {
  return {i * kRangeKeys, min64(kv_len, (i + 1) * kRangeKeys)};
}

// Scores of one head's probe rows against up to kKeys keys: s[key][row], rows in the vector lanes. Columns of
// `s` past the probe rows are zero, and so are kLanes floats before it, so that reading along a diagonal may
// run over.
class ProbeTile {
 public:
  static constexpr int kKeys = 256, kStride = MI_BLOCK + kLanes;

  ProbeTile(const Probe& probe, mi_isa isa, Arena& arena);
  void set_head(int32_t head);
  // Keys [first, first + count), causal: -inf where the key comes after the row. Scores are unscaled.
  float* scores(int64_t first, int count);
  float* scores(const KeyTile& tile);
  // Replaces scores by 2^(scale() s - shift[row]) and adds them up in sum[row]; both [64].
  void exponentials(int count, const float* shift, float* sum) {
    kernels_.exp2(count, lanes_, s_, kStride, scale_, shift, sum);
  }
  const TileKernels& kernels() const { return kernels_; }
  int lanes() const { return lanes_; }
  float scale() const { return scale_; }

 private:
  void product(const void* k, int64_t row_stride, int count);

  const Probe& probe_;
  const TileKernels& kernels_;
  RowToF32 to_f32_;
  bool bf16_;
  int lanes_;
  float scale_, sign_;
  int64_t kv_head_ = 0;
  void* panel_;  // f32 [head_dim][kStride], or bf16 pairs [head_dim / 2][kStride]
  void* rows_;   // [kKeys][head_dim], keys that cannot be read in place
  float* s_;
};

// Shifts for ProbeTile::exponentials from log-sum-exps: weights become probabilities. Lanes outside [first,
// last) get weight 0.
constexpr float kNoWeight = FLT_MAX;
void probability_shifts(const float* lse, int first, int last, float* shift /* [64] */);

// vertical[key] = sum of p[key][row] over rows, from probabilities left by ProbeTile::exponentials.
void sum_columns(const float* p, int count, int lanes, float* vertical);

// lse[head][row] of every probe row.
void probe_lse(Pool& pool, const Probe& probe, float* lse, void* workspace);
uint64_t probe_lse_workspace(const Probe& probe);

}  // namespace mi::cpu
