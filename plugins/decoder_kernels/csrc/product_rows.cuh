// A product's arguments, the shape of its work, and which weight rows a block streams.
#pragma once

#include <cstdint>
#include <type_traits>

#include "partition.h"
#include "weight_stream.cuh"

namespace qwen3vl {
namespace {

struct ProductArguments {
  void* out;             // [tokens, rows], T or float
  const void* x;         // T [tokens, kInner]
  const void* residual;  // T [tokens, rows], or null
  const void* weights;   // [rows], of kInner values each
  int tokens, rows;
  const void* extra = nullptr;  // [rows], what comes with each
};

constexpr int kLongestPart = 4096;  // bytes of a row that come at once
constexpr int kDeepBudget = 140 * 1024;

// One half tile of tokens leaves room for the next kernel's block; kDeep: a ring of more stages, only for a smaller one.
template <typename Rows, int kInner, int kHalves, bool kDeep>
struct ProductShape {
  static constexpr int kHalfTiles = kHalves;
  static constexpr int kRowTiles = Rows::kRowTiles, kRows = kRowTile * kRowTiles, kPieceRows = kRows / 2;  // of a tile
  // Stages that a tile's rows come in: of long ones, more and shorter.
  static constexpr int kParts = kHalves == 1 ? groups_of(Rows::row_bytes(kInner), kLongestPart) : 1;
  static constexpr int kPartInner = kInner / kParts;
  static constexpr int kRowBytes = Rows::row_bytes(kPartInner), kPieceBytes = kPieceRows * kRowBytes;
  static constexpr int kExtraBytes = kRows * Rows::extra_bytes(kInner);
  static_assert(kParts == 1 || kExtraBytes == 0);
  static constexpr int kBudget = kHalves > 1 ? kFullBudget : kDeep ? kDeepBudget : kHalfBudget;
  static constexpr int kSums = kRowTiles * kHalves;
  static constexpr int kStages = stages_that_fit<kSums>(kBudget, kPieceBytes, 0, kExtraBytes);
  using Memory = StreamMemory<kSums, kStages, kPieceBytes, kExtraBytes>;
  static_assert(sizeof(Memory) <= kBudget);
};

// A block's stages, one after another: of each tile kParts.
template <typename Shape>
struct ProductRows {
  const std::uint8_t* weights;
  const std::uint8_t* extra;
  Range stages;

  using Stage = std::conditional_t<(Shape::kParts > 1), StageApartRows,
                                   std::conditional_t<(Shape::kExtraBytes > 0), StageRowsAndExtra, StageRows>>;

  __device__ __forceinline__ bool next(Stage& rows) {
    if (stages.begin == stages.end) return false;
    const int tile = stages.begin / Shape::kParts, part = stages.begin++ % Shape::kParts;
    rows.source = weights + static_cast<std::int64_t>(tile) * (Shape::kRows * Shape::kRowBytes * Shape::kParts) +
                  part * Shape::kRowBytes;
    rows.bytes = Shape::kPieceBytes;
    rows.tag = 0;
    if constexpr (Shape::kExtraBytes > 0) {
      rows.extra = extra + static_cast<std::int64_t>(tile) * Shape::kExtraBytes;
      rows.extra_bytes = Shape::kExtraBytes;
    }
    if constexpr (Shape::kParts > 1) {
      rows.row_bytes = Shape::kRowBytes;
      rows.pitch = Shape::kRowBytes * Shape::kParts;
    }
    return true;
  }
};

}  // namespace
}  // namespace qwen3vl
