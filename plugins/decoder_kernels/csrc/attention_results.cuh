// How the softmaxes of a block's warps, then of a cluster's blocks, become attention's outputs.
//
// Each block of a cluster writes kSharing / kRanks heads: the others send it their parts, through shared memory.
#pragma once

#include <cstdint>

#include "attention_softmax.cuh"
#include "ptx.cuh"

namespace qwen3vl {
namespace {

constexpr int kSharing = 8;                        // query heads of one key-value head
constexpr int kHeadPairPitch = 2 * kHeadSize + 2;  // floats; keeps pairs of heads on different banks
constexpr int kResultFloats = kSharing / 2 * kHeadPairPitch;  // of a warp

__device__ __forceinline__ int result_index(int head, int d) {
  return head / 2 * kHeadPairPitch + head % 2 * kHeadSize + d;
}

// The weight of a part with this maximum, -INFINITY for none.
__device__ __forceinline__ float part_weight(float maximum, float of_all) {
  return maximum == -INFINITY ? 0.f : exp2f(maximum - of_all);
}

template <int kRanks, int kWarps>
struct AttentionResults {
  static constexpr int kOwnHeads = kSharing / kRanks;  // that this block writes
  static constexpr int kThreads = kWarps * 32;

  float maxima[kWarps][kSharing], sums[kWarps][kSharing];
  // Of the heads that this block writes, by all blocks of the cluster: [block][head].
  alignas(16) float received[kSharing][kHeadSize];
  float2 received_softmax[kSharing];  // maximum and sum
  std::uint64_t received_all;

  // Called by all threads at the start: blocks tell each other that they are there.
  __device__ __forceinline__ void begin() {
    if constexpr (kRanks > 1) {
      if (threadIdx.x == 0) {
        barrier_init(&received_all, 1);
        barrier_init_done();
        barrier_arrive_expecting(&received_all, sizeof(received) + sizeof(received_softmax));
      }
      cluster_arrive();
    }
  }

  // A warp's softmax. `output`: kResultFloats. A block barrier has to follow.
  __device__ __forceinline__ void store(Softmax& softmax, float* output, int warp, int g, int t) {
#pragma unroll
    for (int head = 0; head < 2; ++head) {
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) {
        softmax.sum[head] += __shfl_xor_sync(~0u, softmax.sum[head], offset);
      }
      if (g == 0) {
        maxima[warp][2 * t + head] = softmax.maximum[head];
        sums[warp][2 * t + head] = softmax.sum[head];
      }
#pragma unroll
      for (int c = 0; c < 2; ++c) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          *reinterpret_cast<float2*>(&output[result_index(2 * t + head, Softmax::first_d(c, j, g))]) = {
              softmax.output[c][j][head], softmax.output[c][j][head + 2]};
        }
      }
    }
  }

  // Puts the block's warps together, and sends each head to the block that writes it. `output(w)`: of warp w. Returns
  // when all heads that this block writes are there.
  template <typename Output>
  __device__ __forceinline__ void exchange(const Output& output, int rank, int warp, int lane) {
    if constexpr (kRanks > 1) cluster_wait();  // before anything is written into a block, it has to be there
#pragma unroll
    for (int head = warp; head < kSharing; head += kWarps) {
      const int owner = head / kOwnHeads, place = rank * kOwnHeads + head % kOwnHeads;
      float maximum = -INFINITY, sum = 0.f, weights[kWarps];
#pragma unroll
      for (int w = 0; w < kWarps; ++w) maximum = fmaxf(maximum, maxima[w][head]);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        weights[w] = part_weight(maxima[w][head], maximum);
        sum += weights[w] * sums[w][head];
      }
      float4 total{};  // of d = 4 * lane and the next three
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const auto* part = reinterpret_cast<const float2*>(&output(w)[result_index(head, 4 * lane)]);
        total.x += weights[w] * part[0].x;
        total.y += weights[w] * part[0].y;
        total.z += weights[w] * part[1].x;
        total.w += weights[w] * part[1].y;
      }
      if constexpr (kRanks > 1) {
        const std::uint32_t all = cluster_address(&received_all, owner);
        send(cluster_address(&received[place][4 * lane], owner), total, all);
        if (lane == 0) send(cluster_address(&received_softmax[place], owner), float2{maximum, sum}, all);
      } else {
        *reinterpret_cast<float4*>(&received[place][4 * lane]) = total;
        if (lane == 0) received_softmax[place] = {maximum, sum};
      }
    }
    if constexpr (kRanks > 1) {
      barrier_wait(&received_all, 0);
    } else {
      __syncthreads();
    }
  }

  // Puts the cluster's blocks together. `out`: of the key-value head's heads.
  template <typename T>
  __device__ __forceinline__ void write(T* out, int rank) const {
    for (int i = threadIdx.x; i < kOwnHeads * (kHeadSize / 2); i += kThreads) {
      const int own = i / (kHeadSize / 2), d = i % (kHeadSize / 2) * 2;
      float maximum = -INFINITY, sum = 0.f;
      float2 total{};
#pragma unroll
      for (int r = 0; r < kRanks; ++r) maximum = fmaxf(maximum, received_softmax[r * kOwnHeads + own].x);
#pragma unroll
      for (int r = 0; r < kRanks; ++r) {
        const int place = r * kOwnHeads + own;
        const float by = part_weight(received_softmax[place].x, maximum);
        const float2 part = *reinterpret_cast<const float2*>(&received[place][d]);
        sum += by * received_softmax[place].y;
        total.x += by * part.x;
        total.y += by * part.y;
      }
      reinterpret_cast<std::uint32_t*>(out)[((rank * kOwnHeads + own) * kHeadSize + d) / 2] =
          Element<T>::pack(total.x / sum, total.y / sum);
    }
  }
};

}  // namespace
}  // namespace qwen3vl
