// The chosen experts of a chunk's tokens: y[pair] = weight * down(silu(gate(x)) * up(x)).
//
// Two kernels: pairs of token and choice are sorted by expert; one grouped product works through gates and ups and
// then downs. In the second, a block has a warp that copies weights into a ring in shared memory, two that gather the
// pairs' rows into the same ring, and two warpgroups that multiply. Blocks take tiles in order from a counter: when the
// first tile of downs waits for its group's activations, all tiles of gates and ups, which wait for nothing, have been
// taken.
#include <cuda_runtime.h>

#include "chunk_loading.cuh"
#include "chunk_products.cuh"
#include "decoder_kernels.h"
#include "expert_groups.h"
#include "expert_tiles.h"
#include "launch.h"
#include "tensor_map.h"

namespace qwen3vl {
namespace {

// Of 64 K registers: 168 a thread at the start; what the loading warpgroup gives back goes to the others.
constexpr int kLoadingRegisters = 40, kMultiplyingRegisters = 232;

template <typename T>
__global__ void __launch_bounds__(kChunkThreads, 1) chunk_kernel(const __grid_constant__ ChunkArguments arguments) {
  extern __shared__ __align__(1024) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<ChunkShared*>(shared_memory);
  const int group = threadIdx.x / kWarpgroup, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (threadIdx.x == 0) shared.init();
  let_next_kernel_start();
  wait_for_previous_kernel();
  if (warp == 1) find_groups(shared.groups, arguments.counts, lane);
  __syncthreads();
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kLoadingRegisters));
    if (threadIdx.x == 0) load_weights(shared, arguments);
    if (warp >= 1 && warp <= kGatheringWarps) gather_rows(shared, arguments, warp - 1, lane);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kMultiplyingRegisters));
    ChunkProducts<T>(shared, arguments, group - 1).run();
  }
}

struct ChunkCall {
  void* y;
  std::uint8_t* workspace;
  const void* x;
  const std::int32_t* chosen;
  const float* chosen_weights;
  const void *gate_up, *down;
  int tokens, k, experts;
  cudaStream_t stream;
};

template <typename T>
cudaError_t run_chunk(const ChunkCall& call, CUtensorMapDataType map_type) {
  const ChunkWorkspace places(call.tokens, call.k);
  const auto integers = [&](std::size_t place) { return reinterpret_cast<std::int32_t*>(call.workspace + place); };
  ChunkArguments arguments{};
  cudaError_t status = describe_matrices(&arguments.gates_and_ups, map_type, call.gate_up, call.experts, kChunkInner,
                                         2 * kChunkHidden, kHalfRows);
  if (status != cudaSuccess) return status;
  status = describe_matrices(&arguments.downs, map_type, call.down, call.experts, kChunkHidden, kChunkInner, kHalfRows);
  if (status != cudaSuccess) return status;
  arguments.counters = integers(places.counters);
  arguments.counts = integers(places.counts);
  arguments.grouped = integers(places.grouped);
  arguments.chosen_weights = call.chosen_weights;
  arguments.x = call.x;
  arguments.activations = call.workspace + places.activations;
  arguments.outputs = call.y;
  arguments.k = call.k;

  status = group_pairs({integers(places.counts), integers(places.grouped), integers(places.counters), call.chosen,
                        call.tokens * call.k, places.counter_count},
                       call.stream);
  if (status != cudaSuccess) return status;
  return launch(chunk_kernel<T>, dim3(multiprocessor_count()), kChunkThreads, sizeof(ChunkShared), 1, call.stream,
                arguments);
}

}  // namespace
}  // namespace qwen3vl

size_t qwen3vl_experts_prefill_workspace(int tokens, int k) { return qwen3vl::ChunkWorkspace(tokens, k).size; }

int qwen3vl_experts_prefill(void* y, void* workspace, const void* x, const int32_t* chosen,
                            const float* chosen_weights, const void* gate_up, const void* down, int tokens, int k,
                            int experts, int hidden, int inner, int type, void* stream) {
  using namespace qwen3vl;
  const bool known = experts >= 1 && experts <= kChunkExperts && hidden == kChunkHidden && inner == kChunkInner;
  if (tokens < 1 || k < 1 || tokens > kMostPairs / k || !known) return cudaErrorInvalidValue;
  const ChunkCall call{y,       static_cast<std::uint8_t*>(workspace), x, chosen, chosen_weights,
                       gate_up, down, tokens, k, experts, static_cast<cudaStream_t>(stream)};
  if (type == QWEN3VL_BFLOAT16) return run_chunk<__nv_bfloat16>(call, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16);
  if (type == QWEN3VL_FLOAT16) return run_chunk<__half>(call, CU_TENSOR_MAP_DATA_TYPE_FLOAT16);
  return cudaErrorInvalidValue;
}
