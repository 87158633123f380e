// The Hopper kernel's tiles, shared memory and tuning table.
#pragma once
#include "../core/tma.cuh"
#include "../core/tma.h"
#include "../core/wgmma.cuh"
#include "schedule.cuh"
#include "softmax.cuh"
#include "units.cuh"

namespace mi::cuda {

constexpr int kWarpsPerHalf = 4;
constexpr int kThreads = 3 * 128;         // a producer warpgroup, of which one thread works, and two consumers
constexpr int kTileKeys = 2 * kUnit;      // what one step of the pipeline computes on
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;  // 40 + 2 * 232 <= 65536 / 128

struct ForwardParams {
  CUtensorMap q, k, v, column_k, column_v;
  Problem problem;
  Schedule schedule;
  int32_t* counter;  // 0 at the start: work items taken beyond the first of each block
};

// What the consumers have to know of a tile of the ring.
constexpr int32_t kNoItem = -1;       // in place of an item: there is no more work
constexpr uint32_t kMaskedShift = 2;  // flags: bit h: half h uses the tile; bit 2 + h: and has to mask it
struct Tile {
  int32_t item;
  uint32_t flags;
  Window window;
  int32_t first[2];     // of each unit, for visible()
  uint64_t keys[2][2];  // [half][unit]
};

constexpr int kIncoming = 0, kAbsent = 4;

using Box = char[kBoxBytes];

template <int kDim_, int kStages_>
struct Config {
  static constexpr int kDim = kDim_;  // head_dim, padded to whole boxes
  static constexpr int kChunks = kDim / kBoxColumns;
  static constexpr int kStages = kStages_;
  static constexpr int kTileBytes = 2 * kChunks * kBoxBytes, kQueryBytes = kTileBytes;
};
// As many stages as fit into 227 KB.
using Config64 = Config<64, 6>;
using Config128 = Config<128, 3>;

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
  alignas(UnitWalk<2>) char walk[sizeof(UnitWalk<2>)];
  Unit<2> units[5];  // the producer's: kIncoming, those without a partner by the halves that want them, kAbsent
  uint64_t q_full, q_free, k_full[Config::kStages], k_free[Config::kStages], v_full[Config::kStages],
      v_free[Config::kStages];
};

// head_dim up to 128.
mi_status forward_sm90(const Launch& launch, const ForwardParams& params, bool half, mi_error* error);

}  // namespace mi::cuda
