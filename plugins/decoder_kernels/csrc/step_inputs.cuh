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
  const std::int64_t* chosen;  // [chosen_count]
  const uint4* table;  // [rows, packs]
  const std::int32_t* positions;  // [3, tokens]
  const std::int64_t* axes;  // [frequency_count]
  const float* frequencies;  // [frequency_count]
  int chosen_count, rows, packs, frequency_count;
};

// A block for each token. Rows are of so many packs of 16 bytes: zeros where the table has no row of the token's
// number, which is one that was chosen where the id is below 0. Each frequency turns with the position of its own axis.
__global__ void __launch_bounds__(kInputThreads) step_inputs_kernel(const InputArguments arguments) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::int64_t token = blockIdx.x, tokens = gridDim.x, id = __ldcg(arguments.token_ids + token);
  const bool is_chosen = id < 0;
  __shared__ std::int64_t number;
  if (is_chosen && threadIdx.x == kInputThreads - 1) {  // others find angles while it comes, maybe from the host
    number = -1 - id < arguments.chosen_count ? __ldcg(arguments.chosen + (-1 - id)) : -1;
  }
  for (int d = threadIdx.x; d < arguments.frequency_count; d += kInputThreads) {
    const std::int32_t position = __ldcg(arguments.positions + __ldg(arguments.axes + d) * tokens + token);
    const float angle = static_cast<float>(position) * __ldg(arguments.frequencies + d);
    arguments.cosines[token * arguments.frequency_count + d] = cosf(angle);
    arguments.sines[token * arguments.frequency_count + d] = sinf(angle);
  }
  if (is_chosen) __syncthreads();
  const std::int64_t row = is_chosen ? number : id;
  const bool known = row >= 0 && row < arguments.rows;
  for (int i = threadIdx.x; i < arguments.packs; i += kInputThreads) {
    const uint4 pack = known ? __ldg(arguments.table + row * arguments.packs + i) : uint4{};
    arguments.hidden[token * arguments.packs + i] = pack;
  }
}

}  // namespace qwen3vl
