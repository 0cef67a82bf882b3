// Attention of a chunk of new tokens of one sequence over its slot of the cache, in two kernels: one norms and turns
// the new keys and appends keys and values, the other attends.
#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "launch.h"
#include "prefill_attend.cuh"
#include "prefill_tiles.h"
#include "tensor_map.h"

namespace qwen3vl {
namespace {

// Of 64 K registers: 168 a thread at the start; what the loading warpgroup gives back goes to the others.
constexpr int kLoaderRegisters = 32, kAttendRegisters = 232;
static_assert(sizeof(PrefillShared) <= 227 * 1024, "more shared memory than compute capability 9.0 has for a block");

struct AppendArguments {
  void* keys;                         // T [kv_heads, capacity, 128]
  void* values;                       // the same
  const void* qkv;                    // T [tokens, (heads + 2 kv_heads) * 128]
  const void* key_norm;               // T [128]
  const float* cosines;               // [tokens, 64]
  const float* sines;                 // [tokens, 64]
  const std::int32_t* total_lengths;  // [1], the new tokens counted
  int tokens, kv_heads, capacity;
  float epsilon;
};

constexpr int kAppendWarps = 8;

// One warp for a token's key and value of one head.
template <typename T>
__global__ void __launch_bounds__(kAppendWarps * kWarp) append_kernel(const AppendArguments arguments) {
  const int lane = threadIdx.x % kWarp;
  const int item = static_cast<int>(blockIdx.x) * kAppendWarps + static_cast<int>(threadIdx.x) / kWarp;
  const int token = item / arguments.kv_heads, kv_head = item % arguments.kv_heads;
  const uint2 norm = head_norm_now(static_cast<const T*>(arguments.key_norm), lane);
  wait_for_previous_kernel();
  let_next_kernel_start();  // which may read what the kernels before this one wrote
  if (token >= arguments.tokens) return;
  const int heads = arguments.kv_heads * kSharing;
  const T* key = static_cast<const T*>(arguments.qkv) +
                 (static_cast<std::int64_t>(token) * (heads + 2 * arguments.kv_heads) + heads + kv_head) * kHeadSize;
  const uint2 key_pairs = head_pairs(key, lane), value = head_pairs(key + arguments.kv_heads * kHeadSize, lane);
  const std::int64_t angle = static_cast<std::int64_t>(token) * (kHeadSize / 2);
  const float2 cosine = reinterpret_cast<const float2*>(arguments.cosines + angle)[lane];
  const float2 sine = reinterpret_cast<const float2*>(arguments.sines + angle)[lane];
  const int position = *arguments.total_lengths - arguments.tokens + token;
  if (position < 0 || position >= arguments.capacity) return;  // a wrong length must not reach others' memory
  const std::int64_t row = (static_cast<std::int64_t>(kv_head) * arguments.capacity + position) * (kHeadSize / 2);
  const uint2 turned = normed_and_turned<T>(key_pairs, norm, cosine, sine, arguments.epsilon);
  auto* keys = static_cast<std::uint32_t*>(arguments.keys) + row;
  auto* values = static_cast<std::uint32_t*>(arguments.values) + row;
  keys[lane] = turned.x;
  keys[32 + lane] = turned.y;
  values[lane] = value.x;
  values[32 + lane] = value.y;
}

template <typename T>
__global__ void __launch_bounds__(kPrefillThreads, 1)
    attend_kernel(const __grid_constant__ PrefillArguments arguments) {
  extern __shared__ __align__(1024) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<PrefillShared*>(shared_memory);
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  const PrefillItem item =
      prefill_item(static_cast<std::int32_t>(blockIdx.x), arguments.tokens, arguments.kv_heads);
  const int past = max(*arguments.total_lengths - arguments.tokens, 0);
  const KeyTiles tiles = key_tiles(item.first_token, arguments.tokens, past);
  if (threadIdx.x < kWarpgroup) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kLoaderRegisters));
    if (threadIdx.x == 0) {
      wait_for_previous_kernel();
      let_next_kernel_start();
      load_tiles(shared, arguments, item.kv_head, tiles.count);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kAttendRegisters));
    const int group = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
    PrefillAttention<T> attention{shared, arguments, past, item.kv_head, item.first_token + group * kGroupTokens};
    // Queries were there when the kernel before this one, which appends, began its work; keys and values come through
    // the loader, which waits for its end.
    attention.prepare_queries();
    attention.attend(tiles);
    attention.store();
  }
}

template <typename T>
cudaError_t launch_prefill(const AppendArguments& append, PrefillArguments& attend, CUtensorMapDataType type,
                           cudaStream_t stream) {
  cudaError_t status = describe_matrices(&attend.keys, type, append.keys, append.kv_heads, append.capacity, kHeadSize,
                                         kKeyRows);
  if (status == cudaSuccess) {
    status = describe_matrices(&attend.values, type, append.values, append.kv_heads, append.capacity, kHeadSize,
                               kKeyRows);
  }
  if (status == cudaSuccess) {
    const int blocks = groups_of(append.tokens * append.kv_heads, kAppendWarps);
    status = launch(append_kernel<T>, dim3(blocks), kAppendWarps * kWarp, 0, 1, stream, append);
  }
  if (status == cudaSuccess) {
    const int blocks = prefill_items(attend.tokens, attend.kv_heads);
    status = launch(attend_kernel<T>, dim3(blocks), kPrefillThreads, sizeof(PrefillShared), 1, stream, attend);
  }
  return status;
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_prefill_attention(void* out, const void* qkv, const void* query_norm, const void* key_norm,
                              const float* cosines, const float* sines, void* keys, void* values,
                              const int32_t* total_length, int tokens, int heads, int kv_heads, int head_size,
                              int capacity, float epsilon, float scale, int type, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || tokens > capacity || kv_heads < 1 || heads != kv_heads * kSharing || head_size != kHeadSize ||
      !(scale > 0.f)) {
    return cudaErrorInvalidValue;
  }
  const AppendArguments append{keys,   values,   qkv,      key_norm, cosines, sines, total_length,
                               tokens, kv_heads, capacity, epsilon};
  PrefillArguments attend{};
  attend.out = out;
  attend.qkv = qkv;
  attend.query_norm = query_norm;
  attend.cosines = cosines;
  attend.sines = sines;
  attend.total_lengths = total_length;
  attend.tokens = tokens;
  attend.kv_heads = kv_heads;
  attend.epsilon = epsilon;
  attend.scale = scale * 1.44269504f;  // exponents are of 2
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) {
    return launch_prefill<__nv_bfloat16>(append, attend, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, on);
  }
  if (type == QWEN3VL_FLOAT16) return launch_prefill<__half>(append, attend, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, on);
  return cudaErrorInvalidValue;
}
