// What the warps of a block that works on a chunk's experts share: arguments, the ring of operands, the tiles at hand.
#pragma once

#include <cuda.h>

#include "expert_tiles.h"
#include "matrix_layout.h"
#include "ptx.cuh"

namespace qwen3vl {

struct ChunkArguments {
  // In boxes of kHalfRows rows. Where gate and up rows alternate, the two are one row of twice as many columns.
  CUtensorMap gates_and_ups;      // [experts, kChunkInner, 2 * kChunkHidden]
  CUtensorMap downs;              // [experts, kChunkHidden, kChunkInner]
  std::int32_t* counters;         // [0]: tiles taken; [1 + group]: warps that have written activations, see kReports
  const std::int32_t* counts;     // [kChunkExperts]: each expert's pairs
  const std::int32_t* grouped;    // [pairs]: pairs' numbers
  const float* chosen_weights;    // [pairs], by their numbers
  const void* x;                  // T [tokens, kChunkHidden]
  void* activations;              // T [pairs, kChunkInner], as they are grouped
  void* outputs;                  // T [pairs, kChunkHidden], by their numbers
  int k;
};

constexpr int kChunkStages = 4;
constexpr int kWorkStages = 2;
constexpr int kMultiplyingGroups = 2;  // warpgroups
constexpr int kMultiplyingWarps = kMultiplyingGroups * kWarpgroup / kWarp;
constexpr int kGatheringWarps = 2;
constexpr int kChunkThreads = (1 + kMultiplyingGroups) * kWarpgroup;
constexpr int kReports = kUpTilesOfGroup * kMultiplyingWarps;  // of a group whose activations are all there

constexpr int kHalfRows = kTileRows / 2;
static_assert(kMultiplyingGroups * 64 == kHalfRows);

// Of a tile, kPanelColumns of its rows' inner dimension, as panels.
struct ChunkStage {
  alignas(1024) std::uint8_t weights[2][kHalfRows * kPanelRowBytes];  // gates and ups, or the halves of downs
  alignas(1024) std::uint8_t rows[kGroupPairs * kPanelRowBytes];      // of the pairs
};

// A tile and what is to be known of its pairs.
struct ChunkWork {
  ExpertTile tile;
  std::int32_t pairs[kGroupPairs];    // their numbers
  std::int32_t sources[kGroupPairs];  // rows to gather: tokens, or activations
  alignas(8) float weights[kGroupPairs];
};

struct ChunkShared {
  ChunkStage stages[kChunkStages];
  PairGroups groups;
  ChunkWork work[kWorkStages];
  std::uint64_t full[kChunkStages], empty[kChunkStages];
  std::uint64_t tile_there[kWorkStages], pairs_there[kWorkStages], work_done[kWorkStages];

  // By one thread; a block barrier has to follow.
  __device__ void init() {
    for (int i = 0; i < kChunkStages; ++i) {
      barrier_init(full + i, 1 + kGatheringWarps * kWarp);
      barrier_init(empty + i, kMultiplyingWarps);
    }
    for (int i = 0; i < kWorkStages; ++i) {
      barrier_init(tile_there + i, 1);
      barrier_init(pairs_there + i, kGatheringWarps);
      barrier_init(work_done + i, kMultiplyingWarps);
    }
    barrier_init_done();
  }
};
static_assert(sizeof(ChunkShared) <= 227 * 1024);

__device__ __forceinline__ int steps_of(const ExpertTile& tile) {
  return (tile.down != 0 ? kChunkInner : kChunkHidden) / kPanelColumns;
}

}  // namespace qwen3vl
