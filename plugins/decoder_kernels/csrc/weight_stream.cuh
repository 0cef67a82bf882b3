// Products of few tokens with many weight rows, bound by reading the weights once.
//
// Weights come as stages, some neighbouring rows or parts of them each, into a ring in shared memory. All eight warps
// multiply each stage: a warp has its own part of k, whose part of the tokens stays in registers. A stage is free
// again as soon as all have read it into registers; warp 0 then starts the copy that is due. The parts of a tile are
// summed through shared memory by two of the other warps, in rotation, while the rest go on. How a stage is multiplied
// depends on what its rows are: wide_rows.cuh, int4_rows.cuh.
//
// With one half tile of tokens (8), a block takes at most half of a multiprocessor, so that the next kernel's blocks
// fit beside it and fill their rings while it runs.
#pragma once

#include <cstdint>

#include "ptx.cuh"
#include "stage_rows.cuh"
#include "stream_memory.cuh"

namespace qwen3vl {

constexpr int kTurns = 3;  // pairs of warps that sum in turn: 2 and 3, 4 and 5, 6 and 7

// `Source` has `bool next(Stage&)` for its `Stage`, one of stage_rows.cuh, called by warp 0 only: the rows of the next
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
    for (int i = 0; i < stages && ahead.next(rows); ++i) prefetch_rows(rows);
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

  // Whether this is one of the two warps that sum the present tile; they differ in `warp % 2`.
  __device__ __forceinline__ bool my_turn() const { return warp_ / 2 == turn_ + 1; }

  // Ends a tile. True for the two warps whose turn it is, when all warps' sums are there.
  template <typename Sums>
  __device__ __forceinline__ bool finish_tile(const Sums& sums) {
    sums.store(memory_.partials[buffer_].sums[warp_], lane_);
    const bool mine = my_turn();
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
    if (more_) copy_rows(memory_, stage, rows, policy_, lane_);
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
