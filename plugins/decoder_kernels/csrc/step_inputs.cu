// Launching what the first layer's inputs come from.
#include "step_inputs.cuh"

#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "launch.h"
#include "partition.h"

int qwen3vl_embed_tokens(void* out, const int32_t* token_ids, const void* table, int tokens, int rows, int hidden,
                         int type, void* stream) {
  using namespace qwen3vl;
  constexpr int kWidth = 8;  // elements of a pack
  if (tokens < 1 || rows < 1 || hidden < 1 || hidden % kWidth != 0) return cudaErrorInvalidValue;
  if (type != QWEN3VL_FLOAT16 && type != QWEN3VL_BFLOAT16) return cudaErrorInvalidValue;
  return launch(embed_tokens_kernel, dim3(tokens), kEmbedThreads, 0, 1, static_cast<cudaStream_t>(stream),
                static_cast<uint4*>(out), token_ids, static_cast<const uint4*>(table), rows, hidden / kWidth);
}

int qwen3vl_rotary_angles(float* cosines, float* sines, const int32_t* positions, const int64_t* axes,
                          const float* frequencies, int tokens, int frequency_count, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || frequency_count < 1 || frequency_count > kMostFrequencies) return cudaErrorInvalidValue;
  return launch(rotary_angles_kernel, dim3(tokens), groups_of(frequency_count, kWarp) * kWarp, 0, 1,
                static_cast<cudaStream_t>(stream), cosines, sines, positions, axes, frequencies, frequency_count);
}
