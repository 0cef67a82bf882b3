// What prefill attention needs of plugins/hopper/ptx.cuh and of CUDA's device functions, for a thread block whose
// threads are threads of a CPU. Copies are done when they are asked for.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace emulated {

// A barrier of any number of threads, again and again.
class Meeting {
 public:
  void wait(int threads) {
    std::unique_lock lock(mutex_);
    const int round = round_;
    if (++arrived_ < threads) return everybody_.wait(lock, [&] { return round_ != round; });
    arrived_ = 0;
    ++round_;
    everybody_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable everybody_;
  int arrived_ = 0, round_ = 0;
};

// An mbarrier: a phase ends when all have arrived and all announced bytes are there.
class Phases {
 public:
  explicit Phases(int arrivals) : arrivals_(arrivals), missing_(arrivals) {}
  void change(int arrived, int announced_bytes) {
    const std::lock_guard lock(mutex_);
    missing_ -= arrived;
    bytes_ += announced_bytes;
    if (missing_ < 0) std::abort();  // more arrivals than the barrier was made for
    if (missing_ > 0 || bytes_ != 0) return;
    missing_ = arrivals_;
    ++ended_;
    end_.notify_all();
  }
  void wait(unsigned parity) {
    std::unique_lock lock(mutex_);
    end_.wait(lock, [&] { return ended_ % 2 != parity; });
  }

 private:
  const int arrivals_;
  int missing_, bytes_ = 0;
  unsigned ended_ = 0;
  std::mutex mutex_;
  std::condition_variable end_;
};

constexpr int kThreads = 1024;

struct Block {
  std::uint8_t* memory;  // shared memory
  std::map<const std::uint64_t*, Phases> barriers;
  Meeting warps[kThreads / 32], named[16];
  std::uint32_t words[2][kThreads][4];  // what a warp's threads tell each other, in turns
};

struct Index {
  unsigned x;
};

inline Block* block = nullptr;
inline thread_local int turn = 0;

// Tells the warp `count` words; what thread `lane` told is at result[lane].
using Words = const std::uint32_t (*)[4];
inline Words exchange(unsigned thread, const std::uint32_t* words, int count) {
  turn ^= 1;  // who tells again has seen that all have read the turn before
  std::memcpy(block->words[turn][thread], words, count * sizeof(std::uint32_t));
  block->warps[thread / 32].wait(32);
  return &block->words[turn][thread / 32 * 32];
}

}  // namespace emulated

inline thread_local emulated::Index threadIdx;

inline float __shfl_xor_sync(unsigned, float value, int mask) {
  std::uint32_t word;
  std::memcpy(&word, &value, sizeof(word));
  std::memcpy(&value, emulated::exchange(threadIdx.x, &word, 1)[(threadIdx.x ^ mask) % 32], sizeof(value));
  return value;
}

inline void __syncwarp() { emulated::block->warps[threadIdx.x / 32].wait(32); }

template <typename Value>
Value __ldcg(const Value* address) {
  return *address;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }

namespace qwen3vl {

constexpr int kWarp = 32, kWarpgroup = 128;

inline std::uint32_t load_2_now(const __nv_bfloat16* address) {
  std::uint32_t pair;
  std::memcpy(&pair, address, sizeof(pair));
  return pair;
}

inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(static_cast<const std::uint8_t*>(pointer) - emulated::block->memory);
}

inline void barrier_init(std::uint64_t* barrier, int arrivals) {
  emulated::block->barriers.try_emplace(barrier, arrivals);
}
inline void barrier_init_done() {}
inline void shared_writes_fence() {}
inline void barrier_arrive(std::uint64_t* barrier) { emulated::block->barriers.at(barrier).change(1, 0); }
inline void barrier_arrive_expecting(std::uint64_t* barrier, int bytes) {
  emulated::block->barriers.at(barrier).change(1, bytes);
}
inline void barrier_wait(std::uint64_t* barrier, int parity) { emulated::block->barriers.at(barrier).wait(parity); }
inline void named_barrier(int id, int threads) { emulated::block->named[id].wait(threads); }
inline float exp2_approximate(float x) { return std::exp2(x); }

}  // namespace qwen3vl
