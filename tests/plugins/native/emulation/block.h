// What the threads of an emulated thread block have in common, and how they wait for each other.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "fiber.h"

namespace emulation {

constexpr int kWords = 12, kBarriers = 16;

[[noreturn]] inline void fail(const char* what) {
  std::printf("emulation: %s\n", what);
  std::exit(1);
}

// Values that the lanes of a warp show each other; two slots, as some lanes may be one exchange ahead.
struct Warp {
  std::uint32_t words[2][32][kWords];
  int given[2] = {}, taken[2] = {};
};

struct Block;

// Blocks that reach each other's shared memory.
struct Cluster {
  std::vector<Block*> blocks;  // by rank
  int threads = 0, arrived = 0, phase = 0;
};

struct Block {
  // Shared memory is NaN, whatever kind of floating-point number it is taken for.
  Block(dim3 index, int threads, std::size_t shared_bytes)
      : index(index), threads(threads), warps((threads + 31) / 32), memory(shared_bytes + kAlignment, 0xFF) {
    void* place = memory.data();
    std::size_t room = memory.size();
    shared = static_cast<std::uint8_t*>(std::align(kAlignment, shared_bytes, place, room));
  }

  static constexpr std::size_t kAlignment = 1024;
  const dim3 index;
  const int threads;
  std::vector<Warp> warps;
  std::vector<std::uint8_t> memory;
  std::uint8_t* shared;
  int arrived[kBarriers] = {}, phase[kBarriers] = {};  // of named barriers
  Cluster* cluster = nullptr;
};

struct Thread {
  Block* block;
  int number, exchanges = 0, cluster_phase = 0;
};

inline Thread* current;  // the one that runs

inline int lane() { return current->number % 32; }

// Others run, and come to do what this thread waits for.
inline void yield() { Fiber::yield(); }

// Shows the warp `count` words; those of lane i are at result[i].
inline const std::uint32_t (*exchange(const std::uint32_t* own, int count))[kWords] {
  Warp& warp = current->block->warps[current->number / 32];
  const int slot = current->exchanges++ % 2;
  if (warp.taken[slot] == 32) warp.taken[slot] = warp.given[slot] = 0;
  for (int i = 0; i < count; ++i) warp.words[slot][lane()][i] = own[i];
  ++warp.given[slot];
  while (warp.given[slot] != 32) yield();
  ++warp.taken[slot];
  return warp.words[slot];
}

template <typename V>
V from_lane(V value, int lane) {
  std::uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  const auto* all = exchange(&word, 1);
  std::memcpy(&value, all[lane], sizeof word);
  return value;
}

// Arrives at a barrier of so many threads.
inline void named_barrier(int id, int threads, bool wait) {
  Block& block = *current->block;
  const int phase = block.phase[id];
  if (++block.arrived[id] == threads) {
    block.arrived[id] = 0;
    ++block.phase[id];
    return;
  }
  while (wait && block.phase[id] == phase) yield();
}

inline void cluster_arrive() {
  Cluster& cluster = *current->block->cluster;
  current->cluster_phase = cluster.phase;
  if (++cluster.arrived < cluster.threads) return;
  cluster.arrived = 0;
  ++cluster.phase;
}

inline void cluster_wait() {
  while (current->block->cluster->phase == current->cluster_phase) yield();
}

}  // namespace emulation
