// The decoder's kernels on a CUDA device: the C interface of the library.
//
// All pointers are device memory, arrays are contiguous and aligned to 16 bytes. T is float16 or bfloat16, by `type`.
// Work is put on `stream` (a cudaStream_t) of the current device, without synchronisation or allocation, so that it can
// be captured into a CUDA graph. A kernel may begin before the one ahead of it in the stream has ended; it then reads
// weights, and waits for it before it touches anything else, but for `total_lengths`, `cosines`, `sines` and, in a
// step, the cache of earlier tokens: whoever writes these in the same step has to be complete before the kernel ahead of
// the reader's can begin. Each function returns a cudaError_t: cudaErrorInvalidValue for sizes that no kernel was
// compiled for, else what the launch returned.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "element_type.h"

#ifdef __cplusplus
extern "C" {
#endif

// hidden [tokens, hidden_size] = table [rows, hidden_size] by the tokens' ids, zeros for an id that no row has; cosines,
// sines [tokens, frequencies] of positions[axes[d], token] * frequencies[d]. positions int32 [3, tokens], axes int64
// [frequencies] of 0, 1 and 2. Sizes: hidden_size a multiple of 8. Attention reads angles early: a kernel that waits for
// all of its predecessors, such as qwen3vl_deepstack_add's, has to stand between.
//
// A token's id of -1 - r, below 0, stands for the id chosen[r] of int64 [chosen_count], which an earlier call of
// qwen3vl_top_logits on the stream may have written; without such an element, or if no row has it: zeros. `chosen` may
// be pinned memory of the host, and null if chosen_count is 0.
int qwen3vl_step_inputs(void* hidden, float* cosines, float* sines, const int32_t* token_ids, const int64_t* chosen,
                        const void* table, const int32_t* positions, const int64_t* axes, const float* frequencies,
                        int tokens, int chosen_count, int rows, int hidden_size, int frequency_count, int type,
                        void* stream);

// out [tokens, rows] = x [tokens, inner] weights [rows, inner]^T + residual [tokens, rows].
//
// `residual` null: nothing added; it may be `out`. `wide_out`: out is float32 and there is no residual. Sizes: inner
// 2048 or, not with `wide_out`, 4096; rows a multiple of 8.
int qwen3vl_product(void* out, const void* x, const void* residual, const void* weights, int tokens, int rows,
                    int inner, int type, int wide_out, void* stream);

// The same for many tokens, by cuBLASLt, without programmatic dependence. workspace: scratch of `workspace_bytes`,
// aligned to 256; 32 MiB is enough for every algorithm. Sizes: rows and inner multiples of 8. The first call for some
// sizes searches for an algorithm; let one come before capturing. Missing where the library was built without cuBLAS.
int qwen3vl_prefill_product(void* out, const void* x, const void* residual, const void* weights, int tokens, int rows,
                            int inner, int type, int wide_out, void* workspace, int workspace_bytes, void* stream);

// Makes what qwen3vl_prefill_product needs on the current device, which else its first call there does.
int qwen3vl_prepare_prefill_product(void);

// As qwen3vl_product, out of x's type, with weights of 4 bits: scale * (code - zero point), which `block` neighbours of
// a row share.
//
// codes uint8 [rows, inner / 2], in the order of int4_order.h. blocks [rows, inner / block, 2]: scale and zero point,
// both of type T. Sizes: inner 2048 or 4096; rows a multiple of 16; block 32, 64 or 128.
int qwen3vl_int4_product(void* out, const void* x, const void* residual, const void* codes, const void* blocks,
                         int tokens, int rows, int inner, int block, int type, void* stream);

// out float32 [tokens, rows] = x weights^T, with weights of 8 bits, as in qwen3vl_int4_product: codes uint8 [rows, inner],
// in the order of int8_rows.cuh. x is of float16's range. Sizes: inner 2048; rows a multiple of 16; block 32, 64 or 128.
int qwen3vl_int8_logits(float* out, const void* x, const void* codes, const void* blocks, int tokens, int rows,
                        int inner, int block, int type, void* stream);

// Attention of one new token for each of `batch` sequences; appends its key and value to the cache.
//
// qkv [batch, (heads + 2 kv_heads) * 128]: queries, keys, values before norms and rotation. cosines, sines [batch, 64]:
// of the new tokens' rotary angles; d and d + 64 turn together. keys, values [batch, kv_heads, capacity, 128]; sequence
// b holds total_lengths[b] - 1 tokens, and the new one goes behind them. out [batch, heads * 128]. `splits`: blocks
// that share a sequence's key-value head, 1, 2, 4 or 8; 0 chooses. Sizes: 128 a head, 8 heads for each key-value head.
int qwen3vl_decode_attention(void* out, const void* qkv, const void* query_norm, const void* key_norm,
                             const float* cosines, const float* sines, void* keys, void* values,
                             const int32_t* total_lengths, int batch, int heads, int kv_heads, int head_size,
                             int capacity, float epsilon, float scale, int type, int splits, void* stream);

// Attention of a chunk of `tokens` new tokens of one sequence; appends their keys and values to the cache.
//
// As qwen3vl_decode_attention, but for: qkv [tokens, ...], cosines, sines [tokens, 64], out [tokens, heads * 128];
// keys, values [kv_heads, capacity, 128]; total_length int32 [1], at least `tokens` and at most `capacity`. scale is
// positive. For compute capability 9.0 alone.
int qwen3vl_prefill_attention(void* out, const void* qkv, const void* query_norm, const void* key_norm,
                              const float* cosines, const float* sines, void* keys, void* values,
                              const int32_t* total_length, int tokens, int heads, int kv_heads, int head_size,
                              int capacity, float epsilon, float scale, int type, void* stream);

// normed [tokens, hidden] = rms_norm(x); chosen, chosen_weights [tokens, k] = the k experts with the largest
// normed weights [experts, hidden]^T, largest first, and the softmax of those k. Sets counters [counter_count] to 0.
// Sizes: hidden 2048, 128 experts.
int qwen3vl_router(void* normed, int32_t* chosen, float* chosen_weights, int32_t* counters, int counter_count,
                   const void* x, const void* norm, const void* weights, int tokens, int hidden, int experts, int k,
                   float epsilon, int type, void* stream);

// y T [tokens * k, hidden] = for each pair of token and chosen expert, weight * down(silu(gate(x)) * up(x)).
//
// gate_up [experts, 2 * inner, hidden]: rows 2 i and 2 i + 1 are gate i and up i. down [experts, hidden, inner].
// activations [tokens * k, inner] is scratch; counters int32 [256] must be 0. Sizes: hidden 2048, inner 768, up to 128
// experts and 2048 pairs.
int qwen3vl_experts(void* y, void* activations, int32_t* counters, const void* x, const int32_t* chosen,
                    const float* chosen_weights, const void* gate_up, const void* down, int tokens, int k, int experts,
                    int hidden, int inner, int type, void* stream);

// y as in qwen3vl_experts, for many tokens; each expert's weights are read about once.
//
// x, chosen, chosen_weights, gate_up and down as above. workspace is scratch, as many bytes as the second function
// says. Sizes: hidden 2048, inner 768, up to 128 experts, up to 2^24 pairs. For compute capability 9.0 alone.
int qwen3vl_experts_prefill(void* y, void* workspace, const void* x, const int32_t* chosen,
                            const float* chosen_weights, const void* gate_up, const void* down, int tokens, int k,
                            int experts, int hidden, int inner, int type, void* stream);
size_t qwen3vl_experts_prefill_workspace(int tokens, int k);

// As qwen3vl_experts, with weights of 4 bits as in qwen3vl_int4_product: gate_up uint8 [experts, 2 * inner, hidden /
// 2], gate_up_blocks [experts, 2 * inner, hidden / block, 2], down uint8 [experts, hidden, inner / 2], down_blocks
// [experts, hidden, inner / block, 2]. Of one token, counters int32 [256 + k * inner / 2].
int qwen3vl_int4_experts(void* y, void* activations, int32_t* counters, const void* x, const int32_t* chosen,
                         const float* chosen_weights, const void* gate_up, const void* gate_up_blocks,
                         const void* down, const void* down_blocks, int tokens, int k, int experts, int hidden,
                         int inner, int block, int type, void* stream);

// total [tokens, hidden] = h + sum over k of y [tokens, k, hidden], in float32 and rounded once; normed [tokens, hidden] =
// rms_norm(total). `total` may be `h`; with k = 0 it is h and not written. Sizes: hidden 2048.
int qwen3vl_add_norm(void* normed, void* total, const void* h, const void* y, const void* norm, int tokens, int k,
                     int hidden, float epsilon, int type, void* stream);

// normed [row_count, hidden] of the tokens int32 rows [row_count] alone, as qwen3vl_add_norm gives it. A row below 0 or
// behind the last token is taken for the nearest that there is.
int qwen3vl_add_norm_rows(void* normed, const void* h, const void* y, const void* norm, const int32_t* rows,
                          int row_count, int tokens, int k, int hidden, float epsilon, int type, void* stream);

// best, ids [rows, k]: the k largest of each row of logits [rows, vocabulary] and their places, the largest first, of
// equal ones the first. workspace is scratch, as many bytes as the second function says. Sizes: k up to 64, vocabulary
// a multiple of 4 up to 262144 and at least k. best, ids and chosen may be pinned memory of the host: none is read.
//
// chosen [rows]: one of each row's k, as draws [rows, 4] say: temperature, top_k, top_p and a number in [0, 1).
// With temperature 0 it is the first. Else a candidate's share is exp(logit / temperature - largest / temperature), and
// there are left: of the k, the first top_k, all if that is 0 or more than k; of these the first whose shares add up to
// top_p of the shares of all of them, all if top_p is 1 or more. Chosen is, in the order of their ids, the first at which
// the sum of shares is above the number in [0, 1) times the sum of all that are left; if rounding leaves none, the last.
// All in float64. With logits that are NaN or infinite, any of the row's k.
int qwen3vl_top_logits(float* best, int64_t* ids, int64_t* chosen, void* workspace, const float* logits,
                       const double* draws, int rows, int vocabulary, int k, void* stream);
size_t qwen3vl_top_logits_workspace(int rows, int vocabulary, int k);

#ifdef __cplusplus
}
#endif
