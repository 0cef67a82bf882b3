// What the layers take of a token: its row of the embedding, and the angles of its positions.
#pragma once

#include <cstdint>

#include "ptx.cuh"

namespace qwen3vl {

constexpr int kInputThreads = 256;

struct InputArguments {
  uint4* hidden;  // [tokens, packs]
  float *cosines, *sines;  // [tokens, frequency_count]
  const std::int32_t* token_ids;  // [tokens]
  const uint4* table;  // [rows, packs]
  const std::int32_t* positions;  // [3, tokens]
  const std::int64_t* axes;  // [frequency_count]
  const float* frequencies;  // [frequency_count]
  int rows, packs, frequency_count;
};

// A block for each token. Rows are of so many packs of 16 bytes: zeros where the table has no row of the token's number.
// Each frequency turns with the position of its own axis.
__global__ void __launch_bounds__(kInputThreads) step_inputs_kernel(const InputArguments arguments) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::int64_t token = blockIdx.x, tokens = gridDim.x, id = __ldcg(arguments.token_ids + token);
  const bool known = id >= 0 && id < arguments.rows;
  for (int i = threadIdx.x; i < arguments.packs; i += kInputThreads) {
    arguments.hidden[token * arguments.packs + i] = known ? __ldg(arguments.table + id * arguments.packs + i) : uint4{};
  }
  for (int d = threadIdx.x; d < arguments.frequency_count; d += kInputThreads) {
    const std::int32_t position = __ldcg(arguments.positions + __ldg(arguments.axes + d) * tokens + token);
    const float angle = static_cast<float>(position) * __ldg(arguments.frequencies + d);
    arguments.cosines[token * arguments.frequency_count + d] = cosf(angle);
    arguments.sines[token * arguments.frequency_count + d] = sinf(angle);
  }
}

}  // namespace qwen3vl
