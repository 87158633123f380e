// Counts: the columns and distances (or tiles) with the largest sums, upstream's rule.
//
// Mass: fewest tiles that cover the wanted fraction of the probe rows' attention, each cell counted once. On
// the probe alone columns always win: 64 columns cost as much as a band's tile and need not be neighbours.
// But a column that only stands for a diagonal's cells helps no other row block. So among the splits between
// bands and columns we take the one with the most mass on bands that costs at most a quarter more than the
// cheapest. Measured on needle-27m (three prompts of 12K tokens, all heads, mass 0.95; density, mass kept
// over all rows of the prompt): fewest tiles 7.6%, 0.923; this rule 12.0%, 0.953; bands alone 20.9%, 0.970.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "bands.h"
#include "select.h"
#include "vertical_slash.h"

namespace mi::cpu {
namespace {

constexpr double kBandPremium = 1.25;
constexpr double kBandShares[] = {0, 0.5, 0.7, 0.8, 0.9, 0.95, 1};  // of the wanted mass, by bands
constexpr int64_t kForcedTiles = 3;  // distance d lies in tile (d + 63) / 64 at most: kForcedDistances

// What bands are chosen from: single distances (exact) or tiles (banded), with their mass.
struct BandSource {
  int32_t selection;
  const float* mass;
  int64_t size, forced, limit;

  BandSource(const Probe& probe, const mi_pattern& pattern, const float* slash, int64_t distances,
             float* scratch)
      : selection(pattern.selection) {
    if (selection == MI_EXACT) {
      mass = slash, size = probe.kv_len, forced = kForcedDistances, limit = distances;
    } else {
      size = ceil_div(probe.end(probe.row_blocks() - 1), MI_BLOCK);
      for (int64_t t = 0; t < size; t++) scratch[t] = tile_mass(slash, probe.kv_len, t);
      mass = scratch, forced = kForcedTiles;
      limit = distances == probe.kv_len ? size : max64(forced, ceil_div(distances, MI_BLOCK));
    }
    limit = min64(limit, size);
    forced = min64(forced, limit);
  }

  // The bands of the `count` best.
  int64_t bands(int64_t count, int32_t* scratch, Band* out) const {
    int64_t found = 0;
    if (selection == MI_BANDED) {
      top_k(mass, size, count, forced, [&](int64_t t) { add_tile(t, out, found); });
      return found;
    }
    top_k(mass, size, count, forced, [&](int64_t d) { scratch[found++] = int32_t(d); });
    BandChain chain(out);
    while (found > 0) chain.add(scratch[--found]);
    return chain.finish();
  }
};

int64_t top_columns(const float* mass, int64_t kv_len, int64_t count, int32_t* columns) {
  int64_t found = 0;
  top_k(mass, kv_len, count, kForcedColumns, [&](int64_t j) { columns[found++] = int32_t(j); });
  return found;
}

// residual[j] = mass of key j on the probe cells that no band holds. Returns the mass in the bands.
double outside_bands(const Probe& probe, const HeadMass& mass, const Band* bands, int64_t band_count,
                     float* residual) {
  const ProbeBlocks blocks(probe);
  std::fill(residual, residual + probe.kv_len, 0.0f);
  double inside = 0;
  for (int b = 0; b < blocks.count; b++) {
    const auto of = [&](int64_t j) {
      if (!mass.first_block) return mass.vertical[j];
      return b == 0 ? mass.first_block[j] : std::fmax(0.0f, mass.vertical[j] - mass.first_block[j]);
    };
    const int64_t end = probe.end(blocks.block[b].row_block);
    int64_t at = 0;
    for (int64_t i = band_count - 1; i >= -1; i--) {  // from key 0 on, the farthest band first
      const int64_t from = i < 0 ? probe.kv_len : min64(probe.kv_len, max64(at, end - int64_t(bands[i].far)));
      const int64_t to = i < 0 ? from : min64(probe.kv_len, max64(from, end - int64_t(bands[i].near)));
      for (; at < from; at++) residual[at] += of(at);
      for (; at < to; at++) inside += of(at);
    }
  }
  return inside;
}

// Splits the wanted mass between bands and columns.
class MassBudget {
 public:
  MassBudget(const Probe& probe, const HeadMass& mass, const BandSource& source, double wanted,
             int64_t column_limit, const SelectionScratch& scratch, VerticalSlash& out)
      : probe_(probe), mass_(mass), source_(source), wanted_(wanted), scratch_(scratch), out_(out),
        column_limit_(column_limit), forced_columns_(min64(kForcedColumns, probe.kv_len)) {}

  void fill() {
    Split splits[std::size(kBandShares)];
    double cheapest = std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < std::size(kBandShares); i++) {
      const int64_t units = units_for(kBandShares[i] * wanted_);
      splits[i] = i > 0 && units == splits[i - 1].units ? splits[i - 1] : complete(units);
      if (splits[i].covered >= wanted_) cheapest = std::fmin(cheapest, splits[i].tiles);
    }
    Split best = splits[0];
    for (const Split& split : splits)
      if (split.covered >= wanted_ ? split.tiles <= kBandPremium * cheapest
                                   : best.covered < wanted_ && split.covered > best.covered)
        best = split;
    if (best.covered < wanted_) {  // the upper bounds bind
      const Split all = complete(source_.limit);
      if (all.covered > best.covered) best = all;
    }
    complete(best.units);
    out_.column_count = top_columns(scratch_.residual, probe_.kv_len, best.columns, out_.columns);
  }

 private:
  struct Split {
    int64_t units, columns;  // distances or tiles; single columns
    double tiles, covered;   // 64 x 64 tiles per row block; mass
  };

  int64_t units_for(double need) const {
    for (int64_t i = 0; i < source_.forced; i++) need -= source_.mass[i];
    return source_.forced + fewest_for_sum(source_.mass + source_.forced, source_.size - source_.forced, need,
                                           source_.limit - source_.forced, scratch_.spare).count;
  }

  // Takes the `units` best bands, then columns until the wanted mass is covered. Leaves bands and residual
  // behind.
  Split complete(int64_t units) {
    float* const residual = scratch_.residual;
    out_.band_count = source_.bands(units, reinterpret_cast<int32_t*>(scratch_.spare), out_.bands);
    const double inside = outside_bands(probe_, mass_, out_.bands, out_.band_count, residual);
    Split split{units, forced_columns_, 0, inside};
    for (int64_t j = 0; j < forced_columns_; j++) split.covered += residual[j];
    const Prefix more = fewest_for_sum(residual + forced_columns_, probe_.kv_len - forced_columns_,
                                       wanted_ - split.covered, column_limit_ - forced_columns_,
                                       scratch_.spare);
    split.columns += more.count;
    split.covered += more.sum;
    split.tiles = double(split.columns) / MI_BLOCK;
    for (int64_t i = 0; i < out_.band_count; i++)
      split.tiles += double(ceil_div(int64_t(out_.bands[i].far) - out_.bands[i].near, MI_BLOCK));
    return split;
  }

  const Probe& probe_;
  const HeadMass& mass_;
  const BandSource& source_;
  const double wanted_;
  const SelectionScratch& scratch_;
  VerticalSlash& out_;
  const int64_t column_limit_, forced_columns_;
};

}  // namespace

bool select_vertical_slash(const Probe& probe, const mi_pattern& pattern, const HeadMass& mass,
                           const SelectionScratch& scratch, VerticalSlash& out) {
  const VerticalSlashBudget budget = vertical_slash_budget(pattern, probe.kv_len);
  const BandSource source(probe, pattern, mass.slash, budget.distances, scratch.tiles);
  if (pattern.mass > 0) {
    double total = 0;
    for (int64_t j = 0; j < probe.kv_len; j++) total += mass.vertical[j];
    if (!std::isfinite(total)) return false;
    constexpr double kRounding = 1 - 1e-6;  // of f32 sums: a mass of 1 can be reached
    MassBudget(probe, mass, source, pattern.mass * total * kRounding, budget.columns, scratch, out).fill();
    return true;
  }
  out.column_count = top_columns(mass.vertical, probe.kv_len, budget.columns, out.columns);
  out.band_count = source.bands(source.limit, reinterpret_cast<int32_t*>(scratch.spare), out.bands);
  return true;
}

}  // namespace mi::cpu
