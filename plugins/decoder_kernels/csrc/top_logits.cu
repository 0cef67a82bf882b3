// The most likely tokens of each sequence, and the next one.
#include "top_logits.cuh"

#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "launch.h"
#include "partition.h"

namespace qwen3vl {
namespace {

bool is_suitable(int rows, int vocabulary, int k) {
  return rows >= 0 && k >= 1 && k <= kMostOfTop && vocabulary >= k && vocabulary % 4 == 0 &&
         vocabulary <= kMostSlices * kTopSlice;
}

}  // namespace
}  // namespace qwen3vl

size_t qwen3vl_top_logits_workspace(int rows, int vocabulary, int k) {
  using namespace qwen3vl;
  if (!is_suitable(rows, vocabulary, k)) return 0;
  return static_cast<size_t>(rows) * k * groups_of(vocabulary, kTopSlice) * sizeof(Key);
}

int qwen3vl_top_logits(float* best, int64_t* ids, int64_t* chosen, void* workspace, const float* logits,
                       const double* draws, int rows, int vocabulary, int k, void* stream) {
  using namespace qwen3vl;
  if (rows < 1 || rows > 65535 || !is_suitable(rows, vocabulary, k)) return cudaErrorInvalidValue;
  const int slices = groups_of(vocabulary, kTopSlice);
  const auto on = static_cast<cudaStream_t>(stream);
  auto* found = static_cast<Key*>(workspace);
  const cudaError_t status = launch(top_of_slices_kernel, dim3(slices, rows), kTopThreads, sizeof(TopShared), 1, on,
                                    found, logits, vocabulary, k);
  if (status != cudaSuccess) return status;
  return launch(top_of_rows_kernel, dim3(rows), kTopThreads, sizeof(TopOfRowsShared), 1, on, best, ids, chosen,
                static_cast<const Key*>(found), reinterpret_cast<const Draw*>(draws), slices, k);
}
