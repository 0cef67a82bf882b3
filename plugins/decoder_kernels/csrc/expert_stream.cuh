// Which weight rows a block of the experts' kernel streams, and in which order.
#pragma once

#include <cstdint>
#include <type_traits>

#include "expert_plan.cuh"
#include "weight_stream.cuh"

namespace qwen3vl {
namespace {

constexpr int kHidden = 2048;
constexpr int kInner = 768;
// Of the counters: tiles taken of the shared part of each list; the others count a unit's finished gate and up tiles.
constexpr int kUpsTaken = 254, kDownsTaken = 255, kCounters = 256;

struct ExpertArguments {
  void* y;                      // T [tokens * k, kHidden]
  void* activations;            // T [tokens * k, kInner], scratch
  std::int32_t* counters;       // [kCounters], and for expert_gemv.cuh what it exchanges, 0 at the start
  const void* x;                // T [tokens, kHidden]
  const std::int32_t* chosen;   // [tokens, k]
  const float* chosen_weights;  // [tokens, k]
  const void* gate_up;          // [experts, 2 * kInner], rows of kHidden
  const void* down;             // [experts, kHidden], rows of kInner
  int tokens, k;
  const void* gate_up_extra = nullptr;  // what comes with each row
  const void* down_extra = nullptr;
};

// Tiles of the two lists, and bytes of a piece of their rows and of what comes with a tile.
template <typename Rows>
struct ExpertTiles {
  static constexpr int kRowTiles = Rows::kRowTiles;
  static constexpr int kUpRows = kRowTile * kRowTiles;        // of one tile; gate and up rows alternate
  static constexpr int kDownRows = 2 * kRowTile * kRowTiles;  // 4 warps have the first half of a piece, 4 the second
  static constexpr int kUpTiles = 2 * kInner / kUpRows, kDownTiles = kHidden / kDownRows;  // of one expert
  static constexpr int kUpPiece = kUpRows / 2 * Rows::row_bytes(kHidden);
  static constexpr int kDownPiece = kDownRows / 2 * Rows::row_bytes(kInner);
  static constexpr int kUpExtra = kUpRows * Rows::extra_bytes(kHidden);
  static constexpr int kDownExtra = kDownRows * Rows::extra_bytes(kInner);
  static_assert(kDownPiece <= kUpPiece && kDownExtra <= kUpExtra);
};

// Up to so many tokens, a step's wide experts are few, and read soon.
constexpr int kFewWideTokens = 2;

// A stage's tag: a tile of gates and ups, of downs, or the end.
constexpr int kDownTag = 1 << 30;
constexpr int kEndTag = -1;

// The tiles of a block: first of gates and ups, then of downs. Most of each list is divided among the blocks
// beforehand, in long runs, for which tokens have to be loaded once or twice; the rest is taken in small pieces by
// whichever block is ready, as some reach memory faster than others. How much, and how small, was found by measuring.
template <typename Tiles, typename Plan>
class ExpertRows {
 public:
  __device__ ExpertRows(const ExpertArguments& arguments, const Plan& plan) : arguments_(arguments), plan_(plan) {
    begin_list();
  }

  using Stage = std::conditional_t<(Tiles::kUpExtra > 0), StageRowsAndExtra, StageRows>;

  __device__ __forceinline__ bool next(Stage& rows) {
    while (tile_ == end_) {
      if (!take()) {
        if (ended_) return false;
        ended_ = true;
        rows = {};
        rows.tag = kEndTag;
        return true;
      }
    }
    if (row_ == tiles()) locate(tile_);
    static_cast<StageRows&>(rows) = {source_, piece(), downs_ ? kDownTag | tile_ : tile_};
    source_ += 2 * piece();
    if constexpr (Tiles::kUpExtra > 0) {
      rows.extra = extra_;
      rows.extra_bytes = extra();
      extra_ += extra();
    }
    ++row_;
    ++tile_;
    return true;
  }

 private:
  __device__ __forceinline__ int tiles() const { return downs_ ? Tiles::kDownTiles : Tiles::kUpTiles; }
  __device__ __forceinline__ int piece() const { return downs_ ? Tiles::kDownPiece : Tiles::kUpPiece; }
  __device__ __forceinline__ int extra() const { return downs_ ? Tiles::kDownExtra : Tiles::kUpExtra; }

  __device__ __forceinline__ void begin_list() {
    const int blocks = static_cast<int>(gridDim.x), all = plan_.units * tiles(), own = all / blocks;
    const int fixed = own * fixed_eighths() / 8;
    piece_ = kOneHalfTile ? min(max(own / 8, 2), 8) : min(max(own / 16, 1), downs_ ? 4 : 6);
    shared_ = fixed * blocks;
    tile_ = fixed * static_cast<int>(blockIdx.x);
    end_ = tile_ + fixed;
    locate(tile_);
    ask();
  }

  // Eighths of a list's tiles that are divided beforehand. Of wide downs it is least: their end is the kernel's, and
  // blocks that read faster than others have more time to make it even. One or two tokens have too few tiles for that,
  // and rows of 4 bits, bound by taking codes apart, only lost by it.
  __device__ __forceinline__ int fixed_eighths() const {
    if (!kOneHalfTile) return kFixedOfMoreHalfTiles;
    return kWide && downs_ && arguments_.tokens > kFewWideTokens ? kFixedOfWideDowns : kFixedOfOneHalfTile;
  }

  // Asks for the next small piece: the answer is there when the present one is used up.
  __device__ __forceinline__ void ask() {
    if (threadIdx.x == 0) taken_ = atomicAdd(arguments_.counters + (downs_ ? kDownsTaken : kUpsTaken), piece_);
  }

  __device__ __forceinline__ bool take() {
    const int all = plan_.units * tiles();
    tile_ = shared_ + __shfl_sync(~0u, taken_, 0);
    if (tile_ >= all) {
      if (downs_) {
        tile_ = end_;
        return false;
      }
      downs_ = true;
      begin_list();
      return true;
    }
    end_ = min(tile_ + piece_, all);
    locate(tile_);
    ask();
    return true;
  }

  __device__ __forceinline__ void locate(int tile) {
    row_ = tile % tiles();
    const int unit = min(tile / tiles(), plan_.units - 1);
    const auto* weights = static_cast<const std::uint8_t*>(downs_ ? arguments_.down : arguments_.gate_up);
    const std::int64_t place = static_cast<std::int64_t>(plan_.expert[unit]) * tiles() + row_;
    source_ = weights + place * (2 * piece());
    if constexpr (Tiles::kUpExtra > 0) {
      extra_ = static_cast<const std::uint8_t*>(downs_ ? arguments_.down_extra : arguments_.gate_up_extra) +
               place * extra();
    }
  }

  static constexpr bool kWide = Tiles::kUpExtra == 0;
  static constexpr bool kOneHalfTile = Plan::kRows == kHalfTile;  // a unit: less work, so that differences weigh more
  static constexpr int kFixedOfMoreHalfTiles = 7, kFixedOfOneHalfTile = 6, kFixedOfWideDowns = 4;

  const ExpertArguments& arguments_;
  const Plan& plan_;
  const std::uint8_t* source_ = nullptr;
  const std::uint8_t* extra_ = nullptr;
  int tile_ = 0, end_ = 0, row_ = 0;       // next tile and the end of the present run; the tile's place in its unit
  int piece_ = 0, shared_ = 0, taken_ = 0;  // tiles of a small piece; where they begin; the last answer
  bool downs_ = false, ended_ = false;
};

}  // namespace
}  // namespace qwen3vl
