// plugins/hopper/ptx.cuh on a CPU, as far as the kernels that are tested use it. Copies are done at once: one that is
// started too early overwrites what others still read.
#pragma once

#include <cstdint>
#include <cstring>

#include "device.h"

namespace qwen3vl {

constexpr int kWarp = 32, kWarpgroup = 128;

// In place of fragments.cuh's, which is an instruction.
inline std::uint32_t load_2_now(const __nv_bfloat16* address) {
  std::uint32_t pair;
  std::memcpy(&pair, address, sizeof pair);
  return pair;
}

inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(static_cast<const std::uint8_t*>(pointer) - ::emulation::current->block->shared);
}

inline float exp2_approximate(float x) { return std::exp2(x); }

inline void named_barrier(int id, int threads) { ::emulation::named_barrier(id, threads, true); }

struct EmulatedBarrier {
  std::uint8_t phase, arrivals, pending, unused;
  std::int32_t bytes;

  void arrive() {
    if (pending == 0) ::emulation::fail("more arrivals at an mbarrier than it expects");
    --pending;
    end_phase();
  }

  void end_phase() {
    if (pending > 0 || bytes != 0) return;
    phase ^= 1;
    pending = arrivals;
  }
};

inline EmulatedBarrier& emulated(std::uint64_t* barrier) { return *reinterpret_cast<EmulatedBarrier*>(barrier); }

inline void wait_for_previous_kernel() {}
inline void let_next_kernel_start() {}
inline void barrier_init_done() {}
inline void shared_writes_fence() {}
inline std::uint64_t streaming_policy() { return 0; }

inline void barrier_init(std::uint64_t* barrier, std::uint32_t arrivals) {
  const auto count = static_cast<std::uint8_t>(arrivals);
  emulated(barrier) = {0, count, count, 0, 0};
}

inline void barrier_arrive(std::uint64_t* barrier) { emulated(barrier).arrive(); }

// Bytes of a copy are there.
inline void barrier_receive(std::uint64_t* barrier, std::uint32_t bytes) {
  emulated(barrier).bytes -= static_cast<std::int32_t>(bytes);
  emulated(barrier).end_phase();
}

inline void barrier_arrive_expecting(std::uint64_t* barrier, std::uint32_t bytes) {
  emulated(barrier).bytes += static_cast<std::int32_t>(bytes);
  emulated(barrier).arrive();
}

inline void barrier_wait(std::uint64_t* barrier, std::uint32_t parity) {
  while (emulated(barrier).phase == parity) ::emulation::yield();
}

inline void bulk_copy(void* target, const void* source, std::uint32_t bytes, std::uint64_t* barrier, std::uint64_t) {
  const auto misplaced = reinterpret_cast<std::uintptr_t>(target) | reinterpret_cast<std::uintptr_t>(source) | bytes;
  if (misplaced % 16 != 0) ::emulation::fail("a bulk copy that is not of whole 16 bytes");
  ::emulation::yield();  // it takes its time
  std::memcpy(target, source, bytes);
  barrier_receive(barrier, bytes);
}

inline void bulk_prefetch(const void*, std::uint32_t bytes) {
  if (bytes % 16 != 0) ::emulation::fail("a prefetch that is not of whole 16 bytes");
}

inline void cluster_arrive() { ::emulation::cluster_arrive(); }
inline void cluster_wait() { ::emulation::cluster_wait(); }

// A shared address and, above it, the block's rank.
constexpr int kRankShift = 24;

inline std::uint32_t cluster_address(const void* pointer, int rank) {
  return shared_address(pointer) | static_cast<std::uint32_t>(rank) << kRankShift;
}

template <typename V>
void send(std::uint32_t address, V x, std::uint32_t barrier) {
  const std::uint32_t rank = address >> kRankShift, offset = (1u << kRankShift) - 1;
  if (rank != barrier >> kRankShift) ::emulation::fail("a message to one block that counts in another");
  if (address % sizeof(V) != 0) ::emulation::fail("a message to an address that is no multiple of its size");
  ::emulation::yield();  // it takes its time
  std::uint8_t* shared = ::emulation::current->block->cluster->blocks[rank]->shared;
  std::memcpy(shared + (address & offset), &x, sizeof(V));
  barrier_receive(reinterpret_cast<std::uint64_t*>(shared + (barrier & offset)), sizeof(V));
}

inline void release_add(int* counter, int value) { *counter += value; }

// A word after another, so that who reads in between has to look at each.
inline void publish(uint4* to, const uint4& words) {
  const std::uint32_t all[4] = {words.x, words.y, words.z, words.w};
  for (int i = 0; i < 4; ++i) {
    reinterpret_cast<std::uint32_t*>(to)[i] = all[i];
    ::emulation::yield();
  }
}

inline uint4 published(const uint4* from) {
  ::emulation::yield();
  return *from;
}

inline int acquire_load(const int* counter) {
  ::emulation::yield();  // who asks again and again lets others go on
  return *counter;
}

}  // namespace qwen3vl
