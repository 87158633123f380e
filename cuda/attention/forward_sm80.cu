// A block computes one row block: four warps of 16 query rows, one unit of 64 keys at a time. V of a unit arrives during
// the product with K, the next K during the product with V.
#include "forward_sm80.cuh"

#include <new>

#include "../core/cancel.cuh"
#include "fragments.cuh"
#include "schedule.cuh"
#include "softmax.cuh"
#include "units.cuh"

namespace mi::cuda {

namespace {

constexpr int kThreads = 128;

struct PortableParams {
  Problem problem;
  Schedule schedule;
};

template <class T, int kDim>
class RowBlock {
 public:
  __device__ RowBlock(const Problem& p, int head, int row_block, char* shared)
      : p_(p), q_(shared), k_(shared + kTileBytes), v_(shared + 2 * kTileBytes), head_(head), row_block_(row_block),
        warp_row_(threadIdx.x / 32 * 16) {}

  static constexpr int kTileBytes = kUnit * kDim * 2;

  // Every warp walks for itself.
  __device__ void run(const HeadList& list) {
    const int first_row = row_block_ * kUnit;
    q_.template load<kThreads>(kUnit, p_.head_dim, p_.q.data, [&](int r) {
      return first_row + r < p_.q_len ? p_.q.at(head_, first_row + r) : nullptr;
    });
    UnitWalk<1> walk(p_, list, row_block_);
    Unit<1> unit, following;
    bool more = walk.next(unit);
    if (more) load(k_, p_.k, p_.columns.k, unit);
    cp_async_commit();

    const int row = first_row + warp_row_ + threadIdx.x % 32 / 4;
    const int position = p_.causal ? p_.first_position() + row : kEverywhere;
    float o[kDim / 2] = {}, factor[2];
    OnlineSoftmax softmax;
    for (; more; unit = following) {
      cp_async_wait<0>();
      __syncthreads();  // K has arrived; everybody is done with the V before
      load(v_, p_.v, p_.columns.v, unit);
      cp_async_commit();
      more = walk.next(following);

      float s[kUnit / 2] = {};
      scores(s);
      if (unit.masked) mask(s, unit, list.window, position);
      cp_async_wait<0>();
      __syncthreads();  // V has arrived; everybody is done with K
      if (more) load(k_, p_.k, p_.columns.k, following);
      cp_async_commit();

      if (softmax.step(s, p_.scale_log2, factor)) scale_rows(o, factor);
      uint32_t weights[kUnit / 4];
      pack_weights<T>(s, weights);
      accumulate(o, weights);
    }
    store(row, o, softmax);
  }

 private:
  __device__ void load(const SharedTile<kDim>& to, const Rows& rows, const char* columns, const Unit<1>& unit) const {
    const int64_t column_bytes = int64_t(p_.head_dim) * 2;
    to.template load<kThreads>(kUnit, p_.head_dim, p_.q.data, [&](int i) -> const char* {
      const int row = unit.first + i;
      if (unit.gathered) return columns + row * column_bytes;
      return row >= 0 && row < p_.kv_len ? rows.at(head_ / p_.group, row) : nullptr;
    });
  }

  __device__ __forceinline__ void scores(float (&s)[kUnit / 2]) const {
    const uint32_t sign = p_.negate ? 0x80008000u : 0;
#pragma unroll
    for (int step = 0; step < kDim / 16; step++) {
      uint32_t a[4], b[4];
      q_.rows_16(a, warp_row_, step);
#pragma unroll
      for (int i = 0; i < 4; i++) a[i] ^= sign;
#pragma unroll
      for (int j = 0; j < kUnit / 8; j += 2) {
        k_.columns_16(b, 8 * j, step);
        mma_tile<T>(s + 4 * j, a, b[0], b[1]);
        mma_tile<T>(s + 4 * j + 4, a, b[2], b[3]);
      }
    }
  }

  __device__ __forceinline__ void accumulate(float (&o)[kDim / 2], const uint32_t (&weights)[kUnit / 4]) const {
#pragma unroll
    for (int step = 0; step < kUnit / 16; step++) {
      const uint32_t a[4] = {weights[4 * step], weights[4 * step + 1], weights[4 * step + 2], weights[4 * step + 3]};
#pragma unroll
      for (int j = 0; j < kDim / 8; j += 2) {
        uint32_t b[4];
        v_.depth_16(b, 16 * step, j);
        mma_tile<T>(o + 4 * j, a, b[0], b[1]);
        mma_tile<T>(o + 4 * j + 4, a, b[2], b[3]);
      }
    }
  }

  __device__ static void mask(float (&s)[kUnit / 2], const Unit<1>& unit, const Window& window, int position) {
    const int first = unit.gathered ? -kEverywhere : unit.first;
    KeyBits seen[1][2];
#pragma unroll
    for (int r = 0; r < 2; r++)
      seen[0][r] = KeyBits(visible(unit.keys[0], first, position == kEverywhere ? position : position + 8 * r, window));
    mask_scores(s, seen);
  }

  // Rows without a key: 0 and -inf.
  __device__ void store(int row, float (&o)[kDim / 2], OnlineSoftmax& softmax) const {
    constexpr float kLn2 = 0.693147180559945309f;
    softmax.finish();
    const float factor[2] = {softmax.inverse_sum(0), softmax.inverse_sum(1)};
    scale_rows(o, factor);
    const int lane_column = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      if (row + 8 * r >= p_.q_len) continue;
      char* out = p_.out.at(head_, row + 8 * r);
#pragma unroll
      for (int c = 0; c < kDim / 8; c++)
        if (8 * c < p_.head_dim)
          *reinterpret_cast<uint32_t*>(out + 2 * (8 * c + lane_column)) = pack_16<T>(o[4 * c + 2 * r], o[4 * c + 2 * r + 1]);
      if (p_.lse && lane_column == 0)
        p_.lse[int64_t(head_) * p_.q_len + row + 8 * r] = softmax.lse(r, p_.scale_log2) * kLn2;
    }
  }

  const Problem& p_;
  const SharedTile<kDim> q_, k_, v_;
  const int head_, row_block_, warp_row_;
};

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, kDim == 256 ? 2 : 3)
    forward_kernel(const __grid_constant__ PortableParams params) {
  extern __shared__ __align__(128) char shared[];
  __shared__ __align__(8) char list_space[sizeof(HeadList)];
  const Problem& p = params.problem;
  if (block_cancelled(p.cancel)) return;
  int head, row_block;
  params.schedule.locate(p, blockIdx.x, head, row_block);
  if (threadIdx.x == 0) new (list_space) HeadList(p, head);
  __syncthreads();
  RowBlock<T, kDim>(p, head, row_block, shared).run(*reinterpret_cast<HeadList*>(list_space));
}

template <class T, int kDim>
mi_status queue(const Launch& launch, const PortableParams& params, mi_error* error) {
  constexpr int kBytes = 3 * RowBlock<T, kDim>::kTileBytes;
  cudaFuncSetAttribute(forward_kernel<T, kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  forward_kernel<T, kDim><<<params.schedule.items, kThreads, kBytes, launch.stream>>>(params);
  return check_launch("attention", error);
}

template <class T>
mi_status queue(const Launch& launch, const PortableParams& params, mi_error* error) {
  const int dim = params.problem.head_dim;
  if (dim <= 64) return queue<T, 64>(launch, params, error);
  if (dim <= 128) return queue<T, 128>(launch, params, error);
  return queue<T, 256>(launch, params, error);
}

}  // namespace

mi_status forward_sm80(const Launch& launch, const Problem& p, bool half, mi_error* error) {
  const PortableParams params{p, make_schedule(p, 1)};
  return half ? queue<__half>(launch, params, error) : queue<__nv_bfloat16>(launch, params, error);
}

}  // namespace mi::cuda
