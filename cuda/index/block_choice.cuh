// The best key blocks of a row block, chosen while their scores go by: a warp keeps the scores that may still
// be among the best and thins them out when its buffer is full. The matrix of all scores never exists.
//
// Scores come from the row block backwards: near keys tend to score high, and once the best are held, little that
// follows has to be kept. The other way round nearly every score is among the best so far, and thinning out takes ten
// times as long as all the rest.
#pragma once
#include "plan.cuh"
#include "select.cuh"

namespace mi::cuda {

constexpr uint32_t kAllLanes = 0xffffffffu;

// Of scores in ordered bits, those from `least` on are in, but for the first `surplus` of those equal to it.
struct WarpThreshold {
  uint32_t least;
  int surplus;
};

// The `wanted` largest of keys[0 .. n), 0 < wanted < n, none of them less than `floor`; by one warp. Bit by bit, until
// as many as are wanted lie above: scores differ early.
__device__ inline WarpThreshold warp_threshold(const uint32_t* keys, int n, int wanted, uint32_t floor) {
  const int lane = threadIdx.x % 32;
  uint32_t most = 0;
  for (int i = lane; i < n; i += 32) most = max(most, keys[i]);
  most = __reduce_max_sync(kAllLanes, most);
  const int common = __clz(int(most ^ floor));  // leading bits, of all keys
  uint32_t least = common == 0 ? 0 : floor & ~(kAllLanes >> 1 >> (common - 1));
  int in = n;
  for (int bit = 31 - common; bit >= 0 && in > wanted; bit--) {
    const uint32_t raised = least | 1u << bit;
    int count = 0;
#pragma unroll 4
    for (int i = lane; i < n; i += 32) count += keys[i] >= raised;
    count = __reduce_add_sync(kAllLanes, count);
    if (count >= wanted) least = raised, in = count;
  }
  return {least, in - wanted};
}

// Keeps the `wanted` best of n entries in their order, of equals the last; by one warp. Returns what the rest has not.
static __device__ __noinline__ uint32_t keep_best(uint32_t* keys, uint32_t* blocks, int n, int wanted, uint32_t floor) {
  const int lane = threadIdx.x % 32;
  const uint32_t before = (1u << lane) - 1;
  const WarpThreshold best = warp_threshold(keys, n, wanted, floor);
  int kept = 0, ties_before = 0;
  for (int base = 0; base < n; base += 32) {
    const bool present = base + lane < n;
    const uint32_t key = present ? keys[base + lane] : 0, block = present ? blocks[base + lane] : 0;
    const bool tie = present && key == best.least;
    const uint32_t ties = __ballot_sync(kAllLanes, tie);
    const bool stays =
        present && (key > best.least || (tie && ties_before + __popc(ties & before) >= best.surplus));
    const uint32_t staying = __ballot_sync(kAllLanes, stays);
    __syncwarp();  // all have read before any writes
    if (stays) {
      keys[kept + __popc(staying & before)] = key;
      blocks[kept + __popc(staying & before)] = block;
    }
    kept += __popc(staying);
    ties_before += __popc(ties);
  }
  __syncwarp();
  return best.least;
}

// Where a launch keeps the buffers: in shared memory if they fit, otherwise in the workspace.
struct ChoiceBuffers {
  int32_t capacity;  // entries of a row block, at least 32 more than any head wants
  bool in_shared;
  char* workspace;

  // Of this thread block, which works on `rows` row blocks at once; `shared` is where they would lie.
  __device__ char* base(int rows, char* shared) const {
    return in_shared ? shared : workspace + int64_t(blockIdx.x) * rows * row_bytes();
  }
  __host__ __device__ int64_t row_bytes() const { return int64_t(capacity) * 8; }
  uint64_t workspace_bytes(const Launch& launch, int rows) const {
    return in_shared ? 0 : uint64_t(launch.sm_count) * uint64_t(rows) * uint64_t(row_bytes());
  }
};

// Buffers of `rows` row blocks a thread block, beside `used` bytes of shared memory.
inline ChoiceBuffers choice_buffers(const Launch& launch, const IndexKernelArgs& a, int rows, int used) {
  constexpr int kLeast = 64, kMost = 512;  // entries beyond the wanted ones
  int64_t wanted = 0;
  for (int h = 0; h < a.probe.q_heads; h++)
    if (a.heads[h].kind == MI_BLOCK_SPARSE) wanted = max64(wanted, min64(a.heads[h].top_k, a.key_blocks));
  const int64_t entries = round_up(wanted + kMost, 32), room = (launch.shared_bytes - used) / (rows * 8);
  if (room >= wanted + kLeast) return {int32_t(min64(room, entries)), true, nullptr};
  return {int32_t(entries), false, a.choice};
}

// The choices of the row blocks that a thread block works on for one head; each is kept by one warp.
class BlockChoices {
 public:
  // Of one row block, between calls.
  struct State {
    uint32_t bar;  // least ordered score that may still be chosen
    int32_t size;
  };

  __device__ BlockChoices(const ChoiceBuffers& buffers, char* base, const HeadPlan& plan)
      : buffers_(buffers), base_(base), plan_(plan) {}

  // Whether any of `count` scores may still be chosen.
  __device__ static bool reaches(const State& state, const float* scores, int count) {
    float most = -INFINITY;
#pragma unroll 4
    for (int i = threadIdx.x % 32; i < count; i += 32) most = fmaxf(most, scores[i]);
    // Below -inf the bits are those of a NaN: then nothing is certain.
    return __any_sync(kAllLanes, state.bar == 0 || !(most < from_ordered_bits(state.bar)));
  }

  // Scores of key blocks [first, first + count), all of which come before those of the row's last call.
  __device__ State add(int row, State state, const float* scores, int64_t first, int count) const {
    const int lane = threadIdx.x % 32;
    for (int end = count; end > 0; end -= 32) {
      const int i = end - 1 - lane;
      const uint32_t key = i >= 0 ? ordered_bits(scores[i]) : 0;
      uint32_t in = __ballot_sync(kAllLanes, i >= 0 && key >= state.bar);
      if (in == 0) continue;
      if (state.size + __popc(in) > buffers_.capacity) {
        thin_out(row, state);
        in = __ballot_sync(kAllLanes, i >= 0 && key >= state.bar);
      }
      if (in >> lane & 1) {
        const int at = state.size + __popc(in & ((1u << lane) - 1));
        keys(row)[at] = key;
        blocks(row)[at] = uint32_t(first + i);
      }
      state.size += __popc(in);
    }
    return state;
  }

  // Writes the blocks of row block m, ascending: the best and the forced ones, or all in reach.
  __device__ void write(int row, State state, const IndexKernelArgs& a, int64_t m) const {
    const int lane = threadIdx.x % 32;
    const int64_t reach = a.dense_tiles(m);
    const uint32_t* const chosen = blocks(row);
    uint32_t* const counts = a.at<uint32_t>(plan_.blocks);
    uint32_t* const out = counts + a.row_blocks + m * plan_.block_stride;
    const bool all = reach <= plan_.top_k;
    int64_t rest = reach;  // from here on every block is in
    if (plan_.flags & MI_FORCE_DIAGONAL) rest = (a.offset() + MI_BLOCK * m) / MI_BLOCK;
    int64_t count = 0;
    if (all) {
      rest = 0;
    } else {
      thin_out(row, state);
      if (plan_.flags & MI_FORCE_SINK && rest > 0 && chosen[state.size - 1] != 0) {
        if (lane == 0) out[0] = 0;
        count = 1;
      }
      for (int last = state.size - 1; last >= 0; last -= 32) {
        const uint32_t b = last - lane >= 0 ? chosen[last - lane] : UINT32_MAX;
        const uint32_t in = __ballot_sync(kAllLanes, int64_t(b) < rest);
        if (in >> lane & 1) out[count + __popc(in & ((1u << lane) - 1))] = b;
        count += __popc(in);
      }
    }
    for (int64_t b = rest + lane; b < reach; b += 32) out[count + b - rest] = uint32_t(b);
    if (lane == 0) counts[m] = uint32_t(count + reach - rest);
  }

 private:
  // Scores in ordered bits, and where they stand.
  __device__ uint32_t* keys(int row) const { return reinterpret_cast<uint32_t*>(base_ + row * buffers_.row_bytes()); }
  __device__ uint32_t* blocks(int row) const { return keys(row) + buffers_.capacity; }

  __device__ void thin_out(int row, State& state) const {
    __syncwarp();
    if (state.size <= plan_.top_k) return;
    state.bar = keep_best(keys(row), blocks(row), state.size, plan_.top_k, state.bar);
    state.size = plan_.top_k;
  }

  const ChoiceBuffers& buffers_;
  char* const base_;
  const HeadPlan& plan_;
};

}  // namespace mi::cuda
