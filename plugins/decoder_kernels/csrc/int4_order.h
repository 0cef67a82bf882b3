// Where the 4-bit codes of a weight row lie. Plain C++, for host and device; int4_rows.py lays rows out.
//
// A lane of a fragment holds k = 8 q to 8 q + 7 of each run of 32 k (fragments.cuh); q = 0 to 3. Its codes of a run are a
// word of 32 bits, and its words of a group of 128 k, four runs, lie together: one read of 16 bytes. In a word, the
// codes of k = 2 j and 2 j + 1 are bits 4 j to 4 j + 3 of the low and of the high half: the halves of a register, as the
// tensor cores take them. Rows shorter than 128 are one group.
#pragma once

#include <cstdint>

#include "partition.h"

namespace qwen3vl {

constexpr int kCodeGroup = 128;

// Byte of a row of codes in which lane q's begin for k = first_k to first_k + 63, of rows that are whole groups:
// 8 bytes, or 16 where first_k is a multiple of 128, which then go 64 k further. `first_k` is a multiple of 64.
QWEN3VL_HOST_DEVICE constexpr int lane_codes(int first_k, int q) {
  return first_k / kCodeGroup * (kCodeGroup / 2) + q * 16 + first_k % kCodeGroup / 64 * 8;
}

QWEN3VL_HOST_DEVICE inline std::uint32_t and_or(std::uint32_t x, std::uint32_t mask, std::uint32_t bits) {
#ifdef __CUDA_ARCH__
  asm("lop3.b32 %0, %0, %1, %2, 0xea;" : "+r"(x) : "r"(mask), "r"(bits));  // the compiler makes two of it
  return x;
#else
  return (x & mask) | bits;
#endif
}

// The codes c of k = 2 j and 2 j + 1 of a word as two numbers of 16 bits, in one operation on both besides the shift: a
// code becomes the mantissa's bits that are worth 1 of a power of two. As bfloat16, 2^7 + c: seven bits of mantissa.
QWEN3VL_HOST_DEVICE inline std::uint32_t bfloat16_codes(std::uint32_t word, int j) {
  return and_or(word >> (4 * j), 0x000f000fu, 0x43004300u);
}

// As float16, 2^6 + c: ten bits of mantissa, the last four unused, so that the number to take off again is small.
QWEN3VL_HOST_DEVICE inline std::uint32_t float16_codes(std::uint32_t word, int j) {
  return and_or(j == 0 ? word << 4 : word >> (4 * j - 4), 0x00f000f0u, 0x54005400u);
}

constexpr float kBfloat16CodeOffset = 128.f, kFloat16CodeOffset = 64.f;

// k that a warp sums up before it applies a scale: of `slice` k which begin at a multiple of `slice`, parts that are
// whole within blocks of `block` k. Sizes are multiples of 32, `block` 128 at most.
QWEN3VL_HOST_DEVICE constexpr int segment_of(int slice, int block) {
  int segment = block;
  while (slice % segment != 0) segment /= 2;
  return segment;
}

}  // namespace qwen3vl
