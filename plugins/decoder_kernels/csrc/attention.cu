// Attention of one new token a sequence: how many blocks share a sequence's cache, and the kernel's launch.
#include "attention_step.cuh"

#include "decoder_kernels.h"
#include "launch.h"

namespace qwen3vl {
namespace {

template <typename T, int kRanks>
cudaError_t launch_attention(const AttentionArguments& arguments, int batch, cudaStream_t stream) {
  using Shared = AttentionShared<kRanks>;
  return launch(attention_kernel<T, kRanks>, dim3(kRanks, arguments.kv_heads, batch), Shared::kWarps * 32,
                sizeof(Shared), kRanks, stream, arguments);
}

template <typename T>
cudaError_t dispatch_attention(const AttentionArguments& arguments, int batch, int splits, cudaStream_t stream) {
  switch (splits) {
    case 1: return launch_attention<T, 1>(arguments, batch, stream);
    case 2: return launch_attention<T, 2>(arguments, batch, stream);
    case 4: return launch_attention<T, 4>(arguments, batch, stream);
    case 8: return launch_attention<T, 8>(arguments, batch, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_decode_attention(void* out, const void* qkv, const void* query_norm, const void* key_norm,
                             const float* cosines, const float* sines, void* keys, void* values,
                             const int32_t* total_lengths, int batch, int heads, int kv_heads, int head_size,
                             int capacity, float epsilon, float scale, int type, int splits, void* stream) {
  using namespace qwen3vl;
  if (batch < 1 || head_size != kHeadSize || heads != kv_heads * kSharing) return cudaErrorInvalidValue;
  if (splits == 0) {
    splits = 8;  // as many as run at once; the exchange between many is dear, then one block a multiprocessor is enough
    while (splits > 1 && batch * kv_heads * splits > multiprocessor_count() * (splits > 2 ? 1 : 2)) splits /= 2;
  }
  const AttentionArguments arguments{out,    qkv,           query_norm, key_norm, cosines, sines, keys,
                                     values, total_lengths, kv_heads,   capacity, epsilon, scale};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_attention<__nv_bfloat16>(arguments, batch, splits, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_attention<__half>(arguments, batch, splits, on);
  return cudaErrorInvalidValue;
}
