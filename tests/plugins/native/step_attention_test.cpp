// Attention of one new token a sequence, run by the emulation, beside double precision: outputs and the cache.
#include <cstdio>
#include <random>
#include <vector>

#include "device.h"

#include "attention_step.cuh"

namespace {

using namespace qwen3vl;
using Bfloat16 = __nv_bfloat16;
using Float16 = __half;

constexpr int kKvHeads = 2, kHeads = kKvHeads * kSharing, kWidth = (kHeads + 2 * kKvHeads) * kHeadSize;
constexpr int kSpare = 3;  // tokens that a cache has room for behind the longest sequence's
constexpr float kScale = 0.088388348f, kEpsilon = 1e-6f;

template <typename T>
double value(T x) {
  return static_cast<float>(x);
}

// Memory as the kernel wants it: aligned to 16 bytes, as the host's allocations are.
template <typename T>
struct Data {
  int batch, capacity = 0;
  std::vector<std::int32_t> totals;
  std::vector<T> qkv, query_norm, key_norm, keys, values, out;
  std::vector<float> cosines, sines;

  explicit Data(const std::vector<int>& past)
      : batch(static_cast<int>(past.size())), qkv(batch * kWidth), query_norm(kHeadSize), key_norm(kHeadSize),
        out(batch * kHeads * kHeadSize, T(NAN)) {
    std::mt19937 generator(batch);
    std::normal_distribution<float> normal;
    for (int tokens : past) {
      totals.push_back(tokens + 1);
      capacity = std::max(capacity, tokens + 1 + kSpare);
    }
    for (T& x : qkv) x = T(normal(generator));
    for (auto* norm : {&query_norm, &key_norm}) {
      for (T& x : *norm) x = T(1 + 0.1f * normal(generator));
    }
    for (int i = 0; i < batch * kHeadSize / 2; ++i) {
      const float angle = 3 * normal(generator);
      cosines.push_back(std::cos(angle));
      sines.push_back(std::sin(angle));
    }
    keys.assign(static_cast<std::size_t>(batch) * kKvHeads * capacity * kHeadSize, T(NAN));
    values = keys;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::size_t token = i / kHeadSize % capacity, sequence = i / kHeadSize / capacity / kKvHeads;
      if (token >= static_cast<std::size_t>(past[sequence])) continue;
      keys[i] = T(normal(generator));
      values[i] = T(normal(generator));
    }
  }

  // In double precision, rounded to T as the kernel does.
  std::vector<T> normed_and_turned(int sequence, int head, const std::vector<T>& norm) const {
    const T* source = &qkv[sequence * kWidth + head * kHeadSize];
    constexpr int kHalf = kHeadSize / 2;
    double square = 0;
    for (int d = 0; d < kHeadSize; ++d) square += value(source[d]) * value(source[d]);
    const double by = 1 / std::sqrt(square / kHeadSize + kEpsilon);
    std::vector<T> result(kHeadSize);
    for (int d = 0; d < kHalf; ++d) {
      const double x = value(source[d]) * by * value(norm[d]), y = value(source[d + kHalf]) * by * value(norm[d + kHalf]);
      const double cosine = cosines[sequence * kHalf + d], sine = sines[sequence * kHalf + d];
      result[d] = T(static_cast<float>(x * cosine - y * sine));
      result[d + kHalf] = T(static_cast<float>(y * cosine + x * sine));
    }
    return result;
  }

  std::size_t place(int sequence, int kv_head, int token) const {
    return ((static_cast<std::size_t>(sequence) * kKvHeads + kv_head) * capacity + token) * kHeadSize;
  }
};

class Error {
 public:
  template <typename T>
  void add(T got, double expected) {
    difference_ += (value(got) - expected) * (value(got) - expected);
    norm_ += expected * expected;
  }
  double relative() const { return std::sqrt(difference_ / norm_); }

 private:
  double difference_ = 0, norm_ = 0;
};

// The new token's key and value; `before`: the cache as it was, the rest of which has to be unchanged, bit for bit.
template <typename T>
bool cache_is_right(const Data<T>& data, const Data<T>& before) {
  Error error;
  for (int sequence = 0; sequence < data.batch; ++sequence) {
    for (int kv_head = 0; kv_head < kKvHeads; ++kv_head) {
      const auto key = data.normed_and_turned(sequence, kHeads + kv_head, data.key_norm);
      const T* new_value = &data.qkv[sequence * kWidth + (kHeads + kKvHeads + kv_head) * kHeadSize];
      for (int token = 0; token < data.capacity; ++token) {
        const std::size_t at = data.place(sequence, kv_head, token);
        if (token != data.totals[sequence] - 1) {
          if (std::memcmp(&data.keys[at], &before.keys[at], kHeadSize * sizeof(T)) != 0) return false;
          if (std::memcmp(&data.values[at], &before.values[at], kHeadSize * sizeof(T)) != 0) return false;
          continue;
        }
        for (int d = 0; d < kHeadSize; ++d) {
          error.add(data.keys[at + d], value(key[d]));
          if (value(data.values[at + d]) != value(new_value[d])) return false;
        }
      }
    }
  }
  return error.relative() < 1e-3;  // roundings that fall the other way
}

template <typename T>
double worst_head(const Data<T>& data) {
  double worst = 0;
  for (int sequence = 0; sequence < data.batch; ++sequence) {
    for (int head = 0; head < kHeads; ++head) {
      const auto query = data.normed_and_turned(sequence, head, data.query_norm);
      double expected[kHeadSize] = {}, sum = 0;
      for (int token = 0; token < data.totals[sequence]; ++token) {
        const std::size_t at = data.place(sequence, head / kSharing, token);
        double score = 0;
        for (int d = 0; d < kHeadSize; ++d) score += value(query[d]) * value(data.keys[at + d]);
        const double weight = std::exp(score * kScale);
        sum += weight;
        for (int d = 0; d < kHeadSize; ++d) expected[d] += weight * value(data.values[at + d]);
      }
      Error error;
      for (int d = 0; d < kHeadSize; ++d) {
        error.add(data.out[(sequence * kHeads + head) * kHeadSize + d], expected[d] / sum);
      }
      const double relative = error.relative();
      worst = relative > worst || std::isnan(relative) ? relative : worst;  // NaN is kept
    }
  }
  return worst;
}

template <typename T, int kRanks>
bool right(const std::vector<int>& past, double largest_error) {
  Data<T> data(past);
  const Data<T> before = data;
  const AttentionArguments arguments{data.out.data(),     data.qkv.data(),    data.query_norm.data(),
                                     data.key_norm.data(), data.cosines.data(), data.sines.data(),
                                     data.keys.data(),    data.values.data(), data.totals.data(),
                                     kKvHeads,            data.capacity,      kEpsilon,
                                     kScale};
  emulation::launch(dim3(kRanks, kKvHeads, data.batch), AttentionShared<kRanks>::kWarps * 32,
                    sizeof(AttentionShared<kRanks>), kRanks, [&] { attention_kernel<T, kRanks>(arguments); });
  const double error = worst_head(data);
  const bool cache = cache_is_right(data, before);
  std::printf("%d blocks a sequence: %.1e, the cache is %s\n", kRanks, error, cache ? "right" : "wrong");
  return error < largest_error && cache;
}

}  // namespace

int main() {
  // Roundings of queries, weights and results. Some warps get no group, others several in each of their slots.
  constexpr double kBfloat16Error = 4e-3, kFloat16Error = 5e-4;
  bool all = right<Bfloat16, 1>({0, 1, 15, 16, 333}, kBfloat16Error);
  all = right<Float16, 2>({31, 0, 700}, kFloat16Error) && all;
  all = right<Bfloat16, 4>({0, 17, 1100}, kBfloat16Error) && all;
  all = right<Float16, 4>({1030}, kFloat16Error) && all;
  all = right<Bfloat16, 8>({5, 130, 2100}, kBfloat16Error) && all;
  return all ? 0 : 1;
}
