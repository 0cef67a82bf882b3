// Weight rows of 8-bit codes; int8_rows.py lays rows out.
//
// A lane holds k = 8 q to 8 q + 7 of each run of 32 k, q = 0 to 3 (fragments.cuh): 8 bytes. Its bytes of a group of 64 k,
// two runs, lie together: one read of 16 bytes.
#pragma once

#include "coded_rows.cuh"

namespace qwen3vl {

// A code is the lower byte of a float16, 1024 + code. bfloat16 has no room for that, so that tokens are converted.
template <typename T>
struct Int8Code {
  using Value = T;
  using Factor = __half;
  static constexpr float kOffset = 1024.f;
  static constexpr int kWords = 2, kGroup = 64, kMost = 128;
  static QWEN3VL_HOST_DEVICE constexpr int row_bytes(int inner) { return inner; }

  static __device__ __forceinline__ float sum_of(const uint4& x) { return sum_of_8<__half>(x); }

  // Eight elements as float16.
  static __device__ __forceinline__ uint4 convert(const uint4& x) {
    return {convert(x.x), convert(x.y), convert(x.z), convert(x.w)};
  }

  static __device__ __forceinline__ std::uint32_t convert(std::uint32_t pair) {
    const float2 wide = Element<T>::unpack(pair);
    return Element<__half>::pack(wide.x, wide.y);
  }

  template <int kWordCount>
  static __device__ __forceinline__ uint4 widen_run(const std::uint32_t (&words)[kWordCount], int run) {
    const std::uint32_t first = words[2 * run], second = words[2 * run + 1];
    return {widen(first, 0x4140), widen(first, 0x4342), widen(second, 0x4140), widen(second, 0x4342)};
  }

  // The lane's words of one row for the runs of kCount k from first_k on, a multiple of 64.
  template <int kCount>
  static __device__ __forceinline__ void load(std::uint32_t (&words)[kCount / 32 * kWords], const std::uint8_t* row,
                                              int first_k, int q) {
    static_assert(kCount % kGroup == 0);
    const std::uint8_t* own = row + first_k + q * 16;
#pragma unroll
    for (int i = 0; i < kCount / kGroup; ++i) {
      const uint4 four = *reinterpret_cast<const uint4*>(own + i * kGroup);
      words[4 * i] = four.x;
      words[4 * i + 1] = four.y;
      words[4 * i + 2] = four.z;
      words[4 * i + 3] = four.w;
    }
  }

 private:
  // Two of a word's bytes, each below the upper byte of 1024.
  static __device__ __forceinline__ std::uint32_t widen(std::uint32_t word, std::uint32_t selector) {
    return __byte_perm(word, 0x64646464u, selector);
  }
};

template <typename T, int kBlock>
struct Int8Rows : CodedRows<Int8Code<T>, kBlock> {};

}  // namespace qwen3vl
