// How matrices of 16-bit elements lie in shared memory for wgmma, and the 64-bit descriptors that say so. Plain C++,
// for host and device. PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout".
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define QWEN3VL_LAYOUT_FUNCTION __host__ __device__ constexpr
#else
#define QWEN3VL_LAYOUT_FUNCTION constexpr
#endif

namespace qwen3vl {

QWEN3VL_LAYOUT_FUNCTION std::uint64_t matrix_fields(std::uint32_t address, int leading, int stride) {
  return static_cast<std::uint64_t>((address & 0x3FFFF) >> 4) | static_cast<std::uint64_t>(leading >> 4) << 16 |
         static_cast<std::uint64_t>(stride >> 4) << 32;
}

// Without swizzle: 8 x 8 blocks of 128 bytes, `leading` bytes apart along the products' inner dimension and `stride`
// bytes apart along the other. (For the matrix that is read transposed, too.)
QWEN3VL_LAYOUT_FUNCTION std::uint64_t plain_matrix(std::uint32_t address, int leading, int stride) {
  return matrix_fields(address, leading, stride);
}

// With the swizzle of 128 bytes: panels [rows][64 elements], one behind another, of matrices whose rows are longer. A
// panel's rows are 128 bytes, whose 8 pieces of 16 bytes change places as `swizzled` says; panels begin at multiples of
// 1024 bytes, and rows are a multiple of 8. So does the tensor copy with CU_TENSOR_MAP_SWIZZLE_128B write a box of 64 x
// rows elements.
constexpr int kPanelColumns = 64, kPanelRowBytes = 128;

// Where byte `offset` of a panel lies in it.
QWEN3VL_LAYOUT_FUNCTION int swizzled(int offset) { return offset ^ (offset >> 3 & 0x70); }

// Where element (row, column) of a matrix of panels lies, in bytes.
QWEN3VL_LAYOUT_FUNCTION int panel_offset(int row, int column, int rows) {
  return column / kPanelColumns * rows * kPanelRowBytes +
         swizzled(row * kPanelRowBytes + column % kPanelColumns * 2);
}

constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;

// A panel matrix whose rows lie along the products' inner dimension. 16 elements further along it, within a panel, the
// descriptor is kRowStep more; the next panel is rows * kPanelRowBytes / 16 more; `n` rows on, n a multiple of 8, n *
// kPanelRowBytes / 16.
QWEN3VL_LAYOUT_FUNCTION std::uint64_t row_panels(std::uint32_t address) {
  return matrix_fields(address, 16, 8 * kPanelRowBytes) | kSwizzle128;  // the first distance is not used
}
constexpr int kRowStep = 16 * 2 / 16;

// A panel matrix whose rows lie along the outer dimension, as `multiply_registers` reads it. 16 rows further the
// descriptor is kColumnStep more.
QWEN3VL_LAYOUT_FUNCTION std::uint64_t column_panels(std::uint32_t address, int rows) {
  return matrix_fields(address, rows * kPanelRowBytes, 8 * kPanelRowBytes) | kSwizzle128;
}
constexpr int kColumnStep = 16 * kPanelRowBytes / 16;

}  // namespace qwen3vl
