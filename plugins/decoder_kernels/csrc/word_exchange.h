// How four neighbouring lanes exchange words so that each can write 16 bytes at once. Plain C++, for host and device.
//
// A lane has a word of each of four matrices, and wants all four lanes' words of one: lane q ends with word x of matrix
// q from lane x. That takes two rounds; in each, a lane sends two words to the lane whose number differs in the round's
// bit, and what it gets takes their places.
#pragma once

#include <cstdint>

#include "partition.h"

namespace qwen3vl {

constexpr int kExchangeRounds = 2;

// The lesser of the two words that `exchange` (0 or 1) of a round is about; the other is 1 << round further.
QWEN3VL_HOST_DEVICE constexpr int lesser_word(int round, int exchange) { return round == 0 ? 2 * exchange : exchange; }

QWEN3VL_HOST_DEVICE inline std::uint32_t word_to_send(const std::uint32_t (&words)[4], int lane, int round,
                                                      int exchange) {
  const int lesser = lesser_word(round, exchange);
  return (lane >> round & 1) != 0 ? words[lesser] : words[lesser + (1 << round)];
}

QWEN3VL_HOST_DEVICE inline void accept_word(std::uint32_t (&words)[4], int lane, int round, int exchange,
                                            std::uint32_t word) {
  const int lesser = lesser_word(round, exchange);
  if ((lane >> round & 1) != 0) {
    words[lesser] = word;
  } else {
    words[lesser + (1 << round)] = word;
  }
}

// With the sums of a product, rounded and transposed so that a lane has two rows' values of column lane / 4: after the
// exchange it has eight neighbouring rows of one column. Which, where the four words are
// - rows 0 to 7 and 8 to 15 of columns 0 to 7, then of columns 8 to 15:
QWEN3VL_HOST_DEVICE constexpr int column_of_sixteen(int lane) { return lane % 4 / 2 * 8 + lane / 4; }
// - rows 0 to 7 and 8 to 15 of one matrix, then of another one, the same columns:
QWEN3VL_HOST_DEVICE constexpr int column_of_eight(int lane) { return lane / 4; }
QWEN3VL_HOST_DEVICE constexpr int matrix_of_two(int lane) { return lane % 4 / 2; }
// - either way, the first of the eight rows:
QWEN3VL_HOST_DEVICE constexpr int first_row(int lane) { return lane % 2 * 8; }

}  // namespace qwen3vl
