// row_index() against 128-bit arithmetic, and the same function for callers of another language.
// Built as a program it runs the check; as a shared library it offers row_indices().

#include "row_index.h"

#include <cstdio>
#include <limits>

namespace {

constexpr std::int32_t kLowest = std::numeric_limits<std::int32_t>::min();
constexpr std::int32_t kHighest = std::numeric_limits<std::int32_t>::max();

static_assert(qwen3vl::row_index(99, 0, 100, 8) == qwen3vl::kNoRow);
static_assert(qwen3vl::row_index(100, 0, 100, 8) == 0);
static_assert(qwen3vl::row_index(104, 3, 100, 8) == 7);
static_assert(qwen3vl::row_index(104, 4, 100, 8) == qwen3vl::kNoRow);
static_assert(qwen3vl::row_index(100, 0, 100, 0) == qwen3vl::kNoRow);
static_assert(qwen3vl::row_index(kHighest, kHighest, kLowest, std::int64_t{1} << 40) == 6442450942);

std::int64_t by_definition(std::int32_t id, std::int32_t level, std::int32_t vocab_size, std::int64_t row_count) {
  const __int128 row = static_cast<__int128>(id) - vocab_size + level;
  return id >= vocab_size && row >= 0 && row < row_count ? static_cast<std::int64_t>(row) : qwen3vl::kNoRow;
}

}  // namespace

extern "C" void row_indices(const std::int32_t* ids, std::int64_t count, std::int32_t level, std::int32_t vocab_size,
                            std::int64_t row_count, std::int64_t* rows) {
  for (std::int64_t i = 0; i < count; ++i) rows[i] = qwen3vl::row_index(ids[i], level, vocab_size, row_count);
}

int main() {
  constexpr std::int32_t kNumbers[] = {kLowest, kLowest + 1, -151936, -1, 0, 1, 3, 151935, 151936, 151939, kHighest - 1,
                                       kHighest};
  constexpr std::int64_t kCounts[] = {0, 1, 4, 151936, std::int64_t{1} << 31, (std::int64_t{1} << 31) - 1};
  int checked = 0;
  for (const std::int32_t id : kNumbers)
    for (const std::int32_t level : kNumbers)
      for (const std::int32_t vocab_size : kNumbers)
        for (const std::int64_t row_count : kCounts) {
          const std::int64_t got = qwen3vl::row_index(id, level, vocab_size, row_count);
          const std::int64_t expected = by_definition(id, level, vocab_size, row_count);
          if (got != expected) {
            std::fprintf(stderr, "row_index(%d, %d, %d, %lld) is %lld, expected %lld\n", id, level, vocab_size,
                         static_cast<long long>(row_count), static_cast<long long>(got),
                         static_cast<long long>(expected));
            return 1;
          }
          ++checked;
        }
  std::printf("row_index: %d cases agree\n", checked);
  return 0;
}
