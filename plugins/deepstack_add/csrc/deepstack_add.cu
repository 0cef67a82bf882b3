#include "deepstack_add.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <type_traits>

#include "row_index.h"

namespace qwen3vl {
namespace {

constexpr int kThreads = 256;       // of a block
constexpr int kPacksPerThread = 2;  // loads of each operand that a thread has in flight

// The unit of memory access: kWidth elements, 16 bytes or one element.
template <typename T, int kWidth>
struct alignas(kWidth * sizeof(T)) Pack {
  T elements[kWidth];
};

template <typename T, int kWidth>
__device__ Pack<T, kWidth> load_read_only(const Pack<T, kWidth>* address) {
  if constexpr (sizeof(Pack<T, kWidth>) == sizeof(int4)) {
    const int4 bits = __ldg(reinterpret_cast<const int4*>(address));
    return reinterpret_cast<const Pack<T, kWidth>&>(bits);
  } else {
    return *address;
  }
}

__device__ void accumulate(Pack<float, 4>& sum, const Pack<float, 4>& added) {
#pragma unroll
  for (int i = 0; i < 4; ++i) sum.elements[i] += added.elements[i];
}

// Two 16-bit elements an instruction; each sum is rounded once, as the sum of the two numbers.
template <typename T>
__device__ void accumulate(Pack<T, 8>& sum, const Pack<T, 8>& added) {
  using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    Pair& pair = reinterpret_cast<Pair*>(sum.elements)[i];
    pair = __hadd2(pair, reinterpret_cast<const Pair*>(added.elements)[i]);
  }
}

template <typename T>
__device__ void accumulate(Pack<T, 1>& sum, const Pack<T, 1>& added) {
  sum.elements[0] = sum.elements[0] + added.elements[0];
}

// blockDim.x threads walk one token's row, blockDim.y tokens share a block.
template <typename T, int kWidth, bool kInPlace>
__global__ void __launch_bounds__(kThreads)
    deepstack_add_kernel(Pack<T, kWidth>* out, const Pack<T, kWidth>* hidden, const std::int32_t* __restrict__ token_ids,
                         const Pack<T, kWidth>* __restrict__ visual_rows, std::int64_t tokens,
                         std::int64_t packs_per_row, std::int64_t row_count, std::int32_t level,
                         std::int32_t vocab_size) {
  const std::int64_t token = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (token >= tokens) return;
  const std::int64_t row = row_index(__ldg(token_ids + token), level, vocab_size, row_count);
  if (kInPlace && row == kNoRow) return;
  const std::int64_t begin = token * packs_per_row;
  for (std::int64_t first = threadIdx.x; first < packs_per_row; first += kPacksPerThread * blockDim.x) {
    Pack<T, kWidth> sum[kPacksPerThread], added[kPacksPerThread];
#pragma unroll
    for (int i = 0; i < kPacksPerThread; ++i) {
      const std::int64_t at = first + i * blockDim.x;
      if (at < packs_per_row) sum[i] = hidden[begin + at];
    }
    if (row != kNoRow) {
#pragma unroll
      for (int i = 0; i < kPacksPerThread; ++i) {
        const std::int64_t at = first + i * blockDim.x;
        if (at < packs_per_row) added[i] = load_read_only(visual_rows + row * packs_per_row + at);
      }
#pragma unroll
      for (int i = 0; i < kPacksPerThread; ++i) accumulate(sum[i], added[i]);
    }
#pragma unroll
    for (int i = 0; i < kPacksPerThread; ++i) {
      const std::int64_t at = first + i * blockDim.x;
      if (at < packs_per_row) out[begin + at] = sum[i];
    }
  }
}

struct Call {
  void* out;
  const void* hidden;
  const std::int32_t* token_ids;
  const void* visual_rows;
  std::int64_t tokens, hidden_size, row_count;
  std::int32_t level, vocab_size;
  cudaStream_t stream;
};

template <typename T, int kWidth>
cudaError_t launch(const Call& call) {
  using Unit = Pack<T, kWidth>;
  Unit* out = static_cast<Unit*>(call.out);
  const Unit* hidden = static_cast<const Unit*>(call.hidden);
  const std::int32_t* token_ids = call.token_ids;
  const Unit* visual_rows = static_cast<const Unit*>(call.visual_rows);
  std::int64_t tokens = call.tokens, packs_per_row = call.hidden_size / kWidth, row_count = call.row_count;
  std::int32_t level = call.level, vocab_size = call.vocab_size;

  unsigned across = 1;  // threads that walk one row
  while (across < kThreads && across * kPacksPerThread < packs_per_row) across *= 2;
  const dim3 block(across, kThreads / across);
  const std::int64_t blocks = (tokens + block.y - 1) / block.y;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  const auto kernel = call.out == call.hidden ? deepstack_add_kernel<T, kWidth, true>
                                              : deepstack_add_kernel<T, kWidth, false>;
  void* arguments[] = {&out, &hidden, &token_ids, &visual_rows, &tokens, &packs_per_row, &row_count, &level,
                       &vocab_size};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(blocks)), block, arguments,
                          0, call.stream);
}

template <typename T>
cudaError_t dispatch_width(const Call& call) {
  constexpr int kWidth = sizeof(int4) / sizeof(T);
  const std::uintptr_t addresses = reinterpret_cast<std::uintptr_t>(call.out) |
                                   reinterpret_cast<std::uintptr_t>(call.hidden) |
                                   reinterpret_cast<std::uintptr_t>(call.visual_rows);
  const bool whole = call.hidden_size % kWidth == 0 && addresses % sizeof(int4) == 0;
  return whole ? launch<T, kWidth>(call) : launch<T, 1>(call);
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_deepstack_add(void* out, const void* hidden, const int32_t* token_ids, const void* visual_rows,
                          int64_t tokens, int64_t hidden_size, int64_t row_count, int32_t level, int32_t vocab_size,
                          int type, void* stream) {
  if (tokens < 0 || hidden_size < 0 || row_count < 0) return cudaErrorInvalidValue;
  if (tokens == 0 || hidden_size == 0) return cudaSuccess;
  if (out == nullptr || hidden == nullptr || token_ids == nullptr) return cudaErrorInvalidValue;
  if (visual_rows == nullptr) row_count = 0;
  const qwen3vl::Call call{out,       hidden,    token_ids, visual_rows, tokens,
                           hidden_size, row_count, level,     vocab_size,  static_cast<cudaStream_t>(stream)};
  switch (type) {
    case QWEN3VL_FLOAT32: return qwen3vl::dispatch_width<float>(call);
    case QWEN3VL_FLOAT16: return qwen3vl::dispatch_width<__half>(call);
    case QWEN3VL_BFLOAT16: return qwen3vl::dispatch_width<__nv_bfloat16>(call);
    default: return cudaErrorInvalidValue;
  }
}
