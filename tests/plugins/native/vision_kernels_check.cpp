// The vision kernels on a GPU against double arithmetic on the CPU, over random sizes.
//
//   vision_kernels_check [cases] [seed]
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "vision_kernels.h"

namespace {

constexpr std::size_t kGuard = 256;  // bytes behind each array that no kernel may write
constexpr unsigned char kFill = 0xFF;  // a NaN in every type: what is not written, or read unwritten, shows

void require(int status, const char* what) {
  if (status == 0) return;
  std::printf("%s: CUDA error %d (%s)\n", what, status, cudaGetErrorString(static_cast<cudaError_t>(status)));
  std::exit(1);
}

// An array on the device, filled with NaNs, with a guard behind it.
struct Device {
  explicit Device(std::size_t size) : bytes(size) {
    require(cudaMalloc(&data, bytes + kGuard), "cudaMalloc");
    require(cudaMemset(data, kFill, bytes + kGuard), "cudaMemset");
  }
  Device(const Device&) = delete;
  ~Device() { cudaFree(data); }

  void set(const void* values) { require(cudaMemcpy(data, values, bytes, cudaMemcpyHostToDevice), "cudaMemcpy"); }
  void get(void* values) const { require(cudaMemcpy(values, data, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy"); }
  bool guard_is_whole() const {
    unsigned char guard[kGuard];
    require(cudaMemcpy(guard, static_cast<unsigned char*>(data) + bytes, kGuard, cudaMemcpyDeviceToHost), "cudaMemcpy");
    for (unsigned char byte : guard)
      if (byte != kFill) return false;
    return true;
  }

  void* data = nullptr;
  std::size_t bytes;
};

template <typename T>
double rounded(double x) {
  return static_cast<float>(T(static_cast<float>(x)));
}

template <typename T>
struct Array {
  std::vector<T> host;
  Device device;

  Array(std::size_t count, std::mt19937& random, double scale) : host(count), device(count * sizeof(T)) {
    std::normal_distribution<float> normal(0.0f, static_cast<float>(scale));
    for (T& x : host) x = T(normal(random));
    device.set(host.data());
  }
  double operator[](std::size_t i) const { return static_cast<float>(host[i]); }
};

// ||a - b|| / ||b||; infinite where a is not finite.
template <typename T>
double distance(const Device& actual, const std::vector<double>& expected) {
  std::vector<T> host(expected.size());
  actual.get(host.data());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double x = static_cast<float>(host[i]);
    if (!std::isfinite(x)) return INFINITY;
    difference += (x - expected[i]) * (x - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

struct Sizes {
  int frames, patches, heads, head;
};

// As the kernel rounds: queries (times the scale) and keys after their rotation, values after their bias.
template <typename T>
std::vector<double> attention(const Sizes& s, const Array<T>& qkv, const Array<T>& bias, const Array<float>& cosines,
                              const Array<float>& sines) {
  const int hidden = s.heads * s.head, half = s.head / 2;
  const double factor = 1.0 / std::log(2.0) / std::sqrt(static_cast<double>(s.head));
  std::vector<double> out(static_cast<std::size_t>(s.frames) * s.patches * hidden);
  std::vector<double> parts[3];
  for (auto& part : parts) part.resize(static_cast<std::size_t>(s.patches) * s.head);
  std::vector<double> scores(s.patches);
  for (int frame = 0; frame < s.frames; ++frame)
    for (int head = 0; head < s.heads; ++head) {
      for (int p = 0; p < s.patches; ++p)
        for (int part = 0; part < 3; ++part)
          for (int d = 0; d < s.head; ++d) {
            const auto at = [&](int dimension) {
              const int column = part * hidden + head * s.head + dimension;
              return qkv[(static_cast<std::size_t>(frame) * s.patches + p) * 3 * hidden + column] + bias[column];
            };
            double x = at(d);
            if (part < 2) {
              const int angle = p * half + d % half;
              x = x * cosines[angle] + (d < half ? -at(d + half) : at(d - half)) * sines[angle];
            }
            parts[part][p * s.head + d] = rounded<T>(part == 0 ? x * factor : x);
          }
      for (int p = 0; p < s.patches; ++p) {
        double top = -INFINITY, sum = 0;
        for (int k = 0; k < s.patches; ++k) {
          scores[k] = 0;
          for (int d = 0; d < s.head; ++d) scores[k] += parts[0][p * s.head + d] * parts[1][k * s.head + d];
          top = std::max(top, scores[k]);
        }
        for (double& score : scores) sum += score = std::exp2(score - top);
        double* row = &out[((static_cast<std::size_t>(frame) * s.patches + p) * s.heads + head) * s.head];
        for (int k = 0; k < s.patches; ++k)
          for (int d = 0; d < s.head; ++d) row[d] += scores[k] / sum * parts[2][k * s.head + d];
      }
    }
  return out;
}

template <typename T>
double check_attention(std::mt19937& random, int type) {
  const auto between = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  const Sizes s{between(1, 3), between(1, 420), between(1, 3), between(0, 1) ? 72 : 64};
  const int hidden = s.heads * s.head, half = s.head / 2;
  const std::size_t tokens = static_cast<std::size_t>(s.frames) * s.patches;
  const Array<T> qkv(tokens * 3 * hidden, random, between(1, 4)), bias(3 * hidden, random, 0.5);
  Array<float> cosines(static_cast<std::size_t>(s.patches) * half, random, 1), sines(cosines.host.size(), random, 1);
  for (std::size_t i = 0; i < cosines.host.size(); ++i) {
    const float angle = cosines.host[i] * 50;
    cosines.host[i] = std::cos(angle), sines.host[i] = std::sin(angle);
  }
  cosines.device.set(cosines.host.data()), sines.device.set(sines.host.data());
  Device out(tokens * hidden * sizeof(T));
  Device workspace(qwen3vl_vision_attention_workspace(s.frames, s.patches, s.heads, s.head));
  require(qwen3vl_vision_attention(out.data, qkv.device.data, bias.device.data,
                                   static_cast<float*>(cosines.device.data), static_cast<float*>(sines.device.data),
                                   workspace.data, s.frames, s.patches, s.heads, s.head, type, nullptr),
          "attention");
  require(cudaDeviceSynchronize(), "attention");
  const double error = distance<T>(out, attention(s, qkv, bias, cosines, sines));
  return out.guard_is_whole() && workspace.guard_is_whole() ? error : INFINITY;
}

template <typename T>
double check_gelu(std::mt19937& random, int type) {
  const int rows = std::uniform_int_distribution<int>(1, 50)(random);
  const int columns = 8 * std::uniform_int_distribution<int>(1, 100)(random);
  const Array<T> x(static_cast<std::size_t>(rows) * columns, random, 3), bias(columns, random, 1);
  std::vector<double> expected(x.host.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double sum = x[i] + bias[i % columns];
    expected[i] = 0.5 * sum * (1 + std::tanh(std::sqrt(2 / M_PI) * (sum + 0.044715 * sum * sum * sum)));
  }
  Device out(x.device.bytes);
  require(qwen3vl_bias_gelu(out.data, x.device.data, bias.device.data, rows, columns, type, nullptr), "bias_gelu");
  const double error = distance<T>(out, expected);
  return out.guard_is_whole() ? error : INFINITY;
}

template <typename T>
double check_positions(std::mt19937& random, int type) {
  const int frames = std::uniform_int_distribution<int>(1, 3)(random);
  const int patches = std::uniform_int_distribution<int>(1, 60)(random);
  const int hidden = 8 * std::uniform_int_distribution<int>(1, 40)(random), rows = 37;
  const Array<T> x(static_cast<std::size_t>(frames) * patches * hidden, random, 1), bias(hidden, random, 1),
      table(static_cast<std::size_t>(rows) * hidden, random, 1);
  const Array<float> weights(patches * 4, random, 1);
  std::vector<int> indices(patches * 4);
  for (int& index : indices) index = std::uniform_int_distribution<int>(-1, rows)(random);  // the ends are outside
  Device device_indices(indices.size() * sizeof(int));
  device_indices.set(indices.data());
  std::vector<double> expected(x.host.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::size_t column = i % hidden, patch = i / hidden % patches;
    expected[i] = x[i] + bias[column];
    for (std::size_t tap = patch * 4; tap < patch * 4 + 4; ++tap)
      if (indices[tap] >= 0 && indices[tap] < rows) expected[i] += weights[tap] * table[indices[tap] * hidden + column];
  }
  Device out(x.device.bytes);
  require(qwen3vl_add_positions(out.data, x.device.data, bias.device.data, table.device.data,
                                static_cast<int*>(device_indices.data), static_cast<float*>(weights.device.data),
                                frames, patches, hidden, rows, type, nullptr),
          "add_positions");
  const double error = distance<T>(out, expected);
  return out.guard_is_whole() ? error : INFINITY;
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 60, seed = argc > 2 ? std::atoi(argv[2]) : 1;
  // About twice what rounding the result, and attention's weights, to the type leaves.
  constexpr double kLimits[] = {6e-4, 5e-3};
  std::mt19937 random(seed);
  double worst[3][2] = {};
  for (int i = 0; i < cases; ++i) {
    constexpr int kHalf = QWEN3VL_VISION_FLOAT16, kBfloat = QWEN3VL_VISION_BFLOAT16;
    const double errors[3][2] = {
        {check_attention<__half>(random, kHalf), check_attention<__nv_bfloat16>(random, kBfloat)},
        {check_gelu<__half>(random, kHalf), check_gelu<__nv_bfloat16>(random, kBfloat)},
        {check_positions<__half>(random, kHalf), check_positions<__nv_bfloat16>(random, kBfloat)}};
    for (int kernel = 0; kernel < 3; ++kernel)
      for (int type = 0; type < 2; ++type) {
        worst[kernel][type] = std::max(worst[kernel][type], errors[kernel][type]);
        if (errors[kernel][type] > kLimits[type]) {
          std::printf("case %d of seed %d, kernel %d, type %d: error %g\n", i, seed, kernel, type,
                      errors[kernel][type]);
          return 1;
        }
      }
  }
  if (qwen3vl_vision_attention_supports(80) || qwen3vl_bias_gelu(nullptr, nullptr, nullptr, 1, 7, 1, nullptr) == 0) {
    std::puts("sizes without kernels are not refused");
    return 1;
  }
  std::printf("vision kernels: %d cases; largest errors in fp16 and bf16: attention %.1e %.1e, gelu %.1e %.1e, "
              "positions %.1e %.1e\n",
              cases, worst[0][0], worst[0][1], worst[1][0], worst[1][1], worst[2][0], worst[2][1]);
}
