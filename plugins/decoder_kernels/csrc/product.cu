// out = x W^T [+ residual] for up to a few dozen tokens.
#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "launch.h"
#include "partition.h"
#include "weight_stream.cuh"

namespace qwen3vl {
namespace {

struct ProductArguments {
  void* out;             // [tokens, rows], T or float
  const void* x;         // T [tokens, kInner]
  const void* residual;  // T [tokens, rows], or null
  const void* weights;   // T [rows, kInner]
  int tokens, rows;
};

template <int kInner, int kHalves>
struct ProductShape {
  static constexpr int kRowBytes = kInner * 2, kPieceBytes = kRowTile / 2 * kRowBytes;
  // One half tile of tokens leaves room for the next kernel's block; long rows for one of the attention's.
  static constexpr int kBudget = kHalves > 1 ? kFullBudget : kInner > 2048 ? 140 * 1024 : kHalfBudget;
  static constexpr int kStages = stages_that_fit<kHalves>(kBudget, kPieceBytes);
  using Memory = StreamMemory<kHalves, kStages, kPieceBytes>;
  static_assert(sizeof(Memory) <= kBudget);
};

// A block's tiles, one after another.
template <int kPieceBytes>
struct ProductRows {
  const std::uint8_t* weights;
  Range tiles;

  __device__ __forceinline__ bool next(StageRows& rows) {
    if (tiles.begin == tiles.end) return false;
    rows = {weights + static_cast<std::int64_t>(tiles.begin++) * 2 * kPieceBytes, kPieceBytes, 0};
    return true;
  }
};

template <typename T, typename Out, int kInner, int kHalves>
__global__ void __launch_bounds__(kStreamThreads, kHalves == 1 ? 2 : 1)
    product_kernel(const ProductArguments arguments) {
  using Shape = ProductShape<kInner, kHalves>;
  constexpr int kSlice = kInner / kStreamWarps, kRuns = kSlice / 32;  // of one warp
  constexpr int kRunsAtOnce = 8;
  static_assert(kRuns % kRunsAtOnce == 0);
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<typename Shape::Memory*>(shared_memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  let_next_kernel_start();
  const Range tiles = share_of(arguments.rows / kRowTile, blockIdx.x, gridDim.x);
  WeightStream<kHalves, Shape::kStages, Shape::kPieceBytes, ProductRows<Shape::kPieceBytes>> stream(
      shared, {static_cast<const std::uint8_t*>(arguments.weights), tiles});
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

  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    Accumulators<kHalves> sums;
    stream.wait();
    const int offset = row_offset(Shape::kPieceBytes, Shape::kRowBytes, 0, group) + 2 * k;
#pragma unroll
    for (int run = 0; run < kRuns; run += kRunsAtOnce) {
      stream.template multiply<T, kRunsAtOnce>(sums, tokens, run, offset + 64 * run, run + kRunsAtOnce == kRuns);
    }
    if (stream.finish_tile(sums)) {
      const int row = tile * kRowTile + quad;  // and 4 rows on
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        const int token = token_of(half);
        // Half of the lanes of each of the two warps; with more tokens, all lanes for every second half tile.
        const bool mine = kHalves == 1 ? lane / 16 == warp % 2 : half % 2 == warp % 2;
        if (!mine || token >= count) continue;
        const std::int64_t at = static_cast<std::int64_t>(first_token + token) * arguments.rows + row;
        float2 sum = stream.template sum<kStreamWarps>(0, half);
        auto* out = static_cast<Out*>(arguments.out) + at;
        if constexpr (sizeof(Out) == 4) {
          out[0] = sum.x;
          out[4] = sum.y;
        } else {
          if (arguments.residual != nullptr) {
            const auto* residual = static_cast<const T*>(arguments.residual) + at;
            sum.x += Element<T>::widen(load_1(residual));
            sum.y += Element<T>::widen(load_1(residual + 4));
          }
          out[0] = Element<T>::narrow(sum.x);
          out[4] = Element<T>::narrow(sum.y);
        }
      }
    }
    stream.next_tile();
  }
}

template <typename T, typename Out, int kInner, int kHalves>
cudaError_t launch_product(const ProductArguments& arguments, cudaStream_t stream) {
  const int token_tiles = groups_of(arguments.tokens, kHalves * kHalfTile);
  const int blocks = min(max(multiprocessor_count() / token_tiles, 1), arguments.rows / kRowTile);
  return launch(product_kernel<T, Out, kInner, kHalves>, dim3(blocks, token_tiles), kStreamThreads,
                sizeof(typename ProductShape<kInner, kHalves>::Memory), 1, stream, arguments);
}

template <typename T, typename Out, int kInner>
cudaError_t dispatch_halves(const ProductArguments& arguments, cudaStream_t stream) {
  if (arguments.tokens <= 8) return launch_product<T, Out, kInner, 1>(arguments, stream);
  if (arguments.tokens <= 16) return launch_product<T, Out, kInner, 2>(arguments, stream);
  constexpr int kMost = kInner > 2048 ? 2 : 4;  // what registers hold
  return launch_product<T, Out, kInner, kMost>(arguments, stream);
}

template <typename T>
cudaError_t dispatch_product(const ProductArguments& arguments, int inner, bool wide_out, cudaStream_t stream) {
  if (inner == 2048 && wide_out) return dispatch_halves<T, float, 2048>(arguments, stream);
  if (inner == 2048) return dispatch_halves<T, T, 2048>(arguments, stream);
  if (inner == 4096 && !wide_out) return dispatch_halves<T, T, 4096>(arguments, stream);
  return cudaErrorInvalidValue;
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_product(void* out, const void* x, const void* residual, const void* weights, int tokens, int rows,
                    int inner, int type, int wide_out, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || rows < 1 || rows % kRowTile != 0) return cudaErrorInvalidValue;
  const ProductArguments arguments{out, x, residual, weights, tokens, rows};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_product<__nv_bfloat16>(arguments, inner, wide_out != 0, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_product<__half>(arguments, inner, wide_out != 0, on);
  return cudaErrorInvalidValue;
}
