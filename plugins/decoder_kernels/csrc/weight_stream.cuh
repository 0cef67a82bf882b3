// Products of few tokens with many weight rows, bound by reading the weights once.
//
// One block a multiprocessor. Its last warp copies tiles of whole weight rows to a ring in shared memory, as far ahead as
// the ring is long; the other 16 multiply: each has its own sixteenth (or eighth) of k, whose part of the tokens stays in
// registers, and the parts are summed through shared memory once a tile.
#pragma once

#include "fragments.cuh"
#include "ptx.cuh"

namespace qwen3vl {

constexpr int kConsumerWarps = 16;
constexpr int kConsumers = kConsumerWarps * 32;
constexpr int kStreamThreads = kConsumers + 32;
constexpr int kTokenTile = 16;  // tokens of one product
constexpr int kRowTile = 8;     // weight rows of one product
constexpr int kSharedBytes = 227 * 1024;

// A row in shared memory starts 64 bytes further along the banks than the one before: the 8 rows x 4 runs of 16 bytes that
// a warp reads at once are free of conflicts. Holds for rows of a multiple of 128 bytes.
__host__ __device__ constexpr int row_pitch(int row_bytes) { return row_bytes + 64; }

template <int kStages>
struct Ring {
  std::uint64_t full[kStages], empty[kStages];

  // Called by one thread; a block barrier has to follow.
  __device__ void init() {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&full[i], 1);
      barrier_init(&empty[i], kConsumerWarps);
    }
    barrier_init_done();
  }
};

// Place in the ring. Producer and consumers each walk through all tiles in the same order.
template <int kStages>
struct Cursor {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The producer warp's step: `kRows` neighbouring rows of `kRowBytes` from `source` into the cursor's stage.
template <int kRows, int kRowBytes, int kStages>
__device__ __forceinline__ void produce(Ring<kStages>& ring, Cursor<kStages>& cursor, std::uint8_t* stage_memory,
                                        const std::uint8_t* source, int lane, std::uint64_t policy) {
  static_assert(kRows <= 32 && kRowBytes % 128 == 0);
  barrier_wait(&ring.empty[cursor.stage], cursor.parity ^ 1);
  if (lane == 0) barrier_arrive_expecting(&ring.full[cursor.stage], kRows * kRowBytes);
  __syncwarp();
  if (lane < kRows) {
    bulk_copy(stage_memory + lane * row_pitch(kRowBytes), source + static_cast<std::int64_t>(lane) * kRowBytes,
              kRowBytes, &ring.full[cursor.stage], policy);
  }
  cursor.advance();
}

// Partial sums of one tile: [warp][token half][lane] pairs of rows, two of them taken in turn.
template <int kTokenTiles>
struct Partials {
  float2 sums[2][kConsumerWarps][2 * kTokenTiles][32];
};

}  // namespace qwen3vl
