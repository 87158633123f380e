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

// A key block and its score in ordered bits.
struct alignas(8) Candidate {
  uint32_t score, block;
};

struct Kept {
  uint32_t least;  // nothing that is kept scores less
  int count;
};

// Of n candidates, none of them below `floor`, keeps the best: at least `wanted` and at most `most` of them, in their
// order, of equals the last; by one warp.
static __device__ __noinline__ Kept keep_best(Candidate* candidates, int n, int wanted, int most, uint32_t floor) {
  const int lane = threadIdx.x % 32;
  constexpr int kHeld = 10;  // a lane's scores in registers; as many as there are, most often
  uint32_t held[kHeld], best = 0;
#pragma unroll
  for (int i = 0; i < kHeld; i++) {
    held[i] = 32 * i + lane < n ? candidates[32 * i + lane].score : 0;
    best = max(best, held[i]);
  }
  for (int i = 32 * kHeld + lane; i < n; i += 32) best = max(best, candidates[i].score);
  best = __reduce_max_sync(kAllLanes, best);
  const int common = __clz(int(best ^ floor));  // leading bits, of all scores
  uint32_t least = common == 0 ? 0 : floor & ~(kAllLanes >> 1 >> (common - 1));
  int in = n;  // from `least` on; bit by bit: scores differ early
  for (int bit = 31 - common; bit >= 0 && in > most; bit--) {
    const uint32_t raised = least | 1u << bit;
    int count = 0;
#pragma unroll
    for (int i = 0; i < kHeld; i++) count += held[i] >= raised;
    for (int i = 32 * kHeld + lane; i < n; i += 32) count += candidates[i].score >= raised;
    count = __reduce_add_sync(kAllLanes, count);
    if (count >= wanted) least = raised, in = count;
  }
  const int surplus = in > most ? in - wanted : 0;  // of those equal to `least`
  const uint32_t before = (1u << lane) - 1;
  int kept = 0, ties_before = 0;
  for (int base = 0; base < n; base += 32) {
    const bool present = base + lane < n;
    const Candidate mine = present ? candidates[base + lane] : Candidate{};
    const bool tie = present && mine.score == least;
    const uint32_t ties = __ballot_sync(kAllLanes, tie);
    const bool stays =
        present && (mine.score > least || (tie && ties_before + __popc(ties & before) >= surplus));
    const uint32_t staying = __ballot_sync(kAllLanes, stays);
    __syncwarp();  // all have read before any writes
    if (stays) candidates[kept + __popc(staying & before)] = mine;
    kept += __popc(staying);
    ties_before += __popc(ties);
  }
  __syncwarp();
  return {least, kept};
}

// Where a launch keeps the buffers: in shared memory if they fit, otherwise in the workspace.
struct ChoiceBuffers {
  int32_t capacity;  // candidates of a row block, at least as many beyond what any head wants as are added at once
  bool in_shared;
  char* workspace;

  // Of this thread block, which works on `rows` row blocks at once; `shared` is where they would lie.
  __device__ char* base(int rows, char* shared) const {
    return in_shared ? shared : workspace + int64_t(blockIdx.x) * rows * row_bytes();
  }
  __host__ __device__ int64_t row_bytes() const { return int64_t(capacity) * int64_t(sizeof(Candidate)); }
  uint64_t workspace_bytes(const Launch& launch, int rows) const {
    return in_shared ? 0 : uint64_t(launch.sm_count) * uint64_t(rows) * uint64_t(row_bytes());
  }
};

// Buffers of `rows` row blocks a thread block, beside `used` bytes of shared memory; at most `at_once` scores are added
// at once.
inline ChoiceBuffers choice_buffers(const Launch& launch, const IndexKernelArgs& a, int rows, int used, int at_once) {
  constexpr int kMost = 512;  // candidates beyond the wanted ones
  int64_t wanted = 0;
  for (int h = 0; h < a.probe.q_heads; h++)
    if (a.heads[h].kind == MI_BLOCK_SPARSE) wanted = max64(wanted, min64(a.heads[h].top_k, a.key_blocks));
  const int64_t enough = round_up(wanted + kMost, 32);
  const int64_t room = (launch.shared_bytes - used) / (rows * int64_t(sizeof(Candidate)));
  if (room >= wanted + at_once) return {int32_t(min64(room, enough)), true, nullptr};
  return {int32_t(enough), false, a.choice};
}

// A lane's scores: of as many neighbouring key blocks.
template <int kEach>
struct alignas(4 * kEach) LaneScores {
  float of[kEach];
};

// The choices of the row blocks that a thread block works on for one head; each is kept by one warp.
class BlockChoices {
 public:
  // Of one row block, between calls.
  struct State {
    uint32_t bar = 0;  // least ordered score that may still be chosen
    int32_t size = 0;
  };

  __device__ BlockChoices(const ChoiceBuffers& buffers, char* base, const HeadPlan& plan)
      : buffers_(buffers), base_(base), plan_(plan) {}

  // Scores of key blocks [first, first + 32 kEach), those from `end` on left out; all of them come before those of the
  // row's last call.
  template <int kEach>
  __device__ void add(int row, State& state, const LaneScores<kEach>& scores, int first, int end) const {
    const int lane = threadIdx.x % 32, present = end - first - kEach * lane;
    uint32_t in[kEach];  // bit of each lane
    const auto vote = [&] {
      const float bar = from_ordered_bits(state.bar);
      int count = 0;
#pragma unroll
      for (int j = 0; j < kEach; j++) {
        in[j] = __ballot_sync(kAllLanes, int(j < present) & (int(scores.of[j] >= bar) | int(state.bar == 0)));
        count += __popc(in[j]);
      }
      return count;
    };
    int count = vote();
    if (count == 0) return;
    if (state.size + count > buffers_.capacity) {
      thin_out(row, state, plan_.top_k + (buffers_.capacity - plan_.top_k - 32 * kEach) / 4);
      count = vote();
    }
    const uint32_t after = kAllLanes << lane << 1;  // lanes whose blocks go first
    int at = state.size;
    uint32_t mine = 0;
#pragma unroll
    for (int j = 0; j < kEach; j++) {
      at += __popc(in[j] & after);
      mine |= (in[j] >> lane & 1) << j;
    }
    Candidate* const to = candidates(row);
    while (mine) {  // a lane seldom has more than one
      const int j = 31 - __clz(int(mine));
      mine ^= 1u << j;
      float score = scores.of[0];
#pragma unroll
      for (int i = 1; i < kEach; i++) score = i == j ? scores.of[i] : score;
      to[at++] = {ordered_bits(score), uint32_t(first + kEach * lane + j)};
    }
    state.size += count;
  }

  // Writes the blocks of row block m, ascending: the best and the forced ones, or all in reach.
  __device__ void write(int row, State state, const IndexKernelArgs& a, int64_t m) const {
    const int lane = threadIdx.x % 32;
    const int64_t reach = a.dense_tiles(m);
    const Candidate* const chosen = candidates(row);
    uint32_t* const counts = a.at<uint32_t>(plan_.blocks);
    uint32_t* const out = counts + a.row_blocks + m * plan_.block_stride;
    const bool all = reach <= plan_.top_k;
    int64_t rest = reach;  // from here on every block is in
    if (plan_.flags & MI_FORCE_DIAGONAL) rest = (a.offset() + MI_BLOCK * m) / MI_BLOCK;
    int64_t count = 0;
    if (all) {
      rest = 0;
    } else {
      thin_out(row, state, plan_.top_k);
      if (plan_.flags & MI_FORCE_SINK && rest > 0 && chosen[state.size - 1].block != 0) {
        if (lane == 0) out[0] = 0;
        count = 1;
      }
      for (int last = state.size - 1; last >= 0; last -= 32) {
        const uint32_t b = last - lane >= 0 ? chosen[last - lane].block : UINT32_MAX;
        const uint32_t in = __ballot_sync(kAllLanes, int64_t(b) < rest);
        if (in >> lane & 1) out[count + __popc(in & ((1u << lane) - 1))] = b;
        count += __popc(in);
      }
    }
    for (int64_t b = rest + lane; b < reach; b += 32) out[count + b - rest] = uint32_t(b);
    if (lane == 0) counts[m] = uint32_t(count + reach - rest);
  }

 private:
  __device__ Candidate* candidates(int row) const {
    return reinterpret_cast<Candidate*>(base_ + row * buffers_.row_bytes());
  }

  __device__ void thin_out(int row, State& state, int most) const {
    __syncwarp();
    if (state.size <= most) return;
    const Kept kept = keep_best(candidates(row), state.size, plan_.top_k, most, state.bar);
    state = {kept.least, kept.count};
  }

  const ChoiceBuffers& buffers_;
  char* const base_;
  const HeadPlan& plan_;
};

}  // namespace mi::cuda
