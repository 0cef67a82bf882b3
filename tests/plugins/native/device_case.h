// Random cases of DeepstackAdd on the device, with their expected output. For checks of the kernel and of the plugin.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "deepstack_add.h"

namespace check {

inline void require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::exit(1);
}

inline void require_cuda(cudaError_t status, const char* what) {
  require(status == cudaSuccess, std::string(what) + ": " + cudaGetErrorString(status));
}

struct Shape {
  std::int64_t tokens, hidden_size, row_count;
  std::int32_t level, vocab_size;
  int type;                            // Qwen3vlType
  bool in_place, wide_rows;            // rows of float32, whatever the type
  std::int64_t hidden_shift, out_shift, rows_shift;  // elements by which an array starts after a 256-byte boundary
  double visual_share;                 // of the tokens; an eighth of them name a row beyond the table

  int rows_type() const { return wide_rows ? QWEN3VL_FLOAT32 : type; }

  std::string text() const {
    char buffer[256];
    std::snprintf(buffer, sizeof buffer,
                  "type %d, rows of type %d, %lld tokens, hidden size %lld, %lld rows, level %d, vocab_size %d, %s, shifts %lld %lld %lld",
                  type, rows_type(), static_cast<long long>(tokens), static_cast<long long>(hidden_size),
                  static_cast<long long>(row_count), level, vocab_size, in_place ? "in place" : "out of place",
                  static_cast<long long>(hidden_shift), static_cast<long long>(out_shift),
                  static_cast<long long>(rows_shift));
    return buffer;
  }
};

// What a call gets: device pointers, `visual_rows` null for an empty table.
struct Operands {
  void* out;
  const void* hidden;
  const std::int32_t* token_ids;
  const void* visual_rows;
  cudaStream_t stream;
};

using Operator = std::function<int(const Shape&, const Operands&)>;

template <typename T>
T from_double(double value) {
  if constexpr (std::is_same_v<T, __half>) return __double2half(value);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>) return __double2bfloat16(value);
  else return static_cast<T>(value);
}

template <typename T>
double to_double(T value) {
  return static_cast<double>(static_cast<float>(value));
}

// An array on the device between two guards, whose bytes a correct kernel leaves alone.
class GuardedArray {
 public:
  GuardedArray(std::size_t bytes, std::size_t shift) : bytes_(bytes), shift_(kGuard + shift) {
    host_.assign(shift_ + bytes_ + kGuard, kPoison);
    require_cuda(cudaMalloc(&device_, host_.size()), "cudaMalloc");
    upload();
  }
  ~GuardedArray() { cudaFree(device_); }
  GuardedArray(const GuardedArray&) = delete;
  GuardedArray& operator=(const GuardedArray&) = delete;

  void* data() const { return static_cast<char*>(device_) + shift_; }
  void set(const void* source) {
    if (bytes_ != 0) std::memcpy(host_.data() + shift_, source, bytes_);
    upload();
  }
  // Copies the array back; requires the guards to be whole.
  void get(void* target) {
    require_cuda(cudaMemcpy(host_.data(), device_, host_.size(), cudaMemcpyDeviceToHost), "copy from the device");
    for (std::size_t i = 0; i < host_.size(); ++i)
      if (i < shift_ || i >= shift_ + bytes_) require(host_[i] == kPoison, "a byte outside the output was written");
    if (bytes_ != 0) std::memcpy(target, host_.data() + shift_, bytes_);
  }

 private:
  static constexpr std::size_t kGuard = 256;
  static constexpr unsigned char kPoison = 0xA5;
  void upload() {
    require_cuda(cudaMemcpy(device_, host_.data(), host_.size(), cudaMemcpyHostToDevice), "copy to the device");
  }
  std::size_t bytes_, shift_;
  std::vector<unsigned char> host_;
  void* device_ = nullptr;
};

inline std::vector<std::int32_t> random_ids(const Shape& shape, std::mt19937_64& random) {
  std::uniform_real_distribution<double> share(0, 1);
  std::uniform_int_distribution<std::int32_t> text(std::numeric_limits<std::int32_t>::min(), shape.vocab_size - 1);
  std::uniform_int_distribution<std::int32_t> beyond(shape.vocab_size, std::numeric_limits<std::int32_t>::max());
  std::vector<std::int32_t> ids(static_cast<std::size_t>(shape.tokens));
  for (std::int32_t& id : ids) {
    if (share(random) >= shape.visual_share) {
      id = share(random) < 0.9 ? static_cast<std::int32_t>(random() % shape.vocab_size) : text(random);
    } else if (shape.row_count <= shape.level || share(random) < 0.125) {
      id = share(random) < 0.5 ? beyond(random)
                               : static_cast<std::int32_t>(shape.vocab_size + shape.row_count - shape.level);
      if (id < shape.vocab_size) id = beyond(random);
    } else {
      id = static_cast<std::int32_t>(shape.vocab_size + random() % (shape.row_count - shape.level));
    }
  }
  return ids;
}

// Runs one case. Table rows that no id names are NaN. The expected output is the sum in double, rounded once to the
// type, wide rows' to float32 before: the operator has to give exactly that, and exactly the input's bits for tokens
// that add no row.
template <typename T, typename Row = T>
void run_case_of(const Shape& shape, std::mt19937_64& random, const Operator& op, cudaStream_t stream) {
  const std::size_t width = static_cast<std::size_t>(shape.hidden_size);
  std::normal_distribution<double> normal(0, 8);
  const auto fill = [&](auto* values, std::size_t count) {
    using Value = std::remove_pointer_t<decltype(values)>;
    for (std::size_t i = 0; i < count; ++i) values[i] = from_double<Value>(normal(random));
  };
  const std::vector<std::int32_t> ids = random_ids(shape, random);
  std::vector<T> hidden(ids.size() * width);
  fill(hidden.data(), hidden.size());
  std::vector<Row> rows(static_cast<std::size_t>(shape.row_count) * width,
                        from_double<Row>(std::numeric_limits<double>::quiet_NaN()));
  std::vector<T> expected = hidden;
  for (std::size_t t = 0; t < ids.size(); ++t) {
    const std::int64_t row = static_cast<std::int64_t>(ids[t]) - shape.vocab_size + shape.level;
    if (ids[t] < shape.vocab_size || row >= shape.row_count) continue;
    Row* added = rows.data() + static_cast<std::size_t>(row) * width;
    if (width != 0 && std::isnan(to_double(added[0]))) fill(added, width);
    for (std::size_t i = 0; i < width; ++i) {
      const double sum = to_double(hidden[t * width + i]) + to_double(added[i]);
      expected[t * width + i] = from_double<T>(std::is_same_v<T, Row> ? sum : static_cast<float>(sum));
    }
  }

  GuardedArray device_hidden(hidden.size() * sizeof(T), shape.hidden_shift * sizeof(T));
  GuardedArray device_out(hidden.size() * sizeof(T), shape.out_shift * sizeof(T));
  GuardedArray device_rows(rows.size() * sizeof(Row), shape.rows_shift * sizeof(Row));
  GuardedArray device_ids(ids.size() * sizeof(std::int32_t), 0);
  device_hidden.set(hidden.data());
  device_rows.set(rows.data());
  device_ids.set(ids.data());
  GuardedArray& target = shape.in_place ? device_hidden : device_out;
  const Operands operands{target.data(), device_hidden.data(), static_cast<std::int32_t*>(device_ids.data()),
                          shape.row_count == 0 ? nullptr : device_rows.data(), stream};
  const int status = op(shape, operands);
  require(status == 0, shape.text() + ": returned " + std::to_string(status));
  require_cuda(cudaStreamSynchronize(stream), shape.text().c_str());

  std::vector<T> got(hidden.size());
  target.get(got.data());
  for (std::size_t i = 0; i < got.size(); ++i)
    require(std::memcmp(&got[i], &expected[i], sizeof(T)) == 0,
            shape.text() + ": element " + std::to_string(i) + " is " + std::to_string(to_double(got[i])) +
                ", expected " + std::to_string(to_double(expected[i])));
  if (!shape.in_place) {
    device_hidden.get(got.data());
    require(got.empty() || std::memcmp(got.data(), hidden.data(), got.size() * sizeof(T)) == 0,
            shape.text() + ": the input was changed");
  }
}

template <typename T>
void run_case_of_rows(const Shape& shape, std::mt19937_64& random, const Operator& op, cudaStream_t stream) {
  return shape.wide_rows ? run_case_of<T, float>(shape, random, op, stream) : run_case_of<T>(shape, random, op, stream);
}

inline void run_case(const Shape& shape, std::mt19937_64& random, const Operator& op, cudaStream_t stream) {
  switch (shape.type) {
    case QWEN3VL_FLOAT32: return run_case_of<float>(shape, random, op, stream);
    case QWEN3VL_FLOAT16: return run_case_of_rows<__half>(shape, random, op, stream);
    default: return run_case_of_rows<__nv_bfloat16>(shape, random, op, stream);
  }
}

// A random shape: small and large, hidden sizes that do and don't divide into 16 bytes, aligned and shifted arrays.
inline Shape random_shape(std::mt19937_64& random) {
  constexpr std::int64_t kSizes[] = {1, 2, 3, 7, 8, 16, 24, 64, 100, 257, 1024, 2048, 2056, 4097, 5120};
  constexpr std::int64_t kTokens[] = {0, 1, 2, 5, 64, 100, 333};
  constexpr double kShares[] = {0, 0.1, 0.5, 1};
  const auto below = [&](std::uint64_t bound) { return static_cast<std::int64_t>(random() % bound); };
  Shape shape{};
  shape.type = static_cast<int>(below(3));
  shape.tokens = kTokens[below(std::size(kTokens))];
  shape.hidden_size = kSizes[below(std::size(kSizes))];
  shape.row_count = below(4) == 0 ? 0 : 4 * (1 + below(64));
  shape.level = static_cast<std::int32_t>(below(4));
  shape.vocab_size = below(2) == 0 ? 151936 : 1 + static_cast<std::int32_t>(below(1000));
  shape.in_place = below(2) == 0;
  if (below(2) == 0) shape.hidden_shift = below(9), shape.out_shift = below(9), shape.rows_shift = below(9);
  shape.visual_share = kShares[below(std::size(kShares))];
  return shape;
}

}  // namespace check
