// The weight rows of one stage: where they are in memory, and how they come to the ring (stream_memory.cuh) or ahead of
// that to the second-level cache.
#pragma once

#include <cstdint>

#include "ptx.cuh"
#include "stream_memory.cuh"

namespace qwen3vl {

// Two pieces of `bytes` each, the second behind the first. 0 bytes copy nothing, but pass the tag on.
struct StageRows {
  const std::uint8_t* source;
  int bytes, tag;
};

// A stage with what comes with its rows, where the memory has room for that.
struct StageRowsAndExtra : StageRows {
  const std::uint8_t* extra;
  int extra_bytes;
};

// Parts of rows: `row_bytes` of each, `pitch` bytes apart in memory. At most 32 of them, half in each piece.
struct StageApartRows : StageRows {
  int row_bytes, pitch;

  __device__ __forceinline__ int rows() const { return 2 * bytes / row_bytes; }
  __device__ __forceinline__ const std::uint8_t* row(int i) const {
    return source + static_cast<std::int64_t>(i) * pitch;
  }
};

// Starts the copies to a stage. Called by a whole warp, as are the following.
template <typename Memory>
__device__ __forceinline__ void copy_rows(Memory& memory, int stage, const StageRows& rows, std::uint64_t policy,
                                          int lane) {
  if (lane != 0) return;
  memory.tags[stage] = rows.tag;
  barrier_arrive_expecting(&memory.full[stage], static_cast<std::uint32_t>(2 * rows.bytes));
  if (rows.bytes == 0) return;
  const auto bytes = static_cast<std::uint32_t>(rows.bytes);
  bulk_copy(memory.stages[stage], rows.source, bytes, &memory.full[stage], policy);
  bulk_copy(memory.stages[stage] + bytes + kPieceGap, rows.source + bytes, bytes, &memory.full[stage], policy);
}

template <typename Memory>
__device__ __forceinline__ void copy_rows(Memory& memory, int stage, const StageRowsAndExtra& rows,
                                          std::uint64_t policy, int lane) {
  if (lane != 0) return;
  memory.tags[stage] = rows.tag;
  barrier_arrive_expecting(&memory.full[stage], static_cast<std::uint32_t>(2 * rows.bytes + rows.extra_bytes));
  if (rows.bytes == 0) return;
  const auto bytes = static_cast<std::uint32_t>(rows.bytes);
  bulk_copy(memory.stages[stage], rows.source, bytes, &memory.full[stage], policy);
  bulk_copy(memory.stages[stage] + bytes + kPieceGap, rows.source + bytes, bytes, &memory.full[stage], policy);
  bulk_copy(memory.stages[stage] + Memory::kExtraOffset, rows.extra, static_cast<std::uint32_t>(rows.extra_bytes),
            &memory.full[stage], policy);
}

// A lane for each row.
template <typename Memory>
__device__ __forceinline__ void copy_rows(Memory& memory, int stage, const StageApartRows& rows, std::uint64_t policy,
                                          int lane) {
  if (lane == 0) {
    memory.tags[stage] = rows.tag;
    barrier_arrive_expecting(&memory.full[stage], static_cast<std::uint32_t>(2 * rows.bytes));
  }
  __syncwarp();
  if (lane >= rows.rows()) return;
  const int place = lane * rows.row_bytes;
  bulk_copy(memory.stages[stage] + place + (place >= rows.bytes ? kPieceGap : 0), rows.row(lane),
            static_cast<std::uint32_t>(rows.row_bytes), &memory.full[stage], policy);
}

// Brings a stage's rows into the second-level cache. Called by one thread, as are the following.
__device__ __forceinline__ void prefetch_rows(const StageRows& rows) {
  bulk_prefetch(rows.source, static_cast<std::uint32_t>(2 * rows.bytes));
}

__device__ __forceinline__ void prefetch_rows(const StageRowsAndExtra& rows) {
  prefetch_rows(static_cast<const StageRows&>(rows));
  bulk_prefetch(rows.extra, static_cast<std::uint32_t>(rows.extra_bytes));
}

__device__ __forceinline__ void prefetch_rows(const StageApartRows& rows) {
  for (int i = 0; i < rows.rows(); ++i) bulk_prefetch(rows.row(i), static_cast<std::uint32_t>(rows.row_bytes));
}

}  // namespace qwen3vl
