// Launching kernels whose beginning overlaps the end of the kernel before them in the stream.
#pragma once

#include <cuda_runtime.h>

#include <mutex>
#include <set>
#include <utility>

namespace qwen3vl {

// Multiprocessors of the current device.
inline int multiprocessor_count() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

// Allows a kernel its dynamic shared memory, once for each kernel and device. All kernels ask for the same division of
// a multiprocessor's memory into cache and shared memory: with another one, a kernel can't start beside the one before
// it.
inline cudaError_t allow(const void* kernel, std::size_t shared_bytes) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  int device = 0;
  if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) return status;
  const std::lock_guard lock(mutex);
  if (allowed.count({kernel, device}) != 0) return cudaSuccess;
  const int bytes = static_cast<int>(shared_bytes);
  cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status == cudaSuccess) {
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared);
  }
  if (status == cudaSuccess) allowed.insert({kernel, device});
  return status;
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, std::size_t shared_bytes, int cluster,
                   cudaStream_t stream, const Arguments&... arguments) {
  const cudaError_t status = allow(reinterpret_cast<const void*>(kernel), shared_bytes);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(cluster);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t configuration{};
  configuration.gridDim = grid;
  configuration.blockDim = dim3(static_cast<unsigned>(threads));
  configuration.dynamicSmemBytes = shared_bytes;
  configuration.stream = stream;
  configuration.attrs = attributes;
  configuration.numAttrs = cluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&configuration, kernel, arguments...);
}

}  // namespace qwen3vl
