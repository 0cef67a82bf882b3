// A warp's softmax over groups of 16 cached tokens for 8 heads, on the tensor cores.
//
// Keys are rows of S^T = K Q^T, and values, two tokens' numbers put side by side, rows of O^T = V^T P^T; heads are the 8
// columns. Thread (g, t) = (lane / 4, lane % 4) has heads 2 t and 2 t + 1.
#pragma once

#include <cstdint>

#include "attention_cache.cuh"
#include "fragments.cuh"

namespace qwen3vl {
namespace {

// A token's keys and values are 256 bytes, so that all tokens' begin at the same bank. Of two reads of 16 bytes, every
// second group of lanes makes the other one first; afterwards it swaps them.
__device__ __forceinline__ void swap_if(bool really, uint4& a, uint4& b) {
  const uint4 x = a;
  a = {really ? b.x : a.x, really ? b.y : a.y, really ? b.z : a.z, really ? b.w : a.w};
  b = {really ? x.x : b.x, really ? x.y : b.y, really ? x.z : b.z, really ? x.w : b.w};
}

__device__ __forceinline__ std::uint32_t word(const uint4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

template <typename T>
__device__ __forceinline__ float dot_8(const uint4& x, const uint4& y) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 a = Element<T>::unpack(word(x, i)), b = Element<T>::unpack(word(y, i));
    sum += a.x * b.x + a.y * b.y;
  }
  return sum;
}

// Running softmax of two heads and the thread's part of O^T: output[c][j] has d = 16 g + 8 c + 2 j and the next of both
// heads.
struct Softmax {
  float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};  // the sum only over this thread's tokens
  float output[2][4][4] = {};

  static __device__ __forceinline__ int first_d(int c, int j, int g) { return 16 * g + 8 * c + 2 * j; }

  // Begins with a single token, by a whole warp; queries of both heads, as keys and values T [128] in shared memory.
  template <typename T>
  __device__ __forceinline__ void begin_with(const std::uint16_t* const (&queries)[2], const std::uint16_t* key,
                                             const std::uint16_t* value, float scale, int g) {
    const uint4* k = reinterpret_cast<const uint4*>(key) + 2 * g;
#pragma unroll
    for (int head = 0; head < 2; ++head) {
      const uint4* q = reinterpret_cast<const uint4*>(queries[head]) + 2 * g;
      float score = dot_8<T>(q[0], k[0]) + dot_8<T>(q[1], k[1]);
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) score += __shfl_xor_sync(~0u, score, offset);
      maximum[head] = score * scale;
      sum[head] = g == 0 ? 1.f : 0.f;
#pragma unroll
      for (int c = 0; c < 2; ++c) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float2 two =
              Element<T>::unpack(*reinterpret_cast<const std::uint32_t*>(value + first_d(c, j, g)));
          output[c][j][head] = two.x;
          output[c][j][head + 2] = two.y;
        }
      }
    }
  }

  // Adds 16 tokens, of which `group` holds as many as it says. Returns what `advance` wants to know.
  template <typename T, typename Group>
  __device__ __forceinline__ std::uint32_t add(const Group& group, const uint4 (&query)[4], float scale, int g, int t) {
    float scores[4], rescale[2];  // of tokens g (both heads) and g + 8
    multiply_keys<T>(scores, group, query, g, t);
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[i] = g + 8 * (i / 2) < group.count() ? scores[i] * scale : -INFINITY;
#pragma unroll
    for (int head = 0; head < 2; ++head) {
      float top = fmaxf(scores[head], scores[head + 2]);
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, offset));
      top = fmaxf(top, maximum[head]);
      rescale[head] = exp2f(maximum[head] - top);
      maximum[head] = top;
      scores[head] = exp2f(scores[head] - top);
      scores[head + 2] = exp2f(scores[head + 2] - top);
      sum[head] = sum[head] * rescale[head] + scores[head] + scores[head + 2];
    }
#pragma unroll
    for (auto& half : output) {
#pragma unroll
      for (auto& d : half) {
#pragma unroll
        for (int i = 0; i < 4; ++i) d[i] *= rescale[i % 2];
      }
    }
    return add_values<T>(group, transposed_8x8(Element<T>::pack(scores[0], scores[1])),
                         transposed_8x8(Element<T>::pack(scores[2], scores[3])), g, t);
  }

 private:
  template <typename T, typename Group>
  static __device__ __forceinline__ void multiply_keys(float (&scores)[4], const Group& group, const uint4 (&query)[4],
                                                       int g, int t) {
    float even[4] = {}, odd[4] = {};
    const bool other = g % 2 == 1;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const int here = 32 * (other ? i + 1 : i) + 8 * t, there = 32 * (other ? i : i + 1) + 8 * t;
      uint4 low[2] = {group.keys(g, here), group.keys(g, there)};
      uint4 high[2] = {group.keys(g + 8, here), group.keys(g + 8, there)};
      swap_if(other, low[0], low[1]);
      swap_if(other, high[0], high[1]);
      multiply_32<T>(even, odd, low[0], high[0], query[i]);
      multiply_32<T>(even, odd, low[1], high[1], query[i + 1]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[i] = even[i] + odd[i];
  }

  // `low` and `high`: weights of 8 tokens each for 8 heads.
  template <typename T, typename Group>
  __device__ __forceinline__ std::uint32_t add_values(const Group& group, std::uint32_t low, std::uint32_t high, int g,
                                                      int t) {
    const bool other = t % 2 == 1;
    const int here = first_d(other, 0, g), there = first_d(!other, 0, g);
    uint4 values[2][4];
    std::uint32_t read = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 2 * t + i % 2 + i / 2 * 8;
      values[0][i] = group.values(token, here);
      values[1][i] = group.values(token, there);
      read ^= values[0][i].w ^ values[1][i].w;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) swap_if(other, values[0][i], values[1][i]);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t v0 = word(values[c][0], j), v1 = word(values[c][1], j);
        const std::uint32_t v2 = word(values[c][2], j), v3 = word(values[c][3], j);
        Element<T>::multiply(output[c][j], __byte_perm(v0, v1, 0x5410), __byte_perm(v0, v1, 0x7632),
                             __byte_perm(v2, v3, 0x5410), __byte_perm(v2, v3, 0x7632), low, high);
      }
    }
    return read;
  }
};

}  // namespace
}  // namespace qwen3vl
