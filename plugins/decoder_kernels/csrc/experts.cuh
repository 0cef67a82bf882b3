// The chosen experts of each token: y[pair] = weight * down(silu(gate(x)) * up(x)).
//
// One kernel streams the weights of all used experts once, first gates and ups, then downs. Blocks take both in the
// experts' order, so that the activations which a block waits for are done, or nearly, when it comes to them, and its
// ring is full of weights meanwhile. All blocks have to be resident at once.
#pragma once

#include <cuda_runtime.h>

#include "expert_shape.cuh"
#include "expert_stream.cuh"
#include "fragments.cuh"
#include "launch.h"
#include "weight_stream.cuh"

namespace qwen3vl {
namespace {

constexpr int kDownSlices = kStreamWarps / 2;
constexpr int kMostPairsOfTwo = 1280;  // up to which wide units of two half tiles are quicker than of four

template <typename Rows, int kHalves, bool kFew>
class Experts {
 public:
  using T = typename Rows::Value;
  using Shape = ExpertShape<Rows, kHalves, kFew>;
  using Tiles = typename Shape::Tiles;

  __device__ Experts(const ExpertArguments& arguments, typename Shape::Shared& shared)
      : arguments_(arguments), plan_(shared.plan), stream_(shared.stream, Source(arguments, shared.plan)),
        warp_(threadIdx.x / 32), lane_(threadIdx.x % 32) {}

  __device__ void run() {
    stream_.start();
    downs(gates_and_ups());
  }

 private:
  using Source = ExpertRows<Tiles, typename Shape::Plan>;

  __device__ __forceinline__ int group() const { return lane_ / 4; }
  __device__ __forceinline__ int quad() const { return lane_ % 4; }

  // Works until a tag of another kind comes, and returns that.
  __device__ int gates_and_ups() {
    constexpr int kSlice = kHidden / kStreamWarps, kRuns = kSlice / 32;
    const int k = warp_ * kSlice + quad() * 8;
    uint4 tokens[kHalves][kRuns];
    typename Rows::template TokenSums<kHalves, kSlice> token_sums;
    int pairs[kHalves];  // whose activations this thread writes in its turn, -1 for none
    float weights[kHalves];
    int loaded = -1, unreported = 0, tag;
    for (tag = stream_.wait(); tag >= 0 && tag < kDownTag; tag = stream_.wait()) {
      const int unit = tag / Tiles::kUpTiles;
      if (unit != loaded) {
        report(loaded, unreported);
        const bool fresh = !kFew || loaded < 0;
        loaded = unit;
        unreported = 0;
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          const int row = half * kHalfTile + group(), pair = plan_.pairs[unit][row];
          if (fresh) {
            const int token = kFew ? (row < arguments_.tokens ? row : -1) : pair < 0 ? -1 : pair / arguments_.k;
            const T* x = static_cast<const T*>(arguments_.x) + static_cast<std::int64_t>(token) * kHidden + k;
#pragma unroll
            for (int i = 0; i < kRuns; ++i) tokens[half][i] = token >= 0 ? load_8(x + 32 * i) : uint4{};
          }
          pairs[half] = writes(half) ? pair : -1;
          weights[half] = pairs[half] >= 0 ? __ldcg(arguments_.chosen_weights + pair) : 0.f;
        }
        if (fresh) token_sums.take(tokens);
      }
      typename Rows::template Sums<kHalves> sums;
      Rows::template multiply<kHidden, Tiles::kUpRows / 2>(stream_, sums, tokens, token_sums, 0, warp_ * kSlice, lane_);
      if (stream_.finish_tile(sums)) {
        // An even lane has gates, rows `quad` of both pieces' row tile, and the lane after it their ups. It writes the
        // activation of the first piece's rows, the other one that of the second's.
        const bool odd = lane_ % 2 == 1;
        const int first = tag % Tiles::kUpTiles * (Tiles::kUpRows / 2) + quad() / 2 + (odd ? Tiles::kUpRows / 4 : 0);
#pragma unroll
        for (int part = 0; part < Tiles::kRowTiles; ++part) {
          if (kByTiles && part % 2 != warp_ % 2) continue;
          const int column = first + part * (kRowTile / 4);
#pragma unroll
          for (int half = 0; half < kHalves; ++half) {
            const float2 sum = stream_.template sum<kStreamWarps>(0, part * kHalves + half);
            const float other = __shfl_xor_sync(~0u, odd ? sum.x : sum.y, 1);
            const float gate = odd ? other : sum.x, up = odd ? sum.y : other;
            if (pairs[half] < 0) continue;
            const float activation = gate / (1.f + __expf(-gate)) * up * weights[half];
            static_cast<T*>(arguments_.activations)[static_cast<std::int64_t>(pairs[half]) * kInner + column] =
                Element<T>::narrow(activation);
          }
        }
        ++unreported;
      }
      stream_.next_tile();
    }
    report(loaded, unreported);
    return tag;
  }

  // Of the pair of warps whose turn it is, each takes every second row tile, or, of a single one, every second half tile
  // of tokens, or half of the only one's tokens.
  static constexpr bool kByTiles = Tiles::kRowTiles > 1 && kHalves == 1;

  // Whether this thread, in its turn, writes its row of a half tile of tokens.
  __device__ __forceinline__ bool writes(int half) const {
    return kByTiles || (kHalves == 1 ? lane_ / 16 == warp_ % 2 : half % 2 == warp_ % 2);
  }

  // Makes the activations that this warp has written known to the unit's other blocks.
  __device__ __forceinline__ void report(int unit, int tiles) {
    if (tiles == 0) return;
    __syncwarp();
    if (lane_ == 0) release_add(arguments_.counters + unit, tiles);
  }

  __device__ void downs(int tag) {
    constexpr int kSlice = kInner / kDownSlices, kRuns = kSlice / 32;
    static_assert(kSlice % 32 == 0);
    const int slice = warp_ % kDownSlices, row_half = warp_ / kDownSlices;
    const int k = slice * kSlice + quad() * 8, first_row = row_half * (Tiles::kDownRows / 4);
    uint4 tokens[kHalves][kRuns];
    typename Rows::template TokenSums<kHalves, kSlice> token_sums;
    int pairs[kHalves];
    int loaded = -1;
    for (; tag >= 0; tag = stream_.wait()) {
      const int tile = tag - kDownTag, unit = tile / Tiles::kDownTiles;
      if (unit != loaded) {
        loaded = unit;
        if (lane_ == 0) {
          while (acquire_load(arguments_.counters + unit) < Tiles::kUpTiles * 2) __nanosleep(20);
        }
        __syncwarp();
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          const int pair = plan_.pairs[unit][half * kHalfTile + group()];
          const T* row = static_cast<const T*>(arguments_.activations) + static_cast<std::int64_t>(pair) * kInner;
#pragma unroll
          for (int i = 0; i < kRuns; ++i) tokens[half][i] = pair >= 0 ? load_8(row + k + 32 * i) : uint4{};
          pairs[half] = pair;
        }
        token_sums.take(tokens);
      }
      typename Rows::template Sums<kHalves> sums;
      Rows::template multiply<kInner, Tiles::kDownRows / 2>(stream_, sums, tokens, token_sums, first_row,
                                                            slice * kSlice, lane_);
      if (stream_.finish_tile(sums)) {
        const int rows = warp_ % 2;  // each of the pair has one half of the rows
        const int first = tile % Tiles::kDownTiles * Tiles::kDownRows + rows * (Tiles::kDownRows / 4) + quad();
#pragma unroll
        for (int part = 0; part < Tiles::kRowTiles; ++part) {
          const int column = first + part * (kRowTile / 2);
#pragma unroll
          for (int half = 0; half < kHalves; ++half) {
            if (pairs[half] < 0) continue;
            T* y = static_cast<T*>(arguments_.y) + static_cast<std::int64_t>(pairs[half]) * kHidden + column;
            const float2 sum = stream_.template sum<kDownSlices>(rows * kDownSlices, part * kHalves + half);
            y[0] = Element<T>::narrow(sum.x);
            y[Tiles::kDownRows / 2] = Element<T>::narrow(sum.y);
          }
        }
      }
      stream_.next_tile();
    }
  }

  const ExpertArguments& arguments_;
  const typename Shape::Plan& plan_;
  WeightStream<typename Shape::Memory, Source> stream_;
  const int warp_, lane_;
};

template <typename Rows, int kHalves, bool kFew>
__global__ void __launch_bounds__(kStreamThreads, ExpertShape<Rows, kHalves, kFew>::kHalfBlocks ? 2 : 1)
    experts_kernel(const ExpertArguments arguments) {
  using Shape = ExpertShape<Rows, kHalves, kFew>;
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<typename Shape::Shared*>(shared_memory);
  if (threadIdx.x == 0) shared.stream.init();
  Shape::Planning::begin(shared.plan, shared.scratch());
  let_next_kernel_start();
  __syncthreads();
  wait_for_previous_kernel();
  Shape::Planning::make(shared.plan, shared.scratch(), arguments.chosen, arguments.tokens, arguments.k);
  Experts<Rows, kHalves, kFew>(arguments, shared).run();
}

template <typename Rows, int kHalves, bool kFew>
cudaError_t launch_experts(const ExpertArguments& arguments, cudaStream_t stream) {
  using Shape = ExpertShape<Rows, kHalves, kFew>;
  if (arguments.tokens * arguments.k > Shape::kMaxPairs) return cudaErrorInvalidValue;
  const int blocks = multiprocessor_count() * Shape::blocks_each(arguments.tokens);
  return launch(experts_kernel<Rows, kHalves, kFew>, dim3(blocks), kStreamThreads, sizeof(typename Shape::Shared), 1,
                stream, arguments);
}

// Half tiles of a unit. Where all experts are chosen alike, a few units more, of an expert's last pairs, cost less than
// multiplying tokens that are not there; how far that goes was measured.
template <typename Rows>
cudaError_t dispatch_experts(const ExpertArguments& arguments, cudaStream_t stream) {
  const int pairs = arguments.tokens * arguments.k;
  if (arguments.tokens <= kHalfTile && pairs <= ExpertShape<Rows, 1, true>::kMaxPairs) {
    return launch_experts<Rows, 1, true>(arguments, stream);
  }
  if (pairs <= ExpertShape<Rows, 1, false>::kMaxPairs) return launch_experts<Rows, 1, false>(arguments, stream);
  if constexpr (ExpertShape<Rows, 2, false>::kCoded) {
    return launch_experts<Rows, 2, false>(arguments, stream);
  } else {
    if (pairs <= kMostPairsOfTwo) return launch_experts<Rows, 2, false>(arguments, stream);
    return launch_experts<Rows, 4, false>(arguments, stream);
  }
}

}  // namespace
}  // namespace qwen3vl
