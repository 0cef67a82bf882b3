// How a chunk's work on the experts is cut: which pairs of token and choice a block multiplies with which weight rows,
// and where that lies in memory. Plain C++, for host and device.
//
// The pairs of an expert lie together, those of the experts one behind another. Up to kGroupPairs pairs of an expert
// are a group; a tile is a group with kTileRows weight rows. Tiles that share weights follow each other, so that these
// come from memory once; those of gates and ups come before those of downs, which read what the former wrote.
#pragma once

#include <cstddef>
#include <cstdint>

#include "partition.h"

namespace qwen3vl {

constexpr int kChunkExperts = 128;  // at most
constexpr int kChunkHidden = 2048;
constexpr int kChunkInner = 768;
constexpr int kMostPairs = 1 << 24;  // of a chunk, so that 32 bits number all tiles

constexpr int kTileRows = 256;
constexpr int kUpTilesOfGroup = 2 * kChunkInner / kTileRows;
constexpr int kDownTilesOfGroup = kChunkHidden / kTileRows;
constexpr int kPairBlock = 32;  // pairs are multiplied in whole blocks
constexpr int kGroupBlocks = 5;
constexpr int kGroupPairs = kPairBlock * kGroupBlocks;

// For each expert the ends of its pairs and of its groups, counted from the first expert's first.
struct PairGroups {
  std::int32_t pair_ends[kChunkExperts];
  std::int32_t group_ends[kChunkExperts];

  QWEN3VL_HOST_DEVICE std::int32_t tiles() const {
    return group_ends[kChunkExperts - 1] * (kUpTilesOfGroup + kDownTilesOfGroup);
  }
};

// Groups of an expert with so many pairs.
QWEN3VL_HOST_DEVICE constexpr std::int32_t expert_groups(std::int32_t pairs) {
  return groups_of(groups_of(pairs, kPairBlock), kGroupBlocks);
}

struct ExpertTile {
  std::int32_t expert;
  std::int32_t group;       // counted from the first expert's first
  std::int32_t rows;        // which kTileRows rows of the expert's; of gates and ups, half of each
  std::int32_t first_pair;  // counted from the first expert's first
  std::int32_t pairs;       // at most kGroupPairs; 0 marks the end of the work
  std::int32_t down;        // 1 or 0
};

QWEN3VL_HOST_DEVICE inline ExpertTile tile_at(const PairGroups& groups, std::int32_t index) {
  const std::int32_t ups = groups.group_ends[kChunkExperts - 1] * kUpTilesOfGroup;
  const bool down = index >= ups;
  const std::int32_t place = down ? index - ups : index, per_group = down ? kDownTilesOfGroup : kUpTilesOfGroup;
  std::int32_t expert = 0;  // the first whose groups end behind this place
  for (std::int32_t step = kChunkExperts / 2; step > 0; step /= 2) {
    if (groups.group_ends[expert + step - 1] <= place / per_group) expert += step;
  }
  const std::int32_t first_group = expert == 0 ? 0 : groups.group_ends[expert - 1];
  const std::int32_t first_pair = expert == 0 ? 0 : groups.pair_ends[expert - 1];
  const std::int32_t count = groups.group_ends[expert] - first_group, pairs = groups.pair_ends[expert] - first_pair;
  const std::int32_t inside = place - first_group * per_group, group = inside % count;
  const Range blocks = share_of(groups_of(pairs, kPairBlock), group, count);
  const std::int32_t begin = blocks.begin * kPairBlock, end = blocks.end * kPairBlock;
  return {expert, first_group + group, inside / count, first_pair + begin, (end < pairs ? end : pairs) - begin,
          down ? 1 : 0};
}

// The workspace of a chunk: offsets in bytes of its arrays, and its size. Elements have 16 bits.
struct ChunkWorkspace {
  std::int32_t counter_count;  // tiles taken; then, for each group, what its gates and ups have reported
  std::size_t counters, counts, grouped, activations, size;

  ChunkWorkspace(std::int64_t tokens, std::int64_t k) {
    const std::int64_t pairs = tokens * k;
    counter_count = static_cast<std::int32_t>(1 + kChunkExperts + pairs / kGroupPairs);
    std::size_t end = 0;
    const auto take = [&end](std::int64_t bytes) {
      const std::size_t begin = end;
      end += static_cast<std::size_t>(bytes + 255) / 256 * 256;
      return begin;
    };
    counters = take(counter_count * std::int64_t{4});
    counts = take(kChunkExperts * 4);
    grouped = take(pairs * 4);
    activations = take(pairs * kChunkInner * 2);
    size = end;
  }
};

}  // namespace qwen3vl
