// total = h + sum of y over a token's pairs; normed = rms_norm(total).
#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "fragments.cuh"
#include "launch.h"
#include "ptx.cuh"

namespace qwen3vl {
namespace {

constexpr int kHidden = 2048;
constexpr int kThreads = kHidden / 4;

template <typename T>
__global__ void __launch_bounds__(kThreads) add_norm_kernel(T* normed, T* total, const T* h, const float* y,
                                                            const T* norm, int k, float epsilon) {
  __shared__ float squares[kThreads / 32];
  let_next_kernel_start();
  const std::int64_t token = blockIdx.x;
  const int at = threadIdx.x * 4;
  const uint2 weight = load_4_now(norm + at);
  wait_for_previous_kernel();
  uint2 own = __ldcg(reinterpret_cast<const uint2*>(h + token * kHidden + at));
  float2 low = Element<T>::unpack(own.x), high = Element<T>::unpack(own.y);
  float4 sum{};
#pragma unroll 8
  for (int i = 0; i < k; ++i) {
    const float4 part = __ldcg(reinterpret_cast<const float4*>(y + (token * k + i) * kHidden + at));
    sum.x += part.x;
    sum.y += part.y;
    sum.z += part.z;
    sum.w += part.w;
  }
  if (k > 0) {
    own = {Element<T>::pack(low.x + sum.x, low.y + sum.y), Element<T>::pack(high.x + sum.z, high.y + sum.w)};
    *reinterpret_cast<uint2*>(total + token * kHidden + at) = own;
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
  for (int w = 0; w < kThreads / 32; ++w) square += squares[w];
  const float scale = rsqrtf(square / kHidden + epsilon);
  *reinterpret_cast<uint2*>(normed + token * kHidden + at) = {scaled_pair<T>(own.x, weight.x, scale),
                                                              scaled_pair<T>(own.y, weight.y, scale)};
}

template <typename T>
cudaError_t launch_add_norm(void* normed, void* total, const void* h, const float* y, const void* norm, int tokens,
                            int k, float epsilon, cudaStream_t stream) {
  return launch(add_norm_kernel<T>, dim3(static_cast<unsigned>(tokens)), kThreads, 0, 1, stream,
                static_cast<T*>(normed), static_cast<T*>(total), static_cast<const T*>(h), y,
                static_cast<const T*>(norm), k, epsilon);
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_add_norm(void* normed, void* total, const void* h, const float* y, const void* norm, int tokens, int k,
                     int hidden, float epsilon, int type, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || k < 0 || hidden != kHidden) return cudaErrorInvalidValue;
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) {
    return launch_add_norm<__nv_bfloat16>(normed, total, h, y, norm, tokens, k, epsilon, on);
  }
  if (type == QWEN3VL_FLOAT16) return launch_add_norm<__half>(normed, total, h, y, norm, tokens, k, epsilon, on);
  return cudaErrorInvalidValue;
}
