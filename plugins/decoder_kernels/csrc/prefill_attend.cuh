// The warpgroups of a thread block of prefill attention that attend, each with its own queries. They multiply a tile of
// keys while the weights of the tile before are still being multiplied with their values, and take exponentials
// meanwhile.
#pragma once

#include "prefill_loading.cuh"
#include "prefill_rows.cuh"

namespace qwen3vl {

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
