// Copies of boxes of an array that tensor_map.h describes.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "ptx.cuh"

namespace qwen3vl {

// Brings the box that begins at (column, row) of one matrix to shared memory, at a multiple of 1024 bytes; all of its
// bytes count against `barrier`. `map` is a kernel argument, __grid_constant__.
__device__ __forceinline__ void tensor_copy(void* target, const CUtensorMap* map, int column, int row, int matrix,
                                            std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
      ::"r"(shared_address(target)),
      "l"(reinterpret_cast<std::uint64_t>(map)), "r"(column), "r"(row), "r"(matrix), "r"(shared_address(barrier))
      : "memory");
}

__device__ __forceinline__ void tensor_copy(void* target, const CUtensorMap* map, int column, int row, int matrix,
                                            std::uint64_t* barrier, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(target)),
      "l"(reinterpret_cast<std::uint64_t>(map)), "r"(column), "r"(row), "r"(matrix), "r"(shared_address(barrier)),
      "l"(policy)
      : "memory");
}

}  // namespace qwen3vl
