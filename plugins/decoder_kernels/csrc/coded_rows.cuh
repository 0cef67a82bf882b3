// Weight rows of integers, codes: for each block of k with a scale and a zero point.
//
// weight = scale * (code - zero point). The tensor cores multiply the codes c themselves, as exact numbers o + c. Of a
// block, sum(weight x) = scale * (sum((o + c) x) - (o + zero point) * sum(x)): the sum of a token's x is taken once and
// serves all rows, and scales are applied in float32 to sums, not to weights.
#pragma once

#include "fragments.cuh"
#include "int4_order.h"
#include "weight_stream.cuh"

namespace qwen3vl {

// The sum of eight elements.
template <typename T>
__device__ __forceinline__ float sum_of_8(const uint4& x) {
  const float2 a = Element<T>::unpack(x.x), b = Element<T>::unpack(x.y);
  const float2 c = Element<T>::unpack(x.z), d = Element<T>::unpack(x.w);
  return ((a.x + a.y) + (b.x + b.y)) + ((c.x + c.y) + (d.x + d.y));
}

// Code: Value, the activations' type; Factor, that of the tensor cores' operands, which tokens have been converted to;
// kOffset, o; kWords, a lane's words of a run of 32 k, and kGroup, the k whose words lie together; kMost, k that registers
// have room for; row_bytes(inner); load, a lane's words of one row, and widen_run, eight numbers o + c of a run's; convert,
// eight activations as factors, where these are others.
//
// kBlock: values that share a scale and a zero point. Behind a stage's rows come these, two elements for each block, in
// the order of the rows.
template <typename Code, int kBlock>
struct CodedRows : Code {
  using T = typename Code::Value;
  static constexpr int kRowTiles = 2;  // the rows of the tensor cores' first operand
  static QWEN3VL_HOST_DEVICE constexpr int extra_bytes(int inner) { return inner / kBlock * 4; }

  // Of row l / 4 of each tile, for tokens 2 (l % 4) and the next of each half tile: the weights are the first operand of
  // the tensor cores, whose 16 rows are two tiles, so that 8 tokens fill a product.
  template <int kHalves>
  struct Sums {
    float2 of[kRowTiles * kHalves] = {};

    __device__ __forceinline__ void store(float2 (&to)[kRowTiles * kHalves][32], int lane) const {
#pragma unroll
      for (int i = 0; i < kRowTiles * kHalves; ++i) store_row_sums(to[i], of[i], lane);
    }
  };

  // Of each half tile's tokens, token l / 4 in lane l: the sum of x over each segment of the warp's part of k.
  template <int kHalves, int kSlice>
  struct TokenSums {
    static constexpr int kSegment = segment_of(kSlice, kBlock), kRuns = kSegment / 32;
    float of[kHalves][kSlice / kSegment];

    // Called by whole warps.
    __device__ __forceinline__ void take(const uint4 (&tokens)[kHalves][kSlice / 32]) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
#pragma unroll
        for (int segment = 0; segment < kSlice / kSegment; ++segment) {
          float sum = 0.f;
#pragma unroll
          for (int i = 0; i < kRuns; ++i) sum += Code::sum_of(tokens[half][segment * kRuns + i]);
          sum += __shfl_xor_sync(~0u, sum, 1);
          sum += __shfl_xor_sync(~0u, sum, 2);
          of[half][segment] = sum;
        }
      }
    }
  };

  // As WideRows::multiply; 8 rows of each of kRowTiles tiles, half of them in each piece.
  template <int kInner, int kPieceRows, int kRowParts = 1, typename Stream, int kHalves, int kAllRuns>
  static __device__ __forceinline__ void multiply(Stream& stream, Sums<kHalves>& sums,
                                                  const uint4 (&tokens)[kHalves][kAllRuns],
                                                  const TokenSums<kHalves, kAllRuns * 32>& token_sums, int first_row,
                                                  int first_k, int lane) {
    static_assert(kRowParts == 1);  // rows of codes are short
    constexpr int kSlice = kAllRuns * 32, kMost = Code::kMost;
    constexpr int kAtOnce = kSlice < kMost ? kSlice : kMost;  // k that registers have room for
    constexpr int kSegment = TokenSums<kHalves, kSlice>::kSegment, kRuns = kSegment / 32;
    constexpr int kRowBytes = Code::row_bytes(kInner), kBlocks = kInner / kBlock, kRowsOfTile = kRowTile / 2;
    static_assert(kInner % Code::kGroup == 0 && kSlice % kAtOnce == 0 && kAtOnce % kSegment == 0 && kSegment <= kBlock);
    const int group = lane / 4, q = lane % 4;
    const std::uint8_t* codes = stream.rows() + row_offset(kPieceRows * kRowBytes, kRowBytes, first_row, group);
    const auto* blocks = reinterpret_cast<const std::uint32_t*>(stream.extra()) +
                         (group % 2 * kPieceRows + first_row + group / 2) * kBlocks;
#pragma unroll
    for (int part = 0; part < kSlice; part += kAtOnce) {
      std::uint32_t words[kRowTiles][kAtOnce / 32 * Code::kWords];
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        Code::template load<kAtOnce>(words[tile], codes + tile * kRowsOfTile * kRowBytes, first_k + part, q);
      }
#pragma unroll
      for (int start = 0; start < kAtOnce; start += kSegment) {
        float d[kHalves][2][4] = {};
#pragma unroll
        for (int i = 0; i < kRuns; ++i) {
          const int run = start / 32 + i;
          const uint4 low = Code::widen_run(words[0], run), high = Code::widen_run(words[1], run);
#pragma unroll
          for (int half = 0; half < kHalves; ++half) {
            multiply_32<typename Code::Factor>(d[half][0], d[half][1], low, high, tokens[half][part / 32 + run]);
          }
        }
        const std::uint32_t* block = blocks + (first_k + part + start) / kBlock;
        const float2 steps[kRowTiles] = {Element<T>::unpack(block[0]),
                                         Element<T>::unpack(block[kRowsOfTile * kBlocks])};  // scale, zero point
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          const float x = token_sums.of[half][(part + start) / kSegment];
          const float first = __shfl_sync(~0u, x, 8 * q), second = __shfl_sync(~0u, x, 8 * q + 4);  // of token 2 q
#pragma unroll
          for (int tile = 0; tile < kRowTiles; ++tile) {
            const float scale = steps[tile].x, offset = Code::kOffset + steps[tile].y;
            const auto& [even, odd] = d[half];
            float2& sum = sums.of[tile * kHalves + half];
            sum.x += scale * (even[2 * tile] + odd[2 * tile] - offset * first);
            sum.y += scale * (even[2 * tile + 1] + odd[2 * tile + 1] - offset * second);
          }
        }
      }
    }
    stream.give_back(__float_as_uint(sums.of[0].x) ^ __float_as_uint(sums.of[kHalves].x));  // both tiles' reads
    stream.refill();
  }
};

}  // namespace qwen3vl
