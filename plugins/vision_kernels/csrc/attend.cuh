// softmax(q k') v over tiles, in one pass over the keys with running maxima and sums (FlashAttention).
//
// A thread block has one warpgroup that loads and kGroups that attend. Each of these multiplies its 64 queries with a
// tile of 128 keys while the weights of the tile before are still being multiplied with their values, and takes
// exponentials meanwhile; the others fill what gaps that leaves.
#pragma once

#include "attend_loading.cuh"
#include "query_tile.cuh"

namespace qwen3vl {

template <typename T, int kHead>
struct Attention {
  using Memory = Shared<T, kHead>;
  Memory& shared;
  const AttendArguments<T>& arguments;
  const int me = threadIdx.x / kWarpgroup - 1, thread = threadIdx.x % kWarpgroup, lane = threadIdx.x % kWarp;
  QueryTile<T, kHead> tile;
  Ring<kStages> ring;
  Ring<2> query_ring;

  __device__ __forceinline__ std::uint64_t query(int group) const {
    return plain_matrix(shared_address(shared.queries[query_ring.stage][group]), kQueryRows * 16, 128);
  }
  __device__ __forceinline__ std::uint64_t key(int stage) const {
    return plain_matrix(shared_address(shared.keys[stage]), kKeyRows * 16, 128);
  }
  __device__ __forceinline__ std::uint64_t value(int stage) const {  // transposed: its inner dimension is the rows
    return plain_matrix(shared_address(shared.values[stage]), 128, kKeyRows * 16);
  }
  __device__ __forceinline__ void release(std::uint64_t& barrier) {
    if (lane == 0) barrier_arrive(&barrier);
  }
  __device__ __forceinline__ int keys_of_last_tile() const {
    return arguments.patches - (arguments.key_tiles_per_head - 1) * kKeyRows;
  }

  // Each warpgroup its own queries, all keys.
  __device__ __forceinline__ void attend_full() {
    const int tiles = arguments.key_tiles_per_head;
    float correction[2];
    barrier_wait(&shared.key_full[ring.stage], ring.parity);
    tile.multiply_keys(query(me), key(ring.stage));
    mma_wait<0>();
    settle(tile.scores);
    release(shared.key_empty[ring.stage]);
    if (keys_of_last_tile() < kKeyRows) tile.mask(keys_of_last_tile());
    tile.exponentiate(correction);
    tile.round_weights();
    Ring<kStages> before = ring;
    for (int i = 1; i < tiles; ++i, before = ring) {
      ring = ring.next();
      if (i == 1) barrier_wait(&shared.key_full[ring.stage], ring.parity);
      tile.multiply_keys(query(me), key(ring.stage));
      barrier_wait(&shared.value_full[before.stage], before.parity);
      tile.multiply_values(value(before.stage));
      mma_wait<1>();
      settle(tile.scores);
      release(shared.key_empty[ring.stage]);
      tile.exponentiate(correction);
      // Waits here for the keys of the next round: without a branch ptxas moves the exponentials below the next line.
      const Ring<kStages> after = ring.next();
      if (i + 1 < tiles) barrier_wait(&shared.key_full[after.stage], after.parity);
      mma_wait<0>();
      tile.settle_mixed();
      release(shared.value_empty[before.stage]);
      tile.correct(correction);
      tile.round_weights();
    }
    release(shared.query_empty[query_ring.stage]);
    barrier_wait(&shared.value_full[ring.stage], ring.parity);
    mma_fence();
    tile.multiply_values(value(ring.stage));
    mma_wait<0>();
    tile.settle_mixed();
    release(shared.value_empty[ring.stage]);
    ring = ring.next();
  }

  // All warpgroups the same queries, every kGroups-th key tile each.
  __device__ __forceinline__ void attend_split() {
    float correction[2];
    for (int i = 0; i < arguments.key_tiles_per_head; ++i, ring = ring.next()) {
      barrier_wait(&shared.key_full[ring.stage], ring.parity);
      const bool mine = i % kGroups == me;
      if (mine) {
        tile.multiply_keys(query(0), key(ring.stage));
        mma_wait<0>();
        settle(tile.scores);
      }
      release(shared.key_empty[ring.stage]);
      if (mine) {
        if (i == 0 && keys_of_last_tile() < kKeyRows) tile.mask(keys_of_last_tile());
        tile.exponentiate(correction);
        tile.correct(correction);
        tile.round_weights();
      }
      barrier_wait(&shared.value_full[ring.stage], ring.parity);
      if (mine) {
        mma_fence();
        tile.multiply_values(value(ring.stage));
        mma_wait<0>();
        tile.settle_mixed();
      }
      release(shared.value_empty[ring.stage]);
    }
    release(shared.query_empty[query_ring.stage]);
  }

  // The first warpgroup's tile becomes that of all keys.
  __device__ __forceinline__ void merge() {
    named_barrier(1, kGroups * kWarpgroup);  // all have stored the item before, in the same memory
    if (me > 0) {
      auto& partial = shared.partial[me - 1];
#pragma unroll
      for (int i = 0; i < kHead / 2; ++i) partial.mixed[i][thread] = tile.mixed[i];
#pragma unroll
      for (int r = 0; r < 2; ++r) partial.top[r][thread] = tile.top[r], partial.sum[r][thread] = tile.sum[r];
    }
    named_barrier(1, kGroups * kWarpgroup);
    if (me > 0) return;
    for (int group = 0; group < kGroups - 1; ++group) {
      const auto& partial = shared.partial[group];
      float own[2], other[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float top = fmaxf(tile.top[r], partial.top[r][thread]);
        own[r] = exp2_approximate(tile.top[r] - top);
        other[r] = exp2_approximate(partial.top[r][thread] - top);
        tile.top[r] = top;
        tile.sum[r] = tile.sum[r] * own[r] + partial.sum[r][thread] * other[r];
      }
#pragma unroll
      for (int i = 0; i < kHead / 2; ++i)
        tile.mixed[i] = tile.mixed[i] * own[i / 2 % 2] + partial.mixed[i][thread] * other[i / 2 % 2];
    }
    named_barrier(2, kWarpgroup);  // before `out`, which lies where the parts are, is written
  }

  // Each warp its 16 rows, by way of shared memory: 16 bytes a thread.
  __device__ __forceinline__ void store(int frame_head, int query_tile) {
    const int warp = thread / kWarp;
    T* staged = shared.out[me] + warp * 16 * Memory::kPitch;
    const float factor[2] = {1.0f / tile.sum[0], 1.0f / tile.sum[1]};
#pragma unroll
    for (int i = 0; i < kHead / 2; i += 2) {
      const int r = i / 2 % 2;
      *reinterpret_cast<std::uint32_t*>(staged + (lane / 4 + 8 * r) * Memory::kPitch + i / 4 * 8 + 2 * (lane % 4)) =
          pack<T>(tile.mixed[i] * factor[r], tile.mixed[i + 1] * factor[r]);
    }
    __syncwarp();
    constexpr int kVectors = kHead / kChunk;
    const int first = query_tile * kQueryRows + warp * 16;
    const int frame = frame_head / arguments.heads, head = frame_head % arguments.heads;
    T* out = arguments.out + (static_cast<std::int64_t>(frame) * arguments.patches * arguments.heads + head) * kHead;
    for (int i = lane; i < 16 * kVectors; i += kWarp) {
      const int row = i / kVectors, vector = i % kVectors;
      if (first + row < arguments.patches)
        reinterpret_cast<int4*>(out + static_cast<std::int64_t>(first + row) * arguments.heads * kHead)[vector] =
            reinterpret_cast<const int4*>(staged + row * Memory::kPitch)[vector];
    }
    __syncwarp();
  }

  __device__ __forceinline__ void run() {
    for (int index = blockIdx.x; index < arguments.schedule.items(); index += gridDim.x) {
      const Item item = item_at(arguments.schedule, index);
      tile.clear();
      barrier_wait(&shared.query_full[query_ring.stage], query_ring.parity);
      if (item.split) {
        attend_split();
        tile.finish_sums();
        merge();
        if (me == 0) store(item.frame_head, item.query_tile);
        named_barrier(1, kGroups * kWarpgroup);  // before the parts' memory is used again
      } else {
        attend_full();
        tile.finish_sums();
        store(item.frame_head, item.query_tile + me);
      }
      query_ring = query_ring.next();
    }
  }
};

template <typename T, int kHead>
__global__ void __launch_bounds__(kAttendThreads, 1) attend(const __grid_constant__ AttendArguments<T> arguments) {
  extern __shared__ __align__(128) unsigned char memory[];
  auto& shared = *reinterpret_cast<Shared<T, kHead>*>(memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) barrier_init(&shared.query_full[i], 1), barrier_init(&shared.query_empty[i], kArrivals);
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&shared.key_full[i], 1), barrier_init(&shared.key_empty[i], kArrivals);
      barrier_init(&shared.value_full[i], 1), barrier_init(&shared.value_empty[i], kArrivals);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kLoaderRegisters));
    if (threadIdx.x == 0) load<T, kHead>(shared, arguments);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kAttendRegisters));
    Attention<T, kHead>{shared, arguments}.run();
  }
}

}  // namespace qwen3vl
