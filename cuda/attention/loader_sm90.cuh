// The loaders of the Hopper kernel: from tiles to keys and values in shared memory.
#pragma once
#include "forward_sm90.cuh"

namespace mi::cuda {

// One warp lets the copy engine bring K, and Q at the start of an item; another, V. Neither waits for the other.
template <class Config, bool kValues>
class Loader {
 public:
  __device__ Loader(const ForwardParams& params, Smem<Config>& smem)
      : params_(params), smem_(smem), lane_(threadIdx.x % 32) {}

  __device__ void run() {
    for (RingPosition<2> from;; from.advance()) {
      mbarrier_wait(smem_address(&smem_.batch_full[from.stage]), from.parity);
      const Batch& batch = smem_.batches[from.stage];
      if (batch.item == kNoItem) break;
      const int kv_head = batch.head / params_.problem.group, count = batch.count;
      for (int i = 0; i < count; i++) {
        load(batch.tiles[i].tile, kv_head);
        if (!kValues && batch.starts && i == 0) load_q(batch);
        at_.advance();
      }
      mbarrier_arrive(smem_address(&smem_.batch_free[from.stage]));  // each lane for its own reads
    }
    if (kValues) return;
    mbarrier_wait(smem_address(&smem_.k_free[at_.stage]), at_.parity ^ 1);
    if (lane_ > 0) return;
    smem_.tiles[at_.stage].item = kNoItem;
    mbarrier_expect(smem_address(&smem_.k_full[at_.stage]), 0);
  }

 private:
  // A lane copies one box: chunk lane % kChunks of unit lane / kChunks.
  __device__ void load(const Tile& tile, int kv_head) {
    const uint32_t stage = at_.stage;
    const uint32_t full = smem_address(kValues ? &smem_.v_full[stage] : &smem_.k_full[stage]);
    const uint32_t free = smem_address(kValues ? &smem_.v_free[stage] : &smem_.k_free[stage]);
    const int u = lane_ / Config::kChunks, c = lane_ % Config::kChunks;
    const bool gathered = tile.flags >> (kGatheredShift + u % 2) & 1;
    const int row = tile.rows[u % 2], head = gathered ? 0 : kv_head;
    const int skipping = 2 - __popc(tile.flags & 3);
    mbarrier_wait(free, at_.parity ^ 1);
    if (lane_ == 0) {
      if (!kValues) smem_.tiles[stage] = tile;
      // A half that does not use the tile leaves its V alone; it is let go in its place.
      else if (skipping) mbarrier_arrive(free, skipping * kWarpsPerHalf);
      mbarrier_expect(full, Config::kTileBytes);
    }
    __syncwarp();
    if (u >= 2) return;
    if (kValues)
      tma_load(smem_address(smem_.v[stage][u][c]), gathered ? &params_.column_v : &params_.v, full, c * kBoxColumns, row, head);
    else
      tma_load(smem_address(smem_.k[stage][c][u]), gathered ? &params_.column_k : &params_.k, full, c * kBoxColumns, row, head);
  }

  __device__ void load_q(const Batch& batch) {
    __syncwarp();
    mbarrier_wait(smem_address(&smem_.q_free), q_parity_ ^ 1);
    q_parity_ ^= 1;
    const uint32_t full = smem_address(&smem_.q_full);
    if (lane_ == 0) mbarrier_expect(full, Config::kQueryBytes);
    __syncwarp();
    const int h = lane_ / Config::kChunks, c = lane_ % Config::kChunks;
    if (h < 2)
      tma_load(smem_address(smem_.q[h][c]), &params_.q, full, c * kBoxColumns, (2 * batch.pair + h) * kUnit, batch.head);
  }

  const ForwardParams& params_;
  Smem<Config>& smem_;
  const int lane_;
  RingPosition<Config::kStages> at_;
  uint32_t q_parity_ = 0;
};

}  // namespace mi::cuda
