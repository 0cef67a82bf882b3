// The router of many tokens: a block takes 16 of them and all experts.
//
// Its warps norm a token each; then each multiplies all tokens, from shared memory, with the rows of 8 experts, which
// it reads from the second-level cache.
#pragma once

#include <cuda_runtime.h>

#include "fragments.cuh"
#include "launch.h"
#include "partition.h"
#include "ptx.cuh"
#include "router.cuh"

namespace qwen3vl {

constexpr int kRoutedAtOnce = 16;  // tokens, and warps
constexpr int kRouterThreads = kRoutedAtOnce * 32;
constexpr int kRoutedPitch = kRouterHidden * 2 + 64;  // bytes: neighbouring rows are half of the banks apart
static_assert(kRoutedAtOnce * 8 == kRouterExperts);

struct RouterPrefillShared {
  alignas(128) std::uint8_t normed[kRoutedAtOnce][kRoutedPitch];
  alignas(16) float logits[kRoutedAtOnce][kRouterExperts + 4];
};

template <typename T>
__global__ void __launch_bounds__(kRouterThreads, 1) router_prefill_kernel(const RouterArguments arguments) {
  constexpr int kLoads = kRouterHidden / (32 * 8), kRuns = kRouterHidden / 32, kRunsAtOnce = 8;
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<RouterPrefillShared*>(shared_memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
  const int token = blockIdx.x * kRoutedAtOnce + warp;
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int first = blockIdx.x * kRouterThreads + threadIdx.x, all = gridDim.x * kRouterThreads;
  for (int i = first; i < arguments.counter_count; i += all) arguments.counters[i] = 0;

  uint4 own[kLoads] = {};
  float squares = 0.f;
  if (token < arguments.tokens) {
    const T* x = static_cast<const T*>(arguments.x) + static_cast<std::int64_t>(token) * kRouterHidden + lane * 8;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) own[i] = load_8(x + i * 256);
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) squares += sum_of_squares<T>(own[i]);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
  const float scale = rsqrtf(squares / kRouterHidden + arguments.epsilon);
  T* normed = static_cast<T*>(arguments.normed) + static_cast<std::int64_t>(token) * kRouterHidden + lane * 8;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const uint4 norm = load_8(static_cast<const T*>(arguments.norm) + lane * 8 + i * 256);
    own[i] = scaled_8<T>(own[i], norm, scale);
    if (token < arguments.tokens) *reinterpret_cast<uint4*>(normed + i * 256) = own[i];
    *reinterpret_cast<uint4*>(shared.normed[warp] + (lane * 8 + i * 256) * 2) = own[i];
  }
  __syncthreads();

  const T* row = static_cast<const T*>(arguments.weights) + (warp * 8 + group) * kRouterHidden + quad * 8;
  const std::uint8_t* low = shared.normed[group] + quad * 16;
  const std::uint8_t* high = shared.normed[group + 8] + quad * 16;
  float even[4] = {}, odd[4] = {};
  uint4 weights[kRunsAtOnce];
#pragma unroll
  for (int i = 0; i < kRunsAtOnce; ++i) weights[i] = load_8(row + 32 * i);
#pragma unroll 1
  for (int run = 0; run < kRuns; run += kRunsAtOnce) {
    uint4 next[kRunsAtOnce];
    const int ahead = min(run + kRunsAtOnce, kRuns - kRunsAtOnce);  // in the last round, what is not needed
#pragma unroll
    for (int i = 0; i < kRunsAtOnce; ++i) next[i] = load_8(row + 32 * (ahead + i));
#pragma unroll
    for (int i = 0; i < kRunsAtOnce; ++i) {
      multiply_32<T>(even, odd, *reinterpret_cast<const uint4*>(low + 64 * (run + i)),
                     *reinterpret_cast<const uint4*>(high + 64 * (run + i)), weights[i]);
      weights[i] = next[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) shared.logits[group + 8 * (i / 2)][warp * 8 + 2 * quad + i % 2] = even[i] + odd[i];
  __syncthreads();
  if (token < arguments.tokens) {
    const std::int64_t at = static_cast<std::int64_t>(token) * arguments.k;
    choose(shared.logits[warp], arguments.k, arguments.chosen + at, arguments.chosen_weights + at, lane);
  }
}

template <typename T>
cudaError_t launch_router_prefill(const RouterArguments& arguments, cudaStream_t stream) {
  return launch(router_prefill_kernel<T>, dim3(groups_of(arguments.tokens, kRoutedAtOnce)), kRouterThreads,
                sizeof(RouterPrefillShared), 1, stream, arguments);
}

}  // namespace qwen3vl
