// The kernels after the last layer, run by the emulation: each row's most likely tokens, and the choice among them.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "expect.h"

#include "top_logits.cuh"

namespace {

using namespace qwen3vl;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::mt19937 random_numbers(1);

float normal() { return std::normal_distribution<float>()(random_numbers); }
double between(double low, double high) { return std::uniform_real_distribution<double>(low, high)(random_numbers); }
bool sometimes() { return random_numbers() % 3 == 0; }

Draw random_draw(int k) {
  Draw draw{between(0.2, 2), double(random_numbers() % (k + 2)), between(0, 1), between(0, 1)};
  if (sometimes()) draw.temperature = sometimes() ? 0 : 1;
  if (sometimes()) draw.top_k = sometimes() ? 1 : 1e9;
  if (sometimes()) draw.top_p = sometimes() ? 1e-3 : 1;
  if (sometimes()) draw.uniform = sometimes() ? 0 : std::nextafter(1., 0.);
  if (sometimes()) {  // shares of 1, so that sums are exactly what they are compared with
    draw.temperature = 1e30;
    draw.top_p = random_numbers() % 4 / 4. + 0.25;
    draw.uniform = random_numbers() % 4 / 4.;
  }
  return draw;
}

// By lists of candidates that get shorter, the most likely first.
std::int64_t expected_token(const std::vector<std::pair<std::int64_t, float>>& best, const Draw& draw) {
  if (draw.temperature == 0) return best[0].first;
  std::vector<std::pair<std::int64_t, double>> left;
  for (const auto& [id, logit] : best) {
    left.emplace_back(id, std::exp(logit / draw.temperature - best[0].second / draw.temperature));
  }
  if (draw.top_k > 0 && draw.top_k < left.size()) left.resize(static_cast<std::size_t>(draw.top_k));
  const auto sum = [&] {
    return std::accumulate(left.begin(), left.end(), 0., [](double so_far, auto& one) { return so_far + one.second; });
  };
  if (draw.top_p < 1) {
    const double target = draw.top_p * sum();
    double reached = 0;
    std::size_t count = 0;
    while (count < left.size() && (count == 0 || reached < target)) reached += left[count++].second;
    left.resize(count);
  }
  std::sort(left.begin(), left.end());
  const double threshold = draw.uniform * sum();
  double reached = 0;
  for (const auto& [id, share] : left) {
    reached += share;
    if (reached > threshold) return id;
  }
  return left.back().first;
}

// Row after row; none of them is read.
struct Results {
  Results(int rows, int k) : best(rows * k, NAN), ids(rows * k, -1), chosen(rows, -1) {}
  std::vector<float> best;
  std::vector<std::int64_t> ids, chosen;
};

Results top_of_rows(const std::vector<Key>& found, const std::vector<Draw>& draws, int slices, int k) {
  const int rows = static_cast<int>(draws.size());
  Results results(rows, k);
  emulation::launch(dim3(rows), kTopThreads, sizeof(TopOfRowsShared), 1, [&] {
    top_of_rows_kernel(results.best.data(), results.ids.data(), results.chosen.data(), found.data(), draws.data(),
                       slices, k);
  });
  return results;
}

Results top_logits(const std::vector<float>& logits, const std::vector<Draw>& draws, int vocabulary, int k) {
  const int rows = static_cast<int>(draws.size()), slices = (vocabulary + kTopSlice - 1) / kTopSlice;
  std::vector<Key> found(static_cast<std::size_t>(rows) * k * slices, ~Key{0});
  emulation::launch(dim3(slices, rows), kTopThreads, sizeof(TopShared), 1,
                    [&] { top_of_slices_kernel(found.data(), logits.data(), vocabulary, k); });
  return top_of_rows(found, draws, slices, k);
}

std::vector<float> rows_of(int rows, int vocabulary, const std::function<float(int)>& logit) {
  std::vector<float> logits(static_cast<std::size_t>(rows) * vocabulary);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = logit(static_cast<int>(i % vocabulary));
  return logits;
}

std::vector<Draw> random_draws(int rows, int k) {
  std::vector<Draw> draws(rows);
  for (auto& draw : draws) draw = random_draw(k);
  return draws;
}

// Values and places of the k largest, by sorting: a logit that is no smaller and comes first is ahead.
void check(int rows, int vocabulary, int k, const std::function<float(int)>& logit) {
  const std::vector<float> logits = rows_of(rows, vocabulary, logit);
  const std::vector<Draw> draws = random_draws(rows, k);
  const Results results = top_logits(logits, draws, vocabulary, k);
  for (int row = 0; row < rows; ++row) {
    const float* own = logits.data() + static_cast<std::size_t>(row) * vocabulary;
    std::vector<std::int64_t> order(vocabulary);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return own[a] > own[b]; });
    std::vector<std::pair<std::int64_t, float>> best;
    for (int i = 0; i < k; ++i) {
      best.emplace_back(order[i], own[order[i]]);
      EXPECT(results.ids[row * k + i] == order[i]);
      EXPECT(results.best[row * k + i] == own[order[i]]);
    }
    EXPECT(results.chosen[row] == expected_token(best, draws[row]));
  }
}

// Whatever logits and draws are, one of the row's ids is chosen.
void check_no_numbers(const std::vector<float>& values) {
  constexpr int kRows = 40, kVocabulary = 8192, k = 20;
  const float nan = std::nanf("");
  std::vector<Draw> draws = random_draws(kRows, k);
  for (const double odd : {double(nan), double(kInfinity), -double(kInfinity), -1., 1e-320}) {
    for (double Draw::*number : {&Draw::temperature, &Draw::top_k, &Draw::top_p, &Draw::uniform}) {
      draws.push_back({1, 0, 0.9, 0.5});
      draws.back().*number = odd;
    }
  }
  const int rows = static_cast<int>(draws.size());
  const auto logits = rows_of(rows, kVocabulary, [&](int id) {
    return id % 1000 == 7 ? values[random_numbers() % values.size()] : sometimes() ? normal() : values[0];
  });
  const Results results = top_logits(logits, draws, kVocabulary, k);
  for (int row = 0; row < rows; ++row) {
    const auto begin = results.ids.begin() + row * k, end = begin + k;
    EXPECT(std::all_of(begin, end, [](auto id) { return id >= 0 && id < kVocabulary; }));
    EXPECT(std::count(begin, end, results.chosen[row]) == 1);
  }
}

// Fewer keys than k: the choice is among those that are there.
void check_missing_candidates() {
  constexpr int k = 64, kThere = 5;
  const std::vector<Draw> draws = random_draws(200, k);
  std::vector<Key> found(draws.size() * k, 0);
  std::vector<std::vector<std::pair<std::int64_t, float>>> best(draws.size());
  for (std::size_t row = 0; row < draws.size(); ++row) {
    for (int i = 0; i < kThere; ++i) best[row].emplace_back((17 * i + row) % 1000, 3.f - i * i / 4.f);
    for (int i = 0; i < kThere; ++i) found[row * k + 11 * i] = key_of(best[row][i].second, int(best[row][i].first));
  }
  const Results results = top_of_rows(found, draws, 1, k);
  for (std::size_t row = 0; row < draws.size(); ++row) {
    EXPECT(results.chosen[row] == expected_token(best[row], draws[row]));
  }
}

}  // namespace

int main() {
  const auto any = [](int) { return normal(); };
  check(3, 151936, 64, any);
  check(2, kMostSlices * kTopSlice, 64, any);
  check(300, 64, 64, any);
  check(300, 64, 64, [](int) { return std::round(3 * normal()) / 3; });
  check(300, 64, 5, any);
  check(2, kTopSlice + 4, 5, any);
  check(2, 8192, 1, any);
  check(2, 20000, 64, [](int id) { return static_cast<float>(-id); });  // in order: all in one slice
  check(2, 20000, 64, [](int id) { return static_cast<float>(id); });
  check(20, 20000, 64, [](int id) { return id % 4 == 0 ? 1.f : 0.f; });  // many are equal
  check(20, 8192, 64, [](int id) { return id % 2 == 0 ? -0.f : 0.f; });  // and all
  check(20, 8192, 64, [](int id) { return id % 100 == 7 ? normal() : -kInfinity; });
  check(20, 8192, 64, [](int id) { return id % 1000 == 7 ? normal() : -kInfinity; });
  check(2, 8192, 64, [](int id) { return id % 512 < 64 ? normal() + 100 : normal(); });  // of few threads
  check_missing_candidates();
  const float nan = std::nanf("");
  check_no_numbers({nan, -nan, kInfinity, 1});
  check_no_numbers({-nan, -kInfinity, kInfinity});
  check_no_numbers({0, kInfinity, -nan});
  check_no_numbers({0, -nan});
  check_no_numbers({0, 1});
  return 0;
}
