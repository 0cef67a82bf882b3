// What CUDA C++ has in device code, for a kernel whose threads are fibers of a CPU (run.h).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "run.h"
#include "tensor_cores.h"

struct EmulatedThreadIndex {
  explicit EmulatedThreadIndex(unsigned number) : x(number % ::emulation::width), y(number / ::emulation::width) {}
  unsigned x, y;
};
#define threadIdx (EmulatedThreadIndex(static_cast<unsigned>(::emulation::current->number)))
#define blockIdx (::emulation::current->block->index)
#define gridDim (::emulation::grid)
#define blockDim (dim3(::emulation::width, ::emulation::current->block->threads / ::emulation::width))

using std::max;
using std::min;

inline void __syncthreads() { ::emulation::named_barrier(0, ::emulation::current->block->threads, true); }
inline void __syncwarp() { ::emulation::exchange(nullptr, 0); }
inline void __nanosleep(unsigned) { ::emulation::yield(); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }

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

// Of both words' bytes, those that the selector's digits say.
inline std::uint32_t __byte_perm(std::uint32_t low, std::uint32_t high, std::uint32_t selector) {
  const std::uint64_t bytes = static_cast<std::uint64_t>(high) << 32 | low;
  std::uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= (bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
  return result;
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

inline unsigned __ballot_sync(unsigned, bool value) {
  const std::uint32_t own = value ? 1 : 0;
  const auto* all = ::emulation::exchange(&own, 1);
  unsigned set = 0;
  for (int i = 0; i < 32; ++i) set |= all[i][0] << i;
  return set;
}

inline bool __any_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) != 0; }

inline unsigned __reduce_max_sync(unsigned, unsigned value) {
  const auto* all = ::emulation::exchange(&value, 1);
  unsigned largest = 0;
  for (int i = 0; i < 32; ++i) largest = all[i][0] > largest ? all[i][0] : largest;
  return largest;
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

template <typename V>
V __ldg(const V* address) {
  return *address;
}
