// Weight rows of elements of the tokens' type, multiplied as they come.
#pragma once

#include "fragments.cuh"
#include "partition.h"
#include "weight_stream.cuh"

namespace qwen3vl {

// The sums of one tile, of 8 rows. Steps of k go to several accumulators in turn, to have as many products in flight.
//
// A product is of 16 by 8: here of token tiles of 16, one or more, with the weights' rows. The tokens of a lane are l / 4
// of each half tile, the weights those of row l / 4.
template <int kHalves>
struct WideSums {
  static_assert(kHalves % 2 == 0);
  static constexpr int kTokenTiles = kHalves / 2, kWays = 2;
  float d[kTokenTiles][kWays][4] = {};

  // Adds the products of 32 k, the tokens' run number `run`.
  template <typename T, int kRuns>
  __device__ __forceinline__ void add(const uint4 (&tokens)[kHalves][kRuns], int run, const uint4& weights) {
#pragma unroll
    for (int m = 0; m < kTokenTiles; ++m) {
      multiply_32<T>(d[m][0], d[m][1], tokens[2 * m][run], tokens[2 * m + 1][run], weights);
    }
  }

  __device__ __forceinline__ void store(float2 (&to)[kHalves][32], int lane) const {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const auto& ways = d[half / 2];
      const int i = half % 2 * 2;
      to[half][lane] = {ways[0][i] + ways[1][i], ways[0][i + 1] + ways[1][i + 1]};
    }
  }
};

// Of a single half tile of tokens, tokens are the 8 columns: then registers need no zeros for 8 tokens that are not
// there. The 16 rows are the 8 weight rows twice, once for each half of a lane's 16 bytes: of its four words the first
// and third are rows 0 to 7 of both of their products, the second and fourth rows 8 to 15. Tokens' words of the same
// places make one half of a product's sums right; the other one is of words that do not belong together.
template <>
struct WideSums<1> {
  static constexpr int kWays = 4;
  float d[kWays][4] = {};

  template <typename T, int kRuns>
  __device__ __forceinline__ void add(const uint4 (&tokens)[1][kRuns], int run, const uint4& weights) {
    const int way = run % 2 * 2;
    const uint4& x = tokens[0][run];
    Element<T>::multiply(d[way], weights.x, weights.y, weights.z, weights.w, x.x, x.z);
    Element<T>::multiply(d[way + 1], weights.x, weights.y, weights.z, weights.w, x.y, x.w);
  }

  __device__ __forceinline__ void store(float2 (&to)[1][32], int lane) const {
    store_row_sums(to[0], {d[0][0] + d[1][2] + d[2][0] + d[3][2], d[0][1] + d[1][3] + d[2][1] + d[3][3]}, lane);
  }
};

// What weights may be: how many rows of 8 a warp multiplies of a stage, the bytes of a row and of what comes with it,
// what a warp has to know of its tokens besides, and its product.
template <typename T>
struct WideRows {
  using Value = T;
  using Factor = T;
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
  // kPieceRows a piece, of which the warp's begin with `first_row`; gives the stage back and refills it. kRowParts: stages
  // that a row takes, of all of which the warp holds tokens in registers.
  template <int kInner, int kPieceRows, int kRowParts = 1, typename Stream, int kHalves, int kRuns>
  static __device__ __forceinline__ void multiply(Stream& stream, WideSums<kHalves>& sums,
                                                  const uint4 (&tokens)[kHalves][kRuns],
                                                  const TokenSums<kHalves, kRuns * 32>&, int first_row, int first_k,
                                                  int lane) {
    constexpr int kMost = 8 / kRowParts;  // that registers have room for
    constexpr int kRunsAtOnce = kRuns < kMost ? kRuns : kMost;
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
    for (int i = 0; i < kRuns; ++i) sums.template add<T>(tokens, first_run + i, runs[i]);
    if (last) stream.refill();
  }
};

}  // namespace qwen3vl
