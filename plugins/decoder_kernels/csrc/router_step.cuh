// The router of few tokens: a cluster of 8 blocks takes 16, and each block has its own 16 experts.
//
// All blocks norm the same tokens. A token's logits are sent to the block of the cluster that picks its experts: as
// messages, which need no barrier of the cluster. One of these would first wait for what was written to memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "fragments.cuh"
#include "ptx.cuh"
#include "router.cuh"

namespace qwen3vl {

constexpr int kRouterRanks = 8;
constexpr int kExpertsPerBlock = kRouterExperts / kRouterRanks;
constexpr int kRouterWarps = 16;
constexpr int kStepRouterThreads = kRouterWarps * 32;
constexpr int kClusterTokens = 16;
constexpr int kPickedTokens = kClusterTokens / kRouterRanks;  // by one block, a warp for each

constexpr int kRouterPitch = kRouterHidden * 2 + 64;  // bytes; as in weight_stream.cuh

struct StepRouterShared {
  alignas(128) std::uint8_t weights[kExpertsPerBlock][kRouterPitch];
  std::uint64_t full, received;
  float squares[kRouterWarps][kClusterTokens];
  float partials[kRouterWarps][kClusterTokens][kExpertsPerBlock + 1];
  alignas(16) float logits[kPickedTokens][kRouterExperts];  // as they are received
};

// Of a cluster's tokens, how many the block `rank` picks experts for: every eighth.
__device__ __forceinline__ int picked_by(int rank, int tokens) {
  return (tokens - rank + kRouterRanks - 1) / kRouterRanks;
}

template <typename T, int kHalves>
__global__ void __launch_bounds__(kStepRouterThreads, 1) step_router_kernel(const RouterArguments arguments) {
  constexpr int kSlice = kRouterHidden / kRouterWarps, kRuns = kSlice / 32;
  static_assert(kSlice % 32 == 0);
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<StepRouterShared*>(shared_memory);
  const int rank = static_cast<int>(blockIdx.x) % kRouterRanks, cluster = static_cast<int>(blockIdx.x) / kRouterRanks;
  const int first_token = cluster * kClusterTokens, tokens = min(arguments.tokens - first_token, kClusterTokens);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
  const int k = warp * kSlice + quad * 8;
  if (threadIdx.x == 0) {
    barrier_init(&shared.full, 1);
    barrier_init(&shared.received, 1);
    barrier_init_done();
    barrier_arrive_expecting(&shared.received, picked_by(rank, tokens) * kRouterExperts * sizeof(float));
  }
  cluster_arrive();  // waited for before a block sends to another
  __syncthreads();
  let_next_kernel_start();
  if (warp == 0) {
    if (lane == 0) barrier_arrive_expecting(&shared.full, kExpertsPerBlock * kRouterHidden * 2);
    __syncwarp();
    if (lane < kExpertsPerBlock) {
      const auto* rows = static_cast<const T*>(arguments.weights) + (rank * kExpertsPerBlock + lane) * kRouterHidden;
      bulk_copy(shared.weights[lane], rows, kRouterHidden * 2, &shared.full, streaming_policy());
    }
  }
  uint4 norm[kRuns];
#pragma unroll
  for (int i = 0; i < kRuns; ++i) norm[i] = load_8_now(static_cast<const T*>(arguments.norm) + k + 32 * i);
  wait_for_previous_kernel();

  const std::int64_t offset = static_cast<std::int64_t>(first_token) * kRouterHidden + k;
  const T* x = static_cast<const T*>(arguments.x) + offset;
  uint4 halves[kHalves][kRuns];
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const int token = group + 8 * half;
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      halves[half][i] = token < tokens ? load_8(x + token * kRouterHidden + 32 * i) : uint4{};
    }
  }
  for (int i = blockIdx.x * kStepRouterThreads + threadIdx.x; i < arguments.counter_count;
       i += gridDim.x * kStepRouterThreads) {
    arguments.counters[i] = 0;
  }
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    float squares = 0.f;
#pragma unroll
    for (int i = 0; i < kRuns; ++i) squares += sum_of_squares<T>(halves[half][i]);
    squares += __shfl_xor_sync(~0u, squares, 1);
    squares += __shfl_xor_sync(~0u, squares, 2);
    if (quad == 0) shared.squares[warp][group + 8 * half] = squares;
  }
  __syncthreads();
  T* normed = static_cast<T*>(arguments.normed) + offset;
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const int token = group + 8 * half;
    float sum = 0.f;
#pragma unroll
    for (int w = 0; w < kRouterWarps; ++w) sum += shared.squares[w][token];
    const float scale = rsqrtf(sum / kRouterHidden + arguments.epsilon);
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      halves[half][i] = scaled_8<T>(halves[half][i], norm[i], scale);
      if (token < tokens && token % kRouterRanks == rank) {
        *reinterpret_cast<uint4*>(normed + token * kRouterHidden + 32 * i) = halves[half][i];
      }
    }
  }
  barrier_wait(&shared.full, 0);
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    const std::uint8_t* row = shared.weights[tile * 8 + group] + 2 * k;
    float even[4] = {}, odd[4] = {};
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      multiply_32<T>(even, odd, halves[0][i], kHalves > 1 ? halves[kHalves - 1][i] : uint4{},
                     *reinterpret_cast<const uint4*>(row + 64 * i));
    }
#pragma unroll
    for (int i = 0; i < 2 * kHalves; ++i) {
      shared.partials[warp][group + 8 * (i / 2)][tile * 8 + 2 * quad + i % 2] = even[i] + odd[i];
    }
  }
  __syncthreads();
  cluster_wait();
  const int sum_token = threadIdx.x / kExpertsPerBlock, sum_expert = threadIdx.x % kExpertsPerBlock;
  if (sum_token < tokens) {
    float sum = 0.f;
#pragma unroll
    for (int w = 0; w < kRouterWarps; ++w) sum += shared.partials[w][sum_token][sum_expert];
    const int to = sum_token % kRouterRanks;
    const float& place = shared.logits[sum_token / kRouterRanks][rank * kExpertsPerBlock + sum_expert];
    send(cluster_address(&place, to), sum, cluster_address(&shared.received, to));
  }
  if (warp >= picked_by(rank, tokens)) return;
  barrier_wait(&shared.received, 0);
  const std::int64_t at = static_cast<std::int64_t>(first_token + warp * kRouterRanks + rank) * arguments.k;
  choose(shared.logits[warp], arguments.k, arguments.chosen + at, arguments.chosen_weights + at, lane);
}

}  // namespace qwen3vl
