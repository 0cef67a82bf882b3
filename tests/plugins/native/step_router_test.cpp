// The router's kernel of a decode step, run by the emulation, beside sums in double precision.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include "expect.h"

#include "router_step.cuh"

namespace {

using namespace qwen3vl;

std::mt19937 random_numbers(1);

template <typename T>
std::vector<T> normals(std::size_t count, float scale) {
  std::normal_distribution<float> normal(0.f, scale);
  std::vector<T> values(count);
  for (auto& value : values) value = T(normal(random_numbers));
  return values;
}

// Experts by logits of the normed tokens as the kernel gives them; those by how far they are off.
template <typename T, int kHalves>
void check(int tokens, int k, double largest_error) {
  constexpr int kCounters = 256;
  const auto x = normals<T>(static_cast<std::size_t>(tokens) * kRouterHidden, 3.f);
  const auto norm = normals<T>(kRouterHidden, 1.f);
  const auto weights = normals<T>(static_cast<std::size_t>(kRouterExperts) * kRouterHidden, 0.03f);
  std::vector<T> normed(x.size(), T(NAN));
  std::vector<std::int32_t> chosen(tokens * k, -1), counters(kCounters, 7);
  std::vector<float> chosen_weights(tokens * k, NAN);
  const RouterArguments arguments{normed.data(), chosen.data(), chosen_weights.data(), counters.data(), x.data(),
                                  norm.data(), weights.data(), tokens, k, kCounters, 1e-6f};
  const unsigned clusters = (tokens + kClusterTokens - 1) / kClusterTokens;
  emulation::launch(dim3(clusters * kRouterRanks), kStepRouterThreads, sizeof(StepRouterShared), kRouterRanks,
                    [&] { step_router_kernel<T, kHalves>(arguments); });
  double worst = 0;
  for (int token = 0; token < tokens; ++token) {
    const std::size_t row = static_cast<std::size_t>(token) * kRouterHidden;
    double square = 0;
    for (int d = 0; d < kRouterHidden; ++d) square += std::pow(static_cast<float>(x[row + d]), 2.0);
    for (int d = 0; d < kRouterHidden; ++d) {
      const double exact = static_cast<float>(x[row + d]) / std::sqrt(square / kRouterHidden + 1e-6) *
                           static_cast<float>(norm[d]);
      worst = std::max(worst, std::abs(static_cast<float>(normed[row + d]) - exact) / (std::abs(exact) + 1e-3));
    }
    std::vector<double> logits(kRouterExperts);
    for (int expert = 0; expert < kRouterExperts; ++expert) {
      for (int d = 0; d < kRouterHidden; ++d) {
        logits[expert] += double(static_cast<float>(normed[row + d])) *
                          static_cast<float>(weights[static_cast<std::size_t>(expert) * kRouterHidden + d]);
      }
    }
    std::vector<int> order(kRouterExperts);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
    double sum = 0;
    for (int i = 0; i < k; ++i) sum += std::exp(logits[order[i]] - logits[order[0]]);
    for (int i = 0; i < k; ++i) {
      EXPECT(chosen[token * k + i] == order[i]);
      const double weight = std::exp(logits[order[i]] - logits[order[0]]) / sum;
      EXPECT(std::abs(chosen_weights[token * k + i] - weight) < 1e-4 * weight);
    }
  }
  EXPECT(std::count(counters.begin(), counters.end(), 0) == kCounters);
  EXPECT(worst < largest_error);
  std::printf("%d tokens, %d experts each: norms are off by %.1e at most\n", tokens, k, worst);
}

}  // namespace

int main() {
  check<__nv_bfloat16, 1>(1, 8, 4e-3);
  check<__half, 1>(3, 8, 6e-4);
  check<__nv_bfloat16, 1>(8, 8, 4e-3);
  check<__half, 2>(9, 5, 6e-4);
  check<__nv_bfloat16, 2>(16, 8, 4e-3);
  check<__half, 2>(35, 32, 6e-4);
  return 0;
}
