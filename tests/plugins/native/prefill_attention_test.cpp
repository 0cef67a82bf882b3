// Prefill attention's source on a CPU, with emulated instructions, beside attention in double precision. What it can't
// show: that products and copies, which are done at once here, are waited for.
#include <cstdio>
#include <random>
#include <vector>

// Before the kernels, whose headers take it for CUDA's.
#include "ptx.cuh"

#include "prefill_attend.cuh"

using namespace qwen3vl;
using T = __nv_bfloat16;

struct Case {
  int tokens, past, kv_heads, spare;  // spare: room in the cache behind the sequence's end, which is NaN
};

struct Data {
  int heads, total, capacity, width;
  std::vector<T> qkv, norm, keys, values, out;
  std::vector<float> cosines, sines;

  explicit Data(const Case& c)
      : heads(c.kv_heads * kSharing), total(c.past + c.tokens), capacity(total + c.spare),
        width((heads + 2 * c.kv_heads) * kHeadSize), qkv(c.tokens * width), norm(kHeadSize),
        keys(c.kv_heads * capacity * kHeadSize, __float2bfloat16(NAN)), values(keys),
        out(c.tokens * heads * kHeadSize, __float2bfloat16(NAN)) {
    std::mt19937 generator(c.tokens * 1000 + c.past);
    std::normal_distribution<float> normal;
    for (T& x : qkv) x = __float2bfloat16(normal(generator));
    for (T& x : norm) x = __float2bfloat16(1 + 0.1f * normal(generator));
    for (int i = 0; i < c.tokens * kHeadSize / 2; ++i) {
      const float angle = 3 * normal(generator);
      cosines.push_back(std::cos(angle));
      sines.push_back(std::sin(angle));
    }
    for (int i = 0; i < c.kv_heads * capacity * kHeadSize; ++i) {
      if (i / kHeadSize % capacity >= total) continue;
      keys[i] = __float2bfloat16(normal(generator));
      values[i] = __float2bfloat16(normal(generator));
    }
  }
};

constexpr float kScale = 0.088388348f, kEpsilon = 1e-6f;

// As attend_kernel of attention_prefill.cu.
void attend(const Case& c, const PrefillArguments& arguments) {
  auto& shared = *reinterpret_cast<PrefillShared*>(emulation::current->block->shared);
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  const PrefillItem item = prefill_item(blockIdx.x, c.tokens, c.kv_heads);
  const KeyTiles tiles = key_tiles(item.first_token, c.tokens, c.past);
  if (threadIdx.x == 0) load_tiles(shared, arguments, item.kv_head, tiles.count);
  if (threadIdx.x < kWarpgroup) return;
  const int first_token = item.first_token + (threadIdx.x / kWarpgroup - 1) * kGroupTokens;
  PrefillAttention<T> attention{shared, arguments, c.past, item.kv_head, first_token};
  attention.prepare_queries();
  attention.attend(tiles);
  attention.store();
}

double value(T x) { return __bfloat162float(x); }

// Squares of what one head's result differs by from attention in double precision, and of that.
std::pair<double, double> squares(const Case& c, const Data& data, int token, int head) {
  const T* source = &data.qkv[token * data.width + head * kHeadSize];
  double query[kHeadSize], square = 0;
  for (int d = 0; d < kHeadSize; ++d) square += value(source[d]) * value(source[d]);
  const double by = 1 / std::sqrt(square / kHeadSize + kEpsilon);
  constexpr int kHalf = kHeadSize / 2;
  for (int d = 0; d < kHalf; ++d) {
    const double x = value(source[d]) * by * value(data.norm[d]);
    const double y = value(source[d + kHalf]) * by * value(data.norm[d + kHalf]);
    const double cosine = data.cosines[token * kHalf + d], sine = data.sines[token * kHalf + d];
    query[d] = value(__double2bfloat16(x * cosine - y * sine));
    query[d + kHalf] = value(__double2bfloat16(y * cosine + x * sine));
  }
  const int slot = head / kSharing * data.capacity * kHeadSize;
  double expected[kHeadSize] = {}, sum = 0;
  for (int i = 0; i <= c.past + token; ++i) {
    double score = 0;
    for (int d = 0; d < kHeadSize; ++d) score += query[d] * value(data.keys[slot + i * kHeadSize + d]);
    const double weight = std::exp(score * kScale);
    sum += weight;
    for (int d = 0; d < kHeadSize; ++d) expected[d] += weight * value(data.values[slot + i * kHeadSize + d]);
  }
  double difference = 0, whole = 0;
  for (int d = 0; d < kHeadSize; ++d) {
    const double right = expected[d] / sum, got = value(data.out[(token * data.heads + head) * kHeadSize + d]);
    difference += (got - right) * (got - right);
    whole += right * right;
  }
  return {difference, whole};
}

bool right(const Case& c) {
  Data data(c);
  const std::int32_t total = data.total;
  PrefillArguments arguments{};
  const emulation::Matrices keys{data.keys.data(), c.kv_heads, data.capacity, kHeadSize, kKeyRows};
  emulation::Matrices values = keys;
  values.elements = data.values.data();
  std::memcpy(&arguments.keys, &keys, sizeof(keys));
  std::memcpy(&arguments.values, &values, sizeof(values));
  arguments.out = data.out.data();
  arguments.qkv = data.qkv.data();
  arguments.query_norm = data.norm.data();
  arguments.cosines = data.cosines.data();
  arguments.sines = data.sines.data();
  arguments.total_lengths = &total;
  arguments.tokens = c.tokens;
  arguments.kv_heads = c.kv_heads;
  arguments.epsilon = kEpsilon;
  arguments.scale = kScale * 1.44269504f;
  emulation::launch(dim3(prefill_items(c.tokens, c.kv_heads)), kPrefillThreads, sizeof(PrefillShared), 1,
                    [&] { attend(c, arguments); });
  double worst = 0;
  for (int token = 0; token < c.tokens; ++token) {
    for (int head = 0; head < data.heads; ++head) {
      const auto [difference, whole] = squares(c, data, token, head);
      const double error = std::sqrt(difference / whole);
      worst = error > worst || std::isnan(error) ? error : worst;  // NaN is kept
    }
  }
  std::printf("%d tokens after %d: %.1e\n", c.tokens, c.past, worst);
  return worst < 5e-3;  // roundings of weights and results: 2e-3
}

int main() {
  bool all = true;
  for (const Case& c : {Case{1, 0, 1, 0}, Case{2, 1, 2, 5}, Case{17, 111, 1, 3}, Case{9, 700, 1, 200}}) {
    all = right(c) && all;
  }
  return all ? 0 : 1;
}
