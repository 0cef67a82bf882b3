// Weight rows of 4 bits: codes in the order of int4_order.h, and for each block of k a scale and a zero point.
//
// weight = scale * (code - zero point). The tensor cores multiply the codes c themselves, as the exact numbers o + c that
// int4_order.h makes of them. Of a block, sum(weight x) = scale * (sum((o + c) x) - (o + zero point) * sum(x)): the sum of
// a token's x is taken once and serves all rows, and scales are applied in float32 to sums, not to weights.
#pragma once

#include "fragments.cuh"
#include "int4_order.h"
#include "weight_stream.cuh"

namespace qwen3vl {

template <typename T>
struct Codes;

template <>
struct Codes<__nv_bfloat16> {
  static constexpr float kOffset = kBfloat16CodeOffset;
  static __device__ __forceinline__ uint4 widen(std::uint32_t word) {
    return {bfloat16_codes(word, 0), bfloat16_codes(word, 1), bfloat16_codes(word, 2), bfloat16_codes(word, 3)};
  }
};

template <>
struct Codes<__half> {
  static constexpr float kOffset = kFloat16CodeOffset;
  static __device__ __forceinline__ uint4 widen(std::uint32_t word) {
    return {float16_codes(word, 0), float16_codes(word, 1), float16_codes(word, 2), float16_codes(word, 3)};
  }
};

// kBlock: values that share a scale and a zero point. Behind a stage's rows come these, two elements for each block, in
// the order of the rows.
template <typename T, int kBlock>
struct Int4Rows {
  using Value = T;
  static constexpr int kRowTiles = 2;  // the rows of the tensor cores' first operand
  static QWEN3VL_HOST_DEVICE constexpr int row_bytes(int inner) { return inner / 2; }
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
          for (int i = 0; i < kRuns; ++i) sum += sum_of(tokens[half][segment * kRuns + i]);
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
    constexpr int kSlice = kAllRuns * 32, kAtOnce = kSlice < 256 ? kSlice : 256;  // k that registers have room for
    constexpr int kSegment = TokenSums<kHalves, kSlice>::kSegment, kRuns = kSegment / 32;
    constexpr int kRowBytes = row_bytes(kInner), kBlocks = kInner / kBlock, kRowsOfTile = kRowTile / 2;
    static_assert(kInner % kCodeGroup == 0 && kSlice % kAtOnce == 0 && kAtOnce % kSegment == 0 && kSegment <= kBlock);
    const int group = lane / 4, q = lane % 4;
    const std::uint8_t* codes = stream.rows() + row_offset(kPieceRows * kRowBytes, kRowBytes, first_row, group);
    const auto* blocks = reinterpret_cast<const std::uint32_t*>(stream.extra()) +
                         (group % 2 * kPieceRows + first_row + group / 2) * kBlocks;
#pragma unroll
    for (int part = 0; part < kSlice; part += kAtOnce) {
      std::uint32_t words[kRowTiles][kAtOnce / 32];
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        load<kAtOnce>(words[tile], codes + tile * kRowsOfTile * kRowBytes, first_k + part, q);
      }
#pragma unroll
      for (int start = 0; start < kAtOnce; start += kSegment) {
        float d[kHalves][2][4] = {};
#pragma unroll
        for (int i = 0; i < kRuns; ++i) {
          const int run = start / 32 + i;
          const uint4 low = Codes<T>::widen(words[0][run]), high = Codes<T>::widen(words[1][run]);
#pragma unroll
          for (int half = 0; half < kHalves; ++half) {
            multiply_32<T>(d[half][0], d[half][1], low, high, tokens[half][part / 32 + run]);
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
            const float scale = steps[tile].x, offset = Codes<T>::kOffset + steps[tile].y;
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

  static __device__ __forceinline__ float sum_of(const uint4& x) {
    const float2 a = Element<T>::unpack(x.x), b = Element<T>::unpack(x.y);
    const float2 c = Element<T>::unpack(x.z), d = Element<T>::unpack(x.w);
    return ((a.x + a.y) + (b.x + b.y)) + ((c.x + c.y) + (d.x + d.y));
  }

  // The lane's words of one row for the runs of kCount k from first_k on.
  template <int kCount>
  static __device__ __forceinline__ void load(std::uint32_t (&words)[kCount / 32], const std::uint8_t* row, int first_k,
                                              int q) {
    if constexpr (kCount % kCodeGroup == 0) {  // first_k is a multiple of that too
      const std::uint8_t* own = row + lane_codes(first_k, q);
#pragma unroll
      for (int i = 0; i < kCount / 128; ++i) {
        const uint4 four = *reinterpret_cast<const uint4*>(own + i * (kCodeGroup / 2));
        words[4 * i] = four.x;
        words[4 * i + 1] = four.y;
        words[4 * i + 2] = four.z;
        words[4 * i + 3] = four.w;
      }
    } else {
      static_assert(kCount % 64 == 0);
#pragma unroll
      for (int i = 0; i < kCount / 64; ++i) {
        const uint2 two = *reinterpret_cast<const uint2*>(row + lane_codes(first_k + 64 * i, q));
        words[2 * i] = two.x;
        words[2 * i + 1] = two.y;
      }
    }
  }
};

}  // namespace qwen3vl
