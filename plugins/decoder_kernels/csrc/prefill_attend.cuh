// The two roles of a thread block of prefill attention: one thread that loads keys and values, and warpgroups that
// attend to them, each with its own queries. These multiply a tile of keys while the weights of the tile before are still
// being multiplied with their values, and take exponentials meanwhile.
#pragma once

#include <cuda.h>

#include "prefill_rows.cuh"
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

template <typename T>
struct PrefillAttention {
  PrefillShared& shared;
  const PrefillArguments& arguments;
  const int past, kv_head, first_token;  // of this warpgroup
  const int me = threadIdx.x / kWarpgroup - 1, warp = threadIdx.x % kWarpgroup / kWarp, lane = threadIdx.x % kWarp;
  PrefillRows<T> rows;
  Ring<kPrefillStages> ring;

  __device__ __forceinline__ void release(std::uint64_t& barrier) {
    if (lane == 0) barrier_arrive(&barrier);
  }
  // Of this warpgroup's threads.
  __device__ __forceinline__ void group_barrier() { named_barrier(1 + me, kWarpgroup); }

  __device__ __forceinline__ std::uint64_t queries() const { return row_panels(shared_address(shared.queries[me])); }
  __device__ __forceinline__ std::uint64_t keys(int stage) const {
    return row_panels(shared_address(shared.keys[stage]));
  }
  __device__ __forceinline__ std::uint64_t values(int stage) const {
    return column_panels(shared_address(shared.values[stage]), kKeyRows);
  }

  // Norms and turns the warp's 16 queries, two tokens with their heads. Those of tokens that are not there become 0.
  __device__ __forceinline__ void prepare_queries() {
    const uint2 norm = head_norm_now(static_cast<const T*>(arguments.query_norm), lane);
    const int heads = arguments.kv_heads * kSharing;
    for (int r = 0; r < 2; ++r) {
      const int row = (2 * warp + r) * kSharing, token = first_token + 2 * warp + r;
      const bool there = token < arguments.tokens;
      const std::int64_t source = there ? token : 0;
      const T* query = static_cast<const T*>(arguments.qkv) +
                       (source * (heads + 2 * arguments.kv_heads) + kv_head * kSharing) * kHeadSize;
      const float2 cosine = reinterpret_cast<const float2*>(arguments.cosines + source * (kHeadSize / 2))[lane];
      const float2 sine = reinterpret_cast<const float2*>(arguments.sines + source * (kHeadSize / 2))[lane];
      uint2 pairs[kSharing];
#pragma unroll
      for (int head = 0; head < kSharing; ++head) pairs[head] = head_pairs(query + head * kHeadSize, lane);
#pragma unroll
      for (int head = 0; head < kSharing; ++head) {
        uint2 turned = normed_and_turned<T>(pairs[head], norm, cosine, sine, arguments.epsilon);
        if (!there) turned = {};
        std::uint8_t* panels = shared.queries[me];
        *reinterpret_cast<std::uint32_t*>(panels + panel_offset(row + head, 2 * lane, kGroupRows)) = turned.x;
        *reinterpret_cast<std::uint32_t*>(panels + panel_offset(row + head, kHeadSize / 2 + 2 * lane, kGroupRows)) =
            turned.y;
      }
    }
    shared_writes_fence();
    group_barrier();
  }

  __device__ __forceinline__ void mask(int tile) {
    const int token = first_token + 2 * warp;
    const int visible[2] = {visible_keys(token, past, tile), visible_keys(token + 1, past, tile)};
    rows.mask(visible);
  }

  // Values behind the sequence's end become 0: their weights are, but 0 times anything is not always 0. Each warpgroup
  // does it for itself; that another does the same makes no difference.
  __device__ __forceinline__ void clear_values(int stage, int there) {
    constexpr int kPieces = kPanelRowBytes / sizeof(uint4);  // of a row of a panel
#pragma unroll
    for (int panel = 0; panel < kHeadSize / kPanelColumns; ++panel) {
      auto* pieces = reinterpret_cast<uint4*>(shared.values[stage]) + panel * kKeyRows * kPieces;
      for (int i = there * kPieces + threadIdx.x % kWarpgroup; i < kKeyRows * kPieces; i += kWarpgroup) {
        pieces[i] = uint4{};
      }
    }
    shared_writes_fence();
    group_barrier();
  }

  __device__ __forceinline__ void attend(const KeyTiles& tiles) {
    const float scale = arguments.scale;
    float correction[2];
    rows.clear();
    barrier_wait(&shared.key_full[ring.stage], ring.parity);
    rows.multiply_keys(queries(), keys(ring.stage));
    mma_wait<0>();
    settle(rows.scores);
    release(shared.key_empty[ring.stage]);
    if (tiles.unmasked < 1) mask(0);
    rows.exponentiate(scale, correction);
    rows.round_weights();
    Ring<kPrefillStages> before = ring;
    for (int tile = 1; tile < tiles.count; ++tile, before = ring) {
      ring = ring.next();
      if (tile == 1) barrier_wait(&shared.key_full[ring.stage], ring.parity);
      rows.multiply_keys(queries(), keys(ring.stage));
      barrier_wait(&shared.value_full[before.stage], before.parity);
      rows.multiply_values(values(before.stage));
      mma_wait<1>();
      settle(rows.scores);
      release(shared.key_empty[ring.stage]);
      if (tile >= tiles.unmasked) mask(tile);
      rows.exponentiate(scale, correction);
      // Waits here for the keys of the next round: without a branch ptxas moves the exponentials below the next line.
      const Ring<kPrefillStages> after = ring.next();
      if (tile + 1 < tiles.count) barrier_wait(&shared.key_full[after.stage], after.parity);
      mma_wait<0>();
      rows.settle_mixed();
      release(shared.value_empty[before.stage]);
      rows.correct(correction);
      rows.round_weights();
    }
    barrier_wait(&shared.value_full[ring.stage], ring.parity);
    if (tiles.of_last < kKeyRows) clear_values(ring.stage, tiles.of_last);
    mma_fence();
    rows.multiply_values(values(ring.stage));
    mma_wait<0>();
    rows.settle_mixed();
  }

  // By way of shared memory, where the queries were: 16 bytes a thread, each warp its own rows.
  __device__ __forceinline__ void store() {
    const float2 factors = rows.factors();
    std::uint8_t* panels = shared.queries[me];
    group_barrier();  // no warp's products read queries any more
#pragma unroll
    for (int i = 0; i < kHeadSize / 2; i += 2) {
      const float factor = i / 2 % 2 == 0 ? factors.x : factors.y;
      const int row = 16 * warp + lane / 4 + 8 * (i / 2 % 2), column = i / 4 * 8 + 2 * (lane % 4);
      *reinterpret_cast<std::uint32_t*>(panels + panel_offset(row, column, kGroupRows)) =
          Element<T>::pack(rows.mixed[i] * factor, rows.mixed[i + 1] * factor);
    }
    __syncwarp();
    constexpr int kPieces = kHeadSize / 8;
    const int heads = arguments.kv_heads * kSharing;
    for (int i = lane; i < 16 * kPieces; i += kWarp) {
      const int row = 16 * warp + i / kPieces, column = i % kPieces * 8;
      const std::int64_t token = first_token + row / kSharing;
      if (token >= arguments.tokens) continue;
      T* out = static_cast<T*>(arguments.out) +
               (token * heads + kv_head * kSharing + row % kSharing) * kHeadSize + column;
      *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(panels + panel_offset(row, column, kGroupRows));
    }
  }
};

}  // namespace qwen3vl
