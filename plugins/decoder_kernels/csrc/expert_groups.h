// Sorting a chunk's pairs of token and choice by expert, on the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace qwen3vl {

struct GroupArguments {
  std::int32_t* counts;        // [kChunkExperts]: each expert's pairs
  std::int32_t* grouped;       // [pairs]: the pairs' numbers, token * k + choice, by expert and then by number
  std::int32_t* counters;      // [counter_count], set to 0
  const std::int32_t* chosen;  // [pairs]: experts
  int pairs, counter_count;
};

cudaError_t group_pairs(const GroupArguments& arguments, cudaStream_t stream);

}  // namespace qwen3vl
