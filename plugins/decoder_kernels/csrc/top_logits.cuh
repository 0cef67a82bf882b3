// The largest logits of a row: blocks find those of slices, then one block those of all slices, and chooses among them.
//
// A logit and its id are one number here, a key: the larger for a larger logit and, of equal ones, for a smaller id.
#pragma once

#include <cstdint>

#include "choose_token.cuh"
#include "float_order.cuh"
#include "ptx.cuh"

namespace qwen3vl {

using Key = std::uint64_t;  // 0: none

constexpr int kTopThreads = 128;
constexpr int kTopKeys = 32;  // of a thread
constexpr int kTopSlice = kTopThreads * kTopKeys;
constexpr int kMostOfTop = kMostCandidates;
constexpr int kMostSlices = kTopSlice / kMostOfTop;  // so that one block takes what they found

struct TopShared {
  Key largest[kTopThreads];
  Key found[kMostOfTop * kTopKeys];
  Key least;
  int count;  // of keys found, the k largest among them
};

struct TopOfRowsShared {
  TopShared top;
  Candidates candidates;
};

__device__ __forceinline__ Key key_of(float logit, int id) {
  return static_cast<Key>(order_of(logit + 0.f)) << 32 | ~static_cast<std::uint32_t>(id);  // -0 is 0
}

__device__ __forceinline__ float logit_of(Key key) { return float_of(static_cast<std::uint32_t>(key >> 32)); }

__device__ __forceinline__ std::uint32_t id_of(Key key) { return ~static_cast<std::uint32_t>(key); }

// Calls put(rank, key) for the k largest of the block's keys, which all differ; with 0 where there are fewer.
//
// k threads have a key that is not below the k-th largest of the threads' own largest, so no other thread has one of
// the k largest. Keys that are spread over the threads at random leave little more than k to be ranked.
template <typename Put>
__device__ __forceinline__ void put_largest(TopShared& shared, const Key (&keys)[kTopKeys], int k, const Put& put) {
  const int thread = threadIdx.x;
  Key own = 0;
#pragma unroll
  for (int i = 0; i < kTopKeys; ++i) own = keys[i] > own ? keys[i] : own;
  shared.largest[thread] = own;
  if (thread == 0) {
    shared.least = 1;  // stays where fewer than k threads have keys
    shared.count = 0;
  }
  __syncthreads();
  int larger = 0;
#pragma unroll 16
  for (int i = 0; i < kTopThreads; ++i) larger += shared.largest[i] > own;
  if (own != 0 && larger == k - 1) shared.least = own;
  __syncthreads();
  const Key least = shared.least;
#pragma unroll
  for (int i = 0; i < kTopKeys; ++i) {
    if (keys[i] >= least) shared.found[atomicAdd(&shared.count, 1)] = keys[i];
  }
  __syncthreads();
  const int count = shared.count;
  for (int i = thread; i < count; i += kTopThreads) {
    const Key key = shared.found[i];
    int rank = 0;
#pragma unroll 8
    for (int j = 0; j < count; ++j) rank += shared.found[j] > key;
    if (rank < k) put(rank, key);
  }
  for (int rank = count + thread; rank < k; rank += kTopThreads) put(rank, Key{0});
}

// A block for each slice (x) and row (y). found [rows, k, slices]; vocabulary is a multiple of 4.
__global__ void __launch_bounds__(kTopThreads) top_of_slices_kernel(Key* found, const float* logits, int vocabulary,
                                                                    int k) {
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  let_next_kernel_start();
  wait_for_previous_kernel();
  const float* row = logits + static_cast<std::int64_t>(blockIdx.y) * vocabulary;
  Key keys[kTopKeys];
#pragma unroll
  for (int i = 0; i < kTopKeys / 4; ++i) {
    const int id = blockIdx.x * kTopSlice + 4 * (i * kTopThreads + threadIdx.x);
    const bool there = id < vocabulary;
    const float4 four = there ? __ldcg(reinterpret_cast<const float4*>(row + id)) : float4{};
    keys[4 * i] = there ? key_of(four.x, id) : 0;
    keys[4 * i + 1] = there ? key_of(four.y, id + 1) : 0;
    keys[4 * i + 2] = there ? key_of(four.z, id + 2) : 0;
    keys[4 * i + 3] = there ? key_of(four.w, id + 3) : 0;
  }
  const int slices = gridDim.x, slice = blockIdx.x;
  Key* of_row = found + static_cast<std::int64_t>(blockIdx.y) * k * slices;
  put_largest(*reinterpret_cast<TopShared*>(shared_memory), keys, k,
              [&](int rank, Key key) { of_row[rank * slices + slice] = key; });
}

// A block for each row. best, ids [rows, k], the largest first; chosen, draws [rows]. Each row has a key at least.
__global__ void __launch_bounds__(kTopThreads) top_of_rows_kernel(float* best, std::int64_t* ids, std::int64_t* chosen,
                                                                  const Key* found, const Draw* draws, int slices,
                                                                  int k) {
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::int64_t row = blockIdx.x;
  const auto* numbers = reinterpret_cast<const double*>(draws + row);
  const Draw draw{__ldcg(numbers), __ldcg(numbers + 1), __ldcg(numbers + 2), __ldcg(numbers + 3)};
  const int count = k * slices;
  Key keys[kTopKeys];
#pragma unroll
  for (int i = 0; i < kTopKeys; ++i) {
    const int at = i * kTopThreads + threadIdx.x;  // the slices' largest go to different threads, then the second ...
    keys[i] = at < count ? __ldcg(found + row * count + at) : 0;
  }
  auto& shared = *reinterpret_cast<TopOfRowsShared*>(shared_memory);
  const bool likeliest = draw.temperature == 0;
  put_largest(shared.top, keys, k, [&](int rank, Key key) {
    best[row * k + rank] = logit_of(key);
    ids[row * k + rank] = id_of(key);
    if (likeliest) {
      if (rank == 0) chosen[row] = id_of(key);
    } else {
      shared.candidates.logits[rank] = logit_of(key);
      shared.candidates.ids[rank] = id_of(key);
    }
  });
  if (likeliest) return;
  __syncthreads();
  choose_token(shared.candidates, draw, min(k, shared.top.count), chosen + row);
}

}  // namespace qwen3vl
