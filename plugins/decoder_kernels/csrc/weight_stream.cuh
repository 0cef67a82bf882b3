// Products of few tokens with many weight rows, bound by reading the weights once.
//
// Weights come as stages, some neighbouring rows each, into a ring in shared memory. All eight warps multiply each
// stage: a warp has its own part of k, whose part of the tokens stays in registers. A stage is free again as soon as
// all have read it into registers; warp 0 then starts the copy that is due. The parts of a tile are summed through
// shared memory by two of the other warps, in rotation, while the rest go on. How a stage is multiplied depends on what
// its rows are: wide_rows.cuh, int4_rows.cuh.
//
// With one half tile of tokens (8), a block takes at most half of a multiprocessor, so that the next kernel's blocks
// fit beside it and fill their rings while it runs.
#pragma once

#include <cstdint>

#include "ptx.cuh"

namespace qwen3vl {

constexpr int kStreamWarps = 8;
constexpr int kStreamThreads = kStreamWarps * 32;
constexpr int kHalfTile = 8;       // tokens
constexpr int kRowTile = 8;   // weight rows of one product
constexpr int kTurns = 3;     // pairs of warps that sum in turn: 2 and 3, 4 and 5, 6 and 7

// The rows of a stage are two pieces of memory, each of neighbouring rows and copied at once: many small copies are dear
// to start. The second lies 64 bytes further along the banks. Lane l reads row l / 8 of piece (l / 4) % 2, so that the 8
// lanes that are served at once, 2 rows x 4 runs of 16 bytes, are free of conflicts. Holds for pieces of a multiple of
// 128 bytes.
__host__ __device__ constexpr int stage_bytes(int piece_bytes) { return 2 * (piece_bytes + 64); }

// Where this lane's rows begin in a stage: fragment row `group`, of rows from `first_row` of each piece.
__device__ __forceinline__ int row_offset(int piece_bytes, int row_bytes, int first_row, int group) {
  return group % 2 * (piece_bytes + 64) + (first_row + group / 2) * row_bytes;
}

// Sums of each warp's part of k: [warp][row tile and half tile of tokens][lane]: of token l / 4, for row l % 4 of the
// first piece and of the second.
template <int kSums>
struct Partials {
  float2 sums[kStreamWarps][kSums][32];
};

// Stages that a block of `budget` bytes has room for, beside `other` bytes. `extra_bytes`: what a stage has behind its
// rows.
template <int kSums>
__host__ __device__ constexpr int stages_that_fit(int budget, int piece_bytes, int other = 0, int extra_bytes = 0) {
  constexpr int kPartials = sizeof(Partials<kSums>);
  return (budget - other - kPartials - 256) / (stage_bytes(piece_bytes) + extra_bytes + kPartials);
}

constexpr int kHalfBudget = 113 * 1024 - 512;  // of a multiprocessor's shared memory
constexpr int kFullBudget = 227 * 1024;

template <int kSumCount, int kStageCount, int kPieceBytes, int kExtraBytes = 0>
struct StreamMemory {
  static constexpr int kSums = kSumCount, kStages = kStageCount;
  // One more than stages: who reads a stage that comes this much later knows that all warps have left this tile behind,
  // as they have read the stage before it in its place.
  static constexpr int kBuffers = kStages + 1;
  static_assert(kStages > 1 && kBuffers < 16);  // a named barrier for each buffer
  static constexpr int kExtraOffset = stage_bytes(kPieceBytes);  // of a stage
  static constexpr bool kExtra = kExtraBytes > 0;
  static_assert((kExtraOffset + kExtraBytes) % 128 == 0);
  alignas(128) std::uint8_t stages[kStages][kExtraOffset + kExtraBytes];
  Partials<kSums> partials[kBuffers];
  std::uint64_t full[kStages], empty[kStages];
  int tags[kStages];  // what the kernel notes of a stage

  // Called by one thread; a block barrier has to follow.
  __device__ void init() {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&full[i], 1);
      barrier_init(&empty[i], kStreamWarps);
    }
    barrier_init_done();
  }
};

// One stage: two pieces of `bytes` each, the second behind the first. 0 bytes copy nothing, but pass the tag on.
struct StageRows {
  const std::uint8_t* source;
  int bytes, tag;
};

// A stage with what comes with its rows, where the memory has room for that.
struct StageRowsAndExtra : StageRows {
  const std::uint8_t* extra;
  int extra_bytes;
};

// `Source` has `bool next(Stage&)` for its `Stage`, one of the two above, called by warp 0 only: the rows of the next
// stage, or false after the last. Of each stage, all warps wait for it, read it, give it back, and call `refill`.
template <typename Memory, typename Source>
class WeightStream {
 public:
  static constexpr int kStages = Memory::kStages;

  __device__ WeightStream(Memory& memory, const Source& source)
      : memory_(memory), source_(source), policy_(streaming_policy()), warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32) {}

  // Starts the first copies.
  __device__ __forceinline__ void start() {
    if (warp_ != 0) return;
    for (int i = 0; i < kStages; ++i) copy(i);
  }

  // Brings up to `stages` of what does not fit the ring yet into the second-level cache. For a few at the start only: a
  // long stream is slower for it.
  __device__ __forceinline__ void prefetch(int stages) {
    if (threadIdx.x != 0) return;
    Source ahead = source_;
    typename Source::Stage rows;
    for (int i = 0; i < stages && ahead.next(rows); ++i) {
      bulk_prefetch(rows.source, static_cast<std::uint32_t>(2 * rows.bytes));
      if constexpr (Memory::kExtra) bulk_prefetch(rows.extra, static_cast<std::uint32_t>(rows.extra_bytes));
    }
  }

  // Waits for the next stage; returns its tag.
  __device__ __forceinline__ int wait() {
    barrier_wait(&memory_.full[stage_], parity_);
    return memory_.tags[stage_];
  }

  __device__ __forceinline__ const std::uint8_t* rows() const { return memory_.stages[stage_]; }
  __device__ __forceinline__ const std::uint8_t* extra() const {
    return memory_.stages[stage_] + Memory::kExtraOffset;
  }

  // Called when the warp has read all it needs. `read` is made of a register of each read, or of what came of it: a read
  // is under way until its register is used, and the copy that comes next may overtake it (seen with two blocks a
  // multiprocessor). Which lane arrives depends on it, so that one does when all reads are done.
  __device__ __forceinline__ void give_back(std::uint32_t read) {
    const int arriving = __any_sync(~0u, read != 0) ? 0 : 1;
    if (lane_ == arriving) barrier_arrive(&memory_.empty[stage_]);
  }

  // Starts the copy that is due, into the stage that was given back, and goes on to the next stage.
  __device__ __forceinline__ void refill() {
    if (warp_ == 0 && more_) {
      barrier_wait(&memory_.empty[stage_], parity_);
      copy(stage_);
    }
    if (++stage_ == kStages) {
      stage_ = 0;
      parity_ ^= 1;
    }
  }

  // Ends a tile. True for the two warps whose turn it is, when all warps' sums are there; they differ in `warp % 2`.
  template <typename Sums>
  __device__ __forceinline__ bool finish_tile(const Sums& sums) {
    sums.store(memory_.partials[buffer_].sums[warp_], lane_);
    const bool mine = warp_ / 2 == turn_ + 1;
    if (mine) {
      asm volatile("bar.sync %0, %1;" ::"r"(buffer_ + 1), "n"(kStreamThreads) : "memory");
    } else {
      __syncwarp();
      asm volatile("bar.arrive %0, %1;" ::"r"(buffer_ + 1), "n"(kStreamThreads) : "memory");
    }
    return mine;
  }

  // Sum over `kCount` warps from `first_warp` of the i-th stored pair.
  template <int kCount>
  __device__ __forceinline__ float2 sum(int first_warp, int i) const {
    float2 total{};
#pragma unroll
    for (int w = 0; w < kCount; ++w) {
      const float2 part = memory_.partials[buffer_].sums[first_warp + w][i][lane_];
      total.x += part.x;
      total.y += part.y;
    }
    return total;
  }

  __device__ __forceinline__ void next_tile() {
    turn_ = turn_ + 1 == kTurns ? 0 : turn_ + 1;
    buffer_ = buffer_ + 1 == Memory::kBuffers ? 0 : buffer_ + 1;
  }

 private:
  __device__ __forceinline__ void copy(int stage) {
    typename Source::Stage rows;
    more_ = source_.next(rows);
    if (!more_) return;
    if (lane_ != 0) return;
    memory_.tags[stage] = rows.tag;
    int all_bytes = 2 * rows.bytes;
    if constexpr (Memory::kExtra) all_bytes += rows.extra_bytes;
    barrier_arrive_expecting(&memory_.full[stage], static_cast<std::uint32_t>(all_bytes));
    if (rows.bytes == 0) return;
    const auto bytes = static_cast<std::uint32_t>(rows.bytes);
    bulk_copy(memory_.stages[stage], rows.source, bytes, &memory_.full[stage], policy_);
    bulk_copy(memory_.stages[stage] + bytes + 64, rows.source + bytes, bytes, &memory_.full[stage], policy_);
    if constexpr (Memory::kExtra) {
      bulk_copy(memory_.stages[stage] + Memory::kExtraOffset, rows.extra, static_cast<std::uint32_t>(rows.extra_bytes),
                &memory_.full[stage], policy_);
    }
  }

  Memory& memory_;
  Source source_;
  const std::uint64_t policy_;
  const int warp_, lane_;
  int stage_ = 0, turn_ = 0, buffer_ = 0;
  std::uint32_t parity_ = 0;
  bool more_ = true;
};

}  // namespace qwen3vl
