#include "deepstack_add.h"

#include <cuda_runtime_api.h>

#include "deepstack_add.cuh"

namespace qwen3vl {
namespace {

struct Call {
  void* out;
  const void* hidden;
  const std::int32_t* token_ids;
  const void* visual_rows;
  std::int64_t tokens, hidden_size, row_count;
  std::int32_t level, vocab_size;
  cudaStream_t stream;
};

template <typename T, typename Row, int kWidth>
cudaError_t launch(const Call& call) {
  using Unit = Pack<T, kWidth>;
  Unit* out = static_cast<Unit*>(call.out);
  const Unit* hidden = static_cast<const Unit*>(call.hidden);
  const std::int32_t* token_ids = call.token_ids;
  const auto* visual_rows = static_cast<const Pack<Row, kWidth>*>(call.visual_rows);
  std::int64_t tokens = call.tokens, packs_per_row = call.hidden_size / kWidth, row_count = call.row_count;
  std::int32_t level = call.level, vocab_size = call.vocab_size;

  unsigned across = 1;  // threads that walk one row
  while (across < kThreads && across * kPacksPerThread < packs_per_row) across *= 2;
  const dim3 block(across, kThreads / across);
  const std::int64_t blocks = (tokens + block.y - 1) / block.y;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  const auto kernel = call.out == call.hidden ? deepstack_add_kernel<T, Row, kWidth, true>
                                              : deepstack_add_kernel<T, Row, kWidth, false>;
  void* arguments[] = {&out, &hidden, &token_ids, &visual_rows, &tokens, &packs_per_row, &row_count, &level,
                       &vocab_size};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(blocks)), block, arguments,
                          0, call.stream);
}

template <typename T, typename Row>
cudaError_t dispatch_width(const Call& call) {
  constexpr int kWidth = sizeof(int4) / sizeof(T);
  const std::uintptr_t addresses = reinterpret_cast<std::uintptr_t>(call.out) |
                                   reinterpret_cast<std::uintptr_t>(call.hidden) |
                                   reinterpret_cast<std::uintptr_t>(call.visual_rows);
  const bool whole = call.hidden_size % kWidth == 0 && addresses % sizeof(int4) == 0;
  return whole ? launch<T, Row, kWidth>(call) : launch<T, Row, 1>(call);
}

template <typename T>
cudaError_t dispatch_rows(const Call& call, bool wide_rows) {
  return wide_rows ? dispatch_width<T, float>(call) : dispatch_width<T, T>(call);
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_deepstack_add(void* out, const void* hidden, const int32_t* token_ids, const void* visual_rows,
                          int64_t tokens, int64_t hidden_size, int64_t row_count, int32_t level, int32_t vocab_size,
                          int type, int rows_type, void* stream) {
  if (rows_type != type && rows_type != QWEN3VL_FLOAT32) return cudaErrorInvalidValue;
  if (tokens < 0 || hidden_size < 0 || row_count < 0) return cudaErrorInvalidValue;
  if (tokens == 0 || hidden_size == 0) return cudaSuccess;
  if (out == nullptr || hidden == nullptr || token_ids == nullptr) return cudaErrorInvalidValue;
  if (visual_rows == nullptr) row_count = 0;
  const qwen3vl::Call call{out,       hidden,    token_ids, visual_rows, tokens,
                           hidden_size, row_count, level,     vocab_size,  static_cast<cudaStream_t>(stream)};
  switch (type) {
    case QWEN3VL_FLOAT32: return qwen3vl::dispatch_width<float, float>(call);
    case QWEN3VL_FLOAT16: return qwen3vl::dispatch_rows<__half>(call, rows_type != type);
    case QWEN3VL_BFLOAT16: return qwen3vl::dispatch_rows<__nv_bfloat16>(call, rows_type != type);
    default: return cudaErrorInvalidValue;
  }
}
