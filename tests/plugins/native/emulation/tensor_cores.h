// The tensor cores' product of a warp.
#pragma once

#include "block.h"

namespace emulation {

// D += A B: 16 x 16 by 16 x 8, operands in their registers.
template <typename T>
void product_16x8x16(float (&d)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                     std::uint32_t b0, std::uint32_t b1) {
  const std::uint32_t registers[6] = {a0, a1, a2, a3, b0, b1};
  T halves[kWords];
  static_assert(sizeof registers == sizeof halves);
  std::memcpy(static_cast<void*>(halves), registers, sizeof registers);
  std::uint32_t own[kWords];
  for (int i = 0; i < kWords; ++i) {
    const float wide = static_cast<float>(halves[i]);
    std::memcpy(&own[i], &wide, sizeof wide);
  }
  const auto* all = exchange(own, kWords);
  const auto number = [&](int lane, int register_, int half) {
    float wide;
    std::memcpy(&wide, &all[lane][2 * register_ + half], sizeof wide);
    return static_cast<double>(wide);
  };
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + 8 * (i / 2), column = lane() % 4 * 2 + i % 2;
    double sum = d[i];
    for (int k = 0; k < 16; ++k) {
      const int holder = k % 8 / 2;
      sum += number(row % 8 * 4 + holder, row / 8 + 2 * (k / 8), k % 2) *
             number(column * 4 + holder, 4 + k / 8, k % 2);
    }
    d[i] = static_cast<float>(sum);
  }
}

// A matrix of 8 x 8 elements of 16 bits, of which lane l has row l / 4, elements 2 (l % 4) and the next, transposed.
inline std::uint32_t transposed_8x8(std::uint32_t x) {
  const auto* all = exchange(&x, 1);
  std::uint32_t result = 0;
  for (int i = 0; i < 2; ++i) {
    const int row = lane() % 4 * 2 + i, column = lane() / 4;
    result |= (all[row * 4 + column / 2][0] >> 16 * (column % 2) & 0xFFFF) << 16 * i;
  }
  return result;
}

}  // namespace emulation
