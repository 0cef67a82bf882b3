// RMSNorm, the router's product, and the k best experts of each token with their weights.
//
// A cluster of 8 blocks takes 16 tokens; each block has its own 16 experts. All blocks norm the same tokens; the logits
// meet in that block of the cluster which picks the token's experts.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "fragments.cuh"
#include "launch.h"
#include "partition.h"
#include "ptx.cuh"

namespace qwen3vl {
namespace {

namespace cg = cooperative_groups;

constexpr int kExperts = 128;
constexpr int kRanks = 8;
constexpr int kExpertsPerBlock = kExperts / kRanks;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kTokens = 16;

struct RouterArguments {
  void* normed;             // T [tokens, kHidden]
  std::int32_t* chosen;     // [tokens, k]
  float* chosen_weights;    // [tokens, k]
  std::int32_t* counters;   // set to 0 for the kernel after this
  const void* x;            // T [tokens, kHidden]
  const void* norm;         // T [kHidden]
  const void* weights;      // T [128, kHidden]
  int tokens, k, counter_count;
  float epsilon;
};

struct Shared {
  float squares[kWarps][kTokens];
  float partials[kWarps][kTokens][kExpertsPerBlock + 1];
  alignas(16) float logits[kTokens / kRanks][kExperts];
};

// Orders floats as unsigned integers.
__device__ __forceinline__ std::uint32_t order_of(float x) {
  const std::uint32_t bits = __float_as_uint(x);
  return bits ^ (static_cast<std::int32_t>(bits) < 0 ? ~0u : 0x80000000u);
}

// The k largest of 128 logits by one warp, the first of equal ones first, with softmax weights that add up to 1. Lane l
// holds logits 4 l to 4 l + 3.
__device__ __forceinline__ void choose(const float* logits, int k, std::int32_t* chosen, float* weights, int lane) {
  const float4 four = reinterpret_cast<const float4*>(logits)[lane];
  float own[4] = {four.x, four.y, four.z, four.w};
  float first = 0.f, sum = 0.f, mine = 0.f;  // `mine`: the unscaled weight of the lane-th choice
  int my_expert = 0;
  for (int round = 0; round < k; ++round) {
    float best = own[0];
    int at = 0;
#pragma unroll
    for (int i = 1; i < 4; ++i) {
      if (own[i] > best) {
        best = own[i];
        at = i;
      }
    }
    const std::uint32_t key = order_of(best);
    const std::uint32_t top = __reduce_max_sync(~0u, key);
    const int winner = __ffs(__ballot_sync(~0u, key == top)) - 1;
    const float value = __shfl_sync(~0u, best, winner);
    const int expert = __shfl_sync(~0u, 4 * lane + at, winner);
    if (lane == winner) {
#pragma unroll
      for (int i = 0; i < 4; ++i) own[i] = i == at ? -INFINITY : own[i];
    }
    if (round == 0) first = value;
    const float weight = __expf(value - first);
    sum += weight;
    if (lane == round) {
      mine = weight;
      my_expert = expert;
    }
  }
  if (lane < k) {
    chosen[lane] = my_expert;
    weights[lane] = mine / sum;
  }
}

template <typename T, int kHidden>
__global__ void __launch_bounds__(kThreads, 1) router_kernel(const RouterArguments arguments) {
  constexpr int kSlice = kHidden / kWarps, kRuns = kSlice / 32;
  static_assert(kSlice % 32 == 0);
  __shared__ Shared shared;
  const cg::cluster_group cluster = cg::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank());
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
  const int k = warp * kSlice + quad * 8;
  let_next_kernel_start();
  cluster.barrier_arrive();  // waited for before a block writes into another

  const T* rows = static_cast<const T*>(arguments.weights) + (rank * kExpertsPerBlock + group) * kHidden + k;
  uint4 weights[2][kRuns], norm[kRuns];
#pragma unroll
  for (int i = 0; i < kRuns; ++i) {
    weights[0][i] = load_8_constant(rows + 32 * i);
    weights[1][i] = load_8_constant(rows + 8 * kHidden + 32 * i);
    norm[i] = load_8_constant(static_cast<const T*>(arguments.norm) + k + 32 * i);
  }
  wait_for_previous_kernel();

  const int first_token = blockIdx.x / kRanks * kTokens, tokens = min(arguments.tokens - first_token, kTokens);
  const std::int64_t offset = static_cast<std::int64_t>(first_token) * kHidden + k;
  const T* x = static_cast<const T*>(arguments.x) + offset;
  uint4 halves[2][kRuns];
  float squares[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = group + 8 * half;
#pragma unroll
    for (int i = 0; i < kRuns; ++i) halves[half][i] = token < tokens ? load_8(x + token * kHidden + 32 * i) : uint4{};
  }
  for (int i = blockIdx.x * kThreads + threadIdx.x; i < arguments.counter_count; i += gridDim.x * kThreads) {
    arguments.counters[i] = 0;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < kRuns; ++i) squares[half] += sum_of_squares<T>(halves[half][i]);
#pragma unroll
    for (int o = 1; o < 4; o *= 2) squares[half] += __shfl_xor_sync(~0u, squares[half], o);
    if (quad == 0) shared.squares[warp][group + 8 * half] = squares[half];
  }
  __syncthreads();
  T* normed = static_cast<T*>(arguments.normed) + offset;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
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
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    float even[4] = {}, odd[4] = {};
#pragma unroll
    for (int i = 0; i < kRuns; ++i) multiply_32<T>(even, odd, halves[0][i], halves[1][i], weights[tile][i]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      shared.partials[warp][group + 8 * (i / 2)][tile * 8 + 2 * quad + i % 2] = even[i] + odd[i];
    }
  }
  __syncthreads();
  cluster.barrier_wait();
  {
    const int token = threadIdx.x / kExpertsPerBlock, expert = threadIdx.x % kExpertsPerBlock;
    float sum = 0.f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += shared.partials[w][token][expert];
    *cluster.map_shared_rank(&shared.logits[token / kRanks][rank * kExpertsPerBlock + expert], token % kRanks) = sum;
  }
  cluster.sync();
  const int token = warp * kRanks + rank;
  if (warp < kTokens / kRanks && token < tokens) {
    const std::int64_t at = static_cast<std::int64_t>(first_token + token) * arguments.k;
    choose(shared.logits[warp], arguments.k, arguments.chosen + at, arguments.chosen_weights + at, lane);
  }
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_router(void* normed, int32_t* chosen, float* chosen_weights, int32_t* counters, int counter_count,
                   const void* x, const void* norm, const void* weights, int tokens, int hidden, int experts, int k,
                   float epsilon, int type, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || hidden != 2048 || experts != kExperts || k < 1 || k > 32) return cudaErrorInvalidValue;
  const RouterArguments arguments{normed, chosen, chosen_weights, counters, x, norm, weights, tokens, k, counter_count,
                                  epsilon};
  const auto kernel = type == QWEN3VL_BFLOAT16 ? router_kernel<__nv_bfloat16, 2048> : router_kernel<__half, 2048>;
  if (type != QWEN3VL_BFLOAT16 && type != QWEN3VL_FLOAT16) return cudaErrorInvalidValue;
  return launch(kernel, dim3(groups_of(tokens, kTokens) * kRanks), kThreads, 0, kRanks,
                static_cast<cudaStream_t>(stream), arguments);
}
