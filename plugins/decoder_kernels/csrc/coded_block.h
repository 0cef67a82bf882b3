// Of a number of values that share a scale and a zero point, a constant.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

namespace qwen3vl {

// `run`, called with one of the sizes that kernels for codes are compiled for, as std::integral_constant.
template <typename Run>
cudaError_t with_block(int block, const Run& run) {
  if (block == 128) return run(std::integral_constant<int, 128>{});
  if (block == 64) return run(std::integral_constant<int, 64>{});
  if (block == 32) return run(std::integral_constant<int, 32>{});
  return cudaErrorInvalidValue;
}

}  // namespace qwen3vl
