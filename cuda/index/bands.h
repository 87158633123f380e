// Bands of a vertical-slash head: from chosen distances or tiles to disjoint ranges relative to end(m).
#pragma once
#include "work_list.h"

namespace mi {

// Builds bands from distances given in descending order, by upstream's rule (reference 1.1.2). A distance s
// stands for the 64 keys [end(m) - s - 64, end(m) - s) of each row block, hence for Band {s, s + 64}: every
// row r of the block has its key at distance s among them. From the farthest distance on, a range that the
// next one overlaps or touches grows by a full 64 towards the row block; otherwise it is closed and a new one
// starts at the next distance.
//
// Upstream merges per row block, and moves ranges that would begin before key 0 up to [0, 64). Ours are
// merged once per head and cut at key 0 instead. The two therefore differ only in the chain of touching
// ranges that begins at key 0: there upstream's is anchored at key 0 and may reach up to 63 keys further or
// less far towards the row block; both cover every causal cell of every chosen distance.
class BandChain {
 public:
  // out receives bands from the farthest to the nearest.
  explicit BandChain(Band* out) : out_(out) {}
  void add(int64_t distance) {
    if (open_ && distance >= near_ - MI_BLOCK) {
      if (distance < near_) near_ -= MI_BLOCK;
      return;
    }
    close();
    near_ = distance;
    far_ = distance + MI_BLOCK;
    open_ = true;
  }
  // Number of bands. A chain may have grown past the end of the row block, where there is nothing to compute.
  int64_t finish() {
    close();
    for (int64_t i = 0; i < count_ / 2; i++) {
      const Band band = out_[i];
      out_[i] = out_[count_ - 1 - i];
      out_[count_ - 1 - i] = band;
    }
    return count_;
  }

 private:
  void close() {
    if (open_) out_[count_++] = {uint32_t(max64(near_, 0)), uint32_t(far_)};
  }
  Band* out_;
  int64_t count_ = 0, near_ = 0, far_ = 0;
  bool open_ = false;
};

// Adds tile t = Band {64 t, 64 t + 64}; tiles come in ascending order.
inline void add_tile(int64_t t, Band* bands, int64_t& count) {
  const auto near = uint32_t(MI_BLOCK * t);
  if (count > 0 && bands[count - 1].far == near) {
    bands[count - 1].far += MI_BLOCK;
  } else {
    bands[count++] = {near, near + MI_BLOCK};
  }
}

// Mass of diagonal tile t, from the mass of each distance. Over a whole row block distance d lies in tile t
// for 64 - |d - 64 t| of its rows, wherever the block stands: hence the triangle.
inline float tile_mass(const float* slash, int64_t kv_len, int64_t t) {
  const int64_t centre = MI_BLOCK * t;
  double sum = 0;
  for (int64_t d = max64(0, centre - MI_BLOCK + 1); d < min64(kv_len, centre + MI_BLOCK); d++)
    sum += double(slash[d]) * double(MI_BLOCK - (d > centre ? d - centre : centre - d));
  return float(sum / MI_BLOCK);
}

}  // namespace mi
