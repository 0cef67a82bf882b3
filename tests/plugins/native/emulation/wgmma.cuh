// plugins/hopper/wgmma.cuh for a CPU: products are done when they are asked for. Descriptors, fragments and sums are as
// the PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions", has them, for matrices with the swizzle of 128
// bytes.
#pragma once

#include "matrix_layout.h"
#include "ptx.cuh"

namespace emulation {

struct Descriptor {
  int start, leading, stride;
  explicit Descriptor(std::uint64_t bits)
      : start(static_cast<int>(bits & 0x3FFF) * 16), leading(static_cast<int>(bits >> 16 & 0x3FFF) * 16),
        stride(static_cast<int>(bits >> 32 & 0x3FFF) * 16) {
    if (bits >> 62 != 1) fail("a matrix without the swizzle of 128 bytes");
  }
};

template <typename T>
float element(int address) {
  T value;
  std::memcpy(static_cast<void*>(&value), current->block->shared + (address ^ (address >> 7 & 7) << 4), sizeof(value));
  return static_cast<float>(value);
}

// Of a matrix whose rows lie along the inner dimension k.
template <typename T>
float by_rows(const Descriptor& matrix, int row, int k) {
  return element<T>(matrix.start + row / 8 * matrix.stride + row % 8 * 128 + k * 2);
}

// Of one whose rows lie along the outer dimension n.
template <typename T>
float by_columns(const Descriptor& matrix, int n, int k) {
  return element<T>(matrix.start + n / 64 * matrix.leading + k / 8 * matrix.stride + k % 8 * 128 + n % 64 * 2);
}

// Adds the products of the thread's two rows of a, 16 numbers each, with its columns of b.
template <int n, typename Column>
void add_products(float (&sums)[n], const float (&rows)[2][16], const Column& column) {
  for (int i = 0; i < n; ++i) {
    const int at = i / 4 * 8 + 2 * static_cast<int>(threadIdx.x % 4) + i % 2;
    for (int k = 0; k < 16; ++k) sums[i] += rows[i / 2 % 2][k] * column(at, k);
  }
}

}  // namespace emulation

namespace qwen3vl {

inline void mma_fence() {}
inline void mma_commit() {}
template <int pending>
void mma_wait() {}
template <typename Values>
void settle(Values&) {}

template <typename T, int n>
void multiply_shared(float (&sums)[n], std::uint64_t a, std::uint64_t b, bool accumulate) {
  const ::emulation::Descriptor first(a), second(b);
  const int thread = threadIdx.x % 128, row = thread / 32 * 16 + thread % 32 / 4;
  float rows[2][16];
  for (int r = 0; r < 2; ++r) {
    for (int k = 0; k < 16; ++k) rows[r][k] = ::emulation::by_rows<T>(first, row + 8 * r, k);
  }
  if (!accumulate) std::memset(sums, 0, sizeof(sums));
  ::emulation::add_products(sums, rows, [&](int column, int k) { return ::emulation::by_rows<T>(second, column, k); });
}

// Of a, register i of a thread holds two neighbours of row lane / 4 + 8 (i % 2): 2 (lane % 4) + 8 (i / 2) and the next.
template <typename T, int n>
void multiply_registers(float (&sums)[n], const std::uint32_t* a, std::uint64_t b) {
  const ::emulation::Descriptor second(b);
  const auto* words = ::emulation::exchange(a, 4) + threadIdx.x % 32 / 4 * 4;
  float rows[2][16];
  for (int quad = 0; quad < 4; ++quad) {
    for (int i = 0; i < 4; ++i) {
      T pair[2];
      std::memcpy(static_cast<void*>(pair), &words[quad][i], sizeof(pair));
      for (int e = 0; e < 2; ++e) rows[i % 2][i / 2 * 8 + 2 * quad + e] = static_cast<float>(pair[e]);
    }
  }
  ::emulation::add_products(sums, rows, [&](int column, int k) { return ::emulation::by_columns<T>(second, column, k); });
}

}  // namespace qwen3vl
