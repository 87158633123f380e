// Attention forward for Hopper. Four parts of a block work at once:
//
//   planner    a warp: item -> batches of units of 64 keys, from the work list
//   loader     a warp: units -> tiles of two units; lets the copy engine bring their K and V into a ring
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

// Walks the lists. A warp of its own: its code is long and cold, and must not hold up the copies.
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
      item = __shfl_sync(0xffffffffu, following, 0);
    }
    publish(kNoItem, true, {}, {});
  }

 private:
  __device__ void plan(int item) {
    int head, pair;
    params_.schedule.locate(params_.problem, item, head, pair);
    // In shared memory: too much for the registers.
    auto& list = reinterpret_cast<HeadList&>(smem_.list);
    __syncwarp();
    if (lane_ == 0) new (&list) HeadList(params_.problem, head);
    __syncwarp();
    UnitWalk<2> walk(params_.problem, list, 2 * pair);
    bool last = false;
    while (!last) {
      const bool any = walk.next_batch();
      last = !any || walk.over();
      publish(item, last, list.window, any ? walk.mine() : Unit<2>{});
    }
  }

  __device__ void publish(int item, bool last, const Window& window, const Unit<2>& unit) {
    mbarrier_wait(smem_address(&smem_.batch_free[at_.stage]), at_.parity ^ 1);
    Batch& batch = smem_.batches[at_.stage];
    batch.units[lane_] = unit;
    if (lane_ == 0) batch.item = item, batch.last = last, batch.window = window;
    __syncwarp();
    if (lane_ == 0) mbarrier_arrive(smem_address(&smem_.batch_full[at_.stage]));
    at_.advance();
  }

  const ForwardParams& params_;
  Smem<Config>& smem_;
  const int lane_;
  RingPosition<2> at_;
};

// ---- loader ----------------------------------------------------------------------------------------

// Makes tiles of two units that the same halves want, so that nobody computes on a unit without need.
template <class Config>
class Loader {
 public:
  __device__ Loader(const ForwardParams& params, Smem<Config>& smem)
      : params_(params), smem_(smem), lane_(threadIdx.x % 32) {
    if (lane_ == 0) smem.waiting[0] = {params.problem.kv_len, 0, {0, 0}, 3};  // zeros, from past the last key
    __syncwarp();
  }

  __device__ void run() {
    for (RingPosition<2> from;; from.advance()) {
      mbarrier_wait(smem_address(&smem_.batch_full[from.stage]), from.parity);
      const Batch& batch = smem_.batches[from.stage];
      if (batch.item == kNoItem) break;
      load(batch);
      __syncwarp();
      if (lane_ == 0) mbarrier_arrive(smem_address(&smem_.batch_free[from.stage]));
    }
    mbarrier_wait(smem_address(&smem_.k_free[at_.stage]), at_.parity ^ 1);
    if (lane_ > 0) return;
    smem_.tiles[at_.stage].item = kNoItem;
    mbarrier_expect(smem_address(&smem_.k_full[at_.stage]), 0);
  }

 private:
  __device__ void load(const Batch& batch) {
    if (batch.item != item_) {
      item_ = batch.item;
      first_ = true;
      params_.schedule.locate(params_.problem, item_, head_, pair_);
    }
    const uint32_t c = batch.units[lane_].halves();
    uint32_t left[4];  // lanes, by the halves that want their unit
#pragma unroll
    for (uint32_t k = 1; k < 4; k++) left[k] = __ballot_sync(0xffffffffu, c == k);
    // The kinds in turn, so that a half that passes over tiles does not pass over many. An odd one out waits.
    while (left[1] | left[2] | left[3]) {
#pragma unroll 1
      for (uint32_t k = 1; k < 4; k++) {
        uint32_t lanes = k == 1 ? left[1] : k == 2 ? left[2] : left[3];
        if (lanes == 0) continue;
        const Unit<2>&a = batch.units[take_lowest(lanes)], *b = nullptr;
        if (waiting_ >> k & 1) b = &smem_.waiting[k];
        else if (lanes) b = &batch.units[take_lowest(lanes)];
        if (b) {
          emit(a, *b, batch.window);
          waiting_ &= ~(1u << k);
        } else {
          if (lane_ == 0) smem_.waiting[k] = a;
          __syncwarp();
          waiting_ |= 1u << k;
        }
        (k == 1 ? left[1] : k == 2 ? left[2] : left[3]) = lanes;
      }
    }
    if (!batch.last) return;
    // What has no partner of its kind takes any. If there is not a single key, the rows have to be written all the same.
    while (waiting_ || first_) {
      const int a = waiting_ ? 31 - __clz(int(waiting_)) : 0;
      waiting_ &= ~(1u << a);
      const int b = waiting_ ? 31 - __clz(int(waiting_)) : 0;
      waiting_ &= ~(1u << b);
      emit(smem_.waiting[a], smem_.waiting[b], batch.window);
    }
  }

  __device__ static int take_lowest(uint32_t& lanes) {
    const int lane = __ffs(int(lanes)) - 1;
    lanes &= lanes - 1;
    return lane;
  }

  __device__ void emit(const Unit<2>& a, const Unit<2>& b, const Window& window) {
    const uint32_t stage = at_.stage, freed = at_.parity ^ 1;
    const uint32_t k_full = smem_address(&smem_.k_full[stage]), v_full = smem_address(&smem_.v_full[stage]);
    const uint32_t v_free = smem_address(&smem_.v_free[stage]);
    const uint32_t uses = a.halves() | b.halves();
    // A lane copies one box: chunk lane % kChunks of unit lane / kChunks.
    const int u = lane_ / Config::kChunks, c = lane_ % Config::kChunks;
    const bool gathered = u == 0 ? a.gathered : b.gathered;
    const int row = u == 0 ? a.first : b.first, head = gathered ? 0 : head_ / params_.problem.group;

    mbarrier_wait(smem_address(&smem_.k_free[stage]), freed);
    if (lane_ == 0) {
      smem_.tiles[stage] = {item_, uses | (a.masked | b.masked) << kMaskedShift, window,
                            {first_key(a), first_key(b)}, {{a.keys[0], b.keys[0]}, {a.keys[1], b.keys[1]}}};
      mbarrier_expect(k_full, Config::kTileBytes);
    }
    __syncwarp();
    if (u < 2)
      tma_load(smem_address(smem_.k[stage][c][u]), gathered ? &params_.column_k : &params_.k, k_full,
               c * kBoxColumns, row, head);
    if (first_) load_q(u, c);
    first_ = false;

    mbarrier_wait(v_free, freed);
    if (lane_ == 0) {
      // A half that does not use the tile leaves its V alone; it is let go in its place.
      if (uses != 3) mbarrier_arrive(v_free, (2 - __popc(uses)) * kWarpsPerHalf);
      mbarrier_expect(v_full, Config::kTileBytes);
    }
    __syncwarp();
    if (u < 2)
      tma_load(smem_address(smem_.v[stage][u][c]), gathered ? &params_.column_v : &params_.v, v_full,
               c * kBoxColumns, row, head);
    __syncwarp();
    at_.advance();
  }

  __device__ static int32_t first_key(const Unit<2>& unit) { return unit.gathered ? -kEverywhere : unit.first; }

  __device__ void load_q(int h, int c) {
    mbarrier_wait(smem_address(&smem_.q_free), q_parity_ ^ 1);
    q_parity_ ^= 1;
    const uint32_t full = smem_address(&smem_.q_full);
    if (lane_ == 0) mbarrier_expect(full, Config::kQueryBytes);
    __syncwarp();
    if (h < 2) tma_load(smem_address(smem_.q[h][c]), &params_.q, full, c * kBoxColumns, (2 * pair_ + h) * kUnit, head_);
  }

  const ForwardParams& params_;
  Smem<Config>& smem_;
  const int lane_;
  RingPosition<Config::kStages> at_;
  uint32_t q_parity_ = 0;
  int item_ = kNoItem, head_, pair_;
  bool first_;            // nothing of the item has been emitted yet
  uint32_t waiting_ = 0;  // bit k: waiting[k] waits for a partner; k: the halves that want it, as bits
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
    const uint64_t q = wgmma_operand(smem_address(smem_.q[half_]), 0);
    const uint64_t k = wgmma_operand(smem_address(smem_.k[here_.stage]), 0);
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
    const uint64_t v = wgmma_operand(smem_address(smem_.v[at.stage]), kBoxBytes);
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
      mbarrier_init(smem_address(&smem.batch_free[s]), 1);
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
    if (threadIdx.x < 32) Loader<Config>(params, smem).run();
    else if (threadIdx.x < 64) Planner<Config>(params, smem).run();
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
