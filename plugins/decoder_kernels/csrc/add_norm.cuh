// total = h + sum of y over a token's pairs; normed = rms_norm(total).
#pragma once

#include <cstdint>

#include "fragments.cuh"
#include "ptx.cuh"

namespace qwen3vl {
namespace {

constexpr int kNormHidden = 2048;
constexpr int kNormThreads = kNormHidden / 8;

template <typename T>
__device__ __forceinline__ void add_8(float (&sums)[8], const uint4& eight) {
  const std::uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const float2 pair = Element<T>::unpack(words[w]);
    sums[2 * w] += pair.x;
    sums[2 * w + 1] += pair.y;
  }
}

// x + added, rounded once.
template <typename T>
__device__ __forceinline__ uint4 with_added(const uint4& x, const float (&added)[8]) {
  std::uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const float2 pair = Element<T>::unpack(words[w]);
    words[w] = Element<T>::pack(pair.x + added[2 * w], pair.y + added[2 * w + 1]);
  }
  return {words[0], words[1], words[2], words[3]};
}

template <typename T>
struct AddNormArguments {
  T* normed;                  // [blocks, kNormHidden]
  T* total;                   // the same; null where nobody needs it
  const T* h;                 // [tokens, kNormHidden]
  const T* y;                 // [tokens, k, kNormHidden]
  const T* norm;              // [kNormHidden]
  const std::int32_t* rows;   // [blocks], each block's token, if they are some
  int tokens, k;
  float epsilon;
};

// Eight columns a thread. kSome: a block for each of some tokens, else for all, in their order. The registers of four
// blocks a multiprocessor are enough to have all reads of eight outputs under way together; left to itself, the compiler
// saves registers instead.
template <typename T, bool kSome>
__global__ void __launch_bounds__(kNormThreads, 4) add_norm_kernel(const AddNormArguments<T> arguments) {
  __shared__ float squares[kNormThreads / 32];
  let_next_kernel_start();
  const int at = threadIdx.x * 8;
  const uint4 weight = load_8_now(arguments.norm + at);
  wait_for_previous_kernel();
  std::int64_t token = blockIdx.x;
  if constexpr (kSome) token = min(max(__ldcg(arguments.rows + blockIdx.x), 0), arguments.tokens - 1);
  uint4 own = load_8(arguments.h + token * kNormHidden + at);
  float sums[8] = {};
  const int k = arguments.k;
  const T* outputs = arguments.y + token * k * kNormHidden + at;
#pragma unroll 8
  for (int i = 0; i < k; ++i) add_8<T>(sums, load_8(outputs + i * kNormHidden));
  const std::int64_t to = std::int64_t{blockIdx.x} * kNormHidden + at;
  if (k > 0) {
    own = with_added<T>(own, sums);  // the norm is of what the next kernels read
    if (arguments.total != nullptr) *reinterpret_cast<uint4*>(arguments.total + to) = own;
  }
  float square = sum_of_squares<T>(own);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) square += __shfl_xor_sync(~0u, square, offset);
  if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = square;
  __syncthreads();
  square = 0.f;
#pragma unroll
  for (int w = 0; w < kNormThreads / 32; ++w) square += squares[w];
  const float scale = rsqrtf(square / kNormHidden + arguments.epsilon);
  *reinterpret_cast<uint4*>(arguments.normed + to) = scaled_8<T>(own, weight, scale);
}

}  // namespace
}  // namespace qwen3vl
