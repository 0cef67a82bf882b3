// Descriptions of arrays in global memory for the copy engine's tensor copies. Host only; they are kernel arguments.
#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "matrix_layout.h"

namespace qwen3vl {

// The driver's function, so that nothing has to be linked with the driver. Null where the driver lacks it.
inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) function = nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

// Describes [count, rows, columns] of 16-bit elements for copies of boxes of kPanelColumns x `box_rows` elements, which
// become panels as matrix_layout.h has them; what lies outside of a matrix becomes zeros, which count as copied.
// Columns are a multiple of 8, box_rows at most 256.
inline cudaError_t describe_matrices(CUtensorMap* map, CUtensorMapDataType type, const void* matrices,
                                     std::uint64_t count, std::uint64_t rows, std::uint64_t columns, int box_rows) {
  const auto encode = tensor_map_encoder();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint64_t sizes[3] = {columns, rows, count};
  const cuuint64_t strides[2] = {columns * 2, rows * columns * 2};  // bytes, of all dimensions but the first
  const cuuint32_t box[3] = {kPanelColumns, static_cast<cuuint32_t>(box_rows), 1};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult result =
      encode(map, type, 3, const_cast<void*>(matrices), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace qwen3vl
