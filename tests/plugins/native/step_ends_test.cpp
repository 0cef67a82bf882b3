// The kernel before the first layer, the norms, and the one that adds visual rows, run by the emulation.
#include <random>
#include <vector>

#include "expect.h"

#include "add_norm.cuh"
#include "deepstack_add.cuh"
#include "step_inputs.cuh"

namespace {

using namespace qwen3vl;

std::mt19937 random_numbers(1);

float normal() { return std::normal_distribution<float>()(random_numbers); }

// An id below 0 stands for one that was chosen.
void check_inputs() {
  constexpr int kPacks = 300, kRows = 5, kCount = 300;
  std::vector<uint4> table(kRows * kPacks);
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = {unsigned(i), unsigned(i + 1), 2, 3};
  const std::vector<std::int32_t> ids{4, 0, 5, 300, -1, 2, -4, -3, -2, -5, INT32_MIN};
  const std::vector<std::int64_t> chosen{3, std::int64_t{1} << 32, -1, 1};
  const std::vector<int> words{4, 0, -1, -1, 3, 2, 1, -1, -1, -1, -1};  // -1: none
  const int tokens = static_cast<int>(ids.size());
  std::vector<std::int32_t> positions(3 * tokens);
  for (auto& position : positions) position = static_cast<std::int32_t>(random_numbers() % 262144);
  std::vector<std::int64_t> axes(kCount);
  std::vector<float> frequencies(kCount), cosines(tokens * kCount, NAN), sines(tokens * kCount, NAN);
  for (int d = 0; d < kCount; ++d) axes[d] = d % 3, frequencies[d] = std::pow(5e6f, -d / float(kCount));
  std::vector<uint4> hidden(tokens * kPacks, uint4{9, 9, 9, 9});
  const InputArguments arguments{hidden.data(), cosines.data(), sines.data(), ids.data(), chosen.data(), table.data(),
                                 positions.data(), axes.data(), frequencies.data(), static_cast<int>(chosen.size()),
                                 kRows, kPacks, kCount};
  emulation::launch(dim3(tokens), kInputThreads, sizeof(std::int64_t), 1, [&] { step_inputs_kernel(arguments); });
  for (int token = 0; token < tokens; ++token) {
    for (int i = 0; i < kPacks; ++i) {
      const uint4 expected = words[token] >= 0 ? table[words[token] * kPacks + i] : uint4{};
      EXPECT(std::memcmp(&hidden[token * kPacks + i], &expected, sizeof expected) == 0);
    }
    for (int d = 0; d < kCount; ++d) {
      const double angle = static_cast<float>(positions[axes[d] * tokens + token]) * frequencies[d];
      EXPECT(std::abs(cosines[token * kCount + d] - std::cos(angle)) < 1e-6);
      EXPECT(std::abs(sines[token * kCount + d] - std::sin(angle)) < 1e-6);
    }
  }
}

// Of all tokens, or of some, one of them not there.
template <typename T, bool kSome>
void check_norms(int k, const std::vector<std::int32_t>& rows = {}) {
  constexpr int kTokens = 5;
  constexpr float kEpsilon = 1e-6f;
  const int blocks = kSome ? static_cast<int>(rows.size()) : kTokens;
  std::vector<T> h(kTokens * kNormHidden), norm(kNormHidden), normed(blocks * kNormHidden, T(NAN));
  std::vector<T> total(!kSome && k > 0 ? normed.size() : 0, T(NAN));
  std::vector<T> y(static_cast<std::size_t>(kTokens) * k * kNormHidden);
  for (auto* values : {&h, &norm, &y}) {
    for (auto& value : *values) value = T(normal());
  }
  const AddNormArguments<T> arguments{normed.data(), total.empty() ? nullptr : total.data(), h.data(), y.data(),
                                      norm.data(), rows.data(), kTokens, k, kEpsilon};
  emulation::launch(dim3(blocks), kNormThreads, kNormThreads / 32 * sizeof(float), 1,
                    [&] { add_norm_kernel<T, kSome>(arguments); });
  for (int block = 0; block < blocks; ++block) {
    const int token = !kSome ? block : std::min(std::max(rows[block], 0), kTokens - 1);
    std::vector<float> sums(kNormHidden);
    double square = 0;
    for (int d = 0; d < kNormHidden; ++d) {
      float added = 0;
      for (int i = 0; i < k; ++i) {
        added += static_cast<float>(y[(static_cast<std::size_t>(token) * k + i) * kNormHidden + d]);
      }
      sums[d] = static_cast<float>(T(static_cast<float>(h[token * kNormHidden + d]) + added));
      square += double(sums[d]) * sums[d];
      if (!total.empty()) EXPECT(static_cast<float>(total[block * kNormHidden + d]) == sums[d]);
    }
    for (int d = 0; d < kNormHidden; ++d) {
      const double expected = sums[d] / std::sqrt(square / kNormHidden + kEpsilon) * static_cast<float>(norm[d]);
      EXPECT(std::abs(static_cast<float>(normed[block * kNormHidden + d]) - expected) <= 5e-3 * std::abs(expected) + 1e-7);
    }
  }
}

// The sum is rounded as the two numbers' sum in float32; rows that no id names are no numbers.
template <typename T, typename Row, int kWidth, bool kInPlace>
void check_visual_rows(int hidden_size) {
  constexpr int kVocabulary = 100, kRowCount = 12;
  const std::vector<std::int32_t> ids{3, 100, 99, 104, 108, 112, 100, -7, 2147483647, 96, 5};
  for (int level = 0; level < 4; ++level) {
    std::vector<T> hidden(ids.size() * hidden_size), out(hidden.size(), T(NAN));
    std::vector<Row> rows(kRowCount * hidden_size, Row(NAN));
    for (auto& value : hidden) value = T(normal());
    std::vector<T> expected = hidden;
    for (std::size_t token = 0; token < ids.size(); ++token) {
      const std::int64_t row = std::int64_t{ids[token]} - kVocabulary + level;
      if (ids[token] < kVocabulary || row >= kRowCount) continue;
      for (int i = 0; i < hidden_size; ++i) {
        Row& added = rows[row * hidden_size + i];
        if (std::isnan(static_cast<float>(added))) added = Row(normal());
        T& sum = expected[token * hidden_size + i];
        sum = T(static_cast<float>(sum) + static_cast<float>(added));
      }
    }
    if (kInPlace) out = hidden;
    using Packs = Pack<T, kWidth>;
    const dim3 threads(16, 4), blocks((ids.size() + 3) / 4);
    emulation::launch(blocks, threads, 0, 1, [&] {
      deepstack_add_kernel<T, Row, kWidth, kInPlace>(
          reinterpret_cast<Packs*>(out.data()), reinterpret_cast<const Packs*>(kInPlace ? out.data() : hidden.data()),
          ids.data(), reinterpret_cast<const Pack<Row, kWidth>*>(rows.data()), ids.size(), hidden_size / kWidth,
          kRowCount, level, kVocabulary);
    });
    EXPECT(std::memcmp(out.data(), expected.data(), out.size() * sizeof(T)) == 0);
  }
}

}  // namespace

int main() {
  check_inputs();
  check_norms<__nv_bfloat16, false>(8);
  check_norms<__half, false>(1);
  check_norms<__half, false>(11);
  check_norms<__nv_bfloat16, false>(0);
  check_norms<__half, true>(8, {4, 0, 2, 4});
  check_norms<__nv_bfloat16, true>(8, {-1, 5, 3});
  check_visual_rows<__nv_bfloat16, float, 8, false>(264);
  check_visual_rows<__half, float, 8, true>(256);
  check_visual_rows<__nv_bfloat16, float, 1, false>(37);
  check_visual_rows<__half, __half, 8, false>(256);
  check_visual_rows<__nv_bfloat16, __nv_bfloat16, 8, true>(264);
  check_visual_rows<float, float, 4, false>(100);
  return 0;
}
