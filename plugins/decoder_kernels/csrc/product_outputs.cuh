// What a product does with the warps' sums of a tile: adds them up, and the residual, and writes the outputs.
#pragma once

#include <cstdint>

#include "fragments.cuh"
#include "product_rows.cuh"

namespace qwen3vl {
namespace {

// Threads have one token of each half tile, and rows `lane % 4` of both pieces of each row tile. Of the two warps that
// sum a tile, each takes every second row tile; of a single one, every second half tile of tokens; of a single one, half
// of the lanes.
template <typename Shape, typename T, typename Out>
class ProductOutputs {
 public:
  static constexpr int kHalves = Shape::kHalfTiles;
  struct Pair {
    T first, second;  // of both pieces
  };
  struct Residual {
    Pair of[Shape::kRowTiles][kHalves];
  };

  __device__ ProductOutputs(const ProductArguments& arguments, int first_token)
      : arguments_(arguments), warp_(threadIdx.x / 32), lane_(threadIdx.x % 32), first_token_(first_token),
        count_(min(arguments.tokens - first_token_, kHalves * kHalfTile)) {}

  // Of the block's tokens, the thread's one of a half tile, or another one where that is not there: what is made of it is
  // not written. Blocks begin with different tokens, so as not to ask for the same memory all at once.
  __device__ __forceinline__ int loaded_token(int half) const { return min(token(half), count_ - 1); }

  // Asks for the tile's residual, by the two warps that are going to write it: it comes while they wait for the others.
  __device__ __forceinline__ void ask(Residual& residual, int tile) const {
    if constexpr (sizeof(Out) != 4) {  // float32 outputs, the head's, have none
      if (arguments_.residual == nullptr) return;
#pragma unroll
      for (int row_tile = 0; row_tile < Shape::kRowTiles; ++row_tile) {
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          if (!mine(row_tile, half) || token(half) >= count_) continue;
          const T* at = static_cast<const T*>(arguments_.residual) + first_output() + place(tile, row_tile, half);
          residual.of[row_tile][half] = {load_1(at), load_1(at + Shape::kPieceRows)};
        }
      }
    }
  }

  // Called by the two warps whose turn it is.
  template <typename Stream>
  __device__ __forceinline__ void write(const Stream& stream, const Residual& residual, int tile) const {
#pragma unroll
    for (int row_tile = 0; row_tile < Shape::kRowTiles; ++row_tile) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        if (!mine(row_tile, half) || token(half) >= count_) continue;
        const int at = place(tile, row_tile, half);
        float2 sum = stream.template sum<kStreamWarps>(0, row_tile * kHalves + half);
        auto* out = static_cast<Out*>(arguments_.out) + first_output() + at;
        if constexpr (sizeof(Out) == 4) {
          out[0] = sum.x;
          out[Shape::kPieceRows] = sum.y;
        } else {
          if (arguments_.residual != nullptr) {
            sum.x += Element<T>::widen(residual.of[row_tile][half].first);
            sum.y += Element<T>::widen(residual.of[row_tile][half].second);
          }
          out[0] = Element<T>::narrow(sum.x);
          out[Shape::kPieceRows] = Element<T>::narrow(sum.y);
        }
      }
    }
  }

 private:
  __device__ __forceinline__ int token(int half) const {
    return (half * kHalfTile + lane_ / 4 + static_cast<int>(blockIdx.x) * (kHalfTile + 1)) % (kHalves * kHalfTile);
  }

  __device__ __forceinline__ bool mine(int row_tile, int half) const {
    return Shape::kSums == 1 ? lane_ / 16 == warp_ % 2 : (kHalves == 1 ? row_tile : half) % 2 == warp_ % 2;
  }

  __device__ __forceinline__ std::int64_t first_output() const {
    return static_cast<std::int64_t>(first_token_) * arguments_.rows;
  }

  // Among the block's tokens' outputs, of the first piece's row; the second's is kPieceRows further.
  __device__ __forceinline__ int place(int tile, int row_tile, int half) const {
    return token(half) * arguments_.rows + tile * Shape::kRows + row_tile * (kRowTile / 2) + lane_ % 4;
  }

  const ProductArguments& arguments_;
  const int warp_, lane_, first_token_, count_;
};

}  // namespace
}  // namespace qwen3vl
