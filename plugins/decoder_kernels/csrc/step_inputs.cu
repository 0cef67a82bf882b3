// Launching what the first layer's inputs come from.
#include "step_inputs.cuh"

#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "launch.h"

int qwen3vl_step_inputs(void* hidden, float* cosines, float* sines, const int32_t* token_ids, const int64_t* chosen,
                        const void* table, const int32_t* positions, const int64_t* axes, const float* frequencies,
                        int tokens, int chosen_count, int rows, int hidden_size, int frequency_count, int type,
                        void* stream) {
  using namespace qwen3vl;
  constexpr int kWidth = 8;  // elements of a pack
  if (tokens < 1 || chosen_count < 0 || rows < 1 || hidden_size < 1 || hidden_size % kWidth != 0 ||
      frequency_count < 1) {
    return cudaErrorInvalidValue;
  }
  if (type != QWEN3VL_FLOAT16 && type != QWEN3VL_BFLOAT16) return cudaErrorInvalidValue;
  const InputArguments arguments{static_cast<uint4*>(hidden), cosines, sines, token_ids, chosen,
                                 static_cast<const uint4*>(table), positions, axes, frequencies, chosen_count, rows,
                                 hidden_size / kWidth, frequency_count};
  return launch(step_inputs_kernel, dim3(tokens), kInputThreads, 0, 1, static_cast<cudaStream_t>(stream), arguments);
}
