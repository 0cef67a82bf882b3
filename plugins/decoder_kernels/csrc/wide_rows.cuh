// Weight rows of elements of the tokens' type, multiplied as they come.
#pragma once

#include "fragments.cuh"
#include "partition.h"
#include "weight_stream.cuh"

namespace qwen3vl {

// The sums of one tile. Steps of k go to four accumulators in turn, to have as many products in flight; with more token
// tiles to two.
template <int kHalves>
struct WideSums {
  static constexpr int kTokenTiles = kHalves > 1 ? kHalves / 2 : 1;
  static constexpr int kWays = kHalves == 1 ? 4 : 2;
  float d[kTokenTiles][kWays][4] = {};

  __device__ __forceinline__ void store(float2 (&to)[kHalves][32], int lane) const {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) to[half][lane] = pair(half);
  }

 private:
  __device__ __forceinline__ float2 pair(int half) const {
    const int m = half / 2, i = half % 2 * 2;
    float2 sum{};
#pragma unroll
    for (int way = 0; way < kWays; ++way) {
      sum.x += d[m][way][i];
      sum.y += d[m][way][i + 1];
    }
    return sum;
  }
};

// What weights may be: how many rows of 8 a warp multiplies of a stage, the bytes of a row and of what comes with it,
// what a warp has to know of its tokens besides, and its product.
template <typename T>
struct WideRows {
  using Value = T;
  static constexpr int kRowTiles = 1;
  static QWEN3VL_HOST_DEVICE constexpr int row_bytes(int inner) { return 2 * inner; }
  static QWEN3VL_HOST_DEVICE constexpr int extra_bytes(int) { return 0; }

  template <int kHalves>
  using Sums = WideSums<kHalves>;

  template <int kHalves, int kSlice>
  struct TokenSums {
    __device__ __forceinline__ void take(const uint4 (&)[kHalves][kSlice / 32]) {}
  };

  // Adds the products of the tokens' values k = first_k + 32 i + 8 (l % 4) to + 7 with the stage's rows of kInner values,
  // kPieceRows a piece, of which the warp's begin with `first_row`; gives the stage back and refills it.
  template <int kInner, int kPieceRows, typename Stream, int kHalves, int kRuns>
  static __device__ __forceinline__ void multiply(Stream& stream, WideSums<kHalves>& sums,
                                                  const uint4 (&tokens)[kHalves][kRuns],
                                                  const TokenSums<kHalves, kRuns * 32>&, int first_row, int first_k,
                                                  int lane) {
    constexpr int kRunsAtOnce = kRuns < 8 ? kRuns : 8;
    constexpr int kRowBytes = row_bytes(kInner);
    static_assert(kRuns % kRunsAtOnce == 0);
    const int k = first_k + lane % 4 * 8;
    const int offset = row_offset(kPieceRows * kRowBytes, kRowBytes, first_row, lane / 4) + 2 * k;
    std::uint32_t read = 0;  // made of all reads
#pragma unroll
    for (int run = 0; run < kRuns; run += kRunsAtOnce) {
      multiply_runs<kRunsAtOnce>(stream, sums, tokens, run, offset + 64 * run, read, run + kRunsAtOnce == kRuns);
    }
  }

 private:
  // Some runs of 8 k, which begin at `offset` in the stage and are 64 bytes apart.
  template <int kRuns, typename Stream, int kHalves, int kAllRuns>
  static __device__ __forceinline__ void multiply_runs(Stream& stream, WideSums<kHalves>& sums,
                                                       const uint4 (&tokens)[kHalves][kAllRuns], int first_run,
                                                       int offset, std::uint32_t& read, bool last) {
    const std::uint8_t* weights = stream.rows() + offset;
    uint4 runs[kRuns];
#pragma unroll
    for (int i = 0; i < kRuns; ++i) runs[i] = *reinterpret_cast<const uint4*>(weights + 64 * i);
#pragma unroll
    for (int i = 0; i < kRuns; ++i) read ^= runs[i].w;
    if (last) stream.give_back(read);
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const int way = 2 * i % WideSums<kHalves>::kWays;
#pragma unroll
      for (int m = 0; m < WideSums<kHalves>::kTokenTiles; ++m) {
        const uint4 high = kHalves > 1 ? tokens[kHalves > 1 ? 2 * m + 1 : 0][first_run + i] : uint4{};
        const uint4 low = tokens[kHalves > 1 ? 2 * m : 0][first_run + i];
        multiply_32<T>(sums.d[m][way], sums.d[m][way + 1], low, high, runs[i]);
      }
    }
    if (last) stream.refill();
  }
};

}  // namespace qwen3vl
