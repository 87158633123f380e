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

constexpr int kDigitBins = 256;  // 8 bits of the ordered score at a time

struct WarpThreshold {
  uint32_t key;
  int surplus;  // of those equal to `key`, so many are out
};

// The `wanted` largest of values[0 .. n), 0 < wanted < n; by one warp. `counts`: shared, [kDigitBins].
__device__ inline WarpThreshold warp_threshold(const float* values, int n, int wanted, uint32_t* counts) {
  const int lane = threadIdx.x % 32;
  uint32_t prefix = 0, known = 0;
  int surplus = 0;
#pragma unroll 1
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = lane; i < kDigitBins; i += 32) counts[i] = 0;
    __syncwarp();
#pragma unroll 4
    for (int i = lane; i < n; i += 32) {
      const uint32_t key = ordered_bits(values[i]);
      if ((key & known) == prefix) atomicAdd(&counts[key >> shift & (kDigitBins - 1)], 1u);
    }
    __syncwarp();
    // Lane l holds the eight bins from the top down that begin with 255 - 8 l.
    uint32_t mine = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) mine += counts[kDigitBins - 1 - 8 * lane - i];
    uint32_t until = mine;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const uint32_t y = __shfl_up_sync(0xffffffffu, until, o);
      if (lane >= o) until += y;
    }
    const int owner = __ffs(int(__ballot_sync(0xffffffffu, until >= uint32_t(wanted)))) - 1;
    int rest = wanted - int(until - mine), bin = kDigitBins - 1 - 8 * lane;
    if (lane == owner)
      while (int(counts[bin]) < rest) rest -= int(counts[bin--]);
    wanted = __shfl_sync(0xffffffffu, rest, owner);
    bin = __shfl_sync(0xffffffffu, bin, owner);
    surplus = int(counts[bin]) - wanted;
    prefix |= uint32_t(bin) << shift;
    known |= uint32_t(kDigitBins - 1) << shift;
    __syncwarp();
  }
  return {prefix, surplus};
}

// Keeps the `wanted` best of n entries in their order, of equals the last; by one warp. Returns the least of
// them, in ordered bits.
static __device__ __noinline__ uint32_t keep_best(float* values, uint32_t* blocks, int n, int wanted, uint32_t* counts) {
  const int lane = threadIdx.x % 32;
  const uint32_t before = (1u << lane) - 1;
  const WarpThreshold least = warp_threshold(values, n, wanted, counts);
  int kept = 0, ties_before = 0;
  for (int base = 0; base < n; base += 32) {
    const bool present = base + lane < n;
    const float value = present ? values[base + lane] : 0.0f;
    const uint32_t block = present ? blocks[base + lane] : 0, key = ordered_bits(value);
    const bool tie = present && key == least.key;
    const uint32_t ties = __ballot_sync(0xffffffffu, tie);
    const bool stays = present && (key > least.key || (tie && ties_before + __popc(ties & before) >= least.surplus));
    const uint32_t staying = __ballot_sync(0xffffffffu, stays);
    __syncwarp();  // all have read before any writes
    if (stays) {
      values[kept + __popc(staying & before)] = value;
      blocks[kept + __popc(staying & before)] = block;
    }
    kept += __popc(staying);
    ties_before += __popc(ties);
  }
  __syncwarp();
  return least.key;
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

// One row block's choice, kept by one warp.
class BlockChoice {
 public:
  // Between calls, in shared memory.
  struct State {
    uint32_t bar;  // least ordered score that may still be chosen
    int32_t size;
  };

  __device__ BlockChoice(const ChoiceBuffers& buffers, char* base, int row, const HeadPlan& plan,
                         const State& state, uint32_t* digits)
      : values_(reinterpret_cast<float*>(base + row * buffers.row_bytes())),
        blocks_(reinterpret_cast<uint32_t*>(values_ + buffers.capacity)), capacity_(buffers.capacity),
        plan_(plan), digits_(digits), bar_(state.bar), size_(state.size) {}

  // Scores of key blocks [first, first + count), all of which come before those of the last call.
  __device__ void add(const float* scores, int64_t first, int count) {
    const int lane = threadIdx.x % 32;
    for (int last = count - 1; last >= 0; last -= 32) {
      const int i = last - lane;
      const bool present = i >= 0;
      const float score = present ? scores[i] : 0.0f;
      const uint32_t key = ordered_bits(score);
      uint32_t in = __ballot_sync(0xffffffffu, present && key >= bar_);
      if (in == 0) continue;
      if (size_ + __popc(in) > capacity_) {
        thin_out();
        in = __ballot_sync(0xffffffffu, present && key >= bar_);
      }
      if (in >> lane & 1) {
        const int at = size_ + __popc(in & ((1u << lane) - 1));
        values_[at] = score;
        blocks_[at] = uint32_t(first + i);
      }
      size_ += __popc(in);
    }
  }
  __device__ State state() const { return {bar_, size_}; }

  // Writes the blocks of row block m, ascending: the best and the forced ones, or all in reach.
  __device__ void write(const IndexKernelArgs& a, int64_t m) {
    const int lane = threadIdx.x % 32;
    const int64_t reach = a.dense_tiles(m);
    uint32_t* const counts = a.at<uint32_t>(plan_.blocks);
    uint32_t* const out = counts + a.row_blocks + m * plan_.block_stride;
    const bool all = reach <= plan_.top_k;
    int64_t rest = reach;  // from here on every block is in
    if (plan_.flags & MI_FORCE_DIAGONAL) rest = (a.offset() + MI_BLOCK * m) / MI_BLOCK;
    int64_t count = 0;
    if (all) {
      rest = 0;
    } else {
      thin_out();
      if (plan_.flags & MI_FORCE_SINK && rest > 0 && blocks_[size_ - 1] != 0) {
        if (lane == 0) out[0] = 0;
        count = 1;
      }
      for (int last = size_ - 1; last >= 0; last -= 32) {
        const uint32_t b = last - lane >= 0 ? blocks_[last - lane] : UINT32_MAX;
        const uint32_t chosen = __ballot_sync(0xffffffffu, int64_t(b) < rest);
        if (chosen >> lane & 1) out[count + __popc(chosen & ((1u << lane) - 1))] = b;
        count += __popc(chosen);
      }
    }
    for (int64_t b = rest + lane; b < reach; b += 32) out[count + b - rest] = uint32_t(b);
    if (lane == 0) counts[m] = uint32_t(count + reach - rest);
  }

 private:
  __device__ void thin_out() {
    __syncwarp();
    if (size_ <= plan_.top_k) return;
    bar_ = keep_best(values_, blocks_, size_, plan_.top_k, digits_);
    size_ = plan_.top_k;
  }

  float* const values_;
  uint32_t* const blocks_;
  const int capacity_;
  const HeadPlan& plan_;
  uint32_t* const digits_;
  uint32_t bar_;
  int size_;
};

}  // namespace mi::cuda
