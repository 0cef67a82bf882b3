// The kernel of out = x W^T [+ residual] for up to a few dozen tokens, whatever the weights' rows are.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "fragments.cuh"
#include "launch.h"
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

template <typename Rows, int kInner, int kHalves>
struct ProductShape {
  static constexpr int kRowTiles = Rows::kRowTiles, kRows = kRowTile * kRowTiles, kPieceRows = kRows / 2;  // of a tile
  static constexpr int kRowBytes = Rows::row_bytes(kInner), kPieceBytes = kPieceRows * kRowBytes;
  static constexpr int kExtraBytes = kRows * Rows::extra_bytes(kInner);
  // One half tile of tokens leaves room for the next kernel's block; long rows for one of the attention's.
  static constexpr int kBudget = kHalves > 1 ? kFullBudget : kRowBytes > 4096 ? 140 * 1024 : kHalfBudget;
  static constexpr int kSums = kRowTiles * kHalves;
  static constexpr int kStages = stages_that_fit<kSums>(kBudget, kPieceBytes, 0, kExtraBytes);
  using Memory = StreamMemory<kSums, kStages, kPieceBytes, kExtraBytes>;
  static_assert(sizeof(Memory) <= kBudget);
};

// A block's tiles, one after another.
template <int kPieceBytes, int kExtraBytes>
struct ProductRows {
  const std::uint8_t* weights;
  const std::uint8_t* extra;
  Range tiles;

  using Stage = std::conditional_t<(kExtraBytes > 0), StageRowsAndExtra, StageRows>;

  __device__ __forceinline__ bool next(Stage& rows) {
    if (tiles.begin == tiles.end) return false;
    if constexpr (kExtraBytes > 0) {
      rows.extra = extra + static_cast<std::int64_t>(tiles.begin) * kExtraBytes;
      rows.extra_bytes = kExtraBytes;
    }
    rows.source = weights + static_cast<std::int64_t>(tiles.begin++) * 2 * kPieceBytes;
    rows.bytes = kPieceBytes;
    rows.tag = 0;
    return true;
  }
};

template <typename Rows, typename Out, int kInner, int kHalves>
__global__ void __launch_bounds__(kStreamThreads, kHalves == 1 ? 2 : 1)
    product_kernel(const ProductArguments arguments) {
  using T = typename Rows::Value;
  using Shape = ProductShape<Rows, kInner, kHalves>;
  constexpr int kSlice = kInner / kStreamWarps, kRuns = kSlice / 32;  // of one warp
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<typename Shape::Memory*>(shared_memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  let_next_kernel_start();
  const Range tiles = share_of(arguments.rows / Shape::kRows, blockIdx.x, gridDim.x);
  WeightStream<typename Shape::Memory, ProductRows<Shape::kPieceBytes, Shape::kExtraBytes>> stream(
      shared, {static_cast<const std::uint8_t*>(arguments.weights), static_cast<const std::uint8_t*>(arguments.extra),
               tiles});
  stream.start();  // weights depend on no kernel: their copies start before the previous one has ended
  if (tiles.end - tiles.begin <= 2 * Shape::kStages) stream.prefetch(Shape::kStages);

  const int group = lane / 4, quad = lane % 4;  // of a fragment: row, and place among the four that share it
  const int k = warp * kSlice + quad * 8;
  const int first_token = blockIdx.y * kHalves * kHalfTile;
  const int count = min(arguments.tokens - first_token, kHalves * kHalfTile);
  const T* x = static_cast<const T*>(arguments.x) + static_cast<std::int64_t>(first_token) * kInner + k;
  wait_for_previous_kernel();
  // Blocks begin with different tokens, so as not to ask for the same memory all at once.
  const auto token_of = [&](int half) {
    return (half * kHalfTile + group + static_cast<int>(blockIdx.x) * (kHalfTile + 1)) % (kHalves * kHalfTile);
  };
  uint4 tokens[kHalves][kRuns];
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const int token = token_of(half);
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      tokens[half][i] = token < count ? load_8(x + token * kInner + 32 * i) : uint4{};
    }
  }

  typename Rows::template TokenSums<kHalves, kSlice> token_sums;
  token_sums.take(tokens);

  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    typename Rows::template Sums<kHalves> sums;
    stream.wait();
    Rows::template multiply<kInner, Shape::kPieceRows>(stream, sums, tokens, token_sums, 0, warp * kSlice, lane);
    if (stream.finish_tile(sums)) {
#pragma unroll
      for (int part = 0; part < Shape::kRowTiles; ++part) {
        const int row = tile * Shape::kRows + part * (kRowTile / 2) + quad;  // and kPieceRows on
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          const int token = token_of(half);
          // Each of the two warps has every second row tile; of a single one, every second half tile of tokens; of a
          // single one, half of the lanes.
          const bool mine = Shape::kSums == 1 ? lane / 16 == warp % 2 : (kHalves == 1 ? part : half) % 2 == warp % 2;
          if (!mine || token >= count) continue;
          const std::int64_t at = static_cast<std::int64_t>(first_token + token) * arguments.rows + row;
          float2 sum = stream.template sum<kStreamWarps>(0, part * kHalves + half);
          auto* out = static_cast<Out*>(arguments.out) + at;
          if constexpr (sizeof(Out) == 4) {
            out[0] = sum.x;
            out[Shape::kPieceRows] = sum.y;
          } else {
            if (arguments.residual != nullptr) {
              const auto* residual = static_cast<const T*>(arguments.residual) + at;
              sum.x += Element<T>::widen(load_1(residual));
              sum.y += Element<T>::widen(load_1(residual + Shape::kPieceRows));
            }
            out[0] = Element<T>::narrow(sum.x);
            out[Shape::kPieceRows] = Element<T>::narrow(sum.y);
          }
        }
      }
    }
    stream.next_tile();
  }
}

constexpr int kLongStream = 16;  // tiles for each multiprocessor

template <typename Rows, typename Out, int kInner, int kHalves>
cudaError_t launch_product(const ProductArguments& arguments, cudaStream_t stream) {
  using Shape = ProductShape<Rows, kInner, kHalves>;
  if (arguments.rows % Shape::kRows != 0) return cudaErrorInvalidValue;
  const int token_tiles = groups_of(arguments.tokens, kHalves * kHalfTile);
  const int tiles = arguments.rows / Shape::kRows;
  // Long streams, the head's, use both halves of a multiprocessor; short ones leave one to the next kernel.
  const int places = multiprocessor_count() * (kHalves == 1 && tiles > kLongStream * multiprocessor_count() ? 2 : 1);
  const int blocks = min(max(places / token_tiles, 1), tiles);
  return launch(product_kernel<Rows, Out, kInner, kHalves>, dim3(blocks, token_tiles), kStreamThreads,
                sizeof(typename Shape::Memory), 1, stream, arguments);
}

template <typename Rows, typename Out, int kInner>
cudaError_t dispatch_halves(const ProductArguments& arguments, cudaStream_t stream) {
  if (arguments.tokens <= 8) return launch_product<Rows, Out, kInner, 1>(arguments, stream);
  if (arguments.tokens <= 16) return launch_product<Rows, Out, kInner, 2>(arguments, stream);
  constexpr int kMost = kInner > 2048 ? 2 : 4;  // what registers hold
  return launch_product<Rows, Out, kInner, kMost>(arguments, stream);
}

}  // namespace
}  // namespace qwen3vl
