// Weight rows of 4-bit codes, in the order of int4_order.h.
#pragma once

#include "coded_rows.cuh"
#include "int4_order.h"

namespace qwen3vl {

template <typename T>
struct Codes;

template <>
struct Codes<__nv_bfloat16> {
  static constexpr float kOffset = kBfloat16CodeOffset;
  static __device__ __forceinline__ uint4 widen(std::uint32_t word) {
    return {bfloat16_codes(word, 0), bfloat16_codes(word, 1), bfloat16_codes(word, 2), bfloat16_codes(word, 3)};
  }
};

template <>
struct Codes<__half> {
  static constexpr float kOffset = kFloat16CodeOffset;
  static __device__ __forceinline__ uint4 widen(std::uint32_t word) {
    return {float16_codes(word, 0), float16_codes(word, 1), float16_codes(word, 2), float16_codes(word, 3)};
  }
};

template <typename T>
struct Int4Code {
  using Value = T;
  using Factor = T;
  static constexpr float kOffset = Codes<T>::kOffset;
  static constexpr int kWords = 1, kGroup = kCodeGroup, kMost = 256;
  static QWEN3VL_HOST_DEVICE constexpr int row_bytes(int inner) { return inner / 2; }

  static __device__ __forceinline__ float sum_of(const uint4& x) { return sum_of_8<T>(x); }

  template <int kRuns>
  static __device__ __forceinline__ uint4 widen_run(const std::uint32_t (&words)[kRuns], int run) {
    return Codes<T>::widen(words[run]);
  }

  // The lane's words of one row for the runs of kCount k from first_k on.
  template <int kCount>
  static __device__ __forceinline__ void load(std::uint32_t (&words)[kCount / 32], const std::uint8_t* row, int first_k,
                                              int q) {
    if constexpr (kCount % kCodeGroup == 0) {  // first_k is a multiple of that too
      const std::uint8_t* own = row + lane_codes(first_k, q);
#pragma unroll
      for (int i = 0; i < kCount / 128; ++i) {
        const uint4 four = *reinterpret_cast<const uint4*>(own + i * (kCodeGroup / 2));
        words[4 * i] = four.x;
        words[4 * i + 1] = four.y;
        words[4 * i + 2] = four.z;
        words[4 * i + 3] = four.w;
      }
    } else {
      static_assert(kCount % 64 == 0);
#pragma unroll
      for (int i = 0; i < kCount / 64; ++i) {
        const uint2 two = *reinterpret_cast<const uint2*>(row + lane_codes(first_k + 64 * i, q));
        words[2 * i] = two.x;
        words[2 * i + 1] = two.y;
      }
    }
  }
};

template <typename T, int kBlock>
struct Int4Rows : CodedRows<Int4Code<T>, kBlock> {};

}  // namespace qwen3vl
