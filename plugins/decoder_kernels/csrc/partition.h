// How work is divided among blocks. Plain C++, for host and device.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define QWEN3VL_HOST_DEVICE __host__ __device__
#else
#define QWEN3VL_HOST_DEVICE
#endif

namespace qwen3vl {

struct Range {
  std::int32_t begin, end;
};

// The part of `count` items that block `index` of `blocks` takes: neighbouring items, at most one more than any other
// block's.
QWEN3VL_HOST_DEVICE constexpr Range share_of(std::int32_t count, std::int32_t index, std::int32_t blocks) {
  const std::int64_t n = count;
  return {static_cast<std::int32_t>(n * index / blocks), static_cast<std::int32_t>(n * (index + 1) / blocks)};
}

// Groups of at most `size` that `count` items make.
QWEN3VL_HOST_DEVICE constexpr std::int32_t groups_of(std::int32_t count, std::int32_t size) {
  return (count + size - 1) / size;
}

}  // namespace qwen3vl
