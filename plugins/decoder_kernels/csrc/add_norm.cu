// Launching the sum of a token's experts and residual, and its norm: of all tokens, or of some.
#include "add_norm.cuh"

#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "launch.h"

namespace qwen3vl {
namespace {

template <typename T>
cudaError_t launch_add_norm(void* normed, void* total, const void* h, const void* y, const void* norm,
                            const std::int32_t* rows, int blocks, int tokens, int k, float epsilon,
                            cudaStream_t stream) {
  const AddNormArguments<T> arguments{static_cast<T*>(normed), static_cast<T*>(total), static_cast<const T*>(h),
                                      static_cast<const T*>(y), static_cast<const T*>(norm), rows, tokens, k, epsilon};
  const auto kernel = rows == nullptr ? add_norm_kernel<T, false> : add_norm_kernel<T, true>;
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), kNormThreads, 0, 1, stream, arguments);
}

int add_norm(void* normed, void* total, const void* h, const void* y, const void* norm, const std::int32_t* rows,
             int blocks, int tokens, int k, int hidden, float epsilon, int type, void* stream) {
  if (blocks < 1 || tokens < 1 || k < 0 || hidden != kNormHidden) return cudaErrorInvalidValue;
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) {
    return launch_add_norm<__nv_bfloat16>(normed, total, h, y, norm, rows, blocks, tokens, k, epsilon, on);
  }
  if (type == QWEN3VL_FLOAT16) {
    return launch_add_norm<__half>(normed, total, h, y, norm, rows, blocks, tokens, k, epsilon, on);
  }
  return cudaErrorInvalidValue;
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_add_norm(void* normed, void* total, const void* h, const void* y, const void* norm, int tokens, int k,
                     int hidden, float epsilon, int type, void* stream) {
  return qwen3vl::add_norm(normed, total, h, y, norm, nullptr, tokens, tokens, k, hidden, epsilon, type, stream);
}

int qwen3vl_add_norm_rows(void* normed, const void* h, const void* y, const void* norm, const int32_t* rows,
                          int row_count, int tokens, int k, int hidden, float epsilon, int type, void* stream) {
  return qwen3vl::add_norm(normed, nullptr, h, y, norm, rows, row_count, tokens, k, hidden, epsilon, type, stream);
}
