// The shared memory of a block that streams weights: a ring of stages, and the warps' sums.
#pragma once

#include <cstdint>

#include "ptx.cuh"

namespace qwen3vl {

constexpr int kStreamWarps = 8;
constexpr int kStreamThreads = kStreamWarps * 32;
constexpr int kHalfTile = 8;  // tokens
constexpr int kRowTile = 8;   // weight rows of one product

// The rows of a stage are two pieces; each is of neighbouring rows and copied at once where it can be, as many small
// copies are dear to start. The second lies 64 bytes further along the banks. Lane l reads row l / 8 of piece (l / 4) % 2, so that the 8
// lanes that are served at once, 2 rows x 4 runs of 16 bytes, are free of conflicts. Holds for pieces of a multiple of
// 128 bytes.
constexpr int kPieceGap = 64;
__host__ __device__ constexpr int stage_bytes(int piece_bytes) { return 2 * (piece_bytes + kPieceGap); }

// Where this lane's rows begin in a stage: fragment row `group`, of rows from `first_row` of each piece.
__device__ __forceinline__ int row_offset(int piece_bytes, int row_bytes, int first_row, int group) {
  return group % 2 * (piece_bytes + kPieceGap) + (first_row + group / 2) * row_bytes;
}

// Sums of each warp's part of k: [warp][row tile and half tile of tokens][lane]: of token l / 4, for row l % 4 of the
// first piece and of the second.
template <int kSums>
struct Partials {
  float2 sums[kStreamWarps][kSums][32];
};

// Stores sums where Partials has them, of a lane that has row l / 4 of a product for tokens 2 (l % 4) and the next.
__device__ __forceinline__ void store_row_sums(float2 (&to)[32], float2 sums, int lane) {
  constexpr int kLanes = kRowTile / 2;  // of a token, each with two rows
  float* row = reinterpret_cast<float*>(&to[lane % 4 * 2 * kLanes]) + lane / 4;
  row[0] = sums.x;
  row[2 * kLanes] = sums.y;
}

// Stages that a block of `budget` bytes has room for, beside `other` bytes. `extra_bytes`: what a stage has behind its
// rows.
template <int kSums>
__host__ __device__ constexpr int stages_that_fit(int budget, int piece_bytes, int other = 0, int extra_bytes = 0) {
  constexpr int kPartials = sizeof(Partials<kSums>);
  return (budget - other - kPartials - 256) / (stage_bytes(piece_bytes) + extra_bytes + kPartials);
}

constexpr int kHalfBudget = 113 * 1024 - 512;  // of a multiprocessor's shared memory
constexpr int kFullBudget = 227 * 1024;

template <int kSumCount, int kStageCount, int kPieceBytes, int kExtraBytes = 0>
struct StreamMemory {
  static constexpr int kSums = kSumCount, kStages = kStageCount;
  // One more than stages: who reads a stage that comes this much later knows that all warps have left this tile behind,
  // as they have read the stage before it in its place.
  static constexpr int kBuffers = kStages + 1;
  static_assert(kStages > 1 && kBuffers < 16);  // a named barrier for each buffer
  static constexpr int kExtraOffset = stage_bytes(kPieceBytes);  // of a stage
  static_assert((kExtraOffset + kExtraBytes) % 128 == 0);
  alignas(128) std::uint8_t stages[kStages][kExtraOffset + kExtraBytes];
  Partials<kSums> partials[kBuffers];
  std::uint64_t full[kStages], empty[kStages];
  int tags[kStages];  // what the kernel notes of a stage

  // Called by one thread; a block barrier has to follow.
  __device__ void init() {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&full[i], 1);
      barrier_init(&empty[i], kStreamWarps);
    }
    barrier_init_done();
  }
};

}  // namespace qwen3vl
