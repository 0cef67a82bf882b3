// Launching RMSNorm, the router's product, and the choice of each token's k best experts with their weights.
#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "launch.h"
#include "partition.h"
#include "router_prefill.cuh"
#include "router_step.cuh"

namespace qwen3vl {
namespace {

constexpr int kMostOfClusters = 256;  // tokens: those of all clusters that run at once

template <typename T>
cudaError_t dispatch_router(const RouterArguments& arguments, cudaStream_t stream) {
  if (arguments.tokens > kMostOfClusters) return launch_router_prefill<T>(arguments, stream);
  const auto kernel = arguments.tokens <= 8 ? step_router_kernel<T, 1> : step_router_kernel<T, 2>;
  return launch(kernel, dim3(groups_of(arguments.tokens, kClusterTokens) * kRouterRanks), kStepRouterThreads,
                sizeof(StepRouterShared), kRouterRanks, stream, arguments);
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_router(void* normed, int32_t* chosen, float* chosen_weights, int32_t* counters, int counter_count,
                   const void* x, const void* norm, const void* weights, int tokens, int hidden, int experts, int k,
                   float epsilon, int type, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || hidden != kRouterHidden || experts != kRouterExperts || k < 1 || k > 32) {
    return cudaErrorInvalidValue;
  }
  const RouterArguments arguments{normed, chosen, chosen_weights, counters, x, norm, weights, tokens, k, counter_count,
                                  epsilon};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_router<__nv_bfloat16>(arguments, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_router<__half>(arguments, on);
  return cudaErrorInvalidValue;
}
