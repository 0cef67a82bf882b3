// How queries, keys and values lie in the workspace, and which thread block attends to which of them. Plain functions,
// tested on the CPU.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define QWEN3VL_HOST_DEVICE __host__ __device__
#else
#define QWEN3VL_HOST_DEVICE
#endif

namespace qwen3vl {

constexpr int kQueryRows = 64;  // of a tile: what one warpgroup multiplies at once
constexpr int kKeyRows = 128;   // of a tile
constexpr int kChunk = 8;       // dimensions that lie together: 16 bytes, a row of the matrix units' 8 x 8 blocks
constexpr int kGroups = 3;      // warpgroups of a thread block that attend, each for its own query tile

QWEN3VL_HOST_DEVICE constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Products over the head take 16 dimensions at a time; the missing ones are zeros.
QWEN3VL_HOST_DEVICE constexpr int score_chunks(int head_size) { return static_cast<int>(ceil_div(head_size, 16)) * 2; }
QWEN3VL_HOST_DEVICE constexpr int value_chunks(int head_size) { return head_size / kChunk; }

// A tile is an array [chunks][rows][8]: the layout without swizzle that wgmma reads, so that one plain copy brings it
// into shared memory. Tiles of one (frame, head) follow each other. This is the first element of a row's first chunk;
// its next chunk is tile_rows * 8 elements further.
QWEN3VL_HOST_DEVICE constexpr std::int64_t tile_offset(std::int64_t frame_head, std::int64_t row, std::int64_t tiles,
                                                       int tile_rows, int chunks) {
  return ((frame_head * tiles + row / tile_rows) * chunks * tile_rows + row % tile_rows) * kChunk;
}

// The work of one call, cut into items. A full item is kGroups query tiles of one (frame, head), one for each
// warpgroup; a split item is one query tile, whose keys the warpgroups share out, in a third of the time. Split items
// are what full ones leave, so that the last round of thread blocks is short.
struct Schedule {
  std::int32_t query_tiles;    // of one (frame, head)
  std::int32_t full_per_head;  // full items that it could have
  std::int32_t full;           // full items there are, in order of (frame, head)
  std::int32_t split;          // split items
  std::int32_t remainders;     // split items of tiles in excess of a multiple of kGroups; they come first

  QWEN3VL_HOST_DEVICE std::int32_t items() const { return full + split; }
};

struct Item {
  std::int32_t frame_head;
  std::int32_t query_tile;  // the first
  bool split;
};

inline Schedule make_schedule(std::int64_t frame_heads, std::int64_t patches, int processors) {
  Schedule schedule{};
  schedule.query_tiles = static_cast<std::int32_t>(ceil_div(patches, kQueryRows));
  schedule.full_per_head = schedule.query_tiles / kGroups;
  schedule.remainders = static_cast<std::int32_t>(frame_heads) * (schedule.query_tiles % kGroups);
  const auto tiles = static_cast<std::int32_t>(frame_heads * schedule.query_tiles);
  const auto most = static_cast<std::int32_t>(frame_heads) * schedule.full_per_head;
  // In thirds of the time of a full item.
  const auto cost = [&](std::int32_t full) {
    return kGroups * ceil_div(full, processors) + ceil_div(tiles - kGroups * full, processors);
  };
  const std::int32_t whole_rounds = most / processors * processors;
  schedule.full = cost(whole_rounds) < cost(most) ? whole_rounds : most;
  schedule.split = tiles - kGroups * schedule.full;
  return schedule;
}

QWEN3VL_HOST_DEVICE inline Item item_at(const Schedule& schedule, std::int32_t index) {
  if (index < schedule.full)
    return {index / schedule.full_per_head, index % schedule.full_per_head * kGroups, false};
  std::int32_t tile = index - schedule.full;
  if (tile < schedule.remainders) {
    const std::int32_t rest = schedule.query_tiles % kGroups;
    return {tile / rest, schedule.full_per_head * kGroups + tile % rest, true};
  }
  tile -= schedule.remainders;
  const std::int32_t item = schedule.full + tile / kGroups;
  return {item / schedule.full_per_head, item % schedule.full_per_head * kGroups + tile % kGroups, true};
}

}  // namespace qwen3vl
