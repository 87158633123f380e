// The Hopper kernel's tiles, shared memory and tuning table.
#pragma once
#include "../core/ring.cuh"
#include "../core/tma.cuh"
#include "../core/tma.h"
#include "../core/wgmma.cuh"
#include "schedule.cuh"
#include "softmax.cuh"
#include "units.cuh"

namespace mi::cuda {

constexpr int kWarpsPerHalf = 4;
constexpr int kThreads = 3 * 128;         // a producer warpgroup, of which two warps work, and two consumers
constexpr int kTileKeys = 2 * kUnit;      // what one step of the pipeline computes on

struct ForwardParams {
  CUtensorMap q, k, v, column_k, column_v;
  Problem problem;
  Schedule schedule;
  int32_t* counter;  // 0 at the start: work items taken beyond the first of each block
};

constexpr int32_t kNoItem = -1;  // in place of an item: there is no more work

// Two units that are computed on together.
constexpr uint32_t kMaskedShift = 2, kGatheredShift = 4;
struct Tile {
  int32_t item;
  uint32_t flags;  // bit h: half h uses the tile; bit 2 + h: and has to mask it; bit 4 + u: unit u is gathered
  Window window;
  int32_t first[2];     // of each unit, for visible()
  int32_t rows[2];      // of each unit, of K and V or of the gathered columns
  uint64_t keys[2][2];  // [half][unit]
};

// Tiles on their way from the planner to the loader.
struct Batch {
  // The most that 32 units and three that waited for a partner make.
  static constexpr int kMostTiles = 18;

  int32_t item;  // kNoItem: there is no more work
  int32_t head, pair, count;
  uint32_t starts;  // the first batch of its item
  union {           // the planner puts units in their places, then makes tiles of them
    Unit<2> units[2];
    Tile tile;
  } tiles[kMostTiles];
};
static_assert(sizeof(Tile) == 2 * sizeof(Unit<2>), "take each other's place");

using Box = char[kBoxBytes];

template <int kDim_, int kStages_, int kProducerRegisters_>
struct Config {
  static constexpr int kDim = kDim_;  // head_dim, padded to whole boxes
  static constexpr int kChunks = kDim / kBoxColumns;
  static constexpr int kStages = kStages_;
  // Of a thread. The consumers get what the producer leaves of the block's own, which are 168 a thread: asking for one
  // more waits for ever.
  static constexpr int kProducerRegisters = kProducerRegisters_;
  static constexpr int kConsumerRegisters = (3 * 168 - kProducerRegisters) / 2;
  static_assert(kProducerRegisters % 8 == 0 && kConsumerRegisters % 8 == 0, "as setmaxnreg wants them");
  static constexpr int kTileBytes = 2 * kChunks * kBoxBytes, kQueryBytes = kTileBytes;
};
// As many stages as fit into 227 KB.
using Config64 = Config<64, 6, 88>;
using Config128 = Config<128, 3, 72>;

// The units of a K tile lie one below the other, so that one product spans both; those of a V tile side by side.
template <class Config>
using KeyTile = Box[Config::kChunks][2];
template <class Config>
using ValueTile = Box[2][Config::kChunks];

template <class Config>
struct alignas(1024) Smem {
  Box q[2][Config::kChunks];  // [half]
  KeyTile<Config> k[Config::kStages];
  ValueTile<Config> v[Config::kStages];
  Tile tiles[Config::kStages];
  alignas(HeadList) char list[sizeof(HeadList)];  // the planner's, of its item
  Batch batches[2];
  Unit<2> waiting[4];  // the planner's: for a partner, by the halves that want them
  uint64_t batch_full[2], batch_free[2], q_full, q_free;
  uint64_t k_full[Config::kStages], k_free[Config::kStages], v_full[Config::kStages], v_free[Config::kStages];
};

static_assert(sizeof(Smem<Config64>) <= 227 * 1024 && sizeof(Smem<Config128>) <= 227 * 1024, "fits a block");

// head_dim up to 128.
mi_status forward_sm90(const Launch& launch, const ForwardParams& params, bool half, mi_error* error);

}  // namespace mi::cuda
