// The chosen experts of each token, weights of 4 bits.
#include "coded_block.h"
#include "decoder_kernels.h"
#include "expert_gemv.cuh"
#include "experts.cuh"
#include "int4_rows.cuh"

namespace qwen3vl {
namespace {

template <typename T, int kBlock>
cudaError_t dispatch_tokens(const ExpertArguments& arguments, cudaStream_t stream) {
  if (takes_expert_gemv(arguments.tokens, arguments.k, multiprocessor_count())) {
    return launch_expert_gemv<T, kBlock>(arguments, stream);
  }
  return dispatch_experts<Int4Rows<T, kBlock>>(arguments, stream);
}

template <typename T>
cudaError_t dispatch_block(const ExpertArguments& arguments, int block, cudaStream_t stream) {
  return with_block(block, [&](auto size) { return dispatch_tokens<T, size>(arguments, stream); });
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_int4_experts(void* y, void* activations, int32_t* counters, const void* x, const int32_t* chosen,
                         const float* chosen_weights, const void* gate_up, const void* gate_up_blocks,
                         const void* down, const void* down_blocks, int tokens, int k, int experts, int hidden,
                         int inner, int block, int type, void* stream) {
  using namespace qwen3vl;
  const bool known = experts <= kMaxExperts && hidden == kHidden && inner == kInner;
  if (tokens < 1 || k < 1 || !known) return cudaErrorInvalidValue;
  const ExpertArguments arguments{y, activations, counters, x, chosen, chosen_weights, gate_up, down, tokens, k,
                                  gate_up_blocks, down_blocks};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_block<__nv_bfloat16>(arguments, block, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_block<__half>(arguments, block, on);
  return cudaErrorInvalidValue;
}
