// What a warpgroup of prefill attention does with its 64 rows.
#pragma once

#include "fragments.cuh"
#include "head_rotation.cuh"
#include "prefill_tiles.h"
#include "ptx.cuh"
#include "running_softmax.cuh"
#include "wgmma.cuh"

namespace qwen3vl {

// A thread has two rows: head lane / 4 of tokens 2 w and 2 w + 1 of the warpgroup's, w its warp.
template <typename T>
struct PrefillRows : RunningSoftmax<kKeyRows, kHeadSize> {
  static_assert(kSharing == 8 && kGroupRows == 64, "the thread's rows r = 0 and 1 are those of tokens 2 w + r");

  // Starts scores = queries x keys; both are panels of 64 dimensions.
  __device__ __forceinline__ void multiply_keys(std::uint64_t queries, std::uint64_t keys) {
    mma_fence();
#pragma unroll
    for (int panel = 0; panel < kHeadSize / kPanelColumns; ++panel) {
#pragma unroll
      for (int i = 0; i < kPanelColumns / 16; ++i) {
        multiply_shared<T>(scores, queries + panel * (kGroupRows * kPanelRowBytes / 16) + i * kRowStep,
                           keys + panel * (kKeyRows * kPanelRowBytes / 16) + i * kRowStep, panel + i > 0);
      }
    }
    mma_commit();
  }

  // Starts mixed += weights x values.
  __device__ __forceinline__ void multiply_values(std::uint64_t values) {
#pragma unroll
    for (int i = 0; i < kKeyRows / 16; ++i) multiply_registers<T>(mixed, weights + 4 * i, values + i * kColumnStep);
    mma_commit();
  }

  // The rows see the first `visible` keys of this tile.
  __device__ __forceinline__ void mask(const int (&visible)[2]) {
    const int column = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < kKeyRows / 2; ++i) {
      if (i / 4 * 8 + column + i % 2 >= visible[i / 2 % 2]) scores[i] = -INFINITY;
    }
  }

  __device__ __forceinline__ void round_weights() {
    RunningSoftmax::round_weights([](float low, float high) { return Element<T>::pack(low, high); });
  }

  // What the rows' results have to be multiplied by.
  __device__ __forceinline__ float2 factors() {
    finish_sums();
    return {1.f / sum[0], 1.f / sum[1]};
  }
};

}  // namespace qwen3vl
