// The planner of the Hopper kernel: from the work list to tiles.
#pragma once
#include <new>

#include "../core/cancel.cuh"
#include "forward_sm90.cuh"

namespace mi::cuda {

// Walks the lists and makes tiles of two units that the same halves want, so that nobody computes on a unit without
// need. All that can be known of a tile beforehand is worked out here, for many tiles at once: the loaders have some
// 2,500 cycles for each. A warp of its own: the code is long and waits for memory.
template <class Config>
class Planner {
 public:
  __device__ Planner(const ForwardParams& params, Smem<Config>& smem)
      : params_(params), smem_(smem), lane_(threadIdx.x % 32) {}

  __device__ void run() {
    int item = blockIdx.x;
    while (item < params_.schedule.items && !warp_cancelled(params_.problem.cancel)) {
      int following = 0;  // asked for long before it is needed
      if (lane_ == 0) following = gridDim.x + atomicAdd(params_.counter, 1);
      plan(item);
      item = __shfl_sync(kAll, following, 0);
    }
    Batch& batch = next_batch();
    if (lane_ == 0) batch.item = kNoItem;
    publish();
  }

 private:
  static constexpr uint32_t kAll = 0xffffffffu;

  __device__ void plan(int item) {
    int head, pair;
    params_.schedule.locate(params_.problem, item, head, pair);
    // In shared memory: too much for the registers.
    auto& list = reinterpret_cast<HeadList&>(smem_.list);
    __syncwarp();
    if (lane_ == 0) new (&list) HeadList(params_.problem, head);
    __syncwarp();
    UnitWalk<2> walk(params_.problem, list, 2 * pair);
    bool starts = true, last = false;
    while (!last) {
      const bool any = walk.next_batch();
      last = !any || walk.over();
      Batch& batch = next_batch();
      const int count = make_tiles(batch, item, list.window, any ? walk.mine() : Unit<2>{}, starts, last);
      if (count == 0) continue;
      if (lane_ == 0) batch.item = item, batch.head = head, batch.pair = pair, batch.count = count, batch.starts = starts;
      publish();
      starts = false;
    }
  }

  // The lanes' units, in pairs of a kind: kind k are those that the halves want whose bits k has. Kinds take turns, so
  // that a half that passes over tiles does not pass over many. An odd one out waits for the next batch; in the last one
  // it takes any partner. If an item has not a single key, its rows have to be written all the same.
  __device__ int make_tiles(Batch& batch, int item, const Window& window, const Unit<2>& unit, bool starts, bool last) {
    const uint32_t kind = unit.halves(), was_waiting = waiting_;
    uint32_t before = 0, odd = 0;  // units of the lane's kind before its own; kinds with an odd one out
    int pairs[4] = {}, count = 0;
#pragma unroll
    for (uint32_t k = 1; k < 4; k++) {
      const uint32_t lanes = __ballot_sync(kAll, kind == k), first = was_waiting >> k & 1;
      if (kind == k) before = first + __popc(lanes & ((1u << lane_) - 1));
      const uint32_t units = first + __popc(lanes);
      pairs[k] = units / 2;
      odd |= units % 2 << k;
      count += pairs[k];
    }
    const auto place = [&](uint32_t k, uint32_t i) -> Unit<2>& {  // of unit i of kind k
      const int round = i / 2;
      if (round < (k == 1 ? pairs[1] : k == 2 ? pairs[2] : pairs[3])) {
        const int tile = min(pairs[1], round + (k > 1)) + min(pairs[2], round + (k > 2)) + min(pairs[3], round);
        return batch.tiles[tile].units[i % 2];
      }
      if (!last) return smem_.waiting[k];
      const int rank = __popc(odd >> (k + 1));
      return batch.tiles[count + rank / 2].units[rank % 2];
    };
    Unit<2> waited;
    const bool holds = was_waiting >> lane_ & 1;  // lane k that of kind k
    if (holds) waited = smem_.waiting[lane_];
    __syncwarp();
    if (holds) place(lane_, 0) = waited;
    if (kind) place(kind, before) = unit;
    waiting_ = last ? 0 : odd;
    if (last) {
      const int singles = __popc(odd), tiles = starts && count + singles == 0 ? 1 : (singles + 1) / 2;
      if (lane_ == 0)
        for (int i = singles; i < 2 * tiles; i++)  // zeros, from past the last key
          batch.tiles[count + i / 2].units[i % 2] = {params_.problem.kv_len, 0, {0, 0}, 3};
      count += tiles;
    }
    __syncwarp();
    if (lane_ < count) {
      auto& at = batch.tiles[lane_];
      const Unit<2> a = at.units[0], b = at.units[1];
      at.tile = {item,
                 a.halves() | b.halves() | (a.masked | b.masked) << kMaskedShift |
                     (a.gathered | b.gathered << 1) << kGatheredShift,
                 window,
                 {first_key(a), first_key(b)},
                 {a.first, b.first},
                 {{a.keys[0], b.keys[0]}, {a.keys[1], b.keys[1]}}};
    }
    return count;
  }
  __device__ static int32_t first_key(const Unit<2>& unit) { return unit.gathered ? -kEverywhere : unit.first; }

  __device__ Batch& next_batch() {
    mbarrier_wait(smem_address(&smem_.batch_free[at_.stage]), at_.parity ^ 1);
    return smem_.batches[at_.stage];
  }
  __device__ void publish() {
    mbarrier_arrive(smem_address(&smem_.batch_full[at_.stage]));  // each lane for what it wrote
    at_.advance();
  }

  const ForwardParams& params_;
  Smem<Config>& smem_;
  const int lane_;
  RingPosition<2> at_;
  uint32_t waiting_ = 0;  // bit k: waiting[k] waits for a partner
};

}  // namespace mi::cuda
