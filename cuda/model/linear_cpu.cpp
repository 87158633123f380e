// Linear layers on the CPU: y = x w^T (+ bias) (+ y). Many rows go through packed panels of weights and the
// micro-kernels; a few rows (decode) are dot products with the weights as they lie in memory.
#include "../cpu/pool.h"
#include "linear_math.h"

namespace mi::cpu {
namespace {

constexpr int64_t kDirectRows = 4;   // up to here packing costs more than it saves
constexpr int64_t kChunk = 1024;     // rows whose activations are converted at a time: bounds the workspace
constexpr int64_t kRowBlock = 64;    // rows of one product
constexpr int64_t kLeastRows = 256;  // of an item: fewer do not repay packing its panel
constexpr int64_t kItemsPerThread = 4;  // that many keep threads evenly busy
constexpr int64_t kFeatures = 32;       // of an item, where rows are few

bool integer_blocks(const TileKernels& kernels, const LinearArgs& a) {
  return kernels.gemm_q8 && a.w.dtype == MI_Q8_0 && a.precision == MI_PRECISION_BF16;
}

// Adds bias and what y held, and writes values[0 .. n) to y[row][feature ..].
void finish(const LinearArgs& a, mi_isa isa, int64_t row, int64_t feature, int64_t n, float* values) {
  char* y = const_cast<char*>(element_of(a.y, row, feature));
  if (a.bias)
    for (int64_t j = 0; j < n; j++) values[j] += a.bias[feature + j];
  if (a.accumulate) {
    float before[kPanel];
    row_to_f32(isa, a.y.dtype)(y, before, n);
    for (int64_t j = 0; j < n; j++) values[j] += before[j];
  }
  row_from_f32(isa, a.y.dtype)(values, y, n);
}

// One item's working memory, in a thread's scratch.
struct Scratch {
  Panel panel;
  float sums[kChunk * kPanel];
};
static_assert(sizeof(Scratch) <= Pool::kScratchBytes, "a panel and its sums fit a thread's scratch");

// Rows [at, at + rows) of the chunk that begins with row `first`, times the weights of one panel.
template <class Math>
void multiply_panel(const Pool& pool, const LinearArgs& a, const Math& math, int64_t first, int64_t at,
                    int64_t rows, int64_t feature, Scratch& scratch) {
  const int64_t features = min64(kPanel, a.out_features - feature);
  // An f32 result needs no second place for its sums.
  const bool in_place = a.y.dtype == MI_F32 && !a.bias && features == kPanel;
  for (int64_t k = 0; k < a.in_features; k += kDepth) {
    const int64_t depth = min64(kDepth, a.in_features - k);
    const bool last = k + depth == a.in_features;
    math.pack(feature, k, depth, scratch.panel);
    for (int64_t r = 0; r < rows; r += kRowBlock) {
      if (pool.cancelled()) return;
      const int64_t m = min64(kRowBlock, rows - r), row = first + at + r;
      if (in_place) {
        auto* y = const_cast<char*>(element_of(a.y, row, feature));
        math.multiply(first, at + r, m, k, depth, scratch.panel, reinterpret_cast<float*>(y), a.y.row_stride,
                      a.accumulate || k > 0);
        continue;
      }
      float* sums = scratch.sums + r * kPanel;
      math.multiply(first, at + r, m, k, depth, scratch.panel, sums, kPanel, k > 0);
      if (!last) continue;
      for (int64_t i = 0; i < m; i++) finish(a, pool.isa(), row + i, feature, features, sums + i * kPanel);
    }
  }
}

template <class Math>
void multiply_rows(Pool& pool, const LinearArgs& a) {
  const int64_t chunk = min64(a.rows, kChunk), panels = ceil_div(a.out_features, kPanel);
  const Math math(a, tile_kernels(pool.isa()), a.workspace, chunk);
  for (int64_t first = 0; first < a.rows && !pool.cancelled(); first += chunk) {
    const int64_t rows = min64(chunk, a.rows - first);
    if (Math::row_bytes(a) > 0) {
      constexpr int64_t kGrain = 16;
      pool.parallel(ceil_div(rows, kGrain), [&](int64_t item, int) {
        for (int64_t at = item * kGrain; at < min64((item + 1) * kGrain, rows); at++)
          math.convert(first + at, at);
      });
    }
    const int64_t wanted = ceil_div(kItemsPerThread * pool.threads(), panels);
    const int64_t groups = max64(1, min64(wanted, rows / kLeastRows));
    const int64_t group = round_up(ceil_div(rows, groups), kRowBlock);
    pool.parallel(panels * ceil_div(rows, group), [&](int64_t item, int thread) {
      const int64_t at = item / panels * group;
      multiply_panel(pool, a, math, first, at, min64(group, rows - at), item % panels * kPanel,
                     *static_cast<Scratch*>(pool.scratch(thread)));
    });
  }
}

// Few rows, weights of any dtype through f32, a piece of a row at a time.
void dot_rows_f32(Pool& pool, const LinearArgs& a) {
  const TileKernels& kernels = tile_kernels(pool.isa());
  const RowToF32 to_f32 = row_to_f32(pool.isa(), a.w.dtype);
  auto* const x = static_cast<float*>(a.workspace);  // [rows][in_features]
  for (int64_t r = 0; r < a.rows; r++)
    row_to_f32(pool.isa(), a.x.dtype)(element_of(a.x, r), x + r * a.in_features, a.in_features);
  pool.parallel(ceil_div(a.out_features, kFeatures), [&](int64_t item, int thread) {
    const int64_t feature = item * kFeatures, features = min64(kFeatures, a.out_features - feature);
    auto* const piece = static_cast<float*>(pool.scratch(thread));
    float sums[kDirectRows][kFeatures] = {};
    for (int64_t j = 0; j < features; j++)
      for (int64_t k = 0; k < a.in_features; k += kDepth) {
        const int64_t depth = min64(kDepth, a.in_features - k);
        const char* w = element_of(a.w, feature + j, k);
        if (a.w.dtype != MI_F32) to_f32(w, piece, depth);
        float part[kDirectRows];
        kernels.dots(a.rows, depth, x + k, a.in_features,
                     a.w.dtype == MI_F32 ? reinterpret_cast<const float*>(w) : piece, part);
        const float scale = a.w_scales ? a.w_scales[feature + j] : 1.0f;
        for (int64_t r = 0; r < a.rows; r++) sums[r][j] += scale * part[r];
      }
    for (int64_t r = 0; r < a.rows; r++) finish(a, pool.isa(), r, feature, features, sums[r]);
  });
}

void dot_rows_q8(Pool& pool, const LinearArgs& a) {
  const TileKernels& kernels = tile_kernels(pool.isa());
  const LinearQ8 math(a, kernels, a.workspace, a.rows);
  for (int64_t r = 0; r < a.rows; r++) math.convert(r, r);
  pool.parallel(ceil_div(a.out_features, kFeatures), [&](int64_t item, int) {
    const int64_t feature = item * kFeatures, features = min64(kFeatures, a.out_features - feature);
    float sums[kDirectRows][kFeatures];
    for (int64_t j = 0; j < features; j++) {
      float dots[kDirectRows];
      kernels.dots_q8(a.rows, a.in_features / 32, math.rows(0, 0), a.in_features / 32,
                      element_of(a.w, feature + j), dots);
      for (int64_t r = 0; r < a.rows; r++) sums[r][j] = dots[r];
    }
    for (int64_t r = 0; r < a.rows; r++) finish(a, pool.isa(), r, feature, features, sums[r]);
  });
}

}  // namespace

uint64_t linear_workspace(const Pool& pool, const LinearArgs& a) {
  const TileKernels& kernels = tile_kernels(pool.isa());
  const uint64_t rows = uint64_t(min64(a.rows, kChunk));
  if (integer_blocks(kernels, a)) return rows * uint64_t(LinearQ8::row_bytes(a));
  if (a.rows <= kDirectRows) return rows * uint64_t(a.in_features) * sizeof(float);
  if (kernels.gemm_bf16 && a.precision == MI_PRECISION_BF16) return rows * uint64_t(LinearBf16::row_bytes(a));
  return rows * uint64_t(LinearF32::row_bytes(a));
}

void linear(Pool& pool, const LinearArgs& a) {
  const TileKernels& kernels = tile_kernels(pool.isa());
  const bool direct = a.rows <= kDirectRows;
  if (integer_blocks(kernels, a)) {
    direct ? dot_rows_q8(pool, a) : multiply_rows<LinearQ8>(pool, a);
  } else if (direct) {
    dot_rows_f32(pool, a);
  } else if (kernels.gemm_bf16 && a.precision == MI_PRECISION_BF16) {
    multiply_rows<LinearBf16>(pool, a);
  } else {
    multiply_rows<LinearF32>(pool, a);
  }
}

}  // namespace mi::cpu
