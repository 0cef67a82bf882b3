// The chosen experts of each token, weights of the tokens' type.
#include "decoder_kernels.h"
#include "experts.cuh"
#include "wide_rows.cuh"

int qwen3vl_experts(void* y, void* activations, int32_t* counters, const void* x, const int32_t* chosen,
                    const float* chosen_weights, const void* gate_up, const void* down, int tokens, int k, int experts,
                    int hidden, int inner, int type, void* stream) {
  using namespace qwen3vl;
  const bool known = experts <= kMaxExperts && hidden == kHidden && inner == kInner;
  if (tokens < 1 || k < 1 || !known) return cudaErrorInvalidValue;
  const ExpertArguments arguments{y, activations, counters, x, chosen, chosen_weights, gate_up, down, tokens, k};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_experts<WideRows<__nv_bfloat16>>(arguments, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_experts<WideRows<__half>>(arguments, on);
  return cudaErrorInvalidValue;
}
