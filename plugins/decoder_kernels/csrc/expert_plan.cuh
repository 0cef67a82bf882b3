// Which tokens each expert has: every block works it out for itself, and all come to the same.
#pragma once

#include <cstdint>

#include "partition.h"

namespace qwen3vl {

constexpr int kMaxExperts = 128;

// The used experts, in order, as units of at most kRows pairs of token and choice; a pair's number is token * k +
// choice, or -1 for none.
template <int kMaxPairs, int kUnitRows>
struct ExpertPlan {
  static constexpr int kRows = kUnitRows;
  static constexpr int kMaxUsed = kMaxPairs < kMaxExperts ? kMaxPairs : kMaxExperts;
  static constexpr int kMaxUnits = (kMaxPairs + (kRows - 1) * kMaxUsed) / kRows;  // each expert's last with one pair
  std::int32_t units;
  std::uint8_t expert[kMaxUnits];
  alignas(16) std::int16_t pairs[kMaxUnits][kRows];

  // Called by all threads, before anything else.
  __device__ void clear() {
    auto* four = reinterpret_cast<int2*>(pairs);
    static_assert(kMaxUnits * kRows % 4 == 0);
    for (int i = threadIdx.x; i < kMaxUnits * kRows / 4; i += blockDim.x) four[i] = int2{-1, -1};
  }
};

// Up to kRows tokens: each has its own row in all units, so that one set of their hidden states serves every expert.
template <int kMaxPairs, int kRows>
struct FewTokensPlan {
  using Plan = ExpertPlan<kMaxPairs, kRows>;

  struct Scratch {
    std::uint32_t used[kMaxExperts / 32];  // a bit for each expert
  };

  // Before the choices are known. A block barrier has to follow.
  static __device__ void begin(Plan& plan, Scratch& scratch) {
    plan.clear();
    if (threadIdx.x < kMaxExperts / 32) scratch.used[threadIdx.x] = 0;
  }

  // Called by all threads; ends with a block barrier.
  static __device__ void make(Plan& plan, Scratch& scratch, const std::int32_t* chosen, int tokens, int k) {
    const int pair = threadIdx.x, expert = pair < tokens * k ? __ldcg(chosen + pair) : -1;
    if (expert >= 0) atomicOr(&scratch.used[expert / 32], 1u << expert % 32);
    __syncthreads();
    int unit = 0, units = 0;
#pragma unroll
    for (int w = 0; w < kMaxExperts / 32; ++w) {
      const std::uint32_t used = scratch.used[w];
      units += __popc(used);
      if (w < expert / 32) unit += __popc(used);
      if (w == expert / 32) unit += __popc(used & ((1u << expert % 32) - 1));
    }
    if (expert >= 0) {
      plan.expert[unit] = static_cast<std::uint8_t>(expert);
      plan.pairs[unit][pair / k] = static_cast<std::int16_t>(pair);
    }
    if (threadIdx.x == 0) plan.units = units;
    __syncthreads();
  }
};

// Any number of tokens: an expert's pairs fill its units' rows in order. kWarps are all warps of the block.
template <int kMaxPairs, int kRows, int kWarps>
struct ManyTokensPlan {
  using Plan = ExpertPlan<kMaxPairs, kRows>;
  static_assert(kWarps * 32 >= kMaxExperts);

  struct Scratch {
    std::int32_t counts[kWarps][kMaxExperts];  // pairs of the warp's part; then the expert's pairs before its next one
    std::int32_t totals[kMaxExperts];          // pairs; then the expert's first unit
  };

  static __device__ void begin(Plan& plan, Scratch& scratch) {
    plan.clear();
    auto* counts = reinterpret_cast<std::int32_t*>(scratch.counts);
    for (int i = threadIdx.x; i < kWarps * kMaxExperts; i += kWarps * 32) counts[i] = 0;
  }

  static __device__ void make(Plan& plan, Scratch& scratch, const std::int32_t* chosen, int tokens, int k) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pairs = tokens * k;
    const int part = groups_of(groups_of(pairs, kWarps), 32) * 32;
    const int begin = warp * part, end = min(begin + part, pairs);
    std::int32_t* counts = scratch.counts[warp];
    const int own = begin + lane < end ? __ldcg(chosen + begin + lane) : -1;  // all there is, for up to 32 pairs a warp
    if (own >= 0) atomicAdd(&counts[own], 1);
    for (int p = begin + 32 + lane; p < end; p += 32) atomicAdd(&counts[__ldcg(chosen + p)], 1);
    __syncthreads();
    if (threadIdx.x < kMaxExperts) {
      int total = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const int count = scratch.counts[w][threadIdx.x];
        scratch.counts[w][threadIdx.x] = total;
        total += count;
      }
      scratch.totals[threadIdx.x] = total;
    }
    __syncthreads();
    if (warp == 0) {  // lane l has experts 4 l to 4 l + 3
      int first[4], own_units = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        first[i] = own_units;
        own_units += groups_of(scratch.totals[4 * lane + i], kRows);
      }
      int before = own_units;
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const int other = __shfl_up_sync(~0u, before, offset);
        if (lane >= offset) before += other;
      }
      if (lane == 31) plan.units = before;
      before -= own_units;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int expert = 4 * lane + i, units = groups_of(scratch.totals[expert], kRows);
        for (int unit = 0; unit < units; ++unit) {
          plan.expert[before + first[i] + unit] = static_cast<std::uint8_t>(expert);
        }
        scratch.totals[expert] = before + first[i];
      }
    }
    __syncthreads();
    for (int start = begin; start < end; start += 32) {
      const int p = start + lane;
      const int expert = start == begin ? own : p < end ? __ldcg(chosen + p) : -1;
      const unsigned equal = __match_any_sync(~0u, expert);
      const int before = __popc(equal & ((1u << lane) - 1));
      if (expert >= 0) {
        const int row = counts[expert] + before;
        plan.pairs[scratch.totals[expert] + row / kRows][row % kRows] = static_cast<std::int16_t>(p);
      }
      __syncwarp();
      if (expert >= 0 && before == 0) counts[expert] += __popc(equal);
      __syncwarp();
    }
    __syncthreads();
  }
};

}  // namespace qwen3vl
