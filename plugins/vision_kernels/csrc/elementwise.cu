#include <cuda_runtime_api.h>

#include <limits>

#include "elements.cuh"
#include "ptx.cuh"
#include "tiles.h"
#include "vision_kernels.h"

namespace qwen3vl {
namespace {

constexpr int kThreads = 256;

// x / (1 + 2^u) with u = -2 log2(e) sqrt(2 / pi) (x + 0.044715 x^3): the tanh form of gelu, with one exponential.
__device__ __forceinline__ float gelu(float x) {
  constexpr float kLinear = -2.3022082f, kCubic = kLinear * 0.044715f;
  return __fdividef(x, 1.0f + exp2_approximate(x * (kLinear + kCubic * x * x)));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    bias_gelu(int4* out, const int4* x, const int4* __restrict__ bias, std::uint32_t count, std::uint32_t columns) {
  const std::uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= count) return;
  Eight values = Eight::from<T>(x[i]);
  const Eight shift = Eight::from<T>(__ldg(bias + i % columns));
#pragma unroll
  for (int e = 0; e < 8; ++e) values.x[e] = gelu(values.x[e] + shift.x[e]);
  out[i] = values.packed<T>();
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_positions(int4* out, const int4* x, const int4* __restrict__ bias, const int4* __restrict__ table,
                  const int4* __restrict__ indices, const float4* __restrict__ weights, std::uint32_t count,
                  std::uint32_t patches, std::uint32_t columns, std::int64_t table_rows) {
  const std::uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= count) return;
  const std::uint32_t column = i % columns, patch = i / columns % patches;
  Eight sum = Eight::from<T>(x[i]);
  const Eight shift = Eight::from<T>(__ldg(bias + column));
  const int4 index = __ldg(indices + patch);
  const float4 weight = __ldg(weights + patch);
  const int rows[4] = {index.x, index.y, index.z, index.w};
  const float shares[4] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
  for (int e = 0; e < 8; ++e) sum.x[e] += shift.x[e];
#pragma unroll
  for (int tap = 0; tap < 4; ++tap) {
    if (rows[tap] < 0 || rows[tap] >= table_rows) continue;
    const Eight row = Eight::from<T>(__ldg(table + static_cast<std::int64_t>(rows[tap]) * columns + column));
#pragma unroll
    for (int e = 0; e < 8; ++e) sum.x[e] += shares[tap] * row.x[e];
  }
  out[i] = sum.packed<T>();
}

// The number of 16-byte units of an array, or 0 if it has too many or is not made of whole ones.
std::uint32_t units(std::int64_t rows, std::int64_t columns) {
  if (rows < 1 || columns < 1 || columns % kChunk != 0) return 0;
  const std::int64_t per_row = columns / kChunk;
  return rows > (std::numeric_limits<std::uint32_t>::max() - kThreads) / per_row
             ? 0
             : static_cast<std::uint32_t>(rows * per_row);
}

unsigned blocks(std::uint32_t count) { return static_cast<unsigned>(ceil_div(count, kThreads)); }

}  // namespace
}  // namespace qwen3vl

int qwen3vl_bias_gelu(void* out, const void* x, const void* bias, int64_t rows, int64_t columns, int type,
                      void* stream) {
  const std::uint32_t count = qwen3vl::units(rows, columns);
  if (count == 0) return cudaErrorInvalidValue;
  const auto launch = [&](auto kernel) {
    kernel<<<qwen3vl::blocks(count), qwen3vl::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<int4*>(out), static_cast<const int4*>(x), static_cast<const int4*>(bias), count,
        static_cast<std::uint32_t>(columns / qwen3vl::kChunk));
    return cudaGetLastError();
  };
  switch (type) {
    case QWEN3VL_VISION_FLOAT16: return launch(qwen3vl::bias_gelu<__half>);
    case QWEN3VL_VISION_BFLOAT16: return launch(qwen3vl::bias_gelu<__nv_bfloat16>);
    default: return cudaErrorInvalidValue;
  }
}

int qwen3vl_add_positions(void* out, const void* x, const void* bias, const void* table, const int32_t* indices,
                          const float* weights, int64_t frames, int64_t patches, int64_t hidden, int64_t table_rows,
                          int type, void* stream) {
  if (frames < 1 || patches < 1 || frames > std::numeric_limits<int32_t>::max() / patches) return cudaErrorInvalidValue;
  const std::uint32_t count = qwen3vl::units(frames * patches, hidden);
  if (count == 0) return cudaErrorInvalidValue;
  const auto launch = [&](auto kernel) {
    kernel<<<qwen3vl::blocks(count), qwen3vl::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<int4*>(out), static_cast<const int4*>(x), static_cast<const int4*>(bias),
        static_cast<const int4*>(table), reinterpret_cast<const int4*>(indices),
        reinterpret_cast<const float4*>(weights), count, static_cast<std::uint32_t>(patches),
        static_cast<std::uint32_t>(hidden / qwen3vl::kChunk), table_rows);
    return cudaGetLastError();
  };
  switch (type) {
    case QWEN3VL_VISION_FLOAT16: return launch(qwen3vl::add_positions<__half>);
    case QWEN3VL_VISION_BFLOAT16: return launch(qwen3vl::add_positions<__nv_bfloat16>);
    default: return cudaErrorInvalidValue;
  }
}
