#include "vision_kernels.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "attend.cuh"
#include "prepare.cuh"

namespace qwen3vl {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr double kLog2E = 1.4426950408889634;

struct Call {
  void* out;
  const void *qkv, *bias;
  const float *cosines, *sines;
  void* workspace;
  int frames, patches, heads;
  cudaStream_t stream;

  std::int64_t frame_heads() const { return static_cast<std::int64_t>(frames) * heads; }
};

// Bytes of the three kinds of tiles, each of whole multiples of kAlignment.
struct Workspace {
  std::size_t queries, keys, values;

  Workspace(std::int64_t frame_heads, std::int64_t patches, int head_size) {
    const auto bytes = [&](int rows, int chunks) {
      const std::int64_t elements = frame_heads * ceil_div(patches, rows) * rows * chunks * kChunk;
      return static_cast<std::size_t>(ceil_div(2 * elements, kAlignment)) * kAlignment;
    };
    queries = bytes(kQueryRows, score_chunks(head_size));
    keys = bytes(kKeyRows, score_chunks(head_size));
    values = bytes(kKeyRows, value_chunks(head_size));
  }
};

cudaError_t multiprocessors(int* count) {
  int device = 0;
  if (const cudaError_t status = cudaGetDevice(&device)) return status;
  return cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
}

template <typename T, int kHead>
cudaError_t launch(const Call& call) {
  int processors = 0;
  if (const cudaError_t status = multiprocessors(&processors)) return status;
  const Workspace sizes(call.frame_heads(), call.patches, kHead);
  auto* workspace = static_cast<unsigned char*>(call.workspace);
  T* queries = reinterpret_cast<T*>(workspace);
  T* keys = reinterpret_cast<T*>(workspace + sizes.queries);
  T* values = reinterpret_cast<T*>(workspace + sizes.queries + sizes.keys);
  const Schedule schedule = make_schedule(call.frame_heads(), call.patches, processors);
  const int key_tiles = static_cast<int>(ceil_div(call.patches, kKeyRows));

  const dim3 blocks(key_tiles * (kKeyRows / kPrepareRows), call.heads, call.frames);
  prepare<T, kHead><<<blocks, kPrepareThreads, 0, call.stream>>>(
      queries, keys, values, static_cast<const T*>(call.qkv), static_cast<const T*>(call.bias), call.cosines,
      call.sines, call.patches, call.heads, schedule.query_tiles, key_tiles,
      static_cast<float>(kLog2E / std::sqrt(kHead)));
  if (const cudaError_t status = cudaGetLastError()) return status;

  constexpr int kBytes = sizeof(Shared<T, kHead>);
  static_assert(kBytes <= 227 * 1024, "more shared memory than a thread block of compute capability 9.0 may have");
  if (const cudaError_t status =
          cudaFuncSetAttribute(attend<T, kHead>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes))
    return status;
  const AttendArguments<T> arguments{static_cast<T*>(call.out), queries,    keys,     values,
                                     call.patches,              call.heads, key_tiles, schedule};
  attend<T, kHead><<<std::min(processors, schedule.items()), kAttendThreads, kBytes, call.stream>>>(arguments);
  return cudaGetLastError();
}

template <typename T>
cudaError_t dispatch_head(const Call& call, int head_size) {
  switch (head_size) {
    case 64: return launch<T, 64>(call);
    case 72: return launch<T, 72>(call);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_vision_kernels_run_here(void) {
  int device = 0, major = 0, minor = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess && major == 9 &&
         minor == 0;
}

int qwen3vl_vision_attention_supports(int head_size) { return head_size == 64 || head_size == 72; }

size_t qwen3vl_vision_attention_workspace(int64_t frames, int64_t patches, int heads, int head_size) {
  const qwen3vl::Workspace sizes(frames * heads, patches, head_size);
  return sizes.queries + sizes.keys + sizes.values;
}

int qwen3vl_vision_attention(void* out, const void* qkv, const void* bias, const float* cosines, const float* sines,
                             void* workspace, int64_t frames, int64_t patches, int heads, int head_size, int type,
                             void* stream) {
  constexpr int64_t kMost = 65535;  // thread blocks along a grid's second and third dimension
  if (frames < 1 || patches < 1 || heads < 1 || frames > kMost || heads > kMost ||
      frames * heads * qwen3vl::ceil_div(patches, qwen3vl::kQueryRows) > std::numeric_limits<int32_t>::max())
    return cudaErrorInvalidValue;
  const qwen3vl::Call call{out, qkv, bias, cosines, sines, workspace, static_cast<int>(frames),
                           static_cast<int>(patches), heads, static_cast<cudaStream_t>(stream)};
  switch (type) {
    case QWEN3VL_VISION_FLOAT16: return qwen3vl::dispatch_head<__half>(call, head_size);
    case QWEN3VL_VISION_BFLOAT16: return qwen3vl::dispatch_head<__nv_bfloat16>(call, head_size);
    default: return cudaErrorInvalidValue;
  }
}
