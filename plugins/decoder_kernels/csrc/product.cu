// out = x W^T [+ residual], weights of the tokens' type.
#include "product.cuh"

#include "decoder_kernels.h"
#include "wide_rows.cuh"

namespace qwen3vl {
namespace {

template <typename T>
cudaError_t dispatch_product(const ProductArguments& arguments, int inner, bool wide_out, cudaStream_t stream) {
  if (inner == 2048 && wide_out) return dispatch_halves<WideRows<T>, float, 2048>(arguments, stream);
  if (inner == 2048) return dispatch_halves<WideRows<T>, T, 2048>(arguments, stream);
  if (inner == 4096 && !wide_out) return dispatch_halves<WideRows<T>, T, 4096>(arguments, stream);
  return cudaErrorInvalidValue;
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_product(void* out, const void* x, const void* residual, const void* weights, int tokens, int rows,
                    int inner, int type, int wide_out, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || rows < 1) return cudaErrorInvalidValue;
  const ProductArguments arguments{out, x, residual, weights, tokens, rows};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_product<__nv_bfloat16>(arguments, inner, wide_out != 0, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_product<__half>(arguments, inner, wide_out != 0, on);
  return cudaErrorInvalidValue;
}
