// 16-bit elements and the tensor cores' 16 x 8 x 16 product.
//
// In the operands of a product, the order of k is free as long as both sides have the same. Here a thread holds eight
// neighbouring k of a row, 16 bytes read at once, where the instruction's own order would be pairs from four places:
// of a run of 32 k, lane l holds k = 8 (l % 4) to 8 (l % 4) + 7 of row l / 4. Two products use them up.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace qwen3vl {

template <typename T>
struct Element;

template <>
struct Element<__nv_bfloat16> {
  static __device__ __forceinline__ float2 unpack(std::uint32_t pair) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
  }
  static __device__ __forceinline__ std::uint32_t pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const std::uint32_t&>(pair);
  }
  static __device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
  static __device__ __forceinline__ __nv_bfloat16 narrow(float x) { return __float2bfloat16_rn(x); }
  static __device__ __forceinline__ void multiply(float (&d)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2,
                                                  std::uint32_t a3, std::uint32_t b0, std::uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
};

template <>
struct Element<__half> {
  static __device__ __forceinline__ float2 unpack(std::uint32_t pair) {
    return __half22float2(reinterpret_cast<const __half2&>(pair));
  }
  static __device__ __forceinline__ std::uint32_t pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<const std::uint32_t&>(pair);
  }
  static __device__ __forceinline__ float widen(__half x) { return __half2float(x); }
  static __device__ __forceinline__ __half narrow(float x) { return __float2half_rn(x); }
  static __device__ __forceinline__ void multiply(float (&d)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2,
                                                  std::uint32_t a3, std::uint32_t b0, std::uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
};

// D[token][row] += A[token][k] W[row][k] over 32 k: `low` and `high` hold tokens l / 4 and l / 4 + 8, `weights` row l /
// 4. D: lane l has tokens l / 4 (d[0], d[1]) and l / 4 + 8 (d[2], d[3]) of rows 2 (l % 4) and the next.
template <typename T>
__device__ __forceinline__ void multiply_32(float (&even)[4], float (&odd)[4], const uint4& low, const uint4& high,
                                            const uint4& weights) {
  Element<T>::multiply(even, low.x, high.x, low.y, high.y, weights.x, weights.y);
  Element<T>::multiply(odd, low.z, high.z, low.w, high.w, weights.z, weights.w);
}

// A matrix of 8 x 8 elements, of which lane l has row l / 4, elements 2 (l % 4) and the next, transposed.
__device__ __forceinline__ std::uint32_t transposed_8x8(std::uint32_t x) {
  std::uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// Eight elements past the first-level cache, which other multiprocessors' writes do not reach.
template <typename T>
__device__ __forceinline__ uint4 load_8(const T* address) {
  return __ldcg(reinterpret_cast<const uint4*>(address));
}

template <typename T>
__device__ __forceinline__ T load_1(const T* address) {
  const unsigned short bits = __ldcg(reinterpret_cast<const unsigned short*>(address));
  return reinterpret_cast<const T&>(bits);
}

// Elements that no kernel writes, asked for here and not where they are used: before the wait for another kernel, say.
template <typename T>
__device__ __forceinline__ uint4 load_8_now(const T* address) {
  uint4 x;
  asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(address));
  return x;
}

template <typename T>
__device__ __forceinline__ std::uint32_t load_2_now(const T* address) {
  std::uint32_t x;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(x) : "l"(address));
  return x;
}

template <typename T>
__device__ __forceinline__ float sum_of_squares(const uint4& x) {
  float sum = 0.f;
  const std::uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = Element<T>::unpack(words[i]);
    sum += pair.x * pair.x + pair.y * pair.y;
  }
  return sum;
}

template <typename T>
__device__ __forceinline__ std::uint32_t scaled_pair(std::uint32_t x, std::uint32_t weight, float scale) {
  const float2 a = Element<T>::unpack(x), w = Element<T>::unpack(weight);
  return Element<T>::pack(a.x * scale * w.x, a.y * scale * w.y);
}

template <typename T>
__device__ __forceinline__ uint4 scaled_8(const uint4& x, const uint4& weight, float scale) {
  return {scaled_pair<T>(x.x, weight.x, scale), scaled_pair<T>(x.y, weight.y, scale),
          scaled_pair<T>(x.z, weight.z, scale), scaled_pair<T>(x.w, weight.w, scale)};
}

}  // namespace qwen3vl
