// What a warpgroup of prefill attention knows of its 64 rows: running softmax (FlashAttention) in float32.
#pragma once

#include "fragments.cuh"
#include "head_rotation.cuh"
#include "prefill_tiles.h"
#include "ptx.cuh"
#include "wgmma.cuh"

namespace qwen3vl {

// A thread has two rows: head lane / 4 of tokens 2 w and 2 w + 1 of the warpgroup's, w its warp. What it has of their
// scores and results is said in wgmma.cuh.
template <typename T>
struct PrefillRows {
  static_assert(kSharing == 8 && kGroupRows == 64, "the thread's rows r = 0 and 1 are those of tokens 2 w + r");
  float scores[kKeyRows / 2];
  std::uint32_t weights[kKeyRows / 4];
  float mixed[kHeadSize / 2];
  float top[2], sum[2];  // of scores, and of this thread's part of the weights

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kHeadSize / 2; ++i) mixed[i] = 0.f;
    top[0] = top[1] = -INFINITY;
    sum[0] = sum[1] = 0.f;
  }

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

  // The scores become weights, 2^(scale (score - top)) with `top` the largest score so far, which has to be finite, and
  // their sums are taken. What came before has to be multiplied by `correction`.
  __device__ __forceinline__ void exponentiate(float scale, float (&correction)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = fmaxf(scores[2 * r], scores[2 * r + 1]);
#pragma unroll
      for (int i = 4 + 2 * r; i < kKeyRows / 2; i += 4) most = fmaxf(most, fmaxf(scores[i], scores[i + 1]));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      const float raised = fmaxf(most, top[r]), shift = raised * scale;
      correction[r] = exp2_approximate(top[r] * scale - shift);
      top[r] = raised;
      float total = sum[r] * correction[r];
#pragma unroll
      for (int i = 2 * r; i < kKeyRows / 2; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          scores[i + e] = exp2_approximate(scores[i + e] * scale - shift);
          total += scores[i + e];
        }
      }
      sum[r] = total;
    }
  }

  __device__ __forceinline__ void correct(const float (&correction)[2]) {
#pragma unroll
    for (int i = 0; i < kHeadSize / 2; ++i) mixed[i] *= correction[i / 2 % 2];
  }

  __device__ __forceinline__ void round_weights() {
#pragma unroll
    for (int i = 0; i < kKeyRows / 4; ++i) weights[i] = Element<T>::pack(scores[2 * i], scores[2 * i + 1]);
  }

  __device__ __forceinline__ void settle_mixed() {
    settle(mixed);
    settle(weights);
  }

  // What the rows' results have to be multiplied by.
  __device__ __forceinline__ float2 factors() const {
    float total[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      total[r] = sum[r] + __shfl_xor_sync(~0u, sum[r], 1);
      total[r] += __shfl_xor_sync(~0u, total[r], 2);
    }
    return {1.f / total[0], 1.f / total[1]};
  }
};

}  // namespace qwen3vl
