// Floats as unsigned integers of the same order.
#pragma once

#include <cstdint>

namespace qwen3vl {

__device__ __forceinline__ std::uint32_t order_of(float x) {
  const std::uint32_t bits = __float_as_uint(x);
  return bits ^ (static_cast<std::int32_t>(bits) < 0 ? ~0u : 0x80000000u);
}

__device__ __forceinline__ float float_of(std::uint32_t order) {
  return __uint_as_float(order ^ (static_cast<std::int32_t>(order) < 0 ? 0x80000000u : ~0u));
}

}  // namespace qwen3vl
