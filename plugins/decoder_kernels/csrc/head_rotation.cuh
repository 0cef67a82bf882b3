// RMS norm and rotary position of one head by one warp: lane l has dimensions 2 l, 2 l + 1 and the same + 64.
#pragma once

#include "fragments.cuh"

namespace qwen3vl {

constexpr int kHeadSize = 128;

// The lane's pairs of a head as they are in memory.
template <typename T>
__device__ __forceinline__ uint2 head_pairs(const T* head, int lane) {
  return {__ldcg(reinterpret_cast<const std::uint32_t*>(head) + lane),
          __ldcg(reinterpret_cast<const std::uint32_t*>(head) + 32 + lane)};
}

// The same of a norm's weights, which no kernel writes.
template <typename T>
__device__ __forceinline__ uint2 head_norm_now(const T* norm, int lane) {
  return {load_2_now(norm + 2 * lane), load_2_now(norm + kHeadSize / 2 + 2 * lane)};
}

template <typename T>
__device__ __forceinline__ uint2 normed_and_turned(uint2 pairs, uint2 norm, float2 cosine, float2 sine,
                                                   float epsilon) {
  const float2 a = Element<T>::unpack(pairs.x);
  const float2 b = Element<T>::unpack(pairs.y);
  float squares = a.x * a.x + a.y * a.y + b.x * b.x + b.y * b.y;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
  const float by = rsqrtf(squares / kHeadSize + epsilon);
  const float2 na = Element<T>::unpack(norm.x), nb = Element<T>::unpack(norm.y);
  const float2 x{a.x * by * na.x, a.y * by * na.y}, y{b.x * by * nb.x, b.y * by * nb.y};
  return {Element<T>::pack(x.x * cosine.x - y.x * sine.x, x.y * cosine.y - y.y * sine.y),
          Element<T>::pack(y.x * cosine.x + x.x * sine.x, y.y * cosine.y + x.y * sine.y)};
}

}  // namespace qwen3vl
