// What the experts' kernel is compiled for: numbers of tokens, and how much of a multiprocessor a block takes for them.
#pragma once

#include <type_traits>

#include "expert_plan.cuh"
#include "expert_stream.cuh"
#include "stream_memory.cuh"

namespace qwen3vl {
namespace {

// kFew: no more tokens than rows of a unit, so that every token has its own row.
template <typename Rows, int kHalves, bool kFew>
struct ExpertShape {
  using Tiles = ExpertTiles<Rows>;
  static constexpr int kRows = kHalves * kHalfTile;
  // Rows of 4 bits are bound by taking them apart, wide ones of many experts by memory.
  static constexpr bool kCoded = Rows::kRowTiles > 1;
  // Whether a block takes half of a multiprocessor: of wide rows one long ring keeps more on its way than two short ones;
  // of rows of 4 bits twice the warps take more apart.
  static constexpr bool kHalfBlocks = kCoded || kFew;
  static constexpr int kMaxPairs = kFew ? 64 : kHalves == 1 ? (kCoded ? 1024 : 512) : 2048;
  using Plan = ExpertPlan<kMaxPairs, kRows>;
  static_assert(Plan::kMaxUnits <= kUpsTaken);  // each has a counter
  using Planning =
      std::conditional_t<kFew, FewTokensPlan<kMaxPairs, kRows>, ManyTokensPlan<kMaxPairs, kRows, kStreamWarps>>;
  static constexpr int kBudget = kHalfBlocks ? kHalfBudget : kFullBudget;
  static constexpr int kSums = Tiles::kRowTiles * kHalves;
  static constexpr int kStages = stages_that_fit<kSums>(kBudget, Tiles::kUpPiece, sizeof(Plan), Tiles::kUpExtra);
  using Memory = StreamMemory<kSums, kStages, Tiles::kUpPiece, Tiles::kUpExtra>;
  struct Shared {
    Memory stream;
    Plan plan;
    // Of the plan, before the first sums are there.
    __device__ typename Planning::Scratch& scratch() {
      return reinterpret_cast<typename Planning::Scratch&>(stream.partials);
    }
  };
  static_assert(sizeof(Shared) <= kBudget);

  // Blocks of a multiprocessor. The few wide experts of one or two tokens gain more from the next kernel's starting in
  // the other half.
  static int blocks_each(int tokens) { return kHalfBlocks && (kCoded || tokens > kFewWideTokens) ? 2 : 1; }
  static_assert(sizeof(typename Planning::Scratch) <= sizeof(Memory::partials));
};

}  // namespace
}  // namespace qwen3vl
