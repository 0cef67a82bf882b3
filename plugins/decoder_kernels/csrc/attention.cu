// Attention of one new token a sequence over a slotted cache, with what comes before it: the norms of queries and keys,
// rotary positions, and the append to the cache.
//
// A cluster of blocks shares one key-value head of one sequence; each warp takes groups of 16 cached tokens. All reads of
// the cache go from memory to registers as the tensor cores want them: keys as rows of S^T = K Q^T, and values, two
// tokens' numbers put side by side, as rows of O^T = V^T P^T. The heads that share a key-value head are the 8 columns.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "fragments.cuh"
#include "launch.h"
#include "partition.h"
#include "ptx.cuh"

namespace qwen3vl {
namespace {

namespace cg = cooperative_groups;

constexpr int kHeadSize = 128;
constexpr int kSharing = 8;  // query heads of one key-value head
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kGroupTokens = 16;
constexpr int kHeadPairPitch = 2 * kHeadSize + 2;  // floats; keeps pairs of heads on different banks

struct AttentionArguments {
  void* out;                         // T [B, heads * 128]
  const void* qkv;                   // T [B, (heads + 2 kv_heads) * 128]
  const void* query_norm;            // T [128]
  const void* key_norm;              // T [128]
  const float* cosines;              // [B, 64]
  const float* sines;                // [B, 64]
  void* keys;                        // T [B, kv_heads, capacity, 128]
  void* values;                      // the same
  const std::int32_t* total_lengths; // [B], this token counted
  int kv_heads, capacity;
  float epsilon, scale;              // of the norms; of the scores
};

// Row tile of a [8 heads, 128] result in O^T's layout: thread (g, t) holds d = 64 c + 8 g + 2 j and the next, of heads
// 2 t and 2 t + 1.
__device__ __forceinline__ int result_index(int head, int d) {
  return head / 2 * kHeadPairPitch + head % 2 * kHeadSize + d;
}

struct Shared {
  float outputs[kWarps][4 * kHeadPairPitch];
  float maxima[kWarps][kSharing], sums[kWarps][kSharing];
  float block_output[4 * kHeadPairPitch];  // of all warps; read by the cluster
  float block_maximum[kSharing], block_sum[kSharing];
  alignas(16) std::uint16_t queries[kSharing][kHeadSize + 8];
  alignas(16) std::uint16_t key[kHeadSize];
  alignas(16) std::uint16_t value[kHeadSize];
};

// Norm and rotary position of one head by one warp; lane l has d = 2 l, 2 l + 1 and the same + 64.
template <typename T>
__device__ __forceinline__ uint2 normed_and_turned(const T* head, const T* norm, float2 cosine, float2 sine,
                                                   float epsilon, int lane) {
  const float2 a = Element<T>::unpack(__ldcg(reinterpret_cast<const std::uint32_t*>(head) + lane));
  const float2 b = Element<T>::unpack(__ldcg(reinterpret_cast<const std::uint32_t*>(head) + 32 + lane));
  float squares = a.x * a.x + a.y * a.y + b.x * b.x + b.y * b.y;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
  const float by = rsqrtf(squares / kHeadSize + epsilon);
  const float2 na = Element<T>::unpack(__ldg(reinterpret_cast<const std::uint32_t*>(norm) + lane));
  const float2 nb = Element<T>::unpack(__ldg(reinterpret_cast<const std::uint32_t*>(norm) + 32 + lane));
  const float2 x{a.x * by * na.x, a.y * by * na.y}, y{b.x * by * nb.x, b.y * by * nb.y};
  return {Element<T>::pack(x.x * cosine.x - y.x * sine.x, x.y * cosine.y - y.y * sine.y),
          Element<T>::pack(y.x * cosine.x + x.x * sine.x, y.y * cosine.y + x.y * sine.y)};
}

__device__ __forceinline__ std::uint32_t transposed_8x8(std::uint32_t x) {
  std::uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

__device__ __forceinline__ std::uint32_t word(const uint4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

// 16 cached tokens as this thread reads them.
struct Group {
  uint4 keys[2][4];    // tokens g and g + 8; d = 32 i + 8 t
  uint4 values[4][2];  // tokens 2 t, 2 t + 1, 2 t + 8, 2 t + 9; d = 64 c + 8 g

  // `past` tokens are valid; later ones are read as the last, their weight is 0.
  template <typename T>
  __device__ __forceinline__ void load(const T* cached_keys, const T* cached_values, int first, int past, int g, int t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = min(first + g + 8 * half, past - 1);
#pragma unroll
      for (int i = 0; i < 4; ++i) keys[half][i] = load_8(cached_keys + token * kHeadSize + 32 * i + 8 * t);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = min(first + 2 * t + (i & 1) + 8 * (i / 2), past - 1);
#pragma unroll
      for (int c = 0; c < 2; ++c) values[i][c] = load_8(cached_values + token * kHeadSize + 64 * c + 8 * g);
    }
  }
};

// Running softmax of two heads and the thread's part of O^T.
struct State {
  float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};  // the sum only over this thread's tokens
  float output[2][4][4] = {};

  template <typename T>
  __device__ __forceinline__ void add(const Group& group, const uint4 (&query)[4], int valid, float scale, int g) {
    float even[4] = {}, odd[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) multiply_32<T>(even, odd, group.keys[0][i], group.keys[1][i], query[i]);
    float scores[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[i] = g + 8 * (i / 2) < valid ? (even[i] + odd[i]) * scale : -INFINITY;
    float rescale[2];
#pragma unroll
    for (int head = 0; head < 2; ++head) {
      float top = fmaxf(scores[head], scores[head + 2]);
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, offset));
      top = fmaxf(top, maximum[head]);
      rescale[head] = exp2f(maximum[head] - top);
      maximum[head] = top;
      scores[head] = exp2f(scores[head] - top);
      scores[head + 2] = exp2f(scores[head + 2] - top);
      sum[head] = sum[head] * rescale[head] + scores[head] + scores[head + 2];
    }
    const std::uint32_t b0 = transposed_8x8(Element<T>::pack(scores[0], scores[1]));
    const std::uint32_t b1 = transposed_8x8(Element<T>::pack(scores[2], scores[3]));
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float(&d)[4] = output[c][j];
        d[0] *= rescale[0];
        d[1] *= rescale[1];
        d[2] *= rescale[0];
        d[3] *= rescale[1];
        const std::uint32_t v0 = word(group.values[0][c], j), v1 = word(group.values[1][c], j);
        const std::uint32_t v2 = word(group.values[2][c], j), v3 = word(group.values[3][c], j);
        Element<T>::multiply(d, __byte_perm(v0, v1, 0x5410), __byte_perm(v0, v1, 0x7632),
                             __byte_perm(v2, v3, 0x5410), __byte_perm(v2, v3, 0x7632), b0, b1);
      }
    }
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) attention_kernel(const AttentionArguments arguments) {
  __shared__ Shared shared;
  const cg::cluster_group cluster = cg::this_cluster();
  const int rank = blockIdx.x, ranks = gridDim.x;
  const int kv_head = blockIdx.y, sequence = blockIdx.z;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

  const int past = arguments.total_lengths[sequence] - 1;
  const std::int64_t slot = (static_cast<std::int64_t>(sequence) * arguments.kv_heads + kv_head) * arguments.capacity;
  T* keys = static_cast<T*>(arguments.keys) + slot * kHeadSize;
  T* values = static_cast<T*>(arguments.values) + slot * kHeadSize;
  const int groups = groups_of(past, kGroupTokens), stride = ranks * kWarps;
  int next = warp * ranks + rank;
  Group group;
  if (next < groups) group.load(keys, values, next * kGroupTokens, past, g, t);

  wait_for_previous_kernel();
  let_next_kernel_start();

  const int heads = arguments.kv_heads * kSharing;
  const T* qkv = static_cast<const T*>(arguments.qkv) +
                 static_cast<std::int64_t>(sequence) * (heads + 2 * arguments.kv_heads) * kHeadSize;
  const float2 cosine = reinterpret_cast<const float2*>(arguments.cosines + sequence * (kHeadSize / 2))[lane];
  const float2 sine = reinterpret_cast<const float2*>(arguments.sines + sequence * (kHeadSize / 2))[lane];
  {
    const uint2 query = normed_and_turned(qkv + (kv_head * kSharing + warp) * kHeadSize,
                                          static_cast<const T*>(arguments.query_norm), cosine, sine, arguments.epsilon,
                                          lane);
    auto* row = reinterpret_cast<std::uint32_t*>(shared.queries[warp]);
    row[lane] = query.x;
    row[32 + lane] = query.y;
  }
  if (rank == 0 && warp == 0) {
    const uint2 key = normed_and_turned(qkv + (heads + kv_head) * kHeadSize, static_cast<const T*>(arguments.key_norm),
                                        cosine, sine, arguments.epsilon, lane);
    auto* row = reinterpret_cast<std::uint32_t*>(shared.key);
    auto* cached = reinterpret_cast<std::uint32_t*>(keys + static_cast<std::int64_t>(past) * kHeadSize);
    row[lane] = cached[lane] = key.x;
    row[32 + lane] = cached[32 + lane] = key.y;
  }
  if (rank == 0 && warp == 1) {
    const auto* value = reinterpret_cast<const uint2*>(qkv + (heads + arguments.kv_heads + kv_head) * kHeadSize);
    const uint2 four = __ldcg(value + lane);
    reinterpret_cast<uint2*>(shared.value)[lane] = four;
    reinterpret_cast<uint2*>(values + static_cast<std::int64_t>(past) * kHeadSize)[lane] = four;
  }
  __syncthreads();

  uint4 query[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) query[i] = *reinterpret_cast<const uint4*>(&shared.queries[g][32 * i + 8 * t]);
  const float scale = arguments.scale * 1.44269504f;  // exponents are of 2
  State state;
  if (rank == 0 && warp == 0) {  // the new token itself
    const T* key = reinterpret_cast<const T*>(shared.key);
    const T* value = reinterpret_cast<const T*>(shared.value);
#pragma unroll
    for (int head = 0; head < 2; ++head) {
      const T* q = reinterpret_cast<const T*>(shared.queries[2 * t + head]);
      float score = 0.f;
#pragma unroll
      for (int d = 0; d < 16; ++d) score += Element<T>::widen(q[16 * g + d]) * Element<T>::widen(key[16 * g + d]);
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) score += __shfl_xor_sync(~0u, score, offset);
      state.maximum[head] = score * scale;
      state.sum[head] = g == 0 ? 1.f : 0.f;
#pragma unroll
      for (int c = 0; c < 2; ++c) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          state.output[c][j][head] = Element<T>::widen(value[64 * c + 8 * g + 2 * j]);
          state.output[c][j][head + 2] = Element<T>::widen(value[64 * c + 8 * g + 2 * j + 1]);
        }
      }
    }
  }
  while (next < groups) {
    state.add<T>(group, query, past - next * kGroupTokens, scale, g);
    next += stride;
    if (next < groups) group.load(keys, values, next * kGroupTokens, past, g, t);
  }

  // The warps' results, then the blocks'.
#pragma unroll
  for (int head = 0; head < 2; ++head) {
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) {
      state.sum[head] += __shfl_xor_sync(~0u, state.sum[head], offset);
    }
    if (g == 0) {
      shared.maxima[warp][2 * t + head] = state.maximum[head];
      shared.sums[warp][2 * t + head] = state.sum[head];
    }
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        *reinterpret_cast<float2*>(&shared.outputs[warp][result_index(2 * t + head, 64 * c + 8 * g + 2 * j)]) = {
            state.output[c][j][head], state.output[c][j][head + 2]};
      }
    }
  }
  __syncthreads();
  {
    const int head = warp;
    float maximum = -INFINITY, sum = 0.f, weights[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) maximum = fmaxf(maximum, shared.maxima[w][head]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      weights[w] = shared.maxima[w][head] == -INFINITY ? 0.f : exp2f(shared.maxima[w][head] - maximum);
      sum += weights[w] * shared.sums[w][head];
    }
#pragma unroll
    for (int d = lane; d < kHeadSize; d += 32) {
      float total = 0.f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) total += weights[w] * shared.outputs[w][result_index(head, d)];
      shared.block_output[result_index(head, d)] = total;
    }
    if (lane == 0) {
      shared.block_maximum[head] = maximum;
      shared.block_sum[head] = sum;
    }
  }
  cluster.sync();
  const int per_rank = kSharing / ranks;
  for (int i = threadIdx.x; i < per_rank * (kHeadSize / 2); i += kThreads) {
    const int head = rank * per_rank + i / (kHeadSize / 2), d = i % (kHeadSize / 2) * 2;
    float maximum = -INFINITY, sum = 0.f;
    float2 total{};
    for (int r = 0; r < ranks; ++r) maximum = fmaxf(maximum, *cluster.map_shared_rank(&shared.block_maximum[head], r));
    for (int r = 0; r < ranks; ++r) {
      const float top = *cluster.map_shared_rank(&shared.block_maximum[head], r);
      const float by = top == -INFINITY ? 0.f : exp2f(top - maximum);
      const float2 part =
          *reinterpret_cast<const float2*>(cluster.map_shared_rank(&shared.block_output[result_index(head, d)], r));
      sum += by * *cluster.map_shared_rank(&shared.block_sum[head], r);
      total.x += by * part.x;
      total.y += by * part.y;
    }
    T* out = static_cast<T*>(arguments.out) +
             (static_cast<std::int64_t>(sequence) * heads + kv_head * kSharing + head) * kHeadSize;
    reinterpret_cast<std::uint32_t*>(out)[d / 2] = Element<T>::pack(total.x / sum, total.y / sum);
  }
  cluster.sync();  // no block ends while another reads its results
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_decode_attention(void* out, const void* qkv, const void* query_norm, const void* key_norm,
                             const float* cosines, const float* sines, void* keys, void* values,
                             const int32_t* total_lengths, int batch, int heads, int kv_heads, int head_size,
                             int capacity, float epsilon, float scale, int type, int splits, void* stream) {
  using namespace qwen3vl;
  if (batch < 1 || head_size != kHeadSize || heads != kv_heads * kSharing) return cudaErrorInvalidValue;
  if (splits == 0) {
    splits = 8;  // enough blocks for all multiprocessors twice, no more
    while (splits > 1 && batch * kv_heads * splits > 2 * multiprocessor_count()) splits /= 2;
  }
  if (splits < 1 || splits > 8 || kSharing % splits != 0) return cudaErrorInvalidValue;
  const AttentionArguments arguments{out,    qkv,           query_norm, key_norm, cosines, sines, keys,
                                     values, total_lengths, kv_heads,   capacity, epsilon, scale};
  const auto kernel = type == QWEN3VL_BFLOAT16 ? attention_kernel<__nv_bfloat16> : attention_kernel<__half>;
  if (type != QWEN3VL_BFLOAT16 && type != QWEN3VL_FLOAT16) return cudaErrorInvalidValue;
  return launch(kernel, dim3(splits, kv_heads, batch), kThreads, 0, splits, static_cast<cudaStream_t>(stream), arguments);
}
