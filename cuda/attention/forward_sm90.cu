// Attention forward for Hopper. Four parts of a block work at once:
//
//   planner    a warp: item -> units of 64 keys, from the work list -> batches of tiles of two units
//   loader     a warp: lets the copy engine bring the tiles' K and V into a ring
//   consumers  two warpgroups of 64 query rows each ("halves"):
//              S = Q K^T of a tile, while O += P V of the tile before still runs; softmax; next
//
// The consumers take turns in issuing products, so that one computes its softmax while the other has the tensor cores.
// Blocks are persistent and draw work items from a counter.
#include <new>

#include "forward_sm90.cuh"

namespace mi::cuda {

namespace {

// A stage of a ring and the parity of its current phase.
template <int kStages>
struct RingPosition {
  uint32_t stage = 0, parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// ---- planner ---------------------------------------------------------------------------------------

// Walks the lists and makes tiles of two units that the same halves want, so that nobody computes on a unit without
// need. All that can be known of a tile beforehand is worked out here, for many tiles at once: the loader has a few
// hundred cycles for each.
template <class Config>
class Planner {
 public:
  __device__ Planner(const ForwardParams& params, Smem<Config>& smem)
      : params_(params), smem_(smem), lane_(threadIdx.x % 32) {}

  __device__ void run() {
    int item = blockIdx.x;
    while (item < params_.schedule.items && !params_.problem.cancelled()) {
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
    __syncwarp();
    if (lane_ == 0) mbarrier_arrive(smem_address(&smem_.batch_full[at_.stage]));
    at_.advance();
  }

  const ForwardParams& params_;
  Smem<Config>& smem_;
  const int lane_;
  RingPosition<2> at_;
  uint32_t waiting_ = 0;  // bit k: waiting[k] waits for a partner
};

// ---- loaders ---------------------------------------------------------------------------------------

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
      __syncwarp();
      if (lane_ == 0) mbarrier_arrive(smem_address(&smem_.batch_free[from.stage]));
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

// ---- consumers -------------------------------------------------------------------------------------

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

template <class T, class Config>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(const __grid_constant__ ForwardParams params) {
  // Not rounded up by arithmetic, after which the compiler would no longer know that this is shared memory.
  extern __shared__ __align__(1024) char raw[];
  auto& smem = *reinterpret_cast<Smem<Config>*>(raw);
  if (threadIdx.x == 0) {
    if (smem_address(raw) % 1024) __trap();  // the swizzle's period
    mbarrier_init(smem_address(&smem.q_full), 1);
    mbarrier_init(smem_address(&smem.q_free), 2 * kWarpsPerHalf);
    for (int s = 0; s < 2; s++) {
      mbarrier_init(smem_address(&smem.batch_full[s]), 1);
      mbarrier_init(smem_address(&smem.batch_free[s]), 2);
    }
    for (int s = 0; s < Config::kStages; s++) {
      mbarrier_init(smem_address(&smem.k_full[s]), 1);
      mbarrier_init(smem_address(&smem.v_full[s]), 1);
      mbarrier_init(smem_address(&smem.k_free[s]), 2 * kWarpsPerHalf);
      mbarrier_init(smem_address(&smem.v_free[s]), 2 * kWarpsPerHalf);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    give_registers<Config::kProducerRegisters>();
    const int warp = threadIdx.x / 32;
    if (warp == 0) Loader<Config, false>(params, smem).run();
    else if (warp == 1) Loader<Config, true>(params, smem).run();
    else if (warp == 2) Planner<Config>(params, smem).run();
  } else {
    take_registers<Config::kConsumerRegisters>();
    Consumer<T, Config>(params, smem, warpgroup - 1).run();
  }
}

template <class T, class Config>
mi_status queue(const Launch& launch, const ForwardParams& params, mi_error* error) {
  constexpr int kBytes = sizeof(Smem<Config>);
  cudaFuncSetAttribute(forward_kernel<T, Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  const int blocks = params.schedule.items < launch.sm_count ? params.schedule.items : launch.sm_count;
  forward_kernel<T, Config><<<blocks, kThreads, kBytes, launch.stream>>>(params);
  return check_launch("attention", error);
}

}  // namespace

mi_status forward_sm90(const Launch& launch, const ForwardParams& params, bool half, mi_error* error) {
  if (params.problem.head_dim <= 64)
    return half ? queue<__half, Config64>(launch, params, error) : queue<__nv_bfloat16, Config64>(launch, params, error);
  return half ? queue<__half, Config128>(launch, params, error) : queue<__nv_bfloat16, Config128>(launch, params, error);
}

}  // namespace mi::cuda
