// Rotary position embedding. Angles are computed and reduced in f64: at position 4M an f32 angle would be off
// by 0.25 rad.
#include <cmath>

#include "rows.h"

namespace mi::cpu {
namespace {

constexpr int64_t kPairs = 512;  // angles held at once

// cosine[i], sine[i] of position * inv_freq[i], times scale; n <= kPairs. Absolute error under 1e-7 before
// scaling. Loops apart by element width, so that they vectorise.
void sin_cos(double position, const float* inv_freq, int64_t n, float scale, float* cosine, float* sine) {
  constexpr double kHalfPi = 0x1.921fb54442d18p0;
  constexpr double kRound = 0x1.8p52;  // adding it rounds to an integer and leaves that in the low bits
  double rounded[kPairs];
  float reduced[kPairs], s[kPairs], c[kPairs];  // the angle in [-pi / 4, pi / 4], its sine and cosine
  uint64_t bits[kPairs];
  uint32_t quadrant[kPairs];
  for (int64_t i = 0; i < n; i++) {
    const double angle = position * double(inv_freq[i]);
    rounded[i] = angle * (1 / kHalfPi) + kRound;
    reduced[i] = float(angle - (rounded[i] - kRound) * kHalfPi);
  }
  std::memcpy(bits, rounded, size_t(n) * sizeof *bits);
  for (int64_t i = 0; i < n; i++) quadrant[i] = uint32_t(bits[i]);
  for (int64_t i = 0; i < n; i++) {
    const float r = reduced[i], z = r * r;
    // Polynomials of least error on that interval.
    s[i] = r + r * z * (-0x1.555552p-3f + z * (0x1.110c2ap-7f + z * -0x1.9ac9dep-13f));
    c[i] = 1 - 0.5f * z + z * z * (0x1.555554p-5f + z * (-0x1.6c12d4p-10f + z * 0x1.9bd8b6p-16f));
  }
  for (int64_t i = 0; i < n; i++) {
    // Odd quadrants swap the two; the second half turn negates them.
    const uint32_t odd = quadrant[i] & 1;
    const float x = odd ? s[i] : c[i], y = odd ? c[i] : s[i];
    cosine[i] = x * scale * (1.0f - float(int32_t((quadrant[i] + 1) & 2)));
    sine[i] = y * scale * (1.0f - float(int32_t(quadrant[i] & 2)));
  }
}

// Halves layout: pair i is (x[i], y[i]).
void rotate_halves(const float* x, const float* y, float* x_out, float* y_out, const float* cosine,
                   const float* sine, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const float a = x[i], b = y[i];
    x_out[i] = a * cosine[i] - b * sine[i];
    y_out[i] = b * cosine[i] + a * sine[i];
  }
}

// Interleaved layout: pair i is (x[2i], x[2i + 1]).
void rotate_interleaved(const float* x, float* out, const float* cosine, const float* sine, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const float a = x[2 * i], b = x[2 * i + 1];
    out[2 * i] = a * cosine[i] - b * sine[i];
    out[2 * i + 1] = b * cosine[i] + a * sine[i];
  }
}

}  // namespace

void rope(Pool& pool, const RopeArgs& a) {
  const Rows x(a.x, pool.isa()), out(a.out, pool.isa());
  const int64_t pairs = a.rotary_dim / 2;
  // One pass over all heads of a row, so that its angles are computed once.
  for_each_row(pool, 1, a.rows, int64_t(a.heads) * a.head_dim, [&](int64_t, int64_t row, float* scratch) {
    float *const cosine = scratch, *const sine = cosine + kPairs;
    float* const in[2] = {sine + kPairs, sine + 3 * kPairs};
    float* const rotated[2] = {sine + 5 * kPairs, sine + 7 * kPairs};
    float* const rest = sine + 9 * kPairs;
    for (int64_t i = 0; i < pairs; i += kPairs) {
      const int64_t n = min64(kPairs, pairs - i);
      sin_cos(double(a.position + row), a.inv_freq + i, n, a.scale, cosine, sine);
      for (int64_t head = 0; head < a.heads; head++) {
        if (a.interleaved) {
          float* const target = out.place(head, row, 2 * i, rotated[0]);
          rotate_interleaved(x.load(head, row, 2 * i, 2 * n, in[0]), target, cosine, sine, n);
          out.store(head, row, 2 * i, 2 * n, target);
        } else {
          float* const first = out.place(head, row, i, rotated[0]);
          float* const second = out.place(head, row, pairs + i, rotated[1]);
          rotate_halves(x.load(head, row, i, n, in[0]), x.load(head, row, pairs + i, n, in[1]), first, second,
                        cosine, sine, n);
          out.store(head, row, i, n, first);
          out.store(head, row, pairs + i, n, second);
        }
      }
    }
    for (int64_t head = 0; head < a.heads; head++)
      for_each_piece(a.head_dim - a.rotary_dim, [&](int64_t first, int64_t n) {
        out.store(head, row, a.rotary_dim + first, n, x.load(head, row, a.rotary_dim + first, n, rest));
      });
  });
}

}  // namespace mi::cpu
