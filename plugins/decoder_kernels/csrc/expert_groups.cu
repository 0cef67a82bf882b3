// A stable counting sort of pairs by expert: a block for each expert, which needs no other block's counts, as it counts
// the pairs of lesser experts itself.
#include "expert_groups.h"

#include "expert_tiles.h"
#include "launch.h"
#include "ptx.cuh"

namespace qwen3vl {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kNoExpert = kChunkExperts;

// The experts of four pairs from `pair`, a multiple of 4, on.
__device__ __forceinline__ int4 experts_of(const std::int32_t* chosen, int pair, int pairs) {
  if (pair + 4 <= pairs) return __ldcg(reinterpret_cast<const int4*>(chosen + pair));
  const auto one = [&](int p) { return p < pairs ? __ldcg(chosen + p) : kNoExpert; };
  return {one(pair), one(pair + 1), one(pair + 2), kNoExpert};
}

__global__ void __launch_bounds__(kThreads) group_pairs_kernel(const GroupArguments arguments) {
  __shared__ int2 warp_counts[kWarps];  // own pairs, pairs of lesser experts
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int expert = static_cast<int>(blockIdx.x), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = expert * kThreads + threadIdx.x; i < arguments.counter_count; i += gridDim.x * kThreads) {
    arguments.counters[i] = 0;
  }
  // A thread takes neighbouring pairs, so that they keep their order.
  const int part = groups_of(groups_of(arguments.pairs, kThreads), 4) * 4;
  const int begin = threadIdx.x * part, end = min(begin + part, arguments.pairs);
  int own = 0, lesser = 0;
  for (int pair = begin; pair < end; pair += 4) {
    const int4 four = experts_of(arguments.chosen, pair, arguments.pairs);
    own += (four.x == expert) + (four.y == expert) + (four.z == expert) + (four.w == expert);
    lesser += (four.x < expert) + (four.y < expert) + (four.z < expert) + (four.w < expert);
  }
  int until = own;  // of this warp's threads up to this one
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(~0u, until, offset);
    if (lane >= offset) until += other;
  }
  const int warp_lesser = __reduce_add_sync(~0u, lesser);
  if (lane == 31) warp_counts[warp] = {until, warp_lesser};
  __syncthreads();
  int place = until - own, count = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const int2 counts = warp_counts[w];
    place += counts.y + (w < warp ? counts.x : 0);
    count += counts.x;
  }
  if (threadIdx.x == 0) arguments.counts[expert] = count;
  if (own == 0) return;
  for (int pair = begin; pair < end; pair += 4) {
    const int4 four = experts_of(arguments.chosen, pair, arguments.pairs);
    const int experts[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (experts[i] == expert) arguments.grouped[place++] = pair + i;
    }
  }
}

}  // namespace

cudaError_t group_pairs(const GroupArguments& arguments, cudaStream_t stream) {
  return launch(group_pairs_kernel, dim3(kChunkExperts), kThreads, 0, 1, stream, arguments);
}

}  // namespace qwen3vl
