// Which table row a token adds. Plain C++, for host and device.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define DEEPSTACK_ADD_HOST_DEVICE __host__ __device__
#else
#define DEEPSTACK_ADD_HOST_DEVICE
#endif

namespace qwen3vl {

constexpr std::int64_t kNoRow = -1;

// Row `id - vocab_size + level` where the id means a visual token (id >= vocab_size) and the table has that row; else
// kNoRow. Defined for all arguments: the sum is taken in 64 bits, where no three 32-bit numbers overflow, and a
// negative row, which a negative level can ask for, is beyond any table as an unsigned number.
DEEPSTACK_ADD_HOST_DEVICE constexpr std::int64_t row_index(
    std::int32_t id, std::int32_t level, std::int32_t vocab_size, std::int64_t row_count) {
  const std::int64_t row = static_cast<std::int64_t>(id) - vocab_size + level;
  const bool known = id >= vocab_size && static_cast<std::uint64_t>(row) < static_cast<std::uint64_t>(row_count);
  return known ? row : kNoRow;
}

}  // namespace qwen3vl
