// Swizzled matrices: every element has its place, and the matrix units, told so by a descriptor, look for it there.
#include "matrix_layout.h"
#include "expect.h"

#include <set>

using namespace qwen3vl;

// A descriptor's fields, as the PTX ISA has them: bits 0 to 13, 16 to 29, 32 to 45 and 62 to 63.
struct Fields {
  int start, leading, stride, swizzle;
  explicit Fields(std::uint64_t descriptor)
      : start(static_cast<int>(descriptor & 0x3FFF) * 16), leading(static_cast<int>(descriptor >> 16 & 0x3FFF) * 16),
        stride(static_cast<int>(descriptor >> 32 & 0x3FFF) * 16), swizzle(static_cast<int>(descriptor >> 62)) {}
};

// The swizzle of 128 bytes acts on addresses: bits 4 to 6 are exchanged by bits 7 to 9.
int exchanged(int address) { return address ^ ((address >> 7 & 7) << 4); }

// Where element (row, k) is read of an operand whose rows lie along the inner dimension k: 8 rows of 128 bytes, then
// `stride` further.
int row_address(std::uint64_t descriptor, int row, int k) {
  const Fields fields(descriptor);
  return exchanged(fields.start + row / 8 * fields.stride + row % 8 * 128 + k * 2);
}

// The same where they lie along the outer one, n: 64 of n and 8 of k together; further k by `stride`, further n by
// `leading`.
int column_address(std::uint64_t descriptor, int n, int k) {
  const Fields fields(descriptor);
  return exchanged(fields.start + n / 64 * fields.leading + k / 8 * fields.stride + k % 8 * 128 + n % 64 * 2);
}

int main() {
  constexpr int kColumns = 128;
  for (const int rows : {64, 128}) {
    std::set<int> places;
    for (int row = 0; row < rows; ++row) {
      for (int column = 0; column < kColumns; ++column) places.insert(panel_offset(row, column, rows));
    }
    EXPECT(static_cast<int>(places.size()) == rows * kColumns);
    EXPECT(*places.begin() == 0 && *places.rbegin() == (rows * kColumns - 1) * 2);
    for (const int base : {0, 1024, 160 * 1024, 226 * 1024}) {
      EXPECT(Fields(row_panels(base)).swizzle == 1 && Fields(column_panels(base, rows)).swizzle == 1);
      for (int row = 0; row < rows; ++row) {
        for (int column = 0; column < kColumns; ++column) {
          const int place = base + panel_offset(row, column, rows);
          const int panel = column / kPanelColumns, step = column % kPanelColumns / 16;
          EXPECT(row_address(row_panels(base) + panel * rows * kPanelRowBytes / 16 + step * kRowStep, row,
                             column % 16) == place);
          EXPECT(column_address(column_panels(base, rows) + row / 16 * kColumnStep, column, row % 16) == place);
          // Eight neighbours that begin a piece stay together: 16 bytes can be written or read at once.
          EXPECT(place - base == panel_offset(row, column / 8 * 8, rows) + column % 8 * 2);
          // A row of a panel stays within its 128 bytes.
          EXPECT((place - base) / kPanelRowBytes == panel * rows + row);
        }
      }
    }
  }
  return 0;
}
