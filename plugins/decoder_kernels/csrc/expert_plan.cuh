// Which tokens each expert has: every block works it out for itself, and all come to the same.
#pragma once

#include <cstdint>

#include "partition.h"

namespace qwen3vl {

constexpr int kMaxExperts = 128;

// Pairs sorted by expert, equal experts in the pairs' own order, cut into units of at most kUnitTokens pairs of one
// expert. A pair's number is token * k + rank.
template <int kMaxPairs, int kUnitTokens>
struct ExpertPlan {
  static constexpr int kMaxUnits = kMaxExperts + kMaxPairs / kUnitTokens;
  std::int32_t units;
  std::uint8_t expert[kMaxUnits];
  std::uint16_t first[kMaxUnits];  // place in `order`
  std::uint16_t count[kMaxUnits];
  std::uint16_t order[kMaxPairs];
};

template <int kWarps>
struct ExpertPlanScratch {
  std::int32_t counts[kWarps][kMaxExperts];  // first pairs of the warp's part; then the place of its next pair
  std::int32_t offsets[kMaxExperts];
};

// Called by all threads of a block of kWarps warps. `chosen` was written by the kernel before. Ends with a block barrier.
template <int kWarps, int kMaxPairs, int kUnitTokens>
__device__ void make_expert_plan(ExpertPlan<kMaxPairs, kUnitTokens>& plan, ExpertPlanScratch<kWarps>& scratch,
                                 const std::int32_t* chosen, int pairs) {
  static_assert(kWarps * 32 >= kMaxExperts);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int part = groups_of(groups_of(pairs, kWarps), 32) * 32;
  const int begin = warp * part, end = min(begin + part, pairs);
  std::int32_t* counts = scratch.counts[warp];
  const int own = begin + lane < end ? __ldcg(chosen + begin + lane) : -1;  // all there is, for up to 32 pairs a warp
  for (int e = lane; e < kMaxExperts; e += 32) counts[e] = 0;
  __syncwarp();
  if (own >= 0) atomicAdd(&counts[own], 1);
  for (int p = begin + 32 + lane; p < end; p += 32) atomicAdd(&counts[__ldcg(chosen + p)], 1);
  __syncthreads();
  int total = 0;
  if (threadIdx.x < kMaxExperts) {
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const int count = scratch.counts[w][threadIdx.x];
      scratch.counts[w][threadIdx.x] = total;
      total += count;
    }
    scratch.offsets[threadIdx.x] = total;
  }
  __syncthreads();
  if (warp == 0) {  // lane l has experts 4 l to 4 l + 3; pairs and units are summed in one number
    std::int32_t sums[4], own = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int count = scratch.offsets[4 * lane + i];
      sums[i] = own;
      own += count | groups_of(count, kUnitTokens) << 16;
    }
    std::int32_t before = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const std::int32_t other = __shfl_up_sync(~0u, before, offset);
      if (lane >= offset) before += other;
    }
    if (lane == 31) plan.units = before >> 16;
    before -= own;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int expert = 4 * lane + i, count = scratch.offsets[expert];
      const int first = (before + sums[i]) & 0xffff;
      int unit = (before + sums[i]) >> 16;
      for (int done = 0; done < count; done += kUnitTokens, ++unit) {
        plan.expert[unit] = static_cast<std::uint8_t>(expert);
        plan.first[unit] = static_cast<std::uint16_t>(first + done);
        plan.count[unit] = static_cast<std::uint16_t>(min(count - done, kUnitTokens));
      }
      scratch.offsets[expert] = first;
    }
  }
  __syncthreads();
  for (int start = begin; start < end; start += 32) {
    const int p = start + lane;
    const int expert = start == begin ? own : p < end ? __ldcg(chosen + p) : -1;
    const unsigned equal = __match_any_sync(~0u, expert);
    const int before = __popc(equal & ((1u << lane) - 1));
    if (expert >= 0) plan.order[scratch.offsets[expert] + counts[expert] + before] = static_cast<std::uint16_t>(p);
    __syncwarp();
    if (expert >= 0 && before == 0) counts[expert] += __popc(equal);
    __syncwarp();
  }
  __syncthreads();
}

}  // namespace qwen3vl
