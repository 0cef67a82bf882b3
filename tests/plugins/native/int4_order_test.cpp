// What a lane of a kernel reads of a row of 4-bit codes, by the index arithmetic of int4_order.h.
#include "int4_order.h"

#include <cstdint>
#include <cstring>

namespace {

// Of each run of 32 k from first_k on, the lane's eight values: the halves of four registers, lower half first.
template <typename Widen>
void read(const std::uint8_t* row, int first_k, int count, int q, std::uint16_t* out, Widen widen) {
  for (int k = first_k; k < first_k + count; k += 64) {
    std::uint32_t words[2];
    std::memcpy(words, row + qwen3vl::lane_codes(k, q), sizeof words);
    for (const std::uint32_t word : words) {
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t pair = widen(word, j);
        *out++ = static_cast<std::uint16_t>(pair);
        *out++ = static_cast<std::uint16_t>(pair >> 16);
      }
    }
  }
}

}  // namespace

extern "C" void read_bfloat16(const std::uint8_t* row, int first_k, int count, int q, std::uint16_t* out) {
  read(row, first_k, count, q, out, qwen3vl::bfloat16_codes);
}

extern "C" void read_float16(const std::uint8_t* row, int first_k, int count, int q, std::uint16_t* out) {
  read(row, first_k, count, q, out, qwen3vl::float16_codes);
}

extern "C" int segment_of(int slice, int block) { return qwen3vl::segment_of(slice, block); }
