// total = h + sum of y over a token's pairs; normed = rms_norm(total).
#pragma once

#include <cstdint>

#include "fragments.cuh"
#include "ptx.cuh"

namespace qwen3vl {
namespace {

constexpr int kNormHidden = 2048;
constexpr int kNormThreads = kNormHidden / 4;

template <typename T>
struct AddNormArguments {
  T* normed;                  // [blocks, kNormHidden]
  T* total;                   // the same; null where nobody needs it
  const T* h;                 // [tokens, kNormHidden]
  const float* y;             // [tokens, k, kNormHidden]
  const T* norm;              // [kNormHidden]
  const std::int32_t* rows;   // [blocks], each block's token, if they are some
  int tokens, k;
  float epsilon;
};

// kSome: a block for each of some tokens, else for all, in their order. The registers of two blocks a multiprocessor are
// enough to have all reads of eight outputs under way together; left to itself, the compiler saves registers instead.
template <typename T, bool kSome>
__global__ void __launch_bounds__(kNormThreads, 2) add_norm_kernel(const AddNormArguments<T> arguments) {
  __shared__ float squares[kNormThreads / 32];
  let_next_kernel_start();
  const int at = threadIdx.x * 4;
  const uint2 weight = load_4_now(arguments.norm + at);
  wait_for_previous_kernel();
  std::int64_t token = blockIdx.x;
  if constexpr (kSome) token = min(max(__ldcg(arguments.rows + blockIdx.x), 0), arguments.tokens - 1);
  uint2 own = __ldcg(reinterpret_cast<const uint2*>(arguments.h + token * kNormHidden + at));
  float2 low = Element<T>::unpack(own.x), high = Element<T>::unpack(own.y);
  float4 sum{};
  const int k = arguments.k;
  const float* outputs = arguments.y + token * k * kNormHidden + at;
#pragma unroll 8
  for (int i = 0; i < k; ++i) {
    const float4 part = __ldcg(reinterpret_cast<const float4*>(outputs + i * kNormHidden));
    sum.x += part.x;
    sum.y += part.y;
    sum.z += part.z;
    sum.w += part.w;
  }
  const std::int64_t to = std::int64_t{blockIdx.x} * kNormHidden + at;
  if (k > 0) {
    own = {Element<T>::pack(low.x + sum.x, low.y + sum.y), Element<T>::pack(high.x + sum.z, high.y + sum.w)};
    if (arguments.total != nullptr) *reinterpret_cast<uint2*>(arguments.total + to) = own;
    low = Element<T>::unpack(own.x);  // the norm is of what the next kernels read
    high = Element<T>::unpack(own.y);
  }
  float square = low.x * low.x + low.y * low.y + high.x * high.x + high.y * high.y;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) square += __shfl_xor_sync(~0u, square, offset);
  if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = square;
  __syncthreads();
  square = 0.f;
#pragma unroll
  for (int w = 0; w < kNormThreads / 32; ++w) square += squares[w];
  const float scale = rsqrtf(square / kNormHidden + arguments.epsilon);
  *reinterpret_cast<uint2*>(arguments.normed + to) = {scaled_pair<T>(own.x, weight.x, scale),
                                                      scaled_pair<T>(own.y, weight.y, scale)};
}

}  // namespace
}  // namespace qwen3vl
