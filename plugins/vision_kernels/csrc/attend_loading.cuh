// What an attending thread block has in shared memory, and the thread that brings it.
#pragma once

#include "elements.cuh"
#include "ptx.cuh"
#include "ring.h"
#include "tiles.h"

namespace qwen3vl {

constexpr int kStages = 3;  // key tiles, and value tiles, on their way
constexpr int kAttendThreads = (kGroups + 1) * kWarpgroup;
constexpr int kArrivals = kGroups * kWarpgroup / kWarp;  // one lane of each attending warp
// Of 64 K registers: 128 a thread at the start; what the loading warpgroup gives back goes to the others.
constexpr int kLoaderRegisters = 32, kAttendRegisters = 160;

template <typename T, int kHead>
struct Shared {
  static constexpr int kQuerySize = score_chunks(kHead) * kQueryRows * kChunk;
  static constexpr int kKeySize = score_chunks(kHead) * kKeyRows * kChunk;
  static constexpr int kValueSize = value_chunks(kHead) * kKeyRows * kChunk;
  static constexpr int kPitch = kHead % 64 == 0 ? kHead + kChunk : kHead;  // rows start in different banks

  struct Partial {  // of a warpgroup that shares keys with the first one; element i of thread t at [i][t]
    float mixed[kHead / 2][kWarpgroup], top[2][kWarpgroup], sum[2][kWarpgroup];
  };

  alignas(128) T queries[2][kGroups][kQuerySize];
  alignas(128) T keys[kStages][kKeySize];
  alignas(128) T values[kStages][kValueSize];
  union {
    T out[kGroups][kQueryRows * kPitch];
    Partial partial[kGroups - 1];
  };
  std::uint64_t query_full[2], query_empty[2];
  std::uint64_t key_full[kStages], key_empty[kStages], value_full[kStages], value_empty[kStages];
};

template <typename T>
struct AttendArguments {
  T* out;  // [frames, patches, heads * kHead]
  const T *query_tiles, *key_tiles, *value_tiles;
  int patches, heads, key_tiles_per_head;
  Schedule schedule;
};

// Brings the tiles of the thread block's items to shared memory, keys from the last tile to the first. One thread.
template <typename T, int kHead>
__device__ __forceinline__ void load(Shared<T, kHead>& shared, const AttendArguments<T>& arguments) {
  using Sizes = Shared<T, kHead>;
  constexpr int kQueryBytes = sizeof(T) * Sizes::kQuerySize, kKeyBytes = sizeof(T) * Sizes::kKeySize,
                kValueBytes = sizeof(T) * Sizes::kValueSize;
  Ring<2> query_ring;
  Ring<kStages> ring;
  for (int index = blockIdx.x; index < arguments.schedule.items(); index += gridDim.x) {
    const Item item = item_at(arguments.schedule, index);
    const std::int64_t query_tile =
        static_cast<std::int64_t>(item.frame_head) * arguments.schedule.query_tiles + item.query_tile;
    const int bytes = kQueryBytes * (item.split ? 1 : kGroups), buffer = query_ring.stage;
    barrier_wait(&shared.query_empty[buffer], query_ring.parity ^ 1);
    barrier_arrive_expecting(&shared.query_full[buffer], bytes);
    bulk_copy(shared.queries[buffer], arguments.query_tiles + query_tile * Sizes::kQuerySize, bytes,
              &shared.query_full[buffer]);
    query_ring = query_ring.next();
    for (int tile = arguments.key_tiles_per_head - 1; tile >= 0; --tile) {
      const std::int64_t at = static_cast<std::int64_t>(item.frame_head) * arguments.key_tiles_per_head + tile;
      const int stage = ring.stage;
      barrier_wait(&shared.key_empty[stage], ring.parity ^ 1);
      barrier_arrive_expecting(&shared.key_full[stage], kKeyBytes);
      bulk_copy(shared.keys[stage], arguments.key_tiles + at * Sizes::kKeySize, kKeyBytes, &shared.key_full[stage]);
      barrier_wait(&shared.value_empty[stage], ring.parity ^ 1);
      barrier_arrive_expecting(&shared.value_full[stage], kValueBytes);
      bulk_copy(shared.values[stage], arguments.value_tiles + at * Sizes::kValueSize, kValueBytes,
                &shared.value_full[stage]);
      ring = ring.next();
    }
  }
}

}  // namespace qwen3vl
