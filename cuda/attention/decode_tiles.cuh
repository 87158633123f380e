// Tiles of keys in shared memory, as few-row attention reads them: of 16-bit elements through ldmatrix, of e4m3 by plain
// loads, converted in registers. Each says how queries, scores and outputs of a warp lie in its fragments:
//   load_queries   the A operands q[depth / 16] of 16 query rows; scaled tiles: in units of unit[row of the thread]
//   place          the shared memory of a row's 16-byte piece
//   scores         s += the scores of 16 keys, in the order that OnlineSoftmax has it
//   outputs        o += weights of 16 keys times their values; n-tile j, column n of it, is element column(j, n)
#pragma once
#include "../core/e4m3_pairs.cuh"
#include "fragments.cuh"
#include "softmax.cuh"

namespace mi::cuda {

template <class T, int kHeadDim>
struct WideTile {
  using Element = T;  // of queries and outputs
  using Operand = T;  // of products
  static constexpr int kDim = kHeadDim, kRowBytes = kDim * 2, kStages = kDim == 256 ? 2 : 3;
  static constexpr int kPieces = kDim / 8;
  static constexpr bool kScaled = false;
  SharedTile<kDim> tile;

  __device__ explicit WideTile(char* shared) : tile(shared) {}

  // Through shared memory, which is free again afterwards. row(r): the address of query row r, or null for zeros.
  template <int kThreads, class Row>
  __device__ static void load_queries(uint32_t (&q)[kDim / 16][4], float (&)[2], char* shared, int head_dim,
                                      const void* valid, const Row& row) {
    const SharedTile<kDim> tile(shared);
    tile.template load<kThreads>(16, head_dim, valid, row);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kDim / 16; step++) tile.rows_16(q[step], 0, step);
    __syncthreads();
  }

  __device__ __forceinline__ uint32_t place(int row, int i) const { return tile.piece(row, i); }

  __device__ __forceinline__ void scores(int key, const uint32_t (&q)[kDim / 16][4], float (&s)[8]) const {
#pragma unroll
    for (int step = 0; step < kDim / 16; step++) {
      uint32_t b[4];
      tile.columns_16(b, key, step);
      mma_tile<T>(s, q[step], b[0], b[1]);
      mma_tile<T>(s + 4, q[step], b[2], b[3]);
    }
  }

  __device__ __forceinline__ void outputs(int key, const uint32_t (&weights)[4], float (&o)[kDim / 2]) const {
#pragma unroll
    for (int j = 0; j < kDim / 8; j += 2) {
      uint32_t b[4];
      tile.depth_16(b, key, j);
      mma_tile<T>(o + 4 * j, weights, b[0], b[1]);
      mma_tile<T>(o + 4 * j + 4, weights, b[2], b[3]);
    }
  }

  __device__ static constexpr int column(int j, int n) { return 8 * j + n; }
};

// Rows of e4m3, multiplied as f16: converting to it is exact, and one instruction on chips that have it. A lane takes
// neighbouring bytes of a row, 16 an access: the products' depth, and the n-tiles' columns, are permuted to suit.
template <int kHeadDim>
struct NarrowTile {
  using Element = __nv_bfloat16;
  using Operand = __half;
  static constexpr int kDim = kHeadDim, kRowBytes = kDim, kStages = kDim == 256 ? 3 : 4;
  static constexpr bool kScaled = true;
  static constexpr int kPieces = kDim / 16;
  const char* base;

  __device__ explicit NarrowTile(char* shared) : base(shared) {}

  // 16-byte piece i of a row; eight lanes that read at once find theirs in different banks (kDim 64: two of them meet
  // where outputs() reads).
  __device__ __forceinline__ const char* piece(int row, int i) const {
    const int turn = kPieces >= 8 ? row & 7 : row / 2 & 3;
    return base + row * kDim + (i ^ turn) * 16;
  }

  // Lane t of a quad has depth [t kDim / 4, (t + 1) kDim / 4); each step takes four of them. A power of two for each row
  // brings its elements into the range of f16: what is rounded there is below 2^-25 of the row's largest.
  template <int kThreads, class Row>
  __device__ static void load_queries(uint32_t (&q)[kDim / 16][4], float (&unit)[2], char*, int head_dim, const void*,
                                      const Row& row) {
    const int g = threadIdx.x % 32 / 4, depth = threadIdx.x % 4 * (kDim / 4);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const char* const from = row(g + 8 * r);
#pragma unroll
      for (int step = 0; step < kDim / 16; step += 2) {
        const int at = depth + 4 * step;
        uint4 two = make_uint4(0, 0, 0, 0);
        if (from && at < head_dim) two = *reinterpret_cast<const uint4*>(from + at * 2);
        q[step][r] = two.x;
        q[step][r + 2] = two.y;
        q[step + 1][r] = two.z;
        q[step + 1][r + 2] = two.w;
      }
      float most = 0;
#pragma unroll
      for (int i = 0; i < kDim / 8; i++) {
        const uint32_t pair = q[i / 2][r + i % 2 * 2];
        most = fmaxf(most, fmaxf(fabsf(low(pair)), fabsf(high(pair))));
      }
      const int exponent = min(253, 262 - (__float_as_int(quad_max(most)) >> 23));  // to [2^8, 2^9)
      const float factor = __int_as_float(exponent << 23);
      unit[r] = __int_as_float((254 - exponent) << 23);
#pragma unroll
      for (int i = 0; i < kDim / 8; i++) {
        uint32_t& pair = q[i / 2][r + i % 2 * 2];
        pair = pack_16<__half>(low(pair) * factor, high(pair) * factor);
      }
    }
  }

  __device__ __forceinline__ uint32_t place(int row, int i) const { return smem_address(piece(row, i)); }

  __device__ __forceinline__ void scores(int key, const uint32_t (&q)[kDim / 16][4], float (&s)[8]) const {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int c = 0; c < kDim / 64; c++) {
        const uint4 raw = *reinterpret_cast<const uint4*>(piece(key + 8 * n + g, t * (kDim / 64) + c));
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; i++)
          mma_tile<Operand>(s + 4 * n, q[4 * c + i], from_e4m3x2<Operand>(words[i], 0, words[i], 1),
                            from_e4m3x2<Operand>(words[i], 2, words[i], 3));
      }
  }

  __device__ __forceinline__ void outputs(int key, const uint32_t (&weights)[4], float (&o)[kDim / 2]) const {
    constexpr int kBytes = kDim / 8, kAccess = kBytes < 16 ? kBytes : 16;  // of a row that a lane takes, and at once
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int at = 0; at < kBytes; at += kAccess) {
      uint32_t words[4][kAccess / 4];  // of keys 2 t, 2 t + 1, 2 t + 8, 2 t + 9
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const int byte = g * kBytes + at;
        const char* const from = piece(key + 2 * t + r % 2 + r / 2 * 8, byte / 16) + byte % 16;
#pragma unroll
        for (int i = 0; i < kAccess / 8; i++) {
          const uint2 two = reinterpret_cast<const uint2*>(from)[i];
          words[r][2 * i] = two.x;
          words[r][2 * i + 1] = two.y;
        }
      }
#pragma unroll
      for (int j = 0; j < kAccess; j++) {
        mma_tile<Operand>(o + 4 * (at + j), weights, from_e4m3x2<Operand>(words[0][j / 4], j % 4, words[1][j / 4], j % 4),
                          from_e4m3x2<Operand>(words[2][j / 4], j % 4, words[3][j / 4], j % 4));
      }
    }
  }

  __device__ static constexpr int column(int j, int n) { return n * (kDim / 8) + j; }

 private:
  __device__ static float low(uint32_t pair) { return __int_as_float(pair << 16); }
  __device__ static float high(uint32_t pair) { return __int_as_float(pair & 0xffff0000u); }
};

// What the sums of a NarrowTile's outputs are in units of: the largest scale of values so far. Weights are packed relative
// to it, with head-room that f16 bears, so that small ones keep their bits: 2^8, by which OnlineSoftmax lets them grow,
// times 2^7.
class ValueUnit {
 public:
  // Before keys whose values have the scale `next`: returns whether the sums have to be multiplied by `factor`.
  __device__ __forceinline__ bool step(float next, float& factor) {
    if (next == scale_) return false;
    const bool rises = next > unit_;
    if (rises) {
      factor = unit_ / next;
      unit_ = next;
    }
    scale_ = next;
    weight_ = next / unit_ * kHeadRoom;
    return rises;
  }
  __device__ __forceinline__ float of_weights() const { return weight_; }
  __device__ __forceinline__ float of_sums() const { return unit_ / kHeadRoom; }

 private:
  static constexpr float kHeadRoom = 128;
  float unit_ = 0, scale_ = 0, weight_ = 0;
};

}  // namespace mi::cuda
