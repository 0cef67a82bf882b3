// The kernel: each token's row of the table is added to its hidden state.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "row_index.h"

namespace qwen3vl {

constexpr int kThreads = 256;       // of a block
constexpr int kPacksPerThread = 2;  // loads of each operand that a thread has in flight

// The unit of work: kWidth elements, which are one element, 16 bytes or, of wide rows, 32.
template <typename T, int kWidth>
struct alignas(kWidth * sizeof(T) < sizeof(int4) ? kWidth * sizeof(T) : sizeof(int4)) Pack {
  T elements[kWidth];
};

template <typename T, int kWidth>
__device__ Pack<T, kWidth> load_read_only(const Pack<T, kWidth>* address) {
  constexpr int kLoads = sizeof(Pack<T, kWidth>) / sizeof(int4);
  if constexpr (kLoads > 0) {
    Pack<T, kWidth> pack;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      reinterpret_cast<int4*>(&pack)[i] = __ldg(reinterpret_cast<const int4*>(address) + i);
    }
    return pack;
  } else {
    return *address;
  }
}

__device__ void accumulate(Pack<float, 4>& sum, const Pack<float, 4>& added) {
#pragma unroll
  for (int i = 0; i < 4; ++i) sum.elements[i] += added.elements[i];
}

// Two 16-bit elements an instruction; each sum is rounded once, as the sum of the two numbers.
template <typename T>
__device__ void accumulate(Pack<T, 8>& sum, const Pack<T, 8>& added) {
  using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    Pair& pair = reinterpret_cast<Pair*>(sum.elements)[i];
    pair = __hadd2(pair, reinterpret_cast<const Pair*>(added.elements)[i]);
  }
}

template <typename T>
__device__ void accumulate(Pack<T, 1>& sum, const Pack<T, 1>& added) {
  sum.elements[0] = sum.elements[0] + added.elements[0];
}

// Wide rows: each sum is taken in float32, and rounded once.
template <typename T, int kWidth>
__device__ std::enable_if_t<!std::is_same_v<T, float>> accumulate(Pack<T, kWidth>& sum,
                                                                   const Pack<float, kWidth>& added) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    sum.elements[i] = static_cast<T>(static_cast<float>(sum.elements[i]) + added.elements[i]);
  }
}

// blockDim.x threads walk one token's row, blockDim.y tokens share a block.
template <typename T, typename Row, int kWidth, bool kInPlace>
__global__ void __launch_bounds__(kThreads)
    deepstack_add_kernel(Pack<T, kWidth>* out, const Pack<T, kWidth>* hidden, const std::int32_t* __restrict__ token_ids,
                         const Pack<Row, kWidth>* __restrict__ visual_rows, std::int64_t tokens,
                         std::int64_t packs_per_row, std::int64_t row_count, std::int32_t level,
                         std::int32_t vocab_size) {
  const std::int64_t token = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (token >= tokens) return;
  const std::int64_t row = row_index(__ldg(token_ids + token), level, vocab_size, row_count);
  if (kInPlace && row == kNoRow) return;
  const std::int64_t begin = token * packs_per_row;
  for (std::int64_t first = threadIdx.x; first < packs_per_row; first += kPacksPerThread * blockDim.x) {
    Pack<T, kWidth> sum[kPacksPerThread];
    Pack<Row, kWidth> added[kPacksPerThread];
#pragma unroll
    for (int i = 0; i < kPacksPerThread; ++i) {
      const std::int64_t at = first + i * blockDim.x;
      if (at < packs_per_row) sum[i] = hidden[begin + at];
    }
    if (row != kNoRow) {
#pragma unroll
      for (int i = 0; i < kPacksPerThread; ++i) {
        const std::int64_t at = first + i * blockDim.x;
        if (at < packs_per_row) added[i] = load_read_only(visual_rows + row * packs_per_row + at);
      }
#pragma unroll
      for (int i = 0; i < kPacksPerThread; ++i) accumulate(sum[i], added[i]);
    }
#pragma unroll
    for (int i = 0; i < kPacksPerThread; ++i) {
      const std::int64_t at = first + i * blockDim.x;
      if (at < packs_per_row) out[begin + at] = sum[i];
    }
  }
}

}  // namespace qwen3vl
