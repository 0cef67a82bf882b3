// How the thread blocks of an expert hand their activations to each other: through memory that is 0 at the start, in words
// that are never 0. Who reads one knows that it is there, so that nothing has to be written after it, in order.
#pragma once

#include <cstdint>

#include "expert_gemv_ring.cuh"
#include "expert_stream.cuh"
#include "fragments.cuh"

namespace qwen3vl {
namespace {

template <typename Shape>
class ActivationExchange {
 public:
  using T = typename Shape::Value;

  // `pair`: the number of the choice; `share`: which of the expert's kExpertBlocks parts is this block's.
  __device__ __forceinline__ ActivationExchange(const ExpertArguments& arguments, typename Shape::Others& shared,
                                                int pair, int share)
      : all_(reinterpret_cast<uint4*>(arguments.counters + kCounters + pair * (kInner / 2))), shared_(shared),
        share_(share), warp_(threadIdx.x / 32), lane_(threadIdx.x % 32) {}

  // Each of the first warps sums up what all have multiplied and gives 8 activations. Called by all warps, as is the
  // following; a block barrier has to come before.
  __device__ __forceinline__ void give(float weight) const {
    if (warp_ >= kGivers) return;
    const int row = 2 * (warp_ * kGiven + lane_ / 4);  // of a gate; the next is its up
    float gate = 0.f, up = 0.f;
#pragma unroll
    for (int i = 0; i < kStreamWarps / 4; ++i) {
      const float* sums = shared_.up_sums[kStreamWarps / 4 * (lane_ % 4) + i] + row;
      gate += sums[0];
      up += sums[1];
    }
#pragma unroll
    for (int offset = 1; offset < 4; offset *= 2) {
      gate += __shfl_xor_sync(~0u, gate, offset);
      up += __shfl_xor_sync(~0u, up, offset);
    }
    const float own = gate / (1.f + __expf(-gate)) * up * weight;
    float given[kGiven];
#pragma unroll
    for (int i = 0; i < kGiven; ++i) given[i] = __shfl_sync(~0u, own, 4 * i);
    if (lane_ != 0) return;
    publish(all_ + share_ * (Shape::kActivations / kGiven) + warp_,
            {~Element<T>::pack(given[0], given[1]), ~Element<T>::pack(given[2], given[3]),
             ~Element<T>::pack(given[4], given[5]), ~Element<T>::pack(given[6], given[7])});
  }

  // Each of the last warps, most of which have nothing to give, brings its part of the expert's activations to shared
  // memory as soon as they are there. A block barrier has to follow.
  __device__ __forceinline__ void take() const {
    if (warp_ < kFirstTaker) return;
    const int place = (warp_ - kFirstTaker) * 32 + lane_;
    uint4 words = published(all_ + place);
    while (words.x == 0 || words.y == 0 || words.z == 0 || words.w == 0) words = published(all_ + place);
    *reinterpret_cast<uint4*>(shared_.activations + kGiven * place) = {~words.x, ~words.y, ~words.z, ~words.w};
  }

 private:
  static constexpr int kGiven = 8, kGivers = Shape::kActivations / kGiven;      // activations; warps
  static constexpr int kTaken = 32 * kGiven, kFirstTaker = kStreamWarps - kInner / kTaken;
  static_assert(Shape::kActivations % kGiven == 0 && kGivers <= kStreamWarps);
  static_assert(kInner % kTaken == 0 && kFirstTaker >= 0);

  // The complements of the expert's activations, two in a word. A pair of them is never ~0: that would be two numbers
  // that are none, and with their sign set, but what does not come out as a number is rounded to 0x7fff.
  uint4* const all_;  // [kInner / kGiven]
  typename Shape::Others& shared_;
  const int share_, warp_, lane_;
};

}  // namespace
}  // namespace qwen3vl
