// out = x W^T [+ residual], weights of 4 bits.
#include "coded_block.h"
#include "decoder_kernels.h"
#include "int4_rows.cuh"
#include "product.cuh"

namespace qwen3vl {
namespace {

template <typename T, int kBlock>
cudaError_t dispatch_inner(const ProductArguments& arguments, int inner, cudaStream_t stream) {
  if (inner == 2048) return dispatch_halves<Int4Rows<T, kBlock>, T, 2048>(arguments, stream);
  if (inner == 4096) return dispatch_halves<Int4Rows<T, kBlock>, T, 4096>(arguments, stream);
  return cudaErrorInvalidValue;
}

template <typename T>
cudaError_t dispatch_block(const ProductArguments& arguments, int inner, int block, cudaStream_t stream) {
  return with_block(block, [&](auto size) { return dispatch_inner<T, size>(arguments, inner, stream); });
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_int4_product(void* out, const void* x, const void* residual, const void* codes, const void* blocks,
                         int tokens, int rows, int inner, int block, int type, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || rows < 1) return cudaErrorInvalidValue;
  const ProductArguments arguments{out, x, residual, codes, tokens, rows, blocks};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_block<__nv_bfloat16>(arguments, inner, block, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_block<__half>(arguments, inner, block, on);
  return cudaErrorInvalidValue;
}
