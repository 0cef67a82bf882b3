// Which thread block of prefill attention takes which queries, and which keys they see. Plain C++, for host and device.
//
// A row is one query head of one new token. The heads that share a key-value head are neighbouring rows, so that few
// tokens fill a tile too: row r of a tile is head r % kSharing of its token r / kSharing.
#pragma once

#include <cstdint>

#include "partition.h"

namespace qwen3vl {

constexpr int kSharing = 8;                              // query heads of one key-value head
constexpr int kGroupRows = 64;                           // of a warpgroup
constexpr int kGroupTokens = kGroupRows / kSharing;      // new tokens of a warpgroup
constexpr int kGroups = 2;                               // warpgroups of a block that attend
constexpr int kTileTokens = kGroups * kGroupTokens;      // new tokens of a block
constexpr int kKeyRows = 128;                            // cached tokens that are multiplied at once

struct PrefillItem {
  std::int32_t first_token;  // of the new ones
  std::int32_t kv_head;
};

QWEN3VL_HOST_DEVICE constexpr std::int32_t prefill_items(std::int32_t tokens, std::int32_t kv_heads) {
  return groups_of(tokens, kTileTokens) * kv_heads;
}

// The last tokens, which see most keys, come first: blocks start in order, and the short ones fill up what is left.
QWEN3VL_HOST_DEVICE constexpr PrefillItem prefill_item(std::int32_t index, std::int32_t tokens, std::int32_t kv_heads) {
  return {(groups_of(tokens, kTileTokens) - 1 - index / kv_heads) * kTileTokens, index % kv_heads};
}

// Key tiles of one block: all of them, those at the beginning that every row sees whole, and rows of the last that the
// sequence has, kKeyRows or fewer. `past`: tokens before the new ones.
struct KeyTiles {
  std::int32_t count, unmasked, of_last;
};

QWEN3VL_HOST_DEVICE constexpr KeyTiles key_tiles(std::int32_t first_token, std::int32_t tokens, std::int32_t past) {
  const std::int32_t last = first_token + kTileTokens < tokens ? first_token + kTileTokens : tokens;
  const std::int32_t count = groups_of(past + last, kKeyRows);
  const std::int32_t there = past + tokens - (count - 1) * kKeyRows;
  return {count, (past + first_token + 1) / kKeyRows, there < kKeyRows ? there : kKeyRows};
}

// Keys of tile `tile` that new token `token` sees: the first ones, so many; any number from kKeyRows on is all of them,
// 0 or less none.
QWEN3VL_HOST_DEVICE constexpr std::int32_t visible_keys(std::int32_t token, std::int32_t past, std::int32_t tile) {
  return past + token + 1 - tile * kKeyRows;
}

}  // namespace qwen3vl
