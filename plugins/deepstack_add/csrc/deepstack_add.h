// DeepstackAdd on a CUDA device: the C interface of the kernel library.
#pragma once

#include <stdint.h>

#include "element_type.h"

#ifdef __cplusplus
extern "C" {
#endif

// out[t] = hidden[t] + visual_rows[token_ids[t] - vocab_size + level] where token_ids[t] >= vocab_size and the table
// has that row, else hidden[t].
//
// All pointers are device memory: hidden and out [tokens, hidden_size], token_ids [tokens], visual_rows
// [row_count, hidden_size], contiguous, aligned to their element. A padded [B, S] batch is B * S tokens. `out` is
// `hidden` itself (then ordinary tokens cost the read of their id, nothing more) or memory of its own; `visual_rows`
// overlaps neither. A null `visual_rows` is an empty table. No row but those named by ids is read.
//
// Work is put on `stream` (a cudaStream_t) of the current device, without synchronisation or allocation, so that it
// can be captured into a CUDA graph.
//
// `type` is that of hidden and out, `rows_type` that of visual_rows: the same, or QWEN3VL_FLOAT32.
//
// Returns a cudaError_t: cudaErrorInvalidValue for a type not listed above, a negative size or a null pointer to
// something that is not empty; otherwise what the launch returned.
int qwen3vl_deepstack_add(void* out, const void* hidden, const int32_t* token_ids, const void* visual_rows,
                          int64_t tokens, int64_t hidden_size, int64_t row_count, int32_t level, int32_t vocab_size,
                          int type, int rows_type, void* stream);

#ifdef __cplusplus
}
#endif
