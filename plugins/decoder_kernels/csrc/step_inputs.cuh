// What the first layer takes: rows of the embedding, and angles of the positions.
#pragma once

#include <cstdint>

#include "ptx.cuh"

namespace qwen3vl {

constexpr int kEmbedThreads = 256;

// A block for each token; rows are of so many packs of 16 bytes. Zeros where the table has no row of that number.
__global__ void __launch_bounds__(kEmbedThreads) embed_tokens_kernel(uint4* out, const std::int32_t* token_ids,
                                                                     const uint4* table, int rows, int packs) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::int64_t token = blockIdx.x, id = __ldcg(token_ids + token);
  const bool known = id >= 0 && id < rows;
  for (int i = threadIdx.x; i < packs; i += kEmbedThreads) {
    out[token * packs + i] = known ? __ldg(table + id * packs + i) : uint4{};
  }
}

constexpr int kMostFrequencies = 256;

// A block for each token, a thread for each frequency, which turns with the position of its own axis.
__global__ void __launch_bounds__(kMostFrequencies) rotary_angles_kernel(float* cosines, float* sines,
                                                                         const std::int32_t* positions,
                                                                         const std::int64_t* axes,
                                                                         const float* frequencies, int frequency_count) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int d = threadIdx.x;
  if (d >= frequency_count) return;
  const std::int64_t token = blockIdx.x, tokens = gridDim.x;
  const float angle = static_cast<float>(__ldcg(positions + __ldg(axes + d) * tokens + token)) * __ldg(frequencies + d);
  cosines[token * frequency_count + d] = cosf(angle);
  sines[token * frequency_count + d] = sinf(angle);
}

}  // namespace qwen3vl
