// Logits from weights of 8 bits.
#include "coded_block.h"
#include "decoder_kernels.h"
#include "int8_rows.cuh"
#include "product.cuh"

namespace qwen3vl {
namespace {

constexpr int kInner = 2048;

template <typename T>
cudaError_t dispatch_block(const ProductArguments& arguments, int block, cudaStream_t stream) {
  return with_block(
      block, [&](auto size) { return dispatch_halves<Int8Rows<T, size>, float, kInner>(arguments, stream); });
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_int8_logits(float* out, const void* x, const void* codes, const void* blocks, int tokens, int rows,
                        int inner, int block, int type, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || rows < 1 || inner != kInner) return cudaErrorInvalidValue;
  const ProductArguments arguments{out, x, nullptr, codes, tokens, rows, blocks};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_block<__nv_bfloat16>(arguments, block, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_block<__half>(arguments, block, on);
  return cudaErrorInvalidValue;
}
