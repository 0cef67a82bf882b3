// Products of few tokens with many weight rows, bound by reading the weights once.
//
// Weights come as stages, some neighbouring rows each, into a ring in shared memory. All eight warps multiply each
// stage: a warp has its own part of k, whose part of the tokens stays in registers. A stage is free again as soon as
// all have read it into registers; warp 0 then starts the copy that is due. The parts of a tile are summed through
// shared memory by two of the other warps, in rotation, while the rest go on.
//
// With one half tile of tokens (8), a block takes at most half of a multiprocessor, so that the next kernel's blocks
// fit beside it and fill their rings while it runs.
#pragma once

#include "fragments.cuh"
#include "ptx.cuh"

namespace qwen3vl {

constexpr int kStreamWarps = 8;
constexpr int kStreamThreads = kStreamWarps * 32;
constexpr int kHalfTile = 8;       // tokens
constexpr int kRowTile = 8;   // weight rows of one product
constexpr int kTurns = 3;     // pairs of warps that sum in turn: 2 and 3, 4 and 5, 6 and 7

// A stage is two pieces of memory, each of neighbouring rows and copied at once: many small copies are dear to start.
// The second lies 64 bytes further along the banks. Lane l reads row l / 8 of piece (l / 4) % 2, so that the 8
// lanes that are served at once, 2 rows x 4 runs of 16 bytes, are free of conflicts. Holds for rows of a multiple of
// 128 bytes.
__host__ __device__ constexpr int stage_bytes(int piece_bytes) { return 2 * (piece_bytes + 64); }

// Where this lane's rows begin in a stage: fragment row `group`, of rows from `first_row` of each piece.
__device__ __forceinline__ int row_offset(int piece_bytes, int row_bytes, int first_row, int group) {
  return group % 2 * (piece_bytes + 64) + (first_row + group / 2) * row_bytes;
}

// Sums of each warp's part of k: [warp][half tile of tokens][lane], a row of the first piece and one of the second.
template <int kHalves>
struct Partials {
  float2 sums[kStreamWarps][kHalves][32];
};

// Stages that a block of `budget` bytes has room for, beside `other` bytes.
template <int kHalves>
__host__ __device__ constexpr int stages_that_fit(int budget, int piece_bytes, int other = 0) {
  constexpr int kPartials = sizeof(Partials<kHalves>);
  return (budget - other - kPartials - 256) / (stage_bytes(piece_bytes) + kPartials);
}

constexpr int kHalfBudget = 113 * 1024 - 512;  // of a multiprocessor's shared memory
constexpr int kFullBudget = 227 * 1024;

template <int kHalves, int kStages, int kPieceBytes>
struct StreamMemory {
  // One more than stages: who reads a stage that comes this much later knows that all warps have left this tile behind,
  // as they have read the stage before it in its place.
  static constexpr int kBuffers = kStages + 1;
  alignas(128) std::uint8_t stages[kStages][stage_bytes(kPieceBytes)];
  Partials<kHalves> partials[kBuffers];
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

// The accumulators of one tile. Steps of k go to four of them in turn, to have as many products in flight; with more
// token tiles to two.
template <int kHalves>
struct Accumulators {
  static constexpr int kTokenTiles = kHalves > 1 ? kHalves / 2 : 1;
  static constexpr int kWays = kHalves == 1 ? 4 : 2;
  float d[kTokenTiles][kWays][4] = {};

  __device__ __forceinline__ float2 pair(int half) const {
    const int m = half / 2, i = half % 2 * 2;
    float2 sum{};
#pragma unroll
    for (int way = 0; way < kWays; ++way) {
      sum.x += d[m][way][i];
      sum.y += d[m][way][i + 1];
    }
    return sum;
  }
};

// `Source` has `bool next(StageRows&)`, called by warp 0 only: the rows of the next stage, or false after the last.
template <int kHalves, int kStages, int kPieceBytes, typename Source>
class WeightStream {
 public:
  using Memory = StreamMemory<kHalves, kStages, kPieceBytes>;

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
    StageRows rows;
    for (int i = 0; i < stages && ahead.next(rows); ++i) {
      bulk_prefetch(rows.source, static_cast<std::uint32_t>(2 * rows.bytes));
    }
  }

  // Waits for the next stage; returns its tag.
  __device__ __forceinline__ int wait() {
    barrier_wait(&memory_.full[stage_], parity_);
    return memory_.tags[stage_];
  }

  // Adds the product of kRuns of this thread's runs of 8 k in the stage, which begin at `offset` and are 64 bytes
  // apart. With `last`, the stage is given back.
  template <typename T, int kRuns, int kAllRuns>
  __device__ __forceinline__ void multiply(Accumulators<kHalves>& sums, const uint4 (&tokens)[kHalves][kAllRuns],
                                           int first_run, int offset, bool last = true) {
    const std::uint8_t* weights = memory_.stages[stage_] + offset;
    uint4 runs[kRuns];
#pragma unroll
    for (int i = 0; i < kRuns; ++i) runs[i] = *reinterpret_cast<const uint4*>(weights + 64 * i);
#pragma unroll
    for (int i = 0; i < kRuns; ++i) asm volatile("" ::"r"(runs[i].w) : "memory");  // read before it is given back
    if (last) {
      __syncwarp();
      if (lane_ == 0) barrier_arrive(&memory_.empty[stage_]);
    }
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      constexpr int kWays = Accumulators<kHalves>::kWays;
      const int way = 2 * i % kWays;
#pragma unroll
      for (int m = 0; m < Accumulators<kHalves>::kTokenTiles; ++m) {
        const uint4 high = kHalves > 1 ? tokens[kHalves > 1 ? 2 * m + 1 : 0][first_run + i] : uint4{};
        const uint4 low = tokens[kHalves > 1 ? 2 * m : 0][first_run + i];
        multiply_32<T>(sums.d[m][way], sums.d[m][way + 1], low, high, runs[i]);
      }
    }
    if (!last) return;
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
  __device__ __forceinline__ bool finish_tile(const Accumulators<kHalves>& accumulators) {
    auto& sums = memory_.partials[buffer_].sums[warp_];
#pragma unroll
    for (int half = 0; half < kHalves; ++half) sums[half][lane_] = accumulators.pair(half);
    const bool mine = warp_ / 2 == turn_ + 1;
    if (mine) {
      asm volatile("bar.sync %0, %1;" ::"r"(buffer_ + 1), "n"(kStreamThreads) : "memory");
    } else {
      __syncwarp();
      asm volatile("bar.arrive %0, %1;" ::"r"(buffer_ + 1), "n"(kStreamThreads) : "memory");
    }
    return mine;
  }

  // Sum over `kCount` warps from `first_warp` of a stored pair.
  template <int kCount>
  __device__ __forceinline__ float2 sum(int first_warp, int half) const {
    float2 total{};
#pragma unroll
    for (int w = 0; w < kCount; ++w) {
      const float2 part = memory_.partials[buffer_].sums[first_warp + w][half][lane_];
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
    StageRows rows;
    more_ = source_.next(rows);
    if (!more_) return;
    if (lane_ != 0) return;
    memory_.tags[stage] = rows.tag;
    barrier_arrive_expecting(&memory_.full[stage], static_cast<std::uint32_t>(2 * rows.bytes));
    if (rows.bytes == 0) return;
    const auto bytes = static_cast<std::uint32_t>(rows.bytes);
    bulk_copy(memory_.stages[stage], rows.source, bytes, &memory_.full[stage], policy_);
    bulk_copy(memory_.stages[stage] + bytes + 64, rows.source + bytes, bytes, &memory_.full[stage], policy_);
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
