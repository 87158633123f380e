// The consumers of the Hopper kernel: from keys and values to the output.
#pragma once
#include "forward_sm90.cuh"

namespace mi::cuda {

template <class T, class Config>
class Consumer {
 public:
  __device__ Consumer(const ForwardParams& params, Smem<Config>& smem, int half)
      : p_(params.problem), schedule_(params.schedule), smem_(smem), half_(half), thread_(threadIdx.x % 128) {
    if (half == 1) pass_turn();  // the first turn is half 0's
  }

  __device__ void run() {
    for (uint32_t q_parity = 0;; q_parity ^= 1) {
      item_ = tile_ahead().item;
      if (item_ == kNoItem) return;
      int head, pair;
      schedule_.locate(p_, item_, head, pair);
      const int row = (2 * pair + half_) * kUnit + thread_ / 32 * 16 + thread_ % 32 / 4;

      float o[Config::kDim / 2] = {};
      OnlineSoftmax softmax;
      over_ = false;
      const bool any = next_tile(kAnyTiles);
      mbarrier_wait(smem_address(&smem_.q_full), q_parity);  // also if there is nothing to do: the next Q comes then
      if (any) attend(row, o, softmax);
      else release(smem_.q_free);
      store(head, row, o, softmax);
    }
  }

 private:
  __device__ __forceinline__ const Tile& tile_ahead() {
    mbarrier_wait(smem_address(&smem_.k_full[ahead_.stage]), ahead_.parity);
    return smem_.tiles[ahead_.stage];
  }

  // Goes to the item's next tile that this half uses. Passes over at most `most` that it does not; false if that is not
  // enough, or if the item is over.
  __device__ __forceinline__ bool next_tile(int most) {
    for (;; most--) {
      const Tile& tile = tile_ahead();
      over_ = tile.item != item_;
      if (over_) return false;
      flags_ = tile.flags;
      const bool uses = flags_ >> half_ & 1;
      if (!uses && most == 0) return false;
      here_ = ahead_;
      ahead_.advance();
      if (uses) return true;
      release(smem_.k_free[here_.stage]);
      take_turn();
      pass_turn();
    }
  }

  // All tiles of an item, in runs without long gaps: V of a run's last tile must not be held over one, for the ring fills
  // up behind it.
  __device__ __forceinline__ void attend(int row, float (&o)[Config::kDim / 2], OnlineSoftmax& softmax) {
    constexpr int kGap = Config::kStages - 2;
    const int position = p_.causal ? p_.first_position() + row : kEverywhere;
    float factor[2];
    uint32_t p[kTileKeys / 4];  // weights, the A operand of P V
    do {
      {
        float s[kTileKeys / 2];
        take_turn();
        issue_scores(s);
        pass_turn();
        wgmma_wait<0>();
        wgmma_pin(s);
        mask_and_release_k(s, position);
        if (softmax.step(s, p_.scale_log2, factor)) scale_rows(o, factor);
        pack_weights<T>(s, p);
      }
      RingPosition<Config::kStages> values = here_;
      while (next_tile(kGap)) {
        float s[kTileKeys / 2];
        take_turn();
        issue_scores(s);
        issue_values(o, p, values);
        pass_turn();
        wgmma_wait<1>();
        wgmma_pin(s);
        mask_and_release_k(s, position);
        const bool rescale = softmax.step(s, p_.scale_log2, factor);
        wgmma_wait<0>();
        wgmma_pin(o);
        release(smem_.v_free[values.stage]);
        pack_weights<T>(s, p);
        if (rescale) scale_rows(o, factor);
        values = here_;
      }
      if (over_) release(smem_.q_free);
      issue_values(o, p, values);
      wgmma_wait<0>();
      wgmma_pin(o);
      release(smem_.v_free[values.stage]);
      if (over_) return;
    } while (next_tile(kAnyTiles));
    release(smem_.q_free);
  }

  __device__ __forceinline__ void issue_scores(float (&s)[kTileKeys / 2]) {
    const uint64_t q = wgmma_operand(uniform_address(smem_.q[half_]), 0);
    const uint64_t k = wgmma_operand(uniform_address(smem_.k[here_.stage]), 0);
    wgmma_pin(s);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < Config::kDim / 16; i++)
      wgmma_ss<T>(s, wgmma_advance(q, i / 4 * kBoxBytes + i % 4 * 32), wgmma_advance(k, i / 4 * 2 * kBoxBytes + i % 4 * 32),
                  i > 0);
    wgmma_commit();
  }

  __device__ __forceinline__ void issue_values(float (&o)[Config::kDim / 2], const uint32_t* p,
                                               const RingPosition<Config::kStages>& at) {
    mbarrier_wait(smem_address(&smem_.v_full[at.stage]), at.parity);
    const uint64_t v = wgmma_operand(uniform_address(smem_.v[at.stage]), kBoxBytes);
    wgmma_pin(o);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kTileKeys / 16; i++)
      wgmma_rs<T>(o, p + 4 * i, wgmma_advance(v, i / 4 * Config::kChunks * kBoxBytes + i % 4 * 2048));
    wgmma_commit();
  }

  __device__ __forceinline__ void mask_and_release_k(float (&s)[kTileKeys / 2], int position) {
    if (flags_ >> kMaskedShift >> half_ & 1) {
      const Tile& tile = smem_.tiles[here_.stage];
      KeyBits seen[2][2];
#pragma unroll
      for (int u = 0; u < 2; u++)
#pragma unroll
        for (int r = 0; r < 2; r++)
          seen[u][r] = KeyBits(visible(tile.keys[half_][u], tile.first[u],
                                       position == kEverywhere ? position : position + 8 * r, tile.window));
      mask_scores(s, seen);
    }
    release(smem_.k_free[here_.stage]);
  }

  __device__ __forceinline__ void release(uint64_t& barrier) {
    __syncwarp();
    if (thread_ % 32 == 0) mbarrier_arrive(smem_address(&barrier));
  }
  // Every lane has the same address. Sent through lane 0, the compiler knows it, too, and offsets become uniform
  // arithmetic instead of two moves before each wgmma.
  __device__ static __forceinline__ uint32_t uniform_address(const void* p) {
    return __shfl_sync(0xffffffffu, smem_address(p), 0);
  }
  __device__ __forceinline__ void take_turn() { named_barrier_sync(1 + half_, 256); }
  __device__ __forceinline__ void pass_turn() { named_barrier_arrive(2 - half_, 256); }

  // Rows without a key: 0 and -inf.
  __device__ __forceinline__ void store(int head, int row, float (&o)[Config::kDim / 2], OnlineSoftmax& softmax) {
    softmax.finish();
    const float factor[2] = {softmax.inverse_sum(0), softmax.inverse_sum(1)};
    scale_rows(o, factor);
    const int lane_column = 2 * (thread_ % 4);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      if (row + 8 * r >= p_.q_len) continue;
      char* out = p_.out.at(head, row + 8 * r);
#pragma unroll
      for (int c = 0; c < Config::kDim / 8; c++)
        if (8 * c < p_.head_dim)
          *reinterpret_cast<uint32_t*>(out + 2 * (8 * c + lane_column)) = pack_16<T>(o[4 * c + 2 * r], o[4 * c + 2 * r + 1]);
      if (p_.lse && lane_column == 0)
        p_.lse[int64_t(head) * p_.q_len + row + 8 * r] = softmax.lse(r, p_.scale_log2) * kLn2;
    }
  }

  static constexpr float kLn2 = 0.693147180559945309f;
  static constexpr int kAnyTiles = -1;  // no limit: never counts down to 0

  const Problem& p_;
  const Schedule& schedule_;
  Smem<Config>& smem_;
  const int half_, thread_;
  RingPosition<Config::kStages> here_, ahead_;
  int item_;
  bool over_;  // the tile ahead is another item's
  uint32_t flags_;
};

}  // namespace mi::cuda
