// Keys and values of prefill attention on their way to shared memory: what a block has there, and who loads it.
#pragma once

#include <cuda.h>

#include "head_rotation.cuh"
#include "matrix_layout.h"
#include "prefill_tiles.h"
#include "ptx.cuh"
#include "ring.h"
#include "tensor_copy.cuh"

namespace qwen3vl {

constexpr int kPrefillStages = 3;  // key tiles, and value tiles, on their way
constexpr int kPrefillThreads = (kGroups + 1) * kWarpgroup;
constexpr int kPrefillArrivals = kGroups * kWarpgroup / kWarp;  // one lane of each attending warp

struct PrefillArguments {
  CUtensorMap keys, values;           // [kv_heads, capacity, 128], boxes of kKeyRows rows
  void* out;                          // T [tokens, heads * 128]
  const void* qkv;                    // T [tokens, (heads + 2 kv_heads) * 128]
  const void* query_norm;             // T [128]
  const float* cosines;               // [tokens, 64]
  const float* sines;                 // [tokens, 64]
  const std::int32_t* total_lengths;  // [1], the new tokens counted
  int tokens, kv_heads;
  float epsilon, scale;               // of the norm; of the scores, times log2(e), positive
};

// Panels as matrix_layout.h has them.
struct PrefillShared {
  static constexpr int kQueryBytes = kGroupRows * kHeadSize * 2, kTileBytes = kKeyRows * kHeadSize * 2;
  alignas(1024) std::uint8_t queries[kGroups][kQueryBytes];  // later the results
  alignas(1024) std::uint8_t keys[kPrefillStages][kTileBytes];
  alignas(1024) std::uint8_t values[kPrefillStages][kTileBytes];
  std::uint64_t key_full[kPrefillStages], key_empty[kPrefillStages];
  std::uint64_t value_full[kPrefillStages], value_empty[kPrefillStages];

  // Called by one thread; a block barrier has to follow.
  __device__ void init() {
    for (int i = 0; i < kPrefillStages; ++i) {
      barrier_init(&key_full[i], 1);
      barrier_init(&key_empty[i], kPrefillArrivals);
      barrier_init(&value_full[i], 1);
      barrier_init(&value_empty[i], kPrefillArrivals);
    }
    barrier_init_done();
  }
};

__device__ __forceinline__ void load_tile(std::uint8_t* target, const CUtensorMap* map, int tile, int kv_head,
                                          std::uint64_t* full) {
  barrier_arrive_expecting(full, PrefillShared::kTileBytes);
#pragma unroll
  for (int panel = 0; panel < kHeadSize / kPanelColumns; ++panel) {
    tensor_copy(target + panel * kKeyRows * kPanelRowBytes, map, panel * kPanelColumns, tile * kKeyRows, kv_head, full);
  }
}

// Called by one thread, once the new keys and values are in the cache.
__device__ __forceinline__ void load_tiles(PrefillShared& shared, const PrefillArguments& arguments, int kv_head,
                                           int tiles) {
  Ring<kPrefillStages> ring;
  for (int tile = 0; tile < tiles; ++tile, ring = ring.next()) {
    const int stage = ring.stage;
    barrier_wait(&shared.key_empty[stage], ring.parity ^ 1);
    load_tile(shared.keys[stage], &arguments.keys, tile, kv_head, &shared.key_full[stage]);
    barrier_wait(&shared.value_empty[stage], ring.parity ^ 1);
    load_tile(shared.values[stage], &arguments.values, tile, kv_head, &shared.value_full[stage]);
  }
}

}  // namespace qwen3vl
