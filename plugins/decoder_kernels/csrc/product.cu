// out = [RMSNorm](x) W^T [+ residual] for up to a few dozen tokens.
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
  const void* norm;      // T [kInner]
  const void* residual;  // T [tokens, rows], or null
  const void* weights;   // T [rows, kInner]
  int tokens, rows;
  float epsilon;
};

template <int kInner>
struct ProductShape {
  static constexpr int kRowBytes = kInner * 2;
  static constexpr int kStageBytes = kRowTile * row_pitch(kRowBytes);
  static constexpr int kStages = (kSharedBytes - static_cast<int>(sizeof(Partials<1>)) - 2048) / kStageBytes;
  struct Shared {
    alignas(128) std::uint8_t stages[kStages][kStageBytes];
    Partials<1> partials;
    Ring<kStages> ring;
    float squares[kConsumerWarps][kTokenTile];
  };
  static_assert(sizeof(Shared) <= kSharedBytes);
};

template <typename T, typename Out, int kInner, bool kNormed>
__global__ void __launch_bounds__(kStreamThreads, 1) product_kernel(const ProductArguments arguments) {
  using Shape = ProductShape<kInner>;
  constexpr int kSlice = kInner / kConsumerWarps;  // k of one warp
  constexpr int kRuns = kSlice / 32;
  static_assert(kSlice % 32 == 0);
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<typename Shape::Shared*>(shared_memory);

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) shared.ring.init();
  __syncthreads();
  let_next_kernel_start();
  const Range tiles = share_of(arguments.rows / kRowTile, blockIdx.x, gridDim.x);
  Cursor<Shape::kStages> cursor;

  if (warp == kConsumerWarps) {  // weights depend on no kernel: their copies start before the previous one has ended
    const std::uint64_t policy = streaming_policy();
    const auto* weights = static_cast<const std::uint8_t*>(arguments.weights);
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
      produce<kRowTile, Shape::kRowBytes>(shared.ring, cursor, shared.stages[cursor.stage],
                                          weights + static_cast<std::int64_t>(tile) * kRowTile * Shape::kRowBytes,
                                          lane, policy);
    }
    return;
  }

  const int group = lane / 4, quad = lane % 4;  // of a fragment: row, and place among the four that share it
  const int k = warp * kSlice + quad * 8;
  const int first_token = blockIdx.y * kTokenTile;
  const int tokens = min(arguments.tokens - first_token, kTokenTile);
  const T* x = static_cast<const T*>(arguments.x) + static_cast<std::int64_t>(first_token) * kInner + k;
  uint4 norm[kRuns];
  if constexpr (kNormed) {
#pragma unroll
    for (int i = 0; i < kRuns; ++i) norm[i] = load_8_constant(static_cast<const T*>(arguments.norm) + k + 32 * i);
  }
  wait_for_previous_kernel();

  uint4 low[kRuns], high[kRuns];
#pragma unroll
  for (int i = 0; i < kRuns; ++i) {
    low[i] = group < tokens ? load_8(x + group * kInner + 32 * i) : uint4{};
    high[i] = group + 8 < tokens ? load_8(x + (group + 8) * kInner + 32 * i) : uint4{};
  }
  if constexpr (kNormed) {
    float low_squares = 0.f, high_squares = 0.f;
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      low_squares += sum_of_squares<T>(low[i]);
      high_squares += sum_of_squares<T>(high[i]);
    }
#pragma unroll
    for (int offset = 1; offset < 4; offset *= 2) {
      low_squares += __shfl_xor_sync(~0u, low_squares, offset);
      high_squares += __shfl_xor_sync(~0u, high_squares, offset);
    }
    if (quad == 0) {
      shared.squares[warp][group] = low_squares;
      shared.squares[warp][group + 8] = high_squares;
    }
    named_barrier(1, kConsumers);
    low_squares = high_squares = 0.f;
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) {
      low_squares += shared.squares[w][group];
      high_squares += shared.squares[w][group + 8];
    }
    const float low_scale = rsqrtf(low_squares / kInner + arguments.epsilon);
    const float high_scale = rsqrtf(high_squares / kInner + arguments.epsilon);
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      low[i] = scaled_8<T>(low[i], norm[i], low_scale);
      high[i] = scaled_8<T>(high[i], norm[i], high_scale);
    }
  }

  const int half = warp;                              // of warps 0 and 1, which sum and write
  const int token = group + 8 * half;                 // that this thread writes
  const bool writes = half < 2 && token < tokens;
  const std::int64_t out_row = static_cast<std::int64_t>(first_token + token) * arguments.rows + 2 * quad;
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const int in_turn = (tile - tiles.begin) & 1;
    std::uint32_t residual = 0;
    if (writes && arguments.residual != nullptr) {
      residual = __ldcg(reinterpret_cast<const std::uint32_t*>(static_cast<const T*>(arguments.residual) + out_row +
                                                               tile * kRowTile));
    }
    barrier_wait(&shared.ring.full[cursor.stage], cursor.parity);
    const std::uint8_t* weights = shared.stages[cursor.stage] + group * row_pitch(Shape::kRowBytes) + 2 * k;
    float even[4] = {}, odd[4] = {};
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      multiply_32<T>(even, odd, low[i], high[i], *reinterpret_cast<const uint4*>(weights + 64 * i));
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(&shared.ring.empty[cursor.stage]);
    cursor.advance();
    auto& sums = shared.partials.sums[in_turn];
    sums[warp][0][lane] = {even[0] + odd[0], even[1] + odd[1]};
    if (tokens > 8) sums[warp][1][lane] = {even[2] + odd[2], even[3] + odd[3]};
    named_barrier(1, kConsumers);
    if (!writes) continue;
    float2 sum{};
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) {
      sum.x += sums[w][half][lane].x;
      sum.y += sums[w][half][lane].y;
    }
    const std::int64_t at = out_row + tile * kRowTile;
    if constexpr (sizeof(Out) == 4) {
      *reinterpret_cast<float2*>(static_cast<float*>(arguments.out) + at) = sum;
    } else {
      if (arguments.residual != nullptr) {
        const float2 added = Element<T>::unpack(residual);
        sum.x += added.x;
        sum.y += added.y;
      }
      *reinterpret_cast<std::uint32_t*>(static_cast<T*>(arguments.out) + at) = Element<T>::pack(sum.x, sum.y);
    }
  }
}

template <typename T, typename Out, int kInner, bool kNormed>
cudaError_t launch_product(const ProductArguments& arguments, cudaStream_t stream) {
  const int token_tiles = groups_of(arguments.tokens, kTokenTile);
  const int multiprocessors = multiprocessor_count();
  const int blocks = min(max(multiprocessors / token_tiles, 1), arguments.rows / kRowTile);
  return launch(product_kernel<T, Out, kInner, kNormed>, dim3(blocks, token_tiles), kStreamThreads,
                sizeof(typename ProductShape<kInner>::Shared), 1, stream, arguments);
}

template <typename T>
cudaError_t dispatch_product(const ProductArguments& arguments, int inner, bool wide_out, cudaStream_t stream) {
  const bool normed = arguments.norm != nullptr;
  if (inner == 2048 && normed && !wide_out) return launch_product<T, T, 2048, true>(arguments, stream);
  if (inner == 2048 && normed && wide_out) return launch_product<T, float, 2048, true>(arguments, stream);
  if (inner == 4096 && !normed && !wide_out) return launch_product<T, T, 4096, false>(arguments, stream);
  return cudaErrorInvalidValue;
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_product(void* out, const void* x, const void* norm, const void* residual, const void* weights, int tokens,
                    int rows, int inner, float epsilon, int type, int wide_out, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || rows < 1 || rows % kRowTile != 0) return cudaErrorInvalidValue;
  const ProductArguments arguments{out, x, norm, residual, weights, tokens, rows, epsilon};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_product<__nv_bfloat16>(arguments, inner, wide_out != 0, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_product<__half>(arguments, inner, wide_out != 0, on);
  return cudaErrorInvalidValue;
}
