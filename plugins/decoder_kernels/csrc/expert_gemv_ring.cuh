// Which 4-bit rows a thread block of expert_gemv.cuh has, and how they come to its shared memory.
//
// An expert's gate, up and down rows are divided evenly among 16 thread blocks. All there is to read is known as soon
// as the choice is: every warp starts a copy, and what does not fit comes in place of the first tiles that all have
// read.
#pragma once

#include <cstdint>

#include "expert_stream.cuh"
#include "int4_rows.cuh"
#include "stream_memory.cuh"

namespace qwen3vl {
namespace {

constexpr int kExpertBlocks = 16;  // thread blocks of an expert

template <typename T, int kBlockOfK>
struct ExpertGemvShape {
  using Value = T;
  using Rows = Int4Rows<T, kBlockOfK>;
  using Tiles = ExpertTiles<Rows>;
  static constexpr int kBlock = kBlockOfK;

  // Of a thread block; tiles of gates and ups come first.
  static constexpr int kUpTiles = Tiles::kUpTiles / kExpertBlocks, kDownTiles = Tiles::kDownTiles / kExpertBlocks;
  static constexpr int kTiles = kUpTiles + kDownTiles;
  static constexpr int kUpRows = kUpTiles * Tiles::kUpRows, kDownRows = kDownTiles * Tiles::kDownRows;
  static constexpr int kActivations = kUpRows / 2;
  static_assert(Tiles::kUpTiles % kExpertBlocks == 0 && Tiles::kDownTiles % kExpertBlocks == 0);

  static constexpr int kStageBytes = stage_bytes(Tiles::kUpPiece);
  struct Others {
    alignas(128) std::uint8_t up_extra[kUpTiles * Tiles::kUpExtra];
    alignas(128) std::uint8_t down_extra[kDownTiles * Tiles::kDownExtra];
    float up_sums[kStreamWarps][kUpRows];  // of each warp's part of k
    alignas(16) T activations[kInner];
    alignas(16) T zeros[kBlock];
    std::uint64_t up_extra_full, down_extra_full;
  };
  static constexpr int kFit = (kHalfBudget - 256 - static_cast<int>(sizeof(Others))) / (kStageBytes + 16);
  static constexpr int kStages = kFit < kTiles ? kFit : kTiles;
  // Only tiles of gates and ups are replaced, each by a warp of its own.
  static_assert(kStages >= kDownTiles && kStages > 1 && kUpTiles <= kStreamWarps);

  struct Shared {
    alignas(128) std::uint8_t stages[kStages][kStageBytes];
    Others others;
    std::uint64_t full[kStages], empty[kStages];
  };
  static_assert(sizeof(Shared) <= kHalfBudget);
};

template <typename Shape>
class ExpertGemvRing {
 public:
  using Shared = typename Shape::Shared;
  using Tiles = typename Shape::Tiles;

  // `share`: which of an expert's kExpertBlocks parts.
  __device__ ExpertGemvRing(const ExpertArguments& arguments, Shared& shared, int share)
      : arguments_(arguments), shared_(shared), warp_(threadIdx.x / 32), lane_(threadIdx.x % 32), share_(share) {}

  // Called by one thread; a block barrier has to follow.
  static __device__ void init(Shared& shared) {
    for (int i = 0; i < Shape::kStages; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], kStreamWarps);
    }
    barrier_init(&shared.others.up_extra_full, 1);
    barrier_init(&shared.others.down_extra_full, 1);
    barrier_init_done();
  }

  // Starts the first copies, a warp's part of them each. Called by all warps, as are the following.
  __device__ __forceinline__ void start(int expert) {
    expert_ = expert;
    if (lane_ != 0) return;
    for (int tile = warp_; tile < Shape::kStages; tile += kStreamWarps) copy(tile);
    if (warp_ == kStreamWarps - 1) {
      auto& others = shared_.others;
      copy_extra(others.up_extra, arguments_.gate_up_extra, &others.up_extra_full);
      copy_extra(others.down_extra, arguments_.down_extra, &others.down_extra_full);
    }
  }

  __device__ __forceinline__ void wait(int tile) {
    barrier_wait(&shared_.full[tile % Shape::kStages], tile / Shape::kStages % 2);
  }

  __device__ __forceinline__ const std::uint8_t* rows(int tile) const {
    return shared_.stages[tile % Shape::kStages];
  }

  // Called when the warp has read a tile. `read`: as for WeightStream::give_back.
  __device__ __forceinline__ void give_back(int tile, std::uint32_t read) {
    if (!replaced(tile)) return;
    const int arriving = __any_sync(~0u, read != 0) ? 0 : 1;
    if (lane_ == arriving) barrier_arrive(&shared_.empty[tile % Shape::kStages]);
  }

  // Starts the copy that takes a tile's place once all warps have given it back. One of the warps sees to that: a
  // different one for each tile, so that none waits twice.
  __device__ __forceinline__ void refill(int tile) {
    if (!replaced(tile) || warp_ != tile || lane_ != 0) return;
    barrier_wait(&shared_.empty[tile % Shape::kStages], tile / Shape::kStages % 2);
    copy(tile + Shape::kStages);
  }

 private:
  static __device__ __forceinline__ bool replaced(int tile) { return tile + Shape::kStages < Shape::kTiles; }

  __device__ __forceinline__ void copy(int tile) {
    const bool down = tile >= Shape::kUpTiles;
    const int bytes = down ? Tiles::kDownPiece : Tiles::kUpPiece, stage = tile % Shape::kStages;
    const int place = (expert_ * kExpertBlocks + share_) * (down ? Shape::kDownTiles : Shape::kUpTiles) +
                      (down ? tile - Shape::kUpTiles : tile);
    const auto* source = static_cast<const std::uint8_t*>(down ? arguments_.down : arguments_.gate_up) +
                         static_cast<std::int64_t>(place) * (2 * bytes);
    const auto piece = static_cast<std::uint32_t>(bytes);
    barrier_arrive_expecting(&shared_.full[stage], 2 * piece);
    bulk_copy(shared_.stages[stage], source, piece, &shared_.full[stage], streaming_policy());
    bulk_copy(shared_.stages[stage] + bytes + kPieceGap, source + bytes, piece, &shared_.full[stage],
              streaming_policy());
  }

  template <std::size_t kBytes>
  __device__ __forceinline__ void copy_extra(std::uint8_t (&to)[kBytes], const void* all, std::uint64_t* full) {
    const std::int64_t place = expert_ * kExpertBlocks + share_;
    barrier_arrive_expecting(full, kBytes);
    bulk_copy(to, static_cast<const std::uint8_t*>(all) + place * kBytes, kBytes, full, streaming_policy());
  }

  const ExpertArguments& arguments_;
  Shared& shared_;
  const int warp_, lane_, share_;
  int expert_ = 0;
};

}  // namespace
}  // namespace qwen3vl
