// The chosen experts of one token, weights of 4 bits: matrix-vector products (GEMV), each expert's by 16 thread blocks.
//
// What experts.cuh does for more tokens, without plan, lists and summing tile by tile: one token's time goes into
// starting and waiting, not into reading. A thread block multiplies its part of the gate and up rows, hands 48
// activations to the expert's other blocks through memory, takes all 768 from there, and multiplies its part of the
// down rows. All thread blocks have to be resident at once.
#pragma once

#include <cuda_runtime.h>

#include "expert_gemv_columns.cuh"
#include "expert_gemv_exchange.cuh"
#include "expert_gemv_ring.cuh"
#include "expert_stream.cuh"
#include "fragments.cuh"
#include "launch.h"

namespace qwen3vl {
namespace {

template <typename Shape>
class ExpertGemv {
 public:
  using T = typename Shape::Value;
  using Rows = typename Shape::Rows;
  using Tiles = typename Shape::Tiles;

  __device__ ExpertGemv(const ExpertArguments& arguments, typename Shape::Shared& shared)
      : arguments_(arguments), shared_(shared.others), share_(static_cast<int>(blockIdx.x) % kExpertBlocks),
        ring_(arguments, shared, share_), warp_(threadIdx.x / 32), group_(threadIdx.x % 32 / 4),
        quad_(threadIdx.x % 4), pair_(static_cast<int>(blockIdx.x) / kExpertBlocks) {}

  __device__ void run() {
    const int expert = __ldcg(arguments_.chosen + pair_);
    const float weight = __ldcg(arguments_.chosen_weights + pair_);
    gates_and_ups(expert);
    __syncthreads();
    const ActivationExchange<Shape> exchange(arguments_, shared_, pair_, share_);
    exchange.give(weight);
    exchange.take();
    __syncthreads();
    downs();  // each warp has rows of its own and all of k: no more barriers
  }

 private:
  static constexpr int kBlock = Shape::kBlock;

  // Each warp has all rows and an eighth of k, so that the token's values stay in registers.
  __device__ __forceinline__ void gates_and_ups(int expert) {
    constexpr int kSlice = kHidden / kStreamWarps, kRuns = kSlice / 32, kBlocks = kHidden / kBlock;
    constexpr int kColumns = kSlice / kBlock, kOwn = kBlock / 32, kRowBytes = Rows::row_bytes(kHidden);
    static_assert(kSlice % kBlock == 0 && kColumns <= kRowTile);
    const int first_k = warp_ * kSlice;
    uint4 own[kOwn];  // of this lane's column
    const T* x = static_cast<const T*>(arguments_.x) + first_k + group_ * kBlock + quad_ * 8;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) own[i] = group_ < kColumns ? load_8(x + 32 * i) : uint4{};
    ring_.start(expert);
    const float2 x_sums = column_sums<Rows>(own, quad_);
    uint4 values[kRuns];
#pragma unroll
    for (int run = 0; run < kRuns; ++run) values[run] = group_ == run / kOwn ? own[run % kOwn] : uint4{};
    const int row = group_ % 2 * (Tiles::kUpRows / 2) + group_ / 2;  // of the first row tile; the second's is 4 further
    ColumnSteps<kColumns> steps(
        reinterpret_cast<const std::uint32_t*>(shared_.up_extra) + row * kBlocks + first_k / kBlock, quad_);
    barrier_wait(&shared_.up_extra_full, 0);
#pragma unroll 1
    for (int tile = 0; tile < Shape::kUpTiles; ++tile) {
      ring_.wait(tile);
      const std::uint8_t* codes = ring_.rows(tile) + row_offset(Tiles::kUpPiece, kRowBytes, 0, group_);
      std::uint32_t words[2][kRuns];
      Rows::template load<kSlice>(words[0], codes, first_k, quad_);
      Rows::template load<kSlice>(words[1], codes + kRowTile / 2 * kRowBytes, first_k, quad_);
      ColumnSums products;
#pragma unroll
      for (int run = 0; run < kRuns; ++run) products.add<T>(run, words[0][run], words[1][run], values[run]);
      const float2 sums = row_sums<T, kBlocks>(products, x_sums, steps);
      steps.advance(Tiles::kUpRows * kBlocks);
      ring_.give_back(tile, __float_as_uint(sums.x) ^ __float_as_uint(sums.y));  // both row tiles' reads
      if (quad_ == 0) {
        float* to = shared_.up_sums[warp_] + tile * Tiles::kUpRows + row;
        to[0] = sums.x;
        to[kRowTile / 2] = sums.y;
      }
      if (tile > 0) ring_.refill(tile - 1);  // a tile later: by then the others have given it back
    }
    ring_.refill(Shape::kUpTiles - 1);
  }

  // Each warp has 16 rows, half of a tile, and all of k, as many blocks at a time as there are columns for.
  __device__ __forceinline__ void downs() {
    static_assert(Shape::kDownRows == kStreamWarps * 2 * kRowTile);
    constexpr int kBlocks = kInner / kBlock, kRowBytes = Rows::row_bytes(kInner);
    constexpr int kColumns = kBlocks <= kRowTile ? kBlocks : kBlocks % kRowTile == 0 ? kRowTile : 6;
    constexpr int kPassK = kColumns * kBlock, kOwn = kBlock / 32;
    static_assert(kBlocks % kColumns == 0 && kPassK % kCodeGroup == 0);
    const int tile = Shape::kUpTiles + warp_ / 2, first_row = warp_ % 2 * (Tiles::kDownRows / 4);  // of each piece
    const int row = warp_ / 2 * Tiles::kDownRows + group_ % 2 * (Tiles::kDownRows / 2) + first_row + group_ / 2;
    const std::uint8_t* codes = ring_.rows(tile) + row_offset(Tiles::kDownPiece, kRowBytes, first_row, group_);
    const auto* steps = reinterpret_cast<const std::uint32_t*>(shared_.down_extra) + row * kBlocks;
    float2 sums{};
    barrier_wait(&shared_.down_extra_full, 0);
    ring_.wait(tile);
#pragma unroll
    for (int first_k = 0; first_k < kInner; first_k += kPassK) {
      const T* activations = shared_.activations + first_k + quad_ * 8;
      uint4 own[kOwn];
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        own[i] = group_ < kColumns ? *reinterpret_cast<const uint4*>(activations + group_ * kBlock + 32 * i) : uint4{};
      }
      const float2 x_sums = column_sums<Rows>(own, quad_);
      ColumnSums products;
#pragma unroll 3
      for (int k = 0; k < kPassK; k += kCodeGroup) {
        constexpr int kRuns = kCodeGroup / 32;
        std::uint32_t words[2][kRuns];
        Rows::template load<kCodeGroup>(words[0], codes, first_k + k, quad_);
        Rows::template load<kCodeGroup>(words[1], codes + kRowTile / 2 * kRowBytes, first_k + k, quad_);
#pragma unroll
        for (int run = 0; run < kRuns; ++run) {  // registers have no room for all values, and can't be indexed
          const int block = (k + run * 32) / kBlock;
          const T* from = group_ == block ? activations + block * kBlock : shared_.zeros;
          products.add<T>(run, words[0][run], words[1][run],
                          *reinterpret_cast<const uint4*>(from + run * 32 % kBlock));
        }
      }
      const ColumnSteps<kColumns> own_steps(steps + first_k / kBlock, quad_);
      const float2 part = row_sums<T, kBlocks>(products, x_sums, own_steps);
      sums.x += part.x;
      sums.y += part.y;
    }
    if (quad_ != 0) return;
    T* y = static_cast<T*>(arguments_.y) + pair_ * kHidden + share_ * Shape::kDownRows + row;
    y[0] = Element<T>::narrow(sums.x);
    y[kRowTile / 2] = Element<T>::narrow(sums.y);
  }

  const ExpertArguments& arguments_;
  typename Shape::Others& shared_;
  const int share_;
  ExpertGemvRing<Shape> ring_;
  const int warp_, group_, quad_, pair_;
};

// Registers for two thread blocks a multiprocessor: shared memory keeps a second of these out, but the next kernel's
// first ones find room.
template <typename T, int kBlock>
__global__ void __launch_bounds__(kStreamThreads, 2) expert_gemv_kernel(const ExpertArguments arguments) {
  using Shape = ExpertGemvShape<T, kBlock>;
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<typename Shape::Shared*>(shared_memory);
  if (threadIdx.x == 0) ExpertGemvRing<Shape>::init(shared);
  if (threadIdx.x < kBlock) shared.others.zeros[threadIdx.x] = Element<T>::narrow(0.f);
  let_next_kernel_start();
  __syncthreads();
  wait_for_previous_kernel();  // which chose the experts
  ExpertGemv<Shape>(arguments, shared).run();
}

// More than half of what a multiprocessor has, so that each thread block has one to itself. Two that share one take
// their codes apart by turns, while another multiprocessor has none; the slowest decides.
constexpr std::size_t kGemvSharedBytes = 117 * 1024;

// Whether the kernel is for these sizes, on a device where all its thread blocks are resident at once: they wait for
// each other.
constexpr bool takes_expert_gemv(int tokens, int k, int multiprocessors) {
  return tokens == 1 && k <= 8 && k * kExpertBlocks <= multiprocessors;
}

template <typename T, int kBlock>
cudaError_t launch_expert_gemv(const ExpertArguments& arguments, cudaStream_t stream) {
  static_assert(sizeof(typename ExpertGemvShape<T, kBlock>::Shared) <= kGemvSharedBytes);
  return launch(expert_gemv_kernel<T, kBlock>, dim3(static_cast<unsigned>(arguments.k * kExpertBlocks)),
                kStreamThreads, kGemvSharedBytes, 1, stream, arguments);
}

}  // namespace
}  // namespace qwen3vl
