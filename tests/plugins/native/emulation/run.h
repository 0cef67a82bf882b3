// Runs the blocks of a kernel: a fiber for each thread, in turn. Warps are delayed at random, for a while each, so that
// they get out of step by more than a tile of work.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "block.h"

namespace emulation {

inline dim3 grid;
inline unsigned width;  // of a block: its threads along x
constexpr unsigned kStretch = 64;  // rounds, on average, until other warps are delayed

// Some blocks side by side, until all have ended; a cluster, if they want one.
inline void run_together(const std::vector<dim3>& indices, int threads, std::size_t shared_bytes,
                         const std::function<void()>& kernel) {
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<std::unique_ptr<Thread>> all;
  std::vector<std::unique_ptr<Fiber>> fibers;
  Cluster cluster;
  for (const dim3& index : indices) {
    blocks.push_back(std::make_unique<Block>(index, threads, shared_bytes));
    blocks.back()->cluster = &cluster;
    cluster.blocks.push_back(blocks.back().get());
    cluster.threads += threads;
    for (int number = 0; number < threads; ++number) {
      all.push_back(std::make_unique<Thread>(Thread{blocks.back().get(), number}));
      fibers.push_back(std::make_unique<Fiber>(kernel));
    }
  }
  std::mt19937 random(1);
  std::size_t left = fibers.size();
  unsigned delayed = 0;  // a bit for each warp
  for (long round = 0; left > 0; ++round) {
    if (round > 1000000) fail("the kernel hangs");
    left = 0;
    if (random() % kStretch == 0) delayed = random() % 2 == 0 ? random() : 0;
    for (std::size_t i = 0; i < fibers.size(); ++i) {
      if (fibers[i]->done()) continue;
      ++left;
      if (delayed >> (i / 32 % 32) & 1) continue;
      current = all[i].get();
      fibers[i]->resume();
    }
  }
}

// `together`: blocks that run at once, as they wait for each other, neighbours along x: a divisor of their number.
inline void launch(dim3 blocks, dim3 threads, std::size_t shared_bytes, unsigned together,
                   const std::function<void()>& kernel) {
  grid = blocks;
  width = threads.x;
  for (unsigned z = 0; z < blocks.z; ++z) {
    for (unsigned y = 0; y < blocks.y; ++y) {
      for (unsigned x = 0; x < blocks.x; x += together) {
        std::vector<dim3> indices;
        for (unsigned i = 0; i < together; ++i) indices.emplace_back(x + i, y, z);
        run_together(indices, static_cast<int>(threads.x * threads.y), shared_bytes, kernel);
      }
    }
  }
}

}  // namespace emulation
