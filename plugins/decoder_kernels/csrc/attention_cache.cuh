// The cached keys and values of a sequence on their way to the warps of a block.
#pragma once

#include <cstdint>

#include "head_rotation.cuh"
#include "ptx.cuh"

namespace qwen3vl {
namespace {

constexpr int kGroupTokens = 16;
constexpr int kGroupHalf = kGroupTokens * kHeadSize * 2;  // bytes of a group's keys, or of its values

// Slots of a block's groups: keys, then values.
struct GroupSlots {
  std::uint8_t (*memory)[2 * kGroupHalf];
  std::uint64_t* full;
  int count;
};

// A warp's groups of cached tokens: numbers `first`, `first + stride` and so on, as long as they begin before `past`.
template <typename T>
class CachedGroups {
 public:
  __device__ CachedGroups(const GroupSlots& slots, const T* keys, const T* values, int past, int first, int stride)
      : slots_(slots), keys_(keys), values_(values), past_(past), stride_(stride), next_(first), ahead_(first),
        lane_(threadIdx.x % 32) {}

  // Called by the whole warp.
  __device__ __forceinline__ void start() {
    if (lane_ == 0) {
      for (int i = 0; i < slots_.count; ++i) barrier_init(&slots_.full[i], 1);
      barrier_init_done();
    }
    __syncwarp();
    for (int i = 0; i < slots_.count; ++i) copy(i, 0);
  }

  // Brings the first group that has no slot yet to the second-level cache.
  __device__ __forceinline__ void prefetch() const {
    const int first = ahead_ * kGroupTokens, count = min(past_ - first, kGroupTokens);
    if (count <= 0 || lane_ != 0) return;
    bulk_prefetch(keys_ + first * kHeadSize, bytes(count));
    bulk_prefetch(values_ + first * kHeadSize, bytes(count));
  }

  __device__ __forceinline__ bool more() const { return next_ * kGroupTokens < past_; }

  // Tokens of the present group, 16 but for a sequence's last.
  __device__ __forceinline__ int count() const { return min(past_ - next_ * kGroupTokens, kGroupTokens); }

  // Waits for the present group. Values of tokens that are not there become 0: their weights are, but 0 times anything
  // is not always 0.
  __device__ __forceinline__ void wait() {
    barrier_wait(&slots_.full[slot_], parity_);
    if (count() == kGroupTokens) return;
    constexpr int kPacks = kHeadSize * 2 / sizeof(uint4);  // of a token
    auto* values = reinterpret_cast<uint4*>(slots_.memory[slot_] + kGroupHalf);
    for (int i = count() * kPacks + lane_; i < kGroupTokens * kPacks; i += 32) values[i] = uint4{};
    __syncwarp();
  }

  __device__ __forceinline__ uint4 keys(int token, int d) const {
    return *reinterpret_cast<const uint4*>(slots_.memory[slot_] + (token * kHeadSize + d) * 2);
  }

  __device__ __forceinline__ uint4 values(int token, int d) const {
    return *reinterpret_cast<const uint4*>(slots_.memory[slot_] + kGroupHalf + (token * kHeadSize + d) * 2);
  }

  // The present group is done with. `read` is made of a register of each read of its values, which so are done before
  // the copy that follows; see WeightStream::give_back. (Keys were multiplied long before.)
  __device__ __forceinline__ void advance(std::uint32_t read) {
    copy(slot_, __any_sync(~0u, read != 0) ? 0 : 1);
    next_ += stride_;
    if (++slot_ == slots_.count) {
      slot_ = 0;
      parity_ ^= 1;
    }
  }

 private:
  static __device__ __forceinline__ std::uint32_t bytes(int tokens) {
    return static_cast<std::uint32_t>(tokens) * kHeadSize * 2;
  }

  // By one lane. Only tokens of the sequence: what lies behind them may belong to nobody.
  __device__ __forceinline__ void copy(int slot, int lane) {
    const int first = ahead_ * kGroupTokens, count = min(past_ - first, kGroupTokens);
    ahead_ += stride_;
    if (count <= 0 || lane_ != lane) return;
    std::uint64_t* full = &slots_.full[slot];
    barrier_arrive_expecting(full, 2 * bytes(count));
    bulk_copy(slots_.memory[slot], keys_ + first * kHeadSize, bytes(count), full, streaming_policy());
    bulk_copy(slots_.memory[slot] + kGroupHalf, values_ + first * kHeadSize, bytes(count), full, streaming_policy());
  }

  const GroupSlots slots_;
  const T *keys_, *values_;
  const int past_, stride_;
  int next_, ahead_, slot_ = 0;
  const int lane_;
  std::uint32_t parity_ = 0;
};

}  // namespace
}  // namespace qwen3vl
