// Blocks of a CUDA kernel on a CPU: a fiber for each thread, run in turn. What a thread waits for it gets when others
// have run; warps are delayed at random, so that they get out of step. For kernels of 256 threads that use warps' exchange
// of values, named barriers, and tensor cores by `product_16x8x16`.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

namespace emulation {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr std::size_t kStackBytes = 256 << 10;

[[noreturn]] inline void fail(const char* what) {
  std::printf("emulation: %s\n", what);
  std::exit(1);
}

// Values that the lanes of a warp show each other; two slots, as some lanes may be one exchange ahead.
struct Warp {
  std::uint32_t words[2][32][6];
  int given[2] = {}, taken[2] = {};
};

struct Block {
  dim3 index;
  std::vector<std::uint8_t> memory;
  std::uint8_t* shared;
  Warp warps[kWarps];
  int arrived[16] = {}, phase[16] = {};  // of named barriers
};

struct Fiber {
  ucontext_t context;
  Block* block;
  int thread, exchanges = 0;
  bool done = false;
  std::vector<char> stack;
};

inline Fiber* current;
inline ucontext_t scheduler;
inline dim3 grid;
inline std::function<void()> kernel;

inline void yield() { swapcontext(&current->context, &scheduler); }

inline int lane() { return current->thread % 32; }

inline std::uint32_t (*exchange(const std::uint32_t* own, int count))[6] {
  Warp& warp = current->block->warps[current->thread / 32];
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

inline void named_barrier(int id, bool wait) {
  Block& block = *current->block;
  const int phase = block.phase[id];
  if (++block.arrived[id] == kThreads) {
    block.arrived[id] = 0;
    ++block.phase[id];
    return;
  }
  while (wait && block.phase[id] == phase) yield();
}

// D += A B of the tensor cores: 16 x 16 by 16 x 8, operands in their registers.
template <typename T>
void product_16x8x16(float (&d)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                     std::uint32_t b0, std::uint32_t b1) {
  const std::uint32_t own[6] = {a0, a1, a2, a3, b0, b1};
  const auto* all = exchange(own, 6);
  const auto half_of = [](std::uint32_t word, int half) {
    const auto bits = static_cast<std::uint16_t>(word >> (16 * half));
    T x;
    std::memcpy(&x, &bits, sizeof x);
    return static_cast<double>(static_cast<float>(x));
  };
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + 8 * (i / 2), column = lane() % 4 * 2 + i % 2;
    double sum = d[i];
    for (int k = 0; k < 16; ++k) {
      const int holder = k % 8 / 2;
      sum += half_of(all[row % 8 * 4 + holder][row / 8 + 2 * (k / 8)], k % 2) *
             half_of(all[column * 4 + holder][4 + k / 8], k % 2);
    }
    d[i] = static_cast<float>(sum);
  }
}

inline void fiber_main() {
  kernel();
  current->done = true;
  yield();
}

// Runs some blocks side by side until all have ended.
inline void run_together(const std::vector<dim3>& indices, std::size_t shared_bytes) {
  std::vector<Block> blocks(indices.size());
  std::vector<Fiber> fibers(indices.size() * kThreads);
  for (std::size_t i = 0; i < fibers.size(); ++i) {
    Block& block = blocks[i / kThreads];
    if (i % kThreads == 0) {
      block.index = indices[i / kThreads];
      block.memory.assign(shared_bytes + 128, 0xAB);
      void* shared = block.memory.data();
      std::size_t room = block.memory.size();
      block.shared = static_cast<std::uint8_t*>(std::align(128, shared_bytes, shared, room));
    }
    Fiber& fiber = fibers[i];
    fiber.block = &block;
    fiber.thread = static_cast<int>(i % kThreads);
    fiber.stack.resize(kStackBytes);
    getcontext(&fiber.context);
    fiber.context.uc_stack = {fiber.stack.data(), 0, kStackBytes};
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, fiber_main, 0);
  }
  std::mt19937 random(1);
  std::size_t left = fibers.size();
  for (long round = 0; left > 0; ++round) {
    if (round > 1000000) fail("the kernel hangs");
    left = 0;
    const unsigned delayed = random() % 2 == 0 ? random() : 0;  // a bit for each warp
    for (std::size_t i = 0; i < fibers.size(); ++i) {
      if (fibers[i].done) continue;
      ++left;
      if (delayed >> (i / 32 % 32) & 1) continue;
      current = &fibers[i];
      swapcontext(&scheduler, &current->context);
    }
  }
}

// `together`: all blocks at once, as they wait for each other.
inline void launch(dim3 blocks, std::size_t shared_bytes, bool together, std::function<void()> body) {
  grid = blocks;
  kernel = std::move(body);
  std::vector<dim3> indices;
  for (unsigned y = 0; y < blocks.y; ++y) {
    for (unsigned x = 0; x < blocks.x; ++x) indices.emplace_back(x, y);
  }
  if (together) return run_together(indices, shared_bytes);
  for (const dim3& index : indices) run_together({index}, shared_bytes);
}

}  // namespace emulation

// What CUDA C++ has in device code.
struct EmulatedThread {
  int x;
};
#define threadIdx (EmulatedThread{::emulation::current->thread})
#define blockIdx (::emulation::current->block->index)
#define gridDim (::emulation::grid)
#define blockDim (dim3(::emulation::kThreads))

using std::max;
using std::min;

inline void __syncthreads() { ::emulation::named_barrier(0, true); }
inline void __syncwarp() { ::emulation::exchange(nullptr, 0); }
inline void __nanosleep(unsigned) { ::emulation::yield(); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline float __expf(float x) { return std::exp(x); }

inline std::uint32_t __float_as_uint(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float __uint_as_float(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

template <typename V>
V __shfl_sync(unsigned, V value, int lane) {
  return ::emulation::from_lane(value, lane);
}

template <typename V>
V __shfl_xor_sync(unsigned, V value, int mask) {
  return ::emulation::from_lane(value, ::emulation::lane() ^ mask);
}

template <typename V>
V __shfl_up_sync(unsigned, V value, int distance) {
  const int lane = ::emulation::lane();
  return ::emulation::from_lane(value, lane < distance ? lane : lane - distance);
}

inline unsigned __match_any_sync(unsigned, int value) {
  const auto own = static_cast<std::uint32_t>(value);
  const auto* all = ::emulation::exchange(&own, 1);
  unsigned equal = 0;
  for (int i = 0; i < 32; ++i) equal |= static_cast<unsigned>(all[i][0] == own) << i;
  return equal;
}

inline bool __any_sync(unsigned, bool value) {
  const std::uint32_t own = value ? 1 : 0;
  const auto* all = ::emulation::exchange(&own, 1);
  bool any = false;
  for (int i = 0; i < 32; ++i) any = any || all[i][0] != 0;
  return any;
}

template <typename V>
V atomicAdd(V* address, V value) {
  const V old = *address;
  *address += value;
  return old;
}

inline unsigned atomicOr(unsigned* address, unsigned value) {
  const unsigned old = *address;
  *address |= value;
  return old;
}

template <typename V>
V __ldcg(const V* address) {
  return *address;
}
