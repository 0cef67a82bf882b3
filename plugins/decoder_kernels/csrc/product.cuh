// The kernel of out = x W^T [+ residual] for up to a few dozen tokens, whatever the weights' rows are.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "fragments.cuh"
#include "launch.h"
#include "partition.h"
#include "product_rows.cuh"
#include "product_outputs.cuh"
#include "weight_stream.cuh"

namespace qwen3vl {
namespace {

template <typename Rows, typename Out, int kInner, int kHalves, bool kDeep = false>
__global__ void __launch_bounds__(kStreamThreads, kHalves == 1 ? 2 : 1)
    product_kernel(const ProductArguments arguments) {
  using T = typename Rows::Value;
  using Shape = ProductShape<Rows, kInner, kHalves, kDeep>;
  constexpr int kParts = Shape::kParts, kSlice = Shape::kPartInner / kStreamWarps, kRuns = kSlice / 32;  // of one warp
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<typename Shape::Memory*>(shared_memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  let_next_kernel_start();
  const Range tiles = share_of(arguments.rows / Shape::kRows, blockIdx.x, gridDim.x);
  WeightStream<typename Shape::Memory, ProductRows<Shape>> stream(
      shared, {static_cast<const std::uint8_t*>(arguments.weights), static_cast<const std::uint8_t*>(arguments.extra),
               {tiles.begin * kParts, tiles.end * kParts}});
  stream.start();  // weights depend on no kernel: their copies start before the previous one has ended
  if ((tiles.end - tiles.begin) * kParts <= 2 * Shape::kStages) stream.prefetch(Shape::kStages);

  const int first_token = blockIdx.y * kHalves * kHalfTile;
  const ProductOutputs<Shape, T, Out> outputs(arguments, first_token);
  const int k = warp * kSlice + lane % 4 * 8;
  const T* x = static_cast<const T*>(arguments.x) + static_cast<std::int64_t>(first_token) * kInner + k;
  wait_for_previous_kernel();
  uint4 tokens[kParts][kHalves][kRuns];
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const T* own = x + outputs.loaded_token(half) * kInner + part * Shape::kPartInner;
#pragma unroll
      for (int i = 0; i < kRuns; ++i) tokens[part][half][i] = load_8(own + 32 * i);
    }
  }
  if constexpr (!std::is_same_v<typename Rows::Factor, T>) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
#pragma unroll
        for (int i = 0; i < kRuns; ++i) tokens[part][half][i] = Rows::convert(tokens[part][half][i]);
      }
    }
  }
  typename Rows::template TokenSums<kHalves, kSlice> token_sums;
  token_sums.take(tokens[0]);  // of rows in parts there are none

  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    typename Rows::template Sums<kHalves> sums;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      stream.wait();
      Rows::template multiply<Shape::kPartInner, Shape::kPieceRows, kParts>(stream, sums, tokens[part], token_sums, 0,
                                                                            warp * kSlice, lane);
    }
    typename decltype(outputs)::Residual residual{};
    if (stream.my_turn()) outputs.ask(residual, tile);
    if (stream.finish_tile(sums)) outputs.write(stream, residual, tile);
    stream.next_tile();
  }
}

constexpr int kLongStream = 16;  // tiles for each multiprocessor

template <typename Rows, typename Out, int kInner, int kHalves, bool kDeep = false>
cudaError_t launch_product(const ProductArguments& arguments, cudaStream_t stream) {
  using Shape = ProductShape<Rows, kInner, kHalves, kDeep>;
  if (arguments.rows % Shape::kRows != 0) return cudaErrorInvalidValue;
  const int token_tiles = groups_of(arguments.tokens, kHalves * kHalfTile);
  const int tiles = arguments.rows / Shape::kRows;
  // Long streams, the head's, use both halves of a multiprocessor; short ones leave one to the next kernel.
  const int places = multiprocessor_count() * (kHalves == 1 && tiles > kLongStream * multiprocessor_count() ? 2 : 1);
  const int blocks = min(max(places / token_tiles, 1), tiles);
  return launch(product_kernel<Rows, Out, kInner, kHalves, kDeep>, dim3(blocks, token_tiles), kStreamThreads,
                sizeof(typename Shape::Memory), 1, stream, arguments);
}

constexpr int kVeryFewTokens = 2;  // up to which the next kernel's early start is worth more than a deep ring

template <typename Rows, typename Out, int kInner>
cudaError_t dispatch_halves(const ProductArguments& arguments, cudaStream_t stream) {
  if constexpr (ProductShape<Rows, kInner, 1, false>::kParts > 1) {
    if (arguments.tokens > kVeryFewTokens && arguments.tokens <= 8) {
      return launch_product<Rows, Out, kInner, 1, true>(arguments, stream);
    }
  }
  if (arguments.tokens <= 8) return launch_product<Rows, Out, kInner, 1>(arguments, stream);
  if (arguments.tokens <= 16) return launch_product<Rows, Out, kInner, 2>(arguments, stream);
  constexpr int kMost = kInner > 2048 ? 2 : 4;  // what registers hold
  return launch_product<Rows, Out, kInner, kMost>(arguments, stream);
}

}  // namespace
}  // namespace qwen3vl
