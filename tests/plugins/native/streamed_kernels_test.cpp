// The products' and experts' kernels of a decode step, run by the emulation, beside sums in double precision.
#include <cstddef>

#include "device.h"

#include "experts.cuh"
#include "int4_rows.cuh"
#include "product.cuh"
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

template <typename T, int kBlock>
class Weights<Int4Rows<T, kBlock>> {
 public:
  Weights(std::size_t rows, int inner)
      : codes_(Array<std::uint8_t>::of(rows * inner / 2, [](std::size_t) { return random_bits(); })),
        blocks_(Array<T>::of(rows * inner / kBlock * 2,
                             [&](std::size_t i) {
                               return T(i % 2 == 0 ? uniform(0.1f, 0.3f) / std::sqrt(inner)
                                                   : static_cast<float>(random_bits() % 16));
                             })),
        inner_(inner) {}
  const void* rows() { return codes_.data(); }
  const void* extra() { return blocks_.data(); }

  // As int4_rows.py says.
  double at(std::size_t row, int k) const {
    const int run = k % 128 / 32, thread = k % 32 / 8, nibble = k % 2 * 4 + k % 8 / 2;
    const std::size_t byte = row * (inner_ / 2) + k / 128 * 64 + thread * 16 + run * 4 + nibble / 2;
    const int code = codes_[byte] >> (nibble % 2 * 4) & 15;
    const std::size_t block = (row * (inner_ / kBlock) + k / kBlock) * 2;
    return static_cast<float>(blocks_[block]) * (code - static_cast<double>(static_cast<float>(blocks_[block + 1])));
  }

 private:
  Array<std::uint8_t> codes_;
  Array<T> blocks_;
  std::size_t inner_;
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

template <typename Rows, int kInnerSize, int kHalves, bool kDeep = false>
void check_product(const char* name, int tokens, int rows) {
  using T = typename Rows::Value;
  using Shape = ProductShape<Rows, kInnerSize, kHalves, kDeep>;
  Weights<Rows> weights(rows, kInnerSize);
  auto x = activations<T>(static_cast<std::size_t>(tokens) * kInnerSize);
  auto residual = activations<T>(static_cast<std::size_t>(tokens) * rows);
  auto out = Array<T>::of(static_cast<std::size_t>(tokens) * rows, [](std::size_t) { return T(NAN); });
  const ProductArguments arguments{out.data(), x.data(), residual.data(), weights.rows(), tokens, rows,
                                   weights.extra()};
  const dim3 blocks(2, static_cast<unsigned>(groups_of(tokens, kHalves * kHalfTile)));
  emulation::launch(blocks, kStreamThreads, sizeof(typename Shape::Memory), 1,
                    [&] { product_kernel<Rows, T, kInnerSize, kHalves, kDeep>(arguments); });
  Error error;
  for (int token = 0; token < tokens; ++token) {
    for (int row = 0; row < rows; ++row) {
      double sum = static_cast<float>(residual[token * rows + row]);
      for (int k = 0; k < kInnerSize; ++k) {
        sum += static_cast<float>(x[static_cast<std::size_t>(token) * kInnerSize + k]) * weights.at(row, k);
      }
      error.add(static_cast<float>(out[token * rows + row]), sum);
    }
  }
  error.report(name, kHalves, tokens, kLargestError<T>);
}

template <typename Rows, int kHalves, bool kFew>
void check_experts(const char* name, int tokens, int k) {
  using T = typename Rows::Value;
  using Shape = ExpertShape<Rows, kHalves, kFew>;
  constexpr int kExperts = 4;
  Weights<Rows> gate_up(kExperts * 2 * kInner, kHidden), down(kExperts * kHidden, kInner);
  const int pairs = tokens * k;
  auto x = activations<T>(static_cast<std::size_t>(tokens) * kHidden);
  Array<T> scratch(static_cast<std::size_t>(pairs) * kInner);
  auto y = Array<float>::of(static_cast<std::size_t>(pairs) * kHidden, [](std::size_t) { return NAN; });
  auto counters = Array<int>::of(256, [](std::size_t) { return 0; });
  auto factors = Array<float>::of(pairs, [](std::size_t) { return uniform(0.1f, 1.f); });
  // Of a token all differ; with one each, only every second expert is used.
  auto chosen = Array<int>::of(pairs, [&](std::size_t i) {
    const int token = static_cast<int>(i) / k, choice = static_cast<int>(i) % k;
    return k == 1 ? token % 3 / 2 * 2 : (token + 2 * choice + 1) % kExperts;
  });
  const ExpertArguments arguments{y.data(),      scratch.data(),  counters.data(), x.data(), chosen.data(),
                                  factors.data(), gate_up.rows(), down.rows(),     tokens,   k,
                                  gate_up.extra(), down.extra()};
  emulation::launch(dim3(2), kStreamThreads, sizeof(typename Shape::Shared), 2,
                    [&] { experts_kernel<Rows, kHalves, kFew>(arguments); });
  Error error;
  std::vector<double> activated(kInner);
  for (int pair = 0; pair < pairs; ++pair) {
    const int expert = chosen[pair];
    for (int i = 0; i < kInner; ++i) {
      double gate = 0, up = 0;
      for (int j = 0; j < kHidden; ++j) {
        const double value = static_cast<float>(x[static_cast<std::size_t>(pair / k) * kHidden + j]);
        gate += value * gate_up.at(expert * 2 * kInner + 2 * i, j);
        up += value * gate_up.at(expert * 2 * kInner + 2 * i + 1, j);
      }
      activated[i] = gate / (1 + std::exp(-gate)) * up * factors[pair];
    }
    for (int row = 0; row < kHidden; row += 3) {
      double sum = 0;
      for (int i = 0; i < kInner; ++i) sum += activated[i] * down.at(expert * kHidden + row, i);
      error.add(y[static_cast<std::size_t>(pair) * kHidden + row], sum);
    }
  }
  error.report(name, kHalves, tokens, kLargestError<T>);
}

}  // namespace

int main() {
  check_product<WideRows<Bfloat16>, 2048, 1>("product, bfloat16", 3, 48);
  check_product<WideRows<Float16>, 2048, 2>("product, float16", 13, 48);
  check_product<WideRows<Bfloat16>, 4096, 1>("product of long rows, bfloat16", 2, 80);
  check_product<WideRows<Float16>, 4096, 1, true>("product of long rows, float16", 8, 80);
  check_product<Int4Rows<Bfloat16, 128>, 2048, 1>("product, bfloat16, blocks of 128", 8, 240);
  check_product<Int4Rows<Float16, 64>, 2048, 1>("product, float16, blocks of 64", 5, 80);
  check_product<Int4Rows<Bfloat16, 128>, 4096, 1>("product of long rows, bfloat16, blocks of 128", 7, 80);
  check_product<Int4Rows<Float16, 32>, 4096, 2>("product of long rows, float16, blocks of 32", 13, 48);
  check_product<Int4Rows<Bfloat16, 128>, 2048, 4>("product, bfloat16, blocks of 128", 45, 48);
  check_experts<WideRows<Bfloat16>, 1, true>("experts, bfloat16", 2, 1);
  check_experts<Int4Rows<Bfloat16, 128>, 1, true>("experts, bfloat16, blocks of 128", 2, 2);
  check_experts<Int4Rows<Float16, 128>, 1, false>("experts, float16, blocks of 128", 11, 1);
  check_experts<Int4Rows<Bfloat16, 64>, 2, false>("experts, bfloat16, blocks of 64", 5, 1);
  check_experts<Int4Rows<Bfloat16, 32>, 4, false>("experts, bfloat16, blocks of 32", 4, 1);
  return all_right ? 0 : 1;
}
