// Scores by mean pooling (arXiv 2407.02490, section 3.3) or by strided antidiagonal sums (arXiv 2503.16428).
// One row block at a time: the matrix of all block scores never exists.
#include "block_sparse.h"

#include <algorithm>
#include <cfloat>

#include "select.h"

namespace mi::cpu {
namespace {

constexpr int kStride = 8;                      // of antidiagonal scores
constexpr int kGroups = MI_BLOCK / kStride;     // groups of kStride rows or keys in a block
constexpr int64_t kChunkBlocks = 8;             // key blocks scored at once

int64_t key_blocks(const Probe& p) { return ceil_div(p.kv_len, MI_BLOCK); }

// mean[dim] over 64 rows from `first` on, rows past `rows` counting as zero.
void mean_of_block(const View& view, RowToF32 to_f32, int64_t head, int64_t first, int64_t rows, int64_t dim,
                   float* row, float* mean) {
  std::fill(mean, mean + dim, 0.0f);
  for (int64_t r = first; r < min64(rows, first + MI_BLOCK); r++) {
    to_f32(head_row(view, head, r), row, dim);
    for (int64_t c = 0; c < dim; c++) mean[c] += row[c];
  }
  for (int64_t c = 0; c < dim; c++) mean[c] *= 1.0f / MI_BLOCK;
}

// scores[b] = <mean query, mean key>, unscaled as upstream, for the first `count` key blocks.
void pooled_scores(const TileKernels& kernels, const Probe& p, int32_t head, int64_t m,
                   const float* key_means, int64_t count, float* scores) {
  float row[256], mean[256];
  mean_of_block(p.q, row_to_f32(kernels.isa, p.q.dtype), head, MI_BLOCK * m, p.q_len, p.head_dim, row, mean);
  const float* const means = key_means + head / (p.q_heads / p.kv_heads) * key_blocks(p) * p.head_dim;
  kernels.dots(count, p.head_dim, means, p.head_dim, mean, scores);
}

// Antidiagonal scores of one row block. Queries and keys go in groups of 8 neighbours; the score of two
// groups is the mean of q[7 - i] . k[i], a sample of one antidiagonal. Each query group's scores over all
// causal key groups pass a softmax, and a block's score is the probability it receives.
class AntidiagonalScores {
 public:
  AntidiagonalScores(const TileKernels& kernels, const Probe& p, void* thread_scratch, float* block_sums)
      : kernels_(kernels), p_(p), arena_(thread_scratch), block_sums_(block_sums),
        shifts_(block_sums + key_blocks(p) * kLanes) {
    panel_ = arena_.take<float>(int64_t(kStride) * p.head_dim * kLanes);
    keys_ = arena_.take<float>(kChunkBlocks * MI_BLOCK * p.head_dim);
    s_ = arena_.take<float>(kChunkBlocks * kGroups * kLanes);
  }

  static int64_t floats(const Probe& p) {
    return (key_blocks(p) + ceil_div(key_blocks(p), kChunkBlocks)) * kLanes;
  }

  // scores[b] of the first `count` key blocks.
  void score(int32_t head, int64_t m, int64_t count, float* scores) {
    load_queries(head, m);
    const float scale = p_.scale == 0 ? 1.0f : std::fabs(p_.scale) * kLog2E / kStride;
    float top[kLanes], total[kLanes] = {};
    std::fill(top, top + kLanes, -FLT_MAX);
    for (int64_t first = 0; first < count; first += kChunkBlocks)
      sum_chunk(head, m, first, min64(kChunkBlocks, count - first), scale, top);
    for (int64_t first = 0; first < count; first += kChunkBlocks) {  // to the common maximum
      float* const factor = shifts_ + first / kChunkBlocks * kLanes;
      float* const sums = block_sums_ + first * kLanes;
      for (int j = 0; j < kLanes; j++) factor[j] = std::exp2(factor[j] - top[j]);
      for (int64_t i = 0; i < min64(kChunkBlocks, count - first) * kLanes; i++) {
        sums[i] *= factor[i % kLanes];
        total[i % kLanes] += sums[i];
      }
    }
    const int64_t query_groups = ceil_div(min64(MI_BLOCK, p_.q_len - MI_BLOCK * m), kStride);
    for (int64_t b = 0; b < count; b++) {
      scores[b] = 0;
      for (int64_t j = 0; j < query_groups; j++)
        if (total[j] > 0) scores[b] += block_sums_[b * kLanes + j] / total[j];
    }
  }

 private:
  // panel[i][dim][group] = query 7 - i of the group; the scale's sign goes in.
  void load_queries(int32_t head, int64_t m) {
    const RowToF32 to_f32 = row_to_f32(kernels_.isa, p_.q.dtype);
    const float sign = p_.scale < 0 ? -1.0f : p_.scale > 0 ? 1.0f : 0.0f;
    std::memset(panel_, 0, size_t(kStride * p_.head_dim * kLanes) * sizeof(float));
    for (int64_t r = MI_BLOCK * m; r < min64(p_.q_len, MI_BLOCK * (m + 1)); r++) {
      const int64_t group = r % MI_BLOCK / kStride, i = kStride - 1 - r % kStride;
      to_f32(head_row(p_.q, head, r), keys_, p_.head_dim);
      float* const panel = panel_ + i * p_.head_dim * kLanes + group;
      for (int64_t c = 0; c < p_.head_dim; c++) panel[c * kLanes] = sign * keys_[c];
    }
  }

  // Exponentials of a chunk's scores, summed by block, relative to the chunk's maximum in shifts_; raises
  // `top` to it.
  void sum_chunk(int32_t head, int64_t m, int64_t first, int64_t blocks, float scale, float* top) {
    const int64_t groups = group_scores(head, m, first, blocks);
    float peak[kLanes], unused[kLanes] = {};
    float* const shift = shifts_ + first / kChunkBlocks * kLanes;
    std::fill(peak, peak + kLanes, -INFINITY);
    kernels_.column_max(groups, kLanes, s_, kLanes, peak);
    for (int j = 0; j < kLanes; j++) {
      shift[j] = std::fmax(-FLT_MAX, peak[j] * scale);
      top[j] = std::fmax(top[j], shift[j]);
    }
    kernels_.exp2(groups, kLanes, s_, kLanes, scale, shift, unused);
    float* const sums = block_sums_ + first * kLanes;
    std::fill(sums, sums + blocks * kLanes, 0.0f);
    for (int64_t g = 0; g < groups; g++)
      for (int j = 0; j < kLanes; j++) sums[g / kGroups * kLanes + j] += s_[g * kLanes + j];
  }

  // s[key group][query group] of `blocks` key blocks, -inf where the whole key group comes after the query
  // group.
  int64_t group_scores(int32_t head, int64_t m, int64_t first_block, int64_t blocks) {
    const int64_t first = MI_BLOCK * first_block, keys = min64(MI_BLOCK * blocks, p_.kv_len - first);
    const int64_t kv_head = head / (p_.q_heads / p_.kv_heads), groups = ceil_div(keys, kStride);
    const auto* rows = reinterpret_cast<const float*>(head_row(p_.k, kv_head, first));
    int64_t stride = p_.k.row_stride;
    if (p_.k.dtype != MI_F32) {
      const RowToF32 to_f32 = row_to_f32(kernels_.isa, p_.k.dtype);
      for (int64_t i = 0; i < keys; i++)
        to_f32(head_row(p_.k, kv_head, first + i), keys_ + i * p_.head_dim, p_.head_dim);
      rows = keys_, stride = p_.head_dim;
    }
    for (int64_t i = 0; i < kStride; i++)  // the last group may be short: its missing keys are zero
      kernels_.gemm((keys - i + kStride - 1) / kStride, kLanes, p_.head_dim, rows + i * stride,
                    kStride * stride, 1, panel_ + i * p_.head_dim * kLanes, kLanes, s_, kLanes, i > 0);
    const int64_t position = p_.offset() + MI_BLOCK * m;
    for (int64_t g = 0; g < groups; g++)
      for (int64_t j = 0; j < kGroups; j++)
        if (first + g * kStride > position + j * kStride + kStride - 1) s_[g * kLanes + j] = -INFINITY;
    return groups;
  }

  const TileKernels& kernels_;
  const Probe& p_;
  Arena arena_;
  float *block_sums_, *shifts_;  // [key_blocks][kLanes], [chunks][kLanes]
  float *panel_, *keys_, *s_;
};

}  // namespace

uint64_t pooled_key_floats(const Probe& p) { return uint64_t(p.kv_heads * key_blocks(p) * p.head_dim); }

uint64_t block_score_floats(const Probe& p) {
  return uint64_t(round_up(key_blocks(p), kLanes) + AntidiagonalScores::floats(p));
}

void pool_keys(Pool& pool, const Probe& p, float* means) {
  constexpr int64_t kPerItem = 16;
  const int64_t blocks = key_blocks(p), items = ceil_div(blocks, kPerItem);
  const RowToF32 to_f32 = row_to_f32(pool.isa(), p.k.dtype);
  pool.parallel(p.kv_heads * items, [&](int64_t item, int) {
    float row[256];
    const int64_t head = item / items, begin = item % items * kPerItem;
    for (int64_t b = begin; b < min64(blocks, begin + kPerItem); b++)
      mean_of_block(p.k, to_f32, head, MI_BLOCK * b, p.kv_len, p.head_dim, row,
                    means + (head * blocks + b) * p.head_dim);
  });
}

int64_t select_blocks(const Pool& pool, int thread, const Probe& p, const mi_pattern& pattern,
                      int32_t head, const float* key_means, int64_t first, int64_t last, float* scratch,
                      uint32_t* counts, uint32_t* blocks, int64_t stride) {
  const TileKernels& kernels = tile_kernels(pool.isa());
  float* const scores = scratch;
  AntidiagonalScores antidiagonal(kernels, p, pool.scratch(thread),
                                  scratch + round_up(key_blocks(p), kLanes));
  int64_t tiles = 0;
  for (int64_t m = first; m < last && !pool.cancelled(); m++) {
    const int64_t causal = min64(key_blocks(p), ceil_div(p.end(m), MI_BLOCK));  // key blocks within reach
    if (causal > pattern.top_k) {
      if (pattern.flags & MI_ANTIDIAGONAL) antidiagonal.score(head, m, causal, scores);
      else pooled_scores(kernels, p, head, m, key_means, causal, scores);
    }
    uint32_t* const chosen = blocks + m * stride;
    int64_t count = 0;
    const int64_t own = (p.offset() + MI_BLOCK * m) / MI_BLOCK;  // first block of the row block's own keys
    // Ascending: forced blocks are merged in as the selection passes them.
    const int64_t forced_own = pattern.flags & MI_FORCE_DIAGONAL ? own : causal;
    int64_t next_forced = pattern.flags & MI_FORCE_SINK ? 0 : forced_own;
    const auto add_forced_before = [&](int64_t b) {
      while (next_forced < b) {
        chosen[count++] = uint32_t(next_forced);
        next_forced = max64(next_forced + 1, forced_own);
      }
    };
    top_k(scores, causal, pattern.top_k, causal <= pattern.top_k ? causal : 0, [&](int64_t b) {
      add_forced_before(min64(b + 1, causal));
      if (count == 0 || chosen[count - 1] != uint32_t(b)) chosen[count++] = uint32_t(b);
    });
    add_forced_before(causal);
    counts[m] = uint32_t(count);
    tiles += count;
  }
  return tiles;
}

}  // namespace mi::cpu
