// RMSNorm with residual, SiLU gate and copies between views.
#include <cmath>

#include "../cpu/tile.h"
#include "rows.h"

namespace mi::cpu {
namespace {

// Sum of squares in sixteen interleaved f32 chains, so that it vectorises without reordering.
double sum_of_squares(const float* x, int64_t n) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; j++) lanes[j] += x[i + j] * x[i + j];
  double sum = 0;
  for (; i < n; i++) sum += double(x[i]) * x[i];
  for (int j = 0; j < kLanes; j++) sum += lanes[j];
  return sum;
}

}  // namespace

void rms_norm(Pool& pool, const RmsNormArgs& a) {
  const Rows x(a.x, pool.isa()), residual(a.residual, pool.isa()), out(a.out, pool.isa());
  for_each_row(pool, a.heads, a.rows, a.dim, [&](int64_t head, int64_t row, float* scratch) {
    float *const buffer = scratch, *const other = scratch + kPiece;
    double squares = 0;
    for_each_piece(a.dim, [&](int64_t first, int64_t n) {
      const float* values = x.load(head, row, first, n, buffer);
      if (a.residual) {
        const float* added = residual.load(head, row, first, n, other);
        float* const sum = x.place(head, row, first, buffer);
        for (int64_t i = 0; i < n; i++) sum[i] = values[i] + added[i];
        x.store(head, row, first, n, sum);
        values = x.load(head, row, first, n, buffer);  // as rounded to x's dtype
      }
      squares += sum_of_squares(values, n);
    });
    const float factor = float(1.0 / std::sqrt(squares / a.dim + a.eps));
    for_each_piece(a.dim, [&](int64_t first, int64_t n) {
      const float *values = x.load(head, row, first, n, buffer), *weight = a.weight + first;
      float* const normed = out.place(head, row, first, other);
      for (int64_t i = 0; i < n; i++) normed[i] = values[i] * factor * weight[i];
      out.store(head, row, first, n, normed);
    });
  });
}

// silu(g) = g / (1 + exp(-g)).
void silu_mul(Pool& pool, const SiluMulArgs& a) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLeast = -87;  // exp(87) is finite in f32; below, silu is 0 to 35 digits
  const Rows gate(a.gate, pool.isa()), up(a.up, pool.isa()), out(a.out, pool.isa());
  const TileKernels& kernels = tile_kernels(pool.isa());
  for_each_row(pool, 1, a.rows, a.dim, [&](int64_t, int64_t row, float* scratch) {
    float *const e = scratch, *const zeros = e + kPiece, *const unused = zeros + kPiece;
    float *const gates = unused + kPiece, *const ups = gates + kPiece, *const products = ups + kPiece;
    std::memset(zeros, 0, size_t(2 * kPiece) * sizeof(float));
    for_each_piece(a.dim, [&](int64_t first, int64_t n) {
      const float *g = gate.load(0, row, first, n, gates), *u = up.load(0, row, first, n, ups);
      float* const product = out.place(0, row, first, products);
      const int64_t padded = round_up(n, kLanes);
      for (int64_t i = 0; i < n; i++) e[i] = g[i] < kLeast ? kLeast : g[i];
      for (int64_t i = n; i < padded; i++) e[i] = 0;
      kernels.exp2(1, padded, e, padded, -kLog2E, zeros, unused);
      for (int64_t i = 0; i < n; i++) product[i] = g[i] / (1.0f + e[i]) * u[i];
      out.store(0, row, first, n, product);
    });
  });
}

void copy(Pool& pool, const CopyArgs& a) {
  const Rows src(a.src, pool.isa()), dst(a.dst, pool.isa());
  for_each_row(pool, a.heads, a.rows, a.dim, [&](int64_t head, int64_t row, float* scratch) {
    for_each_piece(a.dim, [&](int64_t first, int64_t n) {
      dst.store(head, row, first, n, src.load(head, row, first, n, scratch));
    });
  });
}

}  // namespace mi::cpu
