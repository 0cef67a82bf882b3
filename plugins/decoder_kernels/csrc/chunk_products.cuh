// The warpgroups of a block that multiply, and what they do with the sums: SwiGLU of gates and ups, or the pairs'
// outputs.
//
// Weights are the rows of the tensor cores' tiles and pairs the columns, as there can be any multiple of 8 columns: an
// expert with few pairs costs little beyond its weights. A warpgroup has 64 rows of both halves of the weights, so that
// a thread has the gate and the up of the same pair.
#pragma once

#include "chunk_work.cuh"
#include "fragments.cuh"
#include "ring.h"
#include "wgmma.cuh"
#include "word_exchange.h"

namespace qwen3vl {

// Of a matrix of 8 x 8 words of 16 bits, lane l has two neighbours of row l / 4, and gets two of column l / 4.
__device__ __forceinline__ std::uint32_t transposed(std::uint32_t word) {
  std::uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(word));
  return result;
}

// Lane q of four gets all of matrix q's row: 16 bytes.
__device__ __forceinline__ uint4 exchanged(std::uint32_t (&words)[4], int lane) {
#pragma unroll
  for (int round = 0; round < kExchangeRounds; ++round) {
#pragma unroll
    for (int exchange = 0; exchange < 2; ++exchange) {
      const std::uint32_t sent = word_to_send(words, lane, round, exchange);
      accept_word(words, lane, round, exchange, __shfl_xor_sync(~0u, sent, 1 << round));
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

template <typename T>
class ChunkProducts {
 public:
  __device__ ChunkProducts(ChunkShared& shared, const ChunkArguments& arguments, int group)
      : shared_(shared), arguments_(arguments), group_(group), warp_(threadIdx.x / kWarp % 4),
        lane_(threadIdx.x % kWarp) {}

  __device__ __forceinline__ void run() {
    for (;; work_ring_ = work_ring_.next()) {
      barrier_wait(shared_.pairs_there + work_ring_.stage, work_ring_.parity);
      const int pairs = shared_.work[work_ring_.stage].tile.pairs;
      if (pairs == 0) return;
      static_assert(kGroupBlocks == 5 && kPairBlock == 32);
      switch (groups_of(pairs, kPairBlock)) {
        case 1: take<16>(); break;
        case 2: take<32>(); break;
        case 3: take<48>(); break;
        case 4: take<64>(); break;
        default: take<80>(); break;
      }
      release(shared_.work_done[work_ring_.stage]);
    }
  }

 private:
  __device__ __forceinline__ void release(std::uint64_t& barrier) {
    if (lane_ == 0) barrier_arrive(&barrier);
  }

  // The tile, with room for 2 n pairs.
  template <int n>
  __device__ __forceinline__ void take() {
    const ChunkWork& work = shared_.work[work_ring_.stage];
    const ExpertTile tile = work.tile;
    // Not set by the first products instead: registers for tiles of all sizes would be kept at once.
    float first[n] = {}, second[n] = {};
    multiply(first, second, steps_of(tile));
    if (tile.down != 0) {
      store_outputs(first, second, work, tile);
    } else {
      store_activations(first, second, work, tile);
      __syncwarp();
      if (lane_ == 0) release_add(arguments_.counters + 1 + tile.group, 1);
    }
    __syncwarp();
  }

  template <int n>
  __device__ __forceinline__ void multiply(float (&first)[n], float (&second)[n], int steps) {
    int last = 0;
    for (int step = 0; step < steps; ++step) {
      ChunkStage& stage = shared_.stages[ring_.stage];
      barrier_wait(shared_.full + ring_.stage, ring_.parity);
      shared_writes_fence();  // of the warps that gathered: the barrier has made them known to this thread
      const std::uint64_t rows = row_panels(shared_address(stage.rows));
      const std::uint64_t low = row_panels(shared_address(stage.weights[0]) + group_ * 64 * kPanelRowBytes);
      const std::uint64_t high = row_panels(shared_address(stage.weights[1]) + group_ * 64 * kPanelRowBytes);
      mma_fence();
#pragma unroll
      for (int i = 0; i < kPanelColumns / 16; ++i) {
        multiply_shared<T>(first, low + i * kRowStep, rows + i * kRowStep, true);
        multiply_shared<T>(second, high + i * kRowStep, rows + i * kRowStep, true);
      }
      mma_commit();
      mma_wait<1>();
      if (step > 0) release(shared_.empty[last]);
      last = ring_.stage;
      ring_ = ring_.next();
    }
    mma_wait<0>();
    settle(first);
    settle(second);
    release(shared_.empty[last]);
  }

  // Sixteen pairs at a time. A lane's four words are of rows 8 r to 8 r + 7 of the warp's 16 and of pairs 8 i to 8 i +
  // 7 of the sixteen, number 2 i + r.
  template <int n>
  __device__ __forceinline__ void store_activations(const float (&gates)[n], const float (&ups)[n],
                                                    const ChunkWork& work, const ExpertTile& tile) {
    T* out = static_cast<T*>(arguments_.activations) + static_cast<std::int64_t>(tile.first_pair) * kChunkInner +
             tile.rows * kHalfRows + group_ * 64 + warp_ * 16 + first_row(lane_);
#pragma unroll
    for (int sixteen = 0; sixteen < n / 8; ++sixteen) {
      std::uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int eight = 2 * sixteen + i;
        const float2 weight = *reinterpret_cast<const float2*>(work.weights + 8 * eight + 2 * (lane_ % 4));
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int at = 4 * eight + 2 * r;
          words[2 * i + r] = transposed(Element<T>::pack(activated(gates[at], ups[at]) * weight.x,
                                                         activated(gates[at + 1], ups[at + 1]) * weight.y));
        }
      }
      const uint4 eight_rows = exchanged(words, lane_);
      const int row = 16 * sixteen + column_of_sixteen(lane_);
      if (row < tile.pairs) *reinterpret_cast<uint4*>(out + static_cast<std::int64_t>(row) * kChunkInner) = eight_rows;
    }
  }

  static __device__ __forceinline__ float activated(float gate, float up) { return gate / (1.f + __expf(-gate)) * up; }

  // Eight pairs at a time. A lane's four words are of rows 8 r to 8 r + 7 of the warp's 16 in half h, number 2 h + r.
  template <int n>
  __device__ __forceinline__ void store_outputs(const float (&first)[n], const float (&second)[n],
                                                const ChunkWork& work, const ExpertTile& tile) {
    T* out = static_cast<T*>(arguments_.outputs) + tile.rows * kTileRows + matrix_of_two(lane_) * kHalfRows +
             group_ * 64 + warp_ * 16 + first_row(lane_);
#pragma unroll
    for (int eight = 0; eight < n / 4; ++eight) {
      std::uint32_t words[4];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int at = 4 * eight + 2 * r;
        words[r] = transposed(Element<T>::pack(first[at], first[at + 1]));
        words[2 + r] = transposed(Element<T>::pack(second[at], second[at + 1]));
      }
      const uint4 eight_rows = exchanged(words, lane_);
      const int row = 8 * eight + column_of_eight(lane_);
      if (row < tile.pairs) {
        *reinterpret_cast<uint4*>(out + static_cast<std::int64_t>(work.pairs[row]) * kChunkHidden) = eight_rows;
      }
    }
  }

  ChunkShared& shared_;
  const ChunkArguments& arguments_;
  const int group_, warp_, lane_;
  Ring<kChunkStages> ring_;
  Ring<kWorkStages> work_ring_;
};

}  // namespace qwen3vl
