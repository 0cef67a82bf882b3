// What an attending warpgroup does with its 64 queries.
#pragma once

#include "elements.cuh"
#include "running_softmax.cuh"
#include "tiles.h"
#include "wgmma.cuh"

namespace qwen3vl {

template <typename T, int kHead>
struct QueryTile : RunningSoftmax<kKeyRows, kHead> {
  using RunningSoftmax<kKeyRows, kHead>::scores, RunningSoftmax<kKeyRows, kHead>::weights,
      RunningSoftmax<kKeyRows, kHead>::mixed;

  __device__ __forceinline__ void multiply_keys(std::uint64_t query, std::uint64_t key) {
    mma_fence();
#pragma unroll
    for (int i = 0; i < score_chunks(kHead) / 2; ++i)  // descriptors count in units of 16 bytes, a chunk's row
      multiply_shared<T>(scores, query + i * 2 * kQueryRows, key + i * 2 * kKeyRows, i != 0);
    mma_commit();
  }

  __device__ __forceinline__ void multiply_values(std::uint64_t value) {
#pragma unroll
    for (int i = 0; i < kKeyRows / 16; ++i) multiply_registers<T>(mixed, weights + 4 * i, value + i * 16);
    mma_commit();
  }

  // Keys from `there` on are not there.
  __device__ __forceinline__ void mask(int there) {
    const int column = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < kKeyRows / 2; ++i)
      if (i / 4 * 8 + column + i % 2 >= there) scores[i] = -INFINITY;
  }

  // Queries come scaled.
  __device__ __forceinline__ void exponentiate(float (&correction)[2]) {
    RunningSoftmax<kKeyRows, kHead>::exponentiate(1.f, correction);
  }

  __device__ __forceinline__ void round_weights() {
    RunningSoftmax<kKeyRows, kHead>::round_weights([](float low, float high) { return pack<T>(low, high); });
  }
};

}  // namespace qwen3vl
