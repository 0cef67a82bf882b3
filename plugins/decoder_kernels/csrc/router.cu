// RMSNorm, the router's product, and the k best experts of each token with their weights.
//
// Of few tokens, a cluster of 8 blocks takes 16; each block has its own 16 experts. All blocks norm the same tokens;
// the logits meet in that block of the cluster which picks the token's experts. For many see router_prefill.cuh.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "fragments.cuh"
#include "launch.h"
#include "partition.h"
#include "ptx.cuh"
#include "router.cuh"
#include "router_prefill.cuh"

namespace qwen3vl {
namespace {

namespace cg = cooperative_groups;

constexpr int kExperts = kRouterExperts;
constexpr int kHidden = kRouterHidden;
constexpr int kRanks = 8;
constexpr int kExpertsPerBlock = kExperts / kRanks;
constexpr int kWarps = 16;
constexpr int kThreads = kWarps * 32;
constexpr int kTokens = 16;
constexpr int kMostOfClusters = 256;  // tokens: those of all clusters that run at once

constexpr int kPitch = kHidden * 2 + 64;  // bytes; as in weight_stream.cuh

struct Shared {
  alignas(128) std::uint8_t weights[kExpertsPerBlock][kPitch];
  std::uint64_t full;
  float squares[kWarps][kTokens];
  float partials[kWarps][kTokens][kExpertsPerBlock + 1];
  alignas(16) float logits[kTokens / kRanks][kExperts];
};

template <typename T, int kHalves>
__global__ void __launch_bounds__(kThreads, 1) router_kernel(const RouterArguments arguments) {
  constexpr int kSlice = kHidden / kWarps, kRuns = kSlice / 32;
  static_assert(kSlice % 32 == 0);
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<Shared*>(shared_memory);
  const cg::cluster_group cluster = cg::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank());
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
  const int k = warp * kSlice + quad * 8;
  cluster.barrier_arrive();  // waited for before a block writes into another
  if (threadIdx.x == 0) {
    barrier_init(&shared.full, 1);
    barrier_init_done();
  }
  __syncthreads();
  let_next_kernel_start();
  if (warp == 0) {
    if (lane == 0) barrier_arrive_expecting(&shared.full, kExpertsPerBlock * kHidden * 2);
    __syncwarp();
    if (lane < kExpertsPerBlock) {
      const auto* rows = static_cast<const T*>(arguments.weights) + (rank * kExpertsPerBlock + lane) * kHidden;
      bulk_copy(shared.weights[lane], rows, kHidden * 2, &shared.full, streaming_policy());
    }
  }
  uint4 norm[kRuns];
#pragma unroll
  for (int i = 0; i < kRuns; ++i) norm[i] = load_8_now(static_cast<const T*>(arguments.norm) + k + 32 * i);
  wait_for_previous_kernel();

  const int first_token = blockIdx.x / kRanks * kTokens, tokens = min(arguments.tokens - first_token, kTokens);
  const std::int64_t offset = static_cast<std::int64_t>(first_token) * kHidden + k;
  const T* x = static_cast<const T*>(arguments.x) + offset;
  uint4 halves[kHalves][kRuns];
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const int token = group + 8 * half;
#pragma unroll
    for (int i = 0; i < kRuns; ++i) halves[half][i] = token < tokens ? load_8(x + token * kHidden + 32 * i) : uint4{};
  }
  for (int i = blockIdx.x * kThreads + threadIdx.x; i < arguments.counter_count; i += gridDim.x * kThreads) {
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
    for (int w = 0; w < kWarps; ++w) sum += shared.squares[w][token];
    const float scale = rsqrtf(sum / kHidden + arguments.epsilon);
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      halves[half][i] = scaled_8<T>(halves[half][i], norm[i], scale);
      if (token < tokens && token % kRanks == rank) {
        *reinterpret_cast<uint4*>(normed + token * kHidden + 32 * i) = halves[half][i];
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
  cluster.barrier_wait();
  const int sum_token = threadIdx.x / kExpertsPerBlock, sum_expert = threadIdx.x % kExpertsPerBlock;
  if (sum_token < tokens) {
    float sum = 0.f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += shared.partials[w][sum_token][sum_expert];
    *cluster.map_shared_rank(&shared.logits[sum_token / kRanks][rank * kExpertsPerBlock + sum_expert],
                             sum_token % kRanks) = sum;
  }
  cluster.sync();
  const int token = warp * kRanks + rank;
  if (warp < kTokens / kRanks && token < tokens) {
    const std::int64_t at = static_cast<std::int64_t>(first_token + token) * arguments.k;
    choose(shared.logits[warp], arguments.k, arguments.chosen + at, arguments.chosen_weights + at, lane);
  }
}

template <typename T>
cudaError_t dispatch_router(const RouterArguments& arguments, cudaStream_t stream) {
  if (arguments.tokens > kMostOfClusters) return launch_router_prefill<T>(arguments, stream);
  const auto kernel = arguments.tokens <= 8 ? router_kernel<T, 1> : router_kernel<T, 2>;
  return launch(kernel, dim3(groups_of(arguments.tokens, kTokens) * kRanks), kThreads, sizeof(Shared), kRanks, stream,
                arguments);
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_router(void* normed, int32_t* chosen, float* chosen_weights, int32_t* counters, int counter_count,
                   const void* x, const void* norm, const void* weights, int tokens, int hidden, int experts, int k,
                   float epsilon, int type, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || hidden != kHidden || experts != kExperts || k < 1 || k > 32) return cudaErrorInvalidValue;
  const RouterArguments arguments{normed, chosen, chosen_weights, counters, x, norm, weights, tokens, k, counter_count,
                                  epsilon};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_router<__nv_bfloat16>(arguments, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_router<__half>(arguments, on);
  return cudaErrorInvalidValue;
}
