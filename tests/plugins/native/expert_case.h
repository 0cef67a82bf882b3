// One or more tokens with their chosen experts: what the experts' kernels take, and their results in double precision.
#pragma once

#include "streamed_case.h"

#include "expert_stream.cuh"

namespace {

template <typename Rows>
class ExpertCase {
 public:
  using T = typename Rows::Value;

  // `chosen` [tokens, k]: experts 0 to 3.
  ExpertCase(int tokens, int k, std::vector<int> chosen)
      : tokens_(tokens), k_(k), chosen_(std::move(chosen)), gate_up_(kExperts * 2 * kInner, kHidden),
        down_(kExperts * kHidden, kInner), x_(activations<T>(static_cast<std::size_t>(tokens) * kHidden)),
        scratch_(Array<T>::of(static_cast<std::size_t>(pairs()) * kInner, [](std::size_t) { return T(NAN); })),
        y_(Array<T>::of(static_cast<std::size_t>(pairs()) * kHidden, [](std::size_t) { return T(NAN); })),
        counters_(Array<int>::of(kCounters + k * (kInner / 2), [](std::size_t) { return 0; })),
        factors_(Array<float>::of(pairs(), [](std::size_t) { return uniform(0.1f, 1.f); })) {}

  ExpertArguments arguments() {
    return {y_.data(),       scratch_.data(), counters_.data(), x_.data(), chosen_.data(),  factors_.data(),
            gate_up_.rows(), down_.rows(),    tokens_,          k_,        gate_up_.extra(), down_.extra()};
  }

  // Of every third row.
  Error error() const {
    Error error;
    for (int pair = 0; pair < pairs(); ++pair) {
      const std::vector<double> activated = activated_of(pair);
      for (int row = 0; row < kHidden; row += 3) {
        double sum = 0;
        for (int i = 0; i < kInner; ++i) sum += activated[i] * down_.at(chosen_[pair] * kHidden + row, i);
        error.add(static_cast<float>(y_[static_cast<std::size_t>(pair) * kHidden + row]), sum);
      }
    }
    return error;
  }

 private:
  static constexpr int kExperts = 4;

  int pairs() const { return tokens_ * k_; }

  std::vector<double> activated_of(int pair) const {
    std::vector<double> activated(kInner);
    for (int i = 0; i < kInner; ++i) {
      const int gate_row = chosen_[pair] * 2 * kInner + 2 * i;
      double gate = 0, up = 0;
      for (int j = 0; j < kHidden; ++j) {
        const double value = static_cast<float>(x_[static_cast<std::size_t>(pair / k_) * kHidden + j]);
        gate += value * gate_up_.at(gate_row, j);
        up += value * gate_up_.at(gate_row + 1, j);
      }
      activated[i] = gate / (1 + std::exp(-gate)) * up * factors_[pair];
    }
    return activated;
  }

  const int tokens_, k_;
  const std::vector<int> chosen_;
  Weights<Rows> gate_up_, down_;
  Array<T> x_, scratch_, y_;
  Array<int> counters_;
  Array<float> factors_;
};

}  // namespace
