// What the routers of few and of many tokens share: their arguments, and how a token's experts are chosen.
#pragma once

#include <cstdint>

#include "float_order.cuh"

namespace qwen3vl {

constexpr int kRouterExperts = 128;
constexpr int kRouterHidden = 2048;

struct RouterArguments {
  void* normed;             // T [tokens, kRouterHidden]
  std::int32_t* chosen;     // [tokens, k]
  float* chosen_weights;    // [tokens, k]
  std::int32_t* counters;   // set to 0 for the kernel after this
  const void* x;            // T [tokens, kRouterHidden]
  const void* norm;         // T [kRouterHidden]
  const void* weights;      // T [128, kRouterHidden]
  int tokens, k, counter_count;
  float epsilon;
};

// The k largest of 128 logits by one warp, the first of equal ones first, with softmax weights that add up to 1. Lane l
// holds logits 4 l to 4 l + 3. Each round waits for the one before: a lane that has the largest writes it by itself, so
// that nothing but the maximum goes from lane to lane.
__device__ __forceinline__ void choose(const float* logits, int k, std::int32_t* chosen, float* weights, int lane) {
  const float4 four = reinterpret_cast<const float4*>(logits)[lane];
  float own[4] = {four.x, four.y, four.z, four.w};
  float first = 0.f, sum = 0.f, mine = 0.f;  // `mine`: the unscaled weight of the lane-th choice
  for (int round = 0; round < k; ++round) {
    float best = own[0];
    int at = 0;
#pragma unroll
    for (int i = 1; i < 4; ++i) {
      if (own[i] > best) {
        best = own[i];
        at = i;
      }
    }
    const std::uint32_t key = order_of(best), top = __reduce_max_sync(~0u, key);
    if (lane == __ffs(__ballot_sync(~0u, key == top)) - 1) {
      chosen[round] = 4 * lane + at;
#pragma unroll
      for (int i = 0; i < 4; ++i) own[i] = i == at ? -INFINITY : own[i];
    }
    const float value = float_of(top);
    if (round == 0) first = value;
    const float weight = __expf(value - first);
    sum += weight;
    if (lane == round) mine = weight;
  }
  if (lane < k) weights[lane] = mine / sum;
}

}  // namespace qwen3vl
