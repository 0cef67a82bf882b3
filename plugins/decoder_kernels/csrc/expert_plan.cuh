// Which tokens each expert has: every block works it out for itself, and all come to the same.
#pragma once

#include <cstdint>

#include "partition.h"

namespace qwen3vl {

constexpr int kMaxExperts = 128;
constexpr int kMaxPairs = 2048;  // of token and chosen expert, in one call
constexpr int kMaxUnits = kMaxExperts + kMaxPairs / 16;

// Pairs sorted by expert, equal experts in the pairs' own order, cut into units of at most `unit_tokens` pairs of one
// expert. A pair's number is token * k + rank.
struct ExpertPlan {
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

// Called by all threads of a block of at least kWarps warps, of which the first kWarps share the pairs. `chosen` was
// written by the kernel before. Ends with a block barrier.
template <int kWarps>
__device__ void make_expert_plan(ExpertPlan& plan, ExpertPlanScratch<kWarps>& scratch, const std::int32_t* chosen,
                                 int pairs, int unit_tokens) {
  static_assert(kWarps * 32 >= kMaxExperts);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool works = warp < kWarps;
  const int part = groups_of(groups_of(pairs, kWarps), 32) * 32;
  const int begin = warp * part, end = min(begin + part, pairs);
  std::int32_t* counts = works ? scratch.counts[warp] : nullptr;
  if (works) {
    for (int e = lane; e < kMaxExperts; e += 32) counts[e] = 0;
    __syncwarp();
    for (int p = begin + lane; p < end; p += 32) atomicAdd(&counts[__ldcg(chosen + p)], 1);
  }
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
      own += count | groups_of(count, unit_tokens) << 16;
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
      for (int done = 0; done < count; done += unit_tokens, ++unit) {
        plan.expert[unit] = static_cast<std::uint8_t>(expert);
        plan.first[unit] = static_cast<std::uint16_t>(first + done);
        plan.count[unit] = static_cast<std::uint16_t>(min(count - done, unit_tokens));
      }
      scratch.offsets[expert] = first;
    }
  }
  __syncthreads();
  if (works) {
    for (int start = begin; start < end; start += 32) {
      const int p = start + lane;
      const bool valid = p < end;
      const int expert = valid ? __ldcg(chosen + p) : -1;
      const unsigned equal = __match_any_sync(~0u, expert);
      const int before = __popc(equal & ((1u << lane) - 1));
      if (valid) plan.order[scratch.offsets[expert] + counts[expert] + before] = static_cast<std::uint16_t>(p);
      __syncwarp();
      if (valid && before == 0) counts[expert] += __popc(equal);
      __syncwarp();
    }
  }
  __syncthreads();
}

}  // namespace qwen3vl
