// The state of one work item of attention: up to 64 query rows side by side in the vector lanes, with the
// online softmax's running maximum and sum per lane and the output so far, transposed: out[dim][lane].
#pragma once
#include <cfloat>
#include <cmath>
#include <limits>

#include "../cpu/convert_rows.h"
#include "../cpu/tile.h"
#include "tiles.h"

namespace mi::cpu {

constexpr int kMaxLanes = MI_BLOCK;

// `heads` query heads of one KV head times `rows` rows of one row block; lane = head * rows + row.
struct LaneBlock {
  int64_t row_block;
  int32_t head, heads, rows;
  int lanes() const { return int(round_up(heads * rows, kLanes)); }
};

inline char* head_row(const View& v, int64_t head, int64_t row) {
  return static_cast<char*>(v.data) + bytes_of(v.dtype, head * v.head_stride + row * v.row_stride);
}

// Scores enter unscaled; `scale` turns them into exponents of 2. Weights are 2^(scale * score - shift).
class LaneState {
 public:
  // out: [head_dim][lanes]
  void start(float* out, int lanes, int head_dim, float scale) {
    out_ = out, lanes_ = lanes, head_dim_ = head_dim, scale_ = scale, empty_ = true;
    for (int j = 0; j < kMaxLanes; j++) {
      peak_[j] = -std::numeric_limits<float>::infinity();
      shift_[j] = -FLT_MAX;  // finite, so that no lane ever computes inf - inf by itself
      sum_[j] = 0;
    }
  }

  // Takes in the scores s[keys][lanes] of the next tile before their weights are computed. `shift` may lag
  // behind the maximum by a factor 2^8, which f32 sums bear easily and which spares most rescalings.
  void raise(const TileKernels& kernels, const float* s, int keys) {
    constexpr float kSlack = 8;
    kernels.column_max(keys, lanes_, s, lanes_, peak_);
    bool grew = false;
    for (int j = 0; j < lanes_; j++) grew |= peak_[j] * scale_ > shift_[j] + kSlack;
    if (!grew) return;
    float factor[kMaxLanes], unused[kMaxLanes] = {};
    for (int j = 0; j < lanes_; j++) {
      factor[j] = shift_[j];
      shift_[j] = std::fmax(shift_[j], peak_[j] * scale_);
    }
    if (empty_) return;
    kernels.exp2(1, lanes_, factor, lanes_, 1.0f, shift_, unused);
    kernels.scale_columns(1, lanes_, sum_, lanes_, factor);
    kernels.scale_columns(head_dim_, lanes_, out_, lanes_, factor);
  }

  float scale() const { return scale_; }
  float* shift() { return shift_; }
  float* sum() { return sum_; }
  float* out() { return out_; }
  int lanes() const { return lanes_; }
  // Whether out() holds anything yet; the next product then adds to it.
  bool accumulate() {
    const bool was_empty = empty_;
    empty_ = false;
    return !was_empty;
  }

  // A part of a split block: [head_dim + 2][lanes] floats.
  static int64_t part_floats(int head_dim, int lanes) { return int64_t(head_dim + 2) * lanes; }
  void save(float* part) const {
    for (int64_t i = 0; i < int64_t(head_dim_) * lanes_; i++) part[i] = empty_ ? 0.0f : out_[i];
    part += int64_t(head_dim_) * lanes_;
    for (int j = 0; j < lanes_; j++) part[j] = shift_[j], part[lanes_ + j] = sum_[j];
  }
  // Adds a saved part; all parts of a block are over different keys.
  void merge(const float* part) {
    const float *shift = part + int64_t(head_dim_) * lanes_, *sum = shift + lanes_;
    for (int j = 0; j < lanes_; j++) {
      const float top = std::fmax(shift_[j], shift[j]);
      const float mine = std::exp2(shift_[j] - top), theirs = std::exp2(shift[j] - top);
      shift_[j] = top;
      sum_[j] = sum_[j] * mine + sum[j] * theirs;
      for (int c = 0; c < head_dim_; c++) {
        float& o = out_[c * lanes_ + j];
        o = empty_ ? part[c * lanes_ + j] * theirs : o * mine + part[c * lanes_ + j] * theirs;
      }
    }
    empty_ = false;
  }

  // Writes the rows of `block`. rows: scratch of [lanes][head_dim] floats.
  void store(const AttentionArgs& a, const TileKernels& kernels, const LaneBlock& block, float* rows) const {
    const RowFromF32 from_f32 = row_from_f32(kernels.isa, a.out.dtype);
    if (!empty_) kernels.transpose(head_dim_, lanes_, out_, lanes_, rows, head_dim_);
    for (int lane = 0; lane < block.heads * block.rows; lane++) {
      const int64_t head = block.head + lane / block.rows;
      const int64_t row = block.row_block * MI_BLOCK + lane % block.rows;
      const bool no_key = empty_ || sum_[lane] == 0;
      const float inverse = 1.0f / sum_[lane];
      float* values = rows + int64_t(lane) * head_dim_;
      for (int c = 0; c < head_dim_; c++) values[c] = no_key ? 0.0f : values[c] * inverse;
      from_f32(values, head_row(a.out, head, row), head_dim_);
      if (!a.lse) continue;
      constexpr float kLn2 = 0.693147180559945309f;
      a.lse[head * a.q_len + row] =
          no_key ? -std::numeric_limits<float>::infinity() : (shift_[lane] + std::log2(sum_[lane])) * kLn2;
    }
  }

 private:
  float* out_;
  int lanes_, head_dim_;
  float scale_;
  bool empty_;
  float peak_[kMaxLanes], shift_[kMaxLanes], sum_[kMaxLanes];
};

// Sets the scores of keys that a row does not see to -inf. s: [keys][lanes].
inline void apply_mask(const Mask& mask, const RowSpan& span, const LaneBlock& block, const KeyTile& tile,
                       float* s, int lanes) {
  const auto clamp = [&](int64_t row) { return int(min64(max64(row, 0), block.rows)); };
  for (int i = 0; i < tile.count; i++) {
    const int64_t key = tile.first + i;
    const int from = mask.causal ? clamp(key - span.first) : 0;  // the first row that has reached the key
    const int to =
        key < mask.sink ? block.rows : clamp(key + mask.local - span.first);  // and the first past it
    for (int h = 0; h < block.heads; h++) {
      float* row = s + int64_t(i) * lanes + h * block.rows;
      for (int r = 0; r < from; r++) row[r] = -std::numeric_limits<float>::infinity();
      for (int r = to; r < block.rows; r++) row[r] = -std::numeric_limits<float>::infinity();
    }
  }
}

}  // namespace mi::cpu
