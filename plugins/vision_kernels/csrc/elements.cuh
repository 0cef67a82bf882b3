// Half-precision elements, eight at a time: 16 bytes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace qwen3vl {

// Two values rounded to T, the first in the low half.
template <typename T>
__device__ __forceinline__ std::uint32_t pack(float a, float b);
template <>
__device__ __forceinline__ std::uint32_t pack<__half>(float a, float b) {
  const __half2 pair = __floats2half2_rn(a, b);
  return reinterpret_cast<const std::uint32_t&>(pair);
}
template <>
__device__ __forceinline__ std::uint32_t pack<__nv_bfloat16>(float a, float b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  return reinterpret_cast<const std::uint32_t&>(pair);
}

template <typename T>
__device__ __forceinline__ float2 unpack(std::uint32_t pair);
template <>
__device__ __forceinline__ float2 unpack<__half>(std::uint32_t pair) {
  return __half22float2(reinterpret_cast<const __half2&>(pair));
}
template <>
__device__ __forceinline__ float2 unpack<__nv_bfloat16>(std::uint32_t pair) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair));
}

struct Eight {
  float x[8];

  template <typename T>
  static __device__ __forceinline__ Eight from(const int4& packed) {
    Eight values;
    const std::uint32_t pairs[4] = {static_cast<std::uint32_t>(packed.x), static_cast<std::uint32_t>(packed.y),
                                    static_cast<std::uint32_t>(packed.z), static_cast<std::uint32_t>(packed.w)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 two = unpack<T>(pairs[i]);
      values.x[2 * i] = two.x;
      values.x[2 * i + 1] = two.y;
    }
    return values;
  }

  template <typename T>
  __device__ __forceinline__ int4 packed() const {
    return make_int4(static_cast<int>(pack<T>(x[0], x[1])), static_cast<int>(pack<T>(x[2], x[3])),
                     static_cast<int>(pack<T>(x[4], x[5])), static_cast<int>(pack<T>(x[6], x[7])));
  }
};

}  // namespace qwen3vl
