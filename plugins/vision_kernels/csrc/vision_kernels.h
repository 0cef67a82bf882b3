// CUDA kernels of the vision encoder for GPUs of compute capability 9.0.
//
// All arrays are on the device, contiguous and aligned to 16 bytes. Each function that takes a stream puts its work
// there and returns a cudaError_t, cudaErrorInvalidValue for sizes or types that it has no kernel for.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum Qwen3vlVisionType { QWEN3VL_VISION_FLOAT16 = 1, QWEN3VL_VISION_BFLOAT16 = 2 };

// Whether the current device is one that the kernels run on.
int qwen3vl_vision_kernels_run_here(void);

// Whether attention has kernels for that head size.
int qwen3vl_vision_attention_supports(int head_size);

// Bytes of device memory that one call of attention needs, aligned to 256.
size_t qwen3vl_vision_attention_workspace(int64_t frames, int64_t patches, int heads, int head_size);

// Attention of every patch to all of the same frame: bias, rotary embedding, softmax(q k' / sqrt(head_size)) v.
//   out       [frames, patches, heads * head_size] of `type`
//   qkv       [frames, patches, 3 * heads * head_size] of `type`: queries, keys, values, without their bias
//   bias      [3 * heads * head_size] of `type`
//   cosines,  float32 [patches, head_size / 2]: each patch's rotary angles; dimension d turns with
//   sines     d + head_size / 2
int qwen3vl_vision_attention(void* out, const void* qkv, const void* bias, const float* cosines, const float* sines,
                             void* workspace, int64_t frames, int64_t patches, int heads, int head_size, int type,
                             void* stream);

// out = gelu(x + bias) with the tanh approximation, [rows, columns] of `type`; columns a multiple of 8. `out` may be
// `x`.
int qwen3vl_bias_gelu(void* out, const void* x, const void* bias, int64_t rows, int64_t columns, int type,
                      void* stream);

// out = x + bias + the weighted sum of four rows of a table of position embeddings, those of the patch.
//   out, x    [frames, patches, hidden] of `type`; hidden a multiple of 8. `out` may be `x`.
//   bias      [hidden], table [table_rows, hidden] of `type`
//   indices   int32 [patches, 4]; one outside the table adds nothing
//   weights   float32 [patches, 4]
int qwen3vl_add_positions(void* out, const void* x, const void* bias, const void* table, const int32_t* indices,
                          const float* weights, int64_t frames, int64_t patches, int64_t hidden, int64_t table_rows,
                          int type, void* stream);

#ifdef __cplusplus
}
#endif
