// The kernel of attention of one new token a sequence over a slotted cache, with what comes before it: the norms of
// queries and keys, rotary positions, and the append to the cache.
//
// A cluster of blocks shares one key-value head of one sequence; each warp takes groups of 16 cached tokens, which the
// copy engine brings to shared memory, several ahead. The results of a block's warps, then of a cluster's blocks are
// put together as partial softmaxes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "attention_cache.cuh"
#include "attention_results.cuh"
#include "attention_softmax.cuh"
#include "fragments.cuh"
#include "head_rotation.cuh"
#include "ptx.cuh"

namespace qwen3vl {
namespace {

struct AttentionArguments {
  void* out;                         // T [B, heads * 128]
  const void* qkv;                   // T [B, (heads + 2 kv_heads) * 128]
  const void* query_norm;            // T [128]
  const void* key_norm;              // T [128]
  const float* cosines;              // [B, 64]
  const float* sines;                // [B, 64]
  void* keys;                        // T [B, kv_heads, capacity, 128]
  void* values;                      // the same
  const std::int32_t* total_lengths; // [B], this token counted
  int kv_heads, capacity;
  float epsilon, scale;              // of the norms; of the scores
};

// Of a block, one of kRanks that share a sequence's cache. Few sequences: many warps with a group or two each, in a block
// that fits beside another kernel's. Many: warps that read on and on, two blocks a multiprocessor.
template <int kRanks>
struct AttentionShared {
  static constexpr int kWarps = kRanks > 2 ? 8 : 4;
  static constexpr int kSlots = kRanks > 4 ? 8 : 12;  // groups of all warps that are on their way or in use

  // When all groups are done, each warp's first slot holds its result, as result_index says.
  alignas(128) std::uint8_t groups[kSlots][2 * kGroupHalf];
  std::uint64_t full[kSlots];
  AttentionResults<kRanks, kWarps> results;
  alignas(16) std::uint16_t queries[kSharing][kHeadSize + 8];
  alignas(16) std::uint16_t key[kHeadSize];
  alignas(16) std::uint16_t value[kHeadSize];

  // The first warps have one more where they can't be divided.
  static __device__ int first_slot(int warp) { return warp * (kSlots / kWarps) + min(warp, kSlots % kWarps); }
  __device__ GroupSlots slots(int warp) {
    const int first = first_slot(warp);
    return {groups + first, full + first, first_slot(warp + 1) - first};
  }
  __device__ float* result(int warp) { return reinterpret_cast<float*>(groups[first_slot(warp)]); }
  static_assert(kResultFloats * sizeof(float) <= 2 * kGroupHalf);
};

// Norms and turns the queries of the block's heads, and, in the block that has the new token, its key, which it appends
// as well as its value. All that a warp takes is asked for before any of it is used. Called by all threads; a block
// barrier has to follow.
template <typename T, typename Shared>
__device__ __forceinline__ void take_token(Shared& shared, const AttentionArguments& arguments, const uint2& query_norm,
                                           const uint2& key_norm, const float2& cosine, const float2& sine, T* new_key,
                                           T* new_value, bool has_new) {
  constexpr int kQueries = kSharing / Shared::kWarps;  // of a warp
  static_assert(Shared::kWarps > 1 && kSharing % Shared::kWarps == 0);
  const int kv_head = blockIdx.y, sequence = blockIdx.z, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int heads = arguments.kv_heads * kSharing;
  const T* qkv = static_cast<const T*>(arguments.qkv) +
                 static_cast<std::int64_t>(sequence) * (heads + 2 * arguments.kv_heads) * kHeadSize;
  const bool has_key = has_new && warp == 0, has_value = has_new && warp == 1;
  uint2 queries[kQueries], key{}, value{};
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    queries[i] = head_pairs(qkv + (kv_head * kSharing + warp + i * Shared::kWarps) * kHeadSize, lane);
  }
  if (has_key) key = head_pairs(qkv + (heads + kv_head) * kHeadSize, lane);
  if (has_value) {
    value = __ldcg(reinterpret_cast<const uint2*>(qkv + (heads + arguments.kv_heads + kv_head) * kHeadSize) + lane);
  }
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    const uint2 query = normed_and_turned<T>(queries[i], query_norm, cosine, sine, arguments.epsilon);
    auto* row = reinterpret_cast<std::uint32_t*>(shared.queries[warp + i * Shared::kWarps]);
    row[lane] = query.x;
    row[32 + lane] = query.y;
  }
  if (has_key) {
    key = normed_and_turned<T>(key, key_norm, cosine, sine, arguments.epsilon);
    auto* row = reinterpret_cast<std::uint32_t*>(shared.key);
    auto* cached = reinterpret_cast<std::uint32_t*>(new_key);
    row[lane] = cached[lane] = key.x;
    row[32 + lane] = cached[32 + lane] = key.y;
  }
  if (has_value) {
    reinterpret_cast<uint2*>(shared.value)[lane] = value;
    reinterpret_cast<uint2*>(new_value)[lane] = value;
  }
}

template <typename T, int kRanks>
__global__ void __launch_bounds__(AttentionShared<kRanks>::kWarps * 32, 2) attention_kernel(const AttentionArguments arguments) {
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  using Shared = AttentionShared<kRanks>;
  auto& shared = *reinterpret_cast<Shared*>(shared_memory);
  const int rank = blockIdx.x, kv_head = blockIdx.y, sequence = blockIdx.z;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

  const int past = arguments.total_lengths[sequence] - 1;
  const std::int64_t slot = (static_cast<std::int64_t>(sequence) * arguments.kv_heads + kv_head) * arguments.capacity;
  T* keys = static_cast<T*>(arguments.keys) + slot * kHeadSize;
  T* values = static_cast<T*>(arguments.values) + slot * kHeadSize;
  CachedGroups<T> groups(shared.slots(warp), keys, values, past, warp * kRanks + rank, kRanks * Shared::kWarps);
  groups.start();  // the cache is older than the kernel before this one
  if constexpr (kRanks > 2) groups.prefetch();
  const float2 cosine = reinterpret_cast<const float2*>(arguments.cosines + sequence * (kHeadSize / 2))[lane];
  const float2 sine = reinterpret_cast<const float2*>(arguments.sines + sequence * (kHeadSize / 2))[lane];
  const uint2 query_norm = head_norm_now(static_cast<const T*>(arguments.query_norm), lane);
  const uint2 key_norm = head_norm_now(static_cast<const T*>(arguments.key_norm), lane);
  shared.results.begin();
  wait_for_previous_kernel();
  let_next_kernel_start();

  const std::int64_t end = static_cast<std::int64_t>(past) * kHeadSize;
  const bool has_new = rank == kRanks - 1;  // no block has fewer groups of cached tokens, nor has a warp than its last
  take_token<T>(shared, arguments, query_norm, key_norm, cosine, sine, keys + end, values + end, has_new);
  __syncthreads();
  uint4 query[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) query[i] = *reinterpret_cast<const uint4*>(&shared.queries[g][32 * i + 8 * t]);
  const float scale = arguments.scale * 1.44269504f;  // exponents are of 2
  Softmax softmax;
  if (has_new && warp == Shared::kWarps - 1) {
    const std::uint16_t* queries[2] = {shared.queries[2 * t], shared.queries[2 * t + 1]};
    softmax.begin_with<T>(queries, shared.key, shared.value, scale, g);
  }
  while (groups.more()) {
    groups.wait();
    groups.advance(softmax.add<T>(groups, query, scale, g, t));
  }

  shared.results.store(softmax, shared.result(warp), warp, g, t);
  __syncthreads();
  shared.results.exchange([&](int w) { return shared.result(w); }, rank, warp, lane);
  T* out = static_cast<T*>(arguments.out) +
           (static_cast<std::int64_t>(sequence) * arguments.kv_heads + kv_head) * kSharing * kHeadSize;
  shared.results.template write<T>(out, rank);
}

}  // namespace
}  // namespace qwen3vl
