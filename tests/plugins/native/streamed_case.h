// What the tests of the kernels that stream weights have in common: random operands of each kind, and errors.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "device.h"

#include "int4_rows.cuh"
#include "int8_rows.cuh"
#include "wide_rows.cuh"

namespace {

using namespace qwen3vl;
using Bfloat16 = __nv_bfloat16;
using Float16 = __half;

std::mt19937 random_bits(1);

float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(random_bits); }

// Memory as the kernels want it: aligned to 16 bytes.
template <typename V>
class Array {
 public:
  explicit Array(std::size_t count) : storage_(count * sizeof(V) / 16 + 1), count_(count) {}
  V* data() { return reinterpret_cast<V*>(storage_.data()); }
  V& operator[](std::size_t i) { return data()[i]; }
  V operator[](std::size_t i) const { return reinterpret_cast<const V*>(storage_.data())[i]; }
  template <typename Make>
  static Array of(std::size_t count, Make make) {
    Array array(count);
    for (std::size_t i = 0; i < count; ++i) array[i] = make(i);
    return array;
  }

 private:
  struct alignas(16) Unit {
    std::uint8_t bytes[16];
  };
  std::vector<Unit> storage_;
  std::size_t count_;
};

template <typename T>
Array<T> activations(std::size_t count) {
  return Array<T>::of(count, [](std::size_t) { return T(uniform(-1.f, 1.5f)); });
}

// Random rows of each kind, and the weights that they stand for.
template <typename Rows>
class Weights;

template <typename T>
class Weights<WideRows<T>> {
 public:
  Weights(std::size_t rows, int inner)
      : values_(Array<T>::of(rows * inner, [&](std::size_t) { return T(uniform(-2.f, 2.f) / std::sqrt(inner)); })),
        inner_(inner) {}
  const void* rows() { return values_.data(); }
  const void* extra() { return nullptr; }
  double at(std::size_t row, int k) const { return static_cast<float>(values_[row * inner_ + k]); }

 private:
  Array<T> values_;
  std::size_t inner_;
};

template <typename T, int kBlock, int kBits>
class CodedWeights {
 public:
  CodedWeights(std::size_t rows, int inner)
      : codes_(Array<std::uint8_t>::of(rows * inner * kBits / 8, [](std::size_t) { return random_bits(); })),
        blocks_(Array<T>::of(rows * inner / kBlock * 2,
                             [&](std::size_t i) {
                               return T(i % 2 == 0 ? uniform(1.6f, 4.8f) / kLevels / std::sqrt(inner)
                                                   : static_cast<float>(random_bits() % kLevels));
                             })),
        inner_(inner) {}
  const void* rows() { return codes_.data(); }
  const void* extra() { return blocks_.data(); }

  double at(std::size_t row, int k) const {
    const std::size_t block = (row * (inner_ / kBlock) + k / kBlock) * 2;
    const double zero_point = static_cast<float>(blocks_[block + 1]);
    return static_cast<float>(blocks_[block]) * (code(row, k) - zero_point);
  }

 private:
  static constexpr int kLevels = 1 << kBits;

  int code(std::size_t row, int k) const {
    const int thread = k % 32 / 8;
    if constexpr (kBits == 8) {  // as int8_rows.py says
      return codes_[row * inner_ + k / 64 * 64 + thread * 16 + k % 64 / 32 * 8 + k % 8];
    }
    const int run = k % 128 / 32, nibble = k % 2 * 4 + k % 8 / 2;  // as int4_rows.py says
    return codes_[row * (inner_ / 2) + k / 128 * 64 + thread * 16 + run * 4 + nibble / 2] >> (nibble % 2 * 4) & 15;
  }

  Array<std::uint8_t> codes_;
  Array<T> blocks_;
  std::size_t inner_;
};

template <typename T, int kBlock>
class Weights<Int4Rows<T, kBlock>> : public CodedWeights<T, kBlock, 4> {
  using CodedWeights<T, kBlock, 4>::CodedWeights;
};

template <typename T, int kBlock>
class Weights<Int8Rows<T, kBlock>> : public CodedWeights<T, kBlock, 8> {
  using CodedWeights<T, kBlock, 8>::CodedWeights;
};

bool all_right = true;

class Error {
 public:
  void add(double got, double expected) {
    difference_ += (got - expected) * (got - expected);
    norm_ += expected * expected;
  }
  // NaN, which was not written, is wrong too.
  void report(const char* what, int halves, int tokens, double largest) const {
    const double error = std::sqrt(difference_ / norm_);
    std::printf("%s, %d half tiles, %d tokens: %.1e\n", what, halves, tokens, error);
    all_right = all_right && error < largest;
  }

 private:
  double difference_ = 0, norm_ = 0;
};

template <typename T>
constexpr double kLargestError = 3e-3;
template <>
constexpr double kLargestError<Float16> = 4e-4;
template <>
constexpr double kLargestError<float> = 1e-5;

}  // namespace
