// The warps of a block that bring operands into its ring: weights by tensor copies, pairs' rows gathered.
#pragma once

#include "chunk_work.cuh"
#include "ring.h"
#include "tensor_copy.cuh"

namespace qwen3vl {

constexpr int kGatheredAtOnce = 8;  // rows: 16 bytes a lane
static_assert(kGatheringWarps * kWarp * 16 == kGatheredAtOnce * kPanelRowBytes);

// By all lanes of one warp.
__device__ __forceinline__ void find_groups(PairGroups& groups, const std::int32_t* counts, int lane) {
  constexpr int kOwn = kChunkExperts / kWarp;
  int pairs[kOwn], own_pairs = 0, own_groups = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    pairs[i] = __ldcg(counts + kOwn * lane + i);
    own_pairs += pairs[i];
    own_groups += expert_groups(pairs[i]);
  }
  int pair_end = own_pairs, group_end = own_groups;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int other_pairs = __shfl_up_sync(~0u, pair_end, offset);
    const int other_groups = __shfl_up_sync(~0u, group_end, offset);
    if (lane >= offset) pair_end += other_pairs, group_end += other_groups;
  }
  pair_end -= own_pairs;
  group_end -= own_groups;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    pair_end += pairs[i];
    group_end += expert_groups(pairs[i]);
    groups.pair_ends[kOwn * lane + i] = pair_end;
    groups.group_ends[kOwn * lane + i] = group_end;
  }
}

// By one thread: takes tiles, and copies their weights.
__device__ __forceinline__ void load_weights(ChunkShared& shared, const ChunkArguments& arguments) {
  const int tiles = shared.groups.tiles();
  const std::uint64_t policy = streaming_policy();
  Ring<kChunkStages> ring;
  Ring<kWorkStages> work_ring;
  int next = atomicAdd(arguments.counters, 1);
  for (;;) {
    const int index = next;
    barrier_wait(shared.work_done + work_ring.stage, work_ring.parity ^ 1);
    const ExpertTile tile = index < tiles ? tile_at(shared.groups, index) : ExpertTile{};
    shared.work[work_ring.stage].tile = tile;
    barrier_arrive(shared.tile_there + work_ring.stage);
    work_ring = work_ring.next();
    if (tile.pairs == 0) return;
    next = atomicAdd(arguments.counters, 1);  // the answer is there when this tile's weights have been asked for
    const CUtensorMap* map = tile.down != 0 ? &arguments.downs : &arguments.gates_and_ups;
    // Of what is copied second: its distance from what is first. Ups stand beside their gates, see ChunkArguments.
    const int row = tile.rows * (tile.down != 0 ? kTileRows : kHalfRows);
    const int columns_on = tile.down != 0 ? 0 : kChunkHidden, rows_on = tile.down != 0 ? kHalfRows : 0;
    const int steps = steps_of(tile);
    for (int step = 0; step < steps; ++step) {
      ChunkStage& stage = shared.stages[ring.stage];
      std::uint64_t* full = shared.full + ring.stage;
      barrier_wait(shared.empty + ring.stage, ring.parity ^ 1);
      barrier_arrive_expecting(full, sizeof stage.weights);
      const int column = step * kPanelColumns;
      tensor_copy(stage.weights[0], map, column, row, tile.expert, full, policy);
      tensor_copy(stage.weights[1], map, column + columns_on, row + rows_on, tile.expert, full, policy);
      ring = ring.next();
    }
  }
}

// By two warps: `half` has the first or the last four of each eight rows. A lane copies 16 bytes of a row; a group's
// rows beyond its pairs keep what they held, whose products nobody reads.
__device__ __forceinline__ void gather_rows(ChunkShared& shared, const ChunkArguments& arguments, int half, int lane) {
  constexpr int kRowsOfWarp = kGatheredAtOnce / kGatheringWarps;
  const int own_row = half * kRowsOfWarp + lane / 8, piece = lane % 8;
  const int own_place = swizzled(own_row * kPanelRowBytes + piece * 16);
  Ring<kChunkStages> ring;
  Ring<kWorkStages> work_ring;
  for (;; work_ring = work_ring.next()) {
    ChunkWork& work = shared.work[work_ring.stage];
    barrier_wait(shared.tile_there + work_ring.stage, work_ring.parity);
    const ExpertTile tile = work.tile;
    for (int i = lane; i < kGroupPairs / kGatheringWarps; i += kWarp) {
      const int row = i / kRowsOfWarp * kGatheredAtOnce + half * kRowsOfWarp + i % kRowsOfWarp;
      if (row < tile.pairs) {
        const int pair = __ldcg(arguments.grouped + tile.first_pair + row);
        work.pairs[row] = pair;
        work.sources[row] = tile.down != 0 ? tile.first_pair + row : pair / arguments.k;
        work.weights[row] = __ldcg(arguments.chosen_weights + pair);
      }
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(shared.pairs_there + work_ring.stage);
    if (tile.pairs == 0) return;
    if (tile.down != 0) {
      if (lane == 0) {
        while (acquire_load(arguments.counters + 1 + tile.group) < kReports) __nanosleep(20);
      }
      __syncwarp();
    }
    const auto* source = static_cast<const std::uint8_t*>(tile.down != 0 ? arguments.activations : arguments.x);
    const int row_bytes = (tile.down != 0 ? kChunkInner : kChunkHidden) * 2, steps = steps_of(tile);
    const std::uint8_t* from = source + piece * 16;
    for (int step = 0; step < steps; ++step, from += kPanelRowBytes) {
      barrier_wait(shared.empty + ring.stage, ring.parity ^ 1);
      std::uint8_t* to = shared.stages[ring.stage].rows + own_place;
#pragma unroll 4
      for (int row = own_row; row < tile.pairs; row += kGatheredAtOnce, to += kGatheredAtOnce * kPanelRowBytes) {
        copy_16(to, from + static_cast<std::int64_t>(work.sources[row]) * row_bytes);
      }
      barrier_arrive_after_copies(shared.full + ring.stage);
      ring = ring.next();
    }
  }
}

}  // namespace qwen3vl
