#include "probe.h"

#include <algorithm>
#include <cfloat>

namespace mi::cpu {

ProbeTile::ProbeTile(const Probe& probe, mi_isa isa, Arena& arena)
    : probe_(probe),
      kernels_(tile_kernels(isa)),
      to_f32_(row_to_f32(isa, probe.k.dtype)),
      bf16_(kernels_.gemm_bf16 && probe.k.dtype == MI_BF16),
      lanes_(int(round_up(probe.rows, kLanes))),
      scale_(probe.scale == 0 ? 1.0f : std::fabs(probe.scale) * kLog2E),
      sign_(probe.scale > 0 ? 1.0f : probe.scale < 0 ? -1.0f : 0.0f) {
  panel_ = arena.take<float>(int64_t(probe.head_dim) * kStride);
  rows_ = arena.take<float>(int64_t(probe.head_dim) * kKeys);
  s_ = arena.take<float>(kLanes + int64_t(kKeys) * kStride) + kLanes;
  std::memset(s_ - kLanes, 0, size_t(kLanes + kKeys * kStride) * sizeof(float));
}

void ProbeTile::set_head(int32_t head) {
  const int64_t dim = probe_.head_dim, first = probe_.q_len - probe_.rows;
  kv_head_ = head / (probe_.q_heads / probe_.kv_heads);
  auto* const rows = static_cast<float*>(rows_);
  const RowToF32 to_f32 = row_to_f32(kernels_.isa, probe_.q.dtype);
  for (int r = 0; r < probe_.rows; r++) to_f32(head_row(probe_.q, head, first + r), rows + r * dim, dim);
  for (int64_t i = 0; i < probe_.rows * dim; i++) rows[i] *= sign_;
  std::memset(panel_, 0, size_t(dim * kStride) * sizeof(float));
  if (!bf16_) {
    kernels_.transpose(probe_.rows, dim, rows, dim, panel_, kStride);
    return;
  }
  auto* const pairs = reinterpret_cast<uint16_t*>(s_);  // 64 rows fit; cleared afterwards
  row_from_f32(kernels_.isa, MI_BF16)(rows, pairs, probe_.rows * dim);
  kernels_.transpose(probe_.rows, dim / 2, pairs, dim / 2, panel_, kStride);
  std::memset(s_, 0, size_t(probe_.rows * dim) * sizeof *pairs);
}

void ProbeTile::product(const void* k, int64_t row_stride, int count) {
  if (bf16_) {
    kernels_.gemm_bf16(count, lanes_, probe_.head_dim, static_cast<const uint16_t*>(k), row_stride, 2,
                       static_cast<const uint32_t*>(panel_), kStride, s_, kStride, false);
  } else {
    kernels_.gemm(count, lanes_, probe_.head_dim, static_cast<const float*>(k), row_stride, 1,
                  static_cast<const float*>(panel_), kStride, s_, kStride, false);
  }
}

float* ProbeTile::scores(int64_t first, int count) {
  if (bf16_ || probe_.k.dtype == MI_F32) {
    product(head_row(probe_.k, kv_head_, first), probe_.k.row_stride, count);
  } else {
    auto* const rows = static_cast<float*>(rows_);
    for (int64_t i = 0; i < count; i++)
      to_f32_(head_row(probe_.k, kv_head_, first + i), rows + i * probe_.head_dim, probe_.head_dim);
    product(rows_, probe_.head_dim, count);
  }
  for (int64_t i = max64(0, probe_.first_position() + 1 - first); i < count; i++) {
    const int64_t unseen = min64(probe_.rows, first + i - probe_.first_position());  // rows before the key
    for (int64_t r = 0; r < unseen; r++) s_[i * kStride + r] = -INFINITY;
  }
  return s_;
}

float* ProbeTile::scores(const KeyTile& tile) {
  if (!tile.columns) return scores(tile.first, tile.count);
  const int64_t bytes = bytes_of(probe_.k.dtype, probe_.head_dim);
  for (int i = 0; i < tile.count; i++) {
    const void* const key = head_row(probe_.k, kv_head_, tile.columns[i]);
    if (bf16_) {
      std::memcpy(static_cast<char*>(rows_) + i * bytes, key, size_t(bytes));
    } else {
      to_f32_(key, static_cast<float*>(rows_) + int64_t(i) * probe_.head_dim, probe_.head_dim);
    }
  }
  product(rows_, probe_.head_dim, tile.count);
  return s_;
}

void sum_columns(const float* p, int count, int lanes, float* vertical) {
  for (int i = 0; i < count; i++) {
    Lanes sum = {};
    for (int r = 0; r < lanes; r += kLanes)
      sum += *reinterpret_cast<const Lanes*>(p + int64_t(i) * ProbeTile::kStride + r);
    float total = 0;
    for (int j = 0; j < kLanes; j++) total += sum[j];
    vertical[i] = total;
  }
}

void probability_shifts(const float* lse, int first, int last, float* shift) {
  for (int r = 0; r < MI_BLOCK; r++) shift[r] = r >= first && r < last ? lse[r] * kLog2E : kNoWeight;
}

namespace {

// Running maximum (scaled) and sum of exponentials of each row over one key range.
struct Partial {
  float shift[MI_BLOCK], sum[MI_BLOCK];
};

void accumulate(const Pool& pool, ProbeTile& tile, const KeyRange& range, Partial& out) {
  float peak[MI_BLOCK], factor[MI_BLOCK], unused[MI_BLOCK] = {};
  std::fill(peak, peak + MI_BLOCK, -INFINITY);
  std::fill(out.shift, out.shift + MI_BLOCK, -FLT_MAX);
  std::fill(out.sum, out.sum + MI_BLOCK, 0.0f);
  for (int64_t first = range.first; first < range.last && !pool.cancelled(); first += ProbeTile::kKeys) {
    const int count = int(min64(ProbeTile::kKeys, range.last - first));
    const float* s = tile.scores(first, count);
    tile.kernels().column_max(count, tile.lanes(), s, ProbeTile::kStride, peak);
    for (int r = 0; r < tile.lanes(); r++) {
      factor[r] = out.shift[r];
      out.shift[r] = std::fmax(out.shift[r], peak[r] * tile.scale());
    }
    tile.kernels().exp2(1, tile.lanes(), factor, tile.lanes(), 1.0f, out.shift, unused);
    tile.kernels().scale_columns(1, tile.lanes(), out.sum, tile.lanes(), factor);
    tile.exponentials(count, out.shift, out.sum);
  }
}

}  // namespace

uint64_t probe_lse_workspace(const Probe& probe) {
  return uint64_t(probe.q_heads * key_ranges(probe.kv_len)) * sizeof(Partial);
}

void probe_lse(Pool& pool, const Probe& probe, float* lse, void* workspace) {
  auto* const partials = static_cast<Partial*>(workspace);
  const int64_t ranges = key_ranges(probe.kv_len);
  pool.parallel(probe.q_heads * ranges, [&](int64_t item, int thread) {
    Arena arena(pool.scratch(thread));
    ProbeTile tile(probe, pool.isa(), arena);
    tile.set_head(int32_t(item / ranges));
    accumulate(pool, tile, key_range(probe.kv_len, item % ranges), partials[item]);
  });
  if (pool.cancelled()) return;
  for (int64_t head = 0; head < probe.q_heads; head++) {
    const Partial* const parts = partials + head * ranges;
    for (int r = 0; r < probe.rows; r++) {
      double shift = -FLT_MAX, sum = 0;
      for (int64_t i = 0; i < ranges; i++) shift = std::fmax(shift, double(parts[i].shift[r]));
      for (int64_t i = 0; i < ranges; i++) sum += parts[i].sum[r] * std::exp2(parts[i].shift[r] - shift);
      lse[head * probe.rows + r] = float((shift + std::log2(sum)) * double(kLn2));
    }
  }
}

}  // namespace mi::cpu
