// plugins/hopper/tensor_copy.cuh for a CPU. A description holds a Matrices instead of what the driver would write.
#pragma once

#include <cuda.h>

#include "ptx.cuh"

namespace emulation {

struct Matrices {
  const void* elements;  // 16 bits each
  int count, rows, columns, box_rows;
};

}  // namespace emulation

namespace qwen3vl {

inline void tensor_copy(void* target, const CUtensorMap* map, int column, int row, int matrix, std::uint64_t* barrier) {
  constexpr int kColumns = 64;  // of a box: 128 bytes, the swizzle's rows
  ::emulation::Matrices all;
  std::memcpy(&all, map, sizeof(all));
  if (shared_address(target) % 1024 != 0) ::emulation::fail("a tensor copy to no multiple of 1024 bytes");
  ::emulation::yield();  // it takes its time
  for (int r = 0; r < all.box_rows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      const bool there = row + r < all.rows && column + c < all.columns && matrix < all.count;
      const std::size_t at = (static_cast<std::size_t>(matrix) * all.rows + row + r) * all.columns + column + c;
      const std::uint16_t element = there ? static_cast<const std::uint16_t*>(all.elements)[at] : 0;
      const int place = r * kColumns * 2 + c * 2;
      std::memcpy(static_cast<std::uint8_t*>(target) + (place ^ (place >> 7 & 7) << 4), &element, sizeof(element));
    }
  }
  barrier_receive(barrier, all.box_rows * kColumns * 2);
}

}  // namespace qwen3vl
