// What a warpgroup knows of 64 rows of queries that attend to tiles of keys: running softmax (FlashAttention).
#pragma once

#include <cmath>
#include <cstdint>

// Not by quotes: tests put instructions of a CPU, in headers of these names, before.
#include <ptx.cuh>
#include <wgmma.cuh>

namespace qwen3vl {

// A thread has two of the rows; what it has of their scores and results is said in wgmma.cuh. Weights are pairs of 16
// bits.
template <int kKeys, int kHead>
struct RunningSoftmax {
  float scores[kKeys / 2];
  std::uint32_t weights[kKeys / 4];
  float mixed[kHead / 2];
  float top[2], sum[2];  // of scores, and of this thread's part of the weights

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kHead / 2; ++i) mixed[i] = 0.f;
    top[0] = top[1] = -INFINITY;
    sum[0] = sum[1] = 0.f;
  }

  // The scores become weights, 2^(scale (score - top)) with `top` the largest score so far, which has to be finite, and
  // their sums are taken. What came before has to be multiplied by `correction`. There is no branch in here: the second
  // row's maximum is found while the first row's exponentials are taken.
  __device__ __forceinline__ void exponentiate(float scale, float (&correction)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = fmaxf(scores[2 * r], scores[2 * r + 1]);
#pragma unroll
      for (int i = 4 + 2 * r; i < kKeys / 2; i += 4) most = fmaxf(most, fmaxf(scores[i], scores[i + 1]));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      const float raised = fmaxf(most, top[r]), shift = raised * scale;
      correction[r] = exp2_approximate(top[r] * scale - shift);
      top[r] = raised;
      float total = sum[r] * correction[r];
#pragma unroll
      for (int i = 2 * r; i < kKeys / 2; i += 4) {
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
    for (int i = 0; i < kHead / 2; ++i) mixed[i] *= correction[i / 2 % 2];
  }

  // `pack` makes a pair of 16 bits of two numbers.
  template <typename Pack>
  __device__ __forceinline__ void round_weights(const Pack& pack) {
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) weights[i] = pack(scores[2 * i], scores[2 * i + 1]);
  }

  __device__ __forceinline__ void settle_mixed() {
    settle(mixed);
    settle(weights);
  }

  // Sums of the two rows' weights, whichever thread has them.
  __device__ __forceinline__ void finish_sums() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    }
  }
};

}  // namespace qwen3vl
