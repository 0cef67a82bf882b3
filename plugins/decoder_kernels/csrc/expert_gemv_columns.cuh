// One token as the tensor cores' second operand: a column for each block of k.
//
// The operand has 8 columns, for 8 tokens. With one token seven would be idle, and each block of k, which has its own
// scale, would need accumulators of its own. So column c holds the token's values of block c, and zeros elsewhere: the
// sums of up to 8 blocks come apart by themselves in one accumulator.
#pragma once

#include "fragments.cuh"
#include "int4_rows.cuh"

namespace qwen3vl {
namespace {

// `own`: the values of a lane, of column l / 4. Sums over columns 2 (l % 4) and the next.
template <typename Rows, int kCount>
__device__ __forceinline__ float2 column_sums(const uint4 (&own)[kCount], int quad) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum += Rows::sum_of(own[i]);
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  return {__shfl_sync(~0u, sum, 8 * quad), __shfl_sync(~0u, sum, 8 * quad + 4)};
}

// The accumulators of 16 rows, two tiles of 8: products of even and odd runs of 32 k, each in two parts.
struct ColumnSums {
  float of[4][4] = {};

  template <typename T>
  __device__ __forceinline__ void add(int run, std::uint32_t first_word, std::uint32_t second_word,
                                      const uint4& values) {
    multiply_32<T>(of[run % 2 * 2], of[run % 2 * 2 + 1], Codes<T>::widen(first_word), Codes<T>::widen(second_word),
                   values);
  }

  // A lane's column `i`, 0 or 1, of row l / 4 of tile `tile`.
  __device__ __forceinline__ float at(int tile, int i) const {
    return (of[0][2 * tile + i] + of[1][2 * tile + i]) + (of[2][2 * tile + i] + of[3][2 * tile + i]);
  }
};

// Of `kColumns` columns, where this lane's two have their scales and zero points: `steps` are a row's first.
template <int kColumns>
struct ColumnSteps {
  const std::uint32_t *first, *second;

  __device__ __forceinline__ ColumnSteps(const std::uint32_t* steps, int quad)
      : first(steps + min(2 * quad, kColumns - 1)), second(steps + min(2 * quad + 1, kColumns - 1)) {}

  __device__ __forceinline__ void advance(int steps) {
    first += steps;
    second += steps;
  }
};

// Products of rows l / 4 of both tiles with the token, over all columns: in lane 4 (l / 4) at least. `x_sums`: of
// column_sums. `steps`: of the first tile's row; a row has `kBlocks` blocks, the second tile begins 4 rows further.
template <typename T, int kBlocks, int kColumns>
__device__ __forceinline__ float2 row_sums(const ColumnSums& sums, float2 x_sums, const ColumnSteps<kColumns>& steps) {
  float of[2];
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    const int offset = tile * (kRowTile / 2) * kBlocks;
    const float2 a = Element<T>::unpack(steps.first[offset]), b = Element<T>::unpack(steps.second[offset]);
    of[tile] = a.x * (sums.at(tile, 0) - (Codes<T>::kOffset + a.y) * x_sums.x) +
               b.x * (sums.at(tile, 1) - (Codes<T>::kOffset + b.y) * x_sums.y);
    if (kColumns > 2) of[tile] += __shfl_xor_sync(~0u, of[tile], 1);
    if (kColumns > 4) of[tile] += __shfl_xor_sync(~0u, of[tile], 2);
  }
  return {of[0], of[1]};
}

}  // namespace
}  // namespace qwen3vl
