// Attention of one new token a sequence over a slotted cache, with what comes before it: the norms of queries and keys,
// rotary positions, and the append to the cache.
//
// A cluster of blocks shares one key-value head of one sequence; each warp takes groups of 16 cached tokens, which the
// copy engine brings to shared memory, several ahead. From there they are read as the tensor cores want them: keys as
// rows of S^T = K Q^T, and values, two tokens' numbers put side by side, as rows of O^T = V^T P^T. The heads that share
// a key-value head are the 8 columns.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "fragments.cuh"
#include "head_rotation.cuh"
#include "launch.h"
#include "partition.h"
#include "ptx.cuh"

namespace qwen3vl {
namespace {

namespace cg = cooperative_groups;

constexpr int kSharing = 8;  // query heads of one key-value head
constexpr int kGroupTokens = 16;
constexpr int kGroupHalf = kGroupTokens * kHeadSize * 2;  // bytes of a group's keys, or of its values
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

// kDepth: groups of a warp that are on their way or in use.
template <int kWarps, int kDepth>
struct Shared {
  // Keys, then values. When all groups are done, the first holds the warp's result, as result_index says.
  alignas(128) std::uint8_t groups[kWarps][kDepth][2 * kGroupHalf];
  std::uint64_t full[kWarps][kDepth];
  float maxima[kWarps][kSharing], sums[kWarps][kSharing];
  // Of the heads that this block writes, by all blocks of the cluster: [block][head].
  alignas(16) float received[kSharing][kHeadSize];
  float2 received_softmax[kSharing];  // maximum and sum
  std::uint64_t received_all;
  alignas(16) std::uint16_t queries[kSharing][kHeadSize + 8];
  alignas(16) std::uint16_t key[kHeadSize];
  alignas(16) std::uint16_t value[kHeadSize];

  __device__ float* output(int warp) { return reinterpret_cast<float*>(groups[warp][0]); }
  static_assert(4 * kHeadPairPitch * sizeof(float) <= 2 * kGroupHalf);
};

__device__ __forceinline__ std::uint32_t word(const uint4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

template <typename T>
__device__ __forceinline__ float dot_8(const uint4& x, const uint4& y) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 a = Element<T>::unpack(word(x, i)), b = Element<T>::unpack(word(y, i));
    sum += a.x * b.x + a.y * b.y;
  }
  return sum;
}

__device__ __forceinline__ std::uint32_t transposed_8x8(std::uint32_t x) {
  std::uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// A warp's groups of cached tokens: numbers `first`, `first + stride` and so on, as long as they begin before `past`.
template <typename T, int kDepth>
class CachedGroups {
 public:
  __device__ CachedGroups(std::uint8_t (&memory)[kDepth][2 * kGroupHalf], std::uint64_t (&full)[kDepth], const T* keys,
                          const T* values, int past, int first, int stride)
      : memory_(memory), full_(full), keys_(keys), values_(values), past_(past), stride_(stride), next_(first),
        ahead_(first), lane_(threadIdx.x % 32) {}

  // Called by the whole warp.
  __device__ __forceinline__ void start() {
    if (lane_ == 0) {
      for (int i = 0; i < kDepth; ++i) barrier_init(&full_[i], 1);
      barrier_init_done();
    }
    __syncwarp();
    for (int i = 0; i < kDepth; ++i) copy(i, 0);
  }

  __device__ __forceinline__ bool more() const { return next_ * kGroupTokens < past_; }

  // Tokens of the present group, 16 but for a sequence's last.
  __device__ __forceinline__ int count() const { return min(past_ - next_ * kGroupTokens, kGroupTokens); }

  // Waits for the present group. Values of tokens that are not there become 0: their weights are, but 0 times anything
  // is not always 0.
  __device__ __forceinline__ void wait() {
    barrier_wait(&full_[slot_], parity_);
    if (count() == kGroupTokens) return;
    constexpr int kPacks = kHeadSize * 2 / sizeof(uint4);  // of a token
    auto* values = reinterpret_cast<uint4*>(memory_[slot_] + kGroupHalf);
    for (int i = count() * kPacks + lane_; i < kGroupTokens * kPacks; i += 32) values[i] = uint4{};
    __syncwarp();
  }

  __device__ __forceinline__ uint4 keys(int token, int d) const {
    return *reinterpret_cast<const uint4*>(memory_[slot_] + (token * kHeadSize + d) * 2);
  }

  __device__ __forceinline__ uint4 values(int token, int d) const {
    return *reinterpret_cast<const uint4*>(memory_[slot_] + kGroupHalf + (token * kHeadSize + d) * 2);
  }

  // The present group is done with. `read` is made of a register of each read of its values, which so are done before
  // the copy that follows; see WeightStream::give_back. (Keys were multiplied long before.)
  __device__ __forceinline__ void advance(std::uint32_t read) {
    copy(slot_, __any_sync(~0u, read != 0) ? 0 : 1);
    next_ += stride_;
    if (++slot_ == kDepth) {
      slot_ = 0;
      parity_ ^= 1;
    }
  }

 private:
  // By one lane. Only tokens of the sequence: what lies behind them may belong to nobody.
  __device__ __forceinline__ void copy(int slot, int lane) {
    const int first = ahead_ * kGroupTokens, count = min(past_ - first, kGroupTokens);
    ahead_ += stride_;
    if (count <= 0 || lane_ != lane) return;
    const std::uint32_t bytes = static_cast<std::uint32_t>(count) * kHeadSize * 2;
    barrier_arrive_expecting(&full_[slot], 2 * bytes);
    bulk_copy(memory_[slot], keys_ + first * kHeadSize, bytes, &full_[slot], streaming_policy());
    bulk_copy(memory_[slot] + kGroupHalf, values_ + first * kHeadSize, bytes, &full_[slot], streaming_policy());
  }

  std::uint8_t (&memory_)[kDepth][2 * kGroupHalf];
  std::uint64_t (&full_)[kDepth];
  const T *keys_, *values_;
  const int past_, stride_;
  int next_, ahead_, slot_ = 0;
  const int lane_;
  std::uint32_t parity_ = 0;
};

// Running softmax of two heads and the thread's part of O^T.
struct State {
  float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};  // the sum only over this thread's tokens
  float output[2][4][4] = {};

  // Adds 16 tokens, of which `group` holds as many as it says. Returns what `advance` wants to know.
  template <typename T, typename Group>
  __device__ __forceinline__ std::uint32_t add(const Group& group, const uint4 (&query)[4], float scale, int g, int t) {
    float even[4] = {}, odd[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      multiply_32<T>(even, odd, group.keys(g, 32 * i + 8 * t), group.keys(g + 8, 32 * i + 8 * t), query[i]);
    }
    float scores[4];  // of tokens g (heads 2 t and 2 t + 1) and g + 8
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[i] = g + 8 * (i / 2) < group.count() ? (even[i] + odd[i]) * scale : -INFINITY;
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
    std::uint32_t read = 0;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int d0 = 64 * c + 8 * g;
      const uint4 values[4] = {group.values(2 * t, d0), group.values(2 * t + 1, d0), group.values(2 * t + 8, d0),
                               group.values(2 * t + 9, d0)};
      read ^= values[0].w ^ values[1].w ^ values[2].w ^ values[3].w;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float(&d)[4] = output[c][j];
        d[0] *= rescale[0];
        d[1] *= rescale[1];
        d[2] *= rescale[0];
        d[3] *= rescale[1];
        const std::uint32_t v0 = word(values[0], j), v1 = word(values[1], j);
        const std::uint32_t v2 = word(values[2], j), v3 = word(values[3], j);
        Element<T>::multiply(d, __byte_perm(v0, v1, 0x5410), __byte_perm(v0, v1, 0x7632),
                             __byte_perm(v2, v3, 0x5410), __byte_perm(v2, v3, 0x7632), b0, b1);
      }
    }
    return read;
  }
};

template <typename T, int kRanks, int kWarps, int kDepth>
__global__ void __launch_bounds__(kWarps * 32, 2) attention_kernel(const AttentionArguments arguments) {
  constexpr int kThreads = kWarps * 32;
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<Shared<kWarps, kDepth>*>(shared_memory);
  const cg::cluster_group cluster = cg::this_cluster();
  const int rank = blockIdx.x;
  const int kv_head = blockIdx.y, sequence = blockIdx.z;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

  const int past = arguments.total_lengths[sequence] - 1;
  const std::int64_t slot = (static_cast<std::int64_t>(sequence) * arguments.kv_heads + kv_head) * arguments.capacity;
  T* keys = static_cast<T*>(arguments.keys) + slot * kHeadSize;
  T* values = static_cast<T*>(arguments.values) + slot * kHeadSize;
  CachedGroups<T, kDepth> groups(shared.groups[warp], shared.full[warp], keys, values, past, warp * kRanks + rank,
                                 kRanks * kWarps);
  groups.start();  // the cache is older than the kernel before this one
  const float2 cosine = reinterpret_cast<const float2*>(arguments.cosines + sequence * (kHeadSize / 2))[lane];
  const float2 sine = reinterpret_cast<const float2*>(arguments.sines + sequence * (kHeadSize / 2))[lane];
  const uint2 query_norm = head_norm_now(static_cast<const T*>(arguments.query_norm), lane);
  const uint2 key_norm = head_norm_now(static_cast<const T*>(arguments.key_norm), lane);

  if constexpr (kRanks > 1) {
    if (threadIdx.x == 0) {
      barrier_init(&shared.received_all, 1);
      barrier_init_done();
      barrier_arrive_expecting(&shared.received_all, sizeof(shared.received) + sizeof(shared.received_softmax));
    }
    cluster.barrier_arrive();  // waited for before a block writes into another
  }
  wait_for_previous_kernel();
  let_next_kernel_start();

  const int heads = arguments.kv_heads * kSharing;
  const T* qkv = static_cast<const T*>(arguments.qkv) +
                 static_cast<std::int64_t>(sequence) * (heads + 2 * arguments.kv_heads) * kHeadSize;
#pragma unroll
  for (int head = warp; head < kSharing; head += kWarps) {
    const uint2 query = normed_and_turned<T>(head_pairs(qkv + (kv_head * kSharing + head) * kHeadSize, lane),
                                             query_norm, cosine, sine, arguments.epsilon);
    auto* row = reinterpret_cast<std::uint32_t*>(shared.queries[head]);
    row[lane] = query.x;
    row[32 + lane] = query.y;
  }
  if (rank == 0 && warp == 0) {
    const uint2 key = normed_and_turned<T>(head_pairs(qkv + (heads + kv_head) * kHeadSize, lane), key_norm, cosine,
                                           sine, arguments.epsilon);
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
    const uint4* key = reinterpret_cast<const uint4*>(shared.key) + 2 * g;
    const T* value = reinterpret_cast<const T*>(shared.value);
#pragma unroll
    for (int head = 0; head < 2; ++head) {
      const uint4* q = reinterpret_cast<const uint4*>(shared.queries[2 * t + head]) + 2 * g;
      float score = dot_8<T>(q[0], key[0]) + dot_8<T>(q[1], key[1]);
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) score += __shfl_xor_sync(~0u, score, offset);
      state.maximum[head] = score * scale;
      state.sum[head] = g == 0 ? 1.f : 0.f;
#pragma unroll
      for (int c = 0; c < 2; ++c) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float2 two = Element<T>::unpack(
              *reinterpret_cast<const std::uint32_t*>(value + 64 * c + 8 * g + 2 * j));
          state.output[c][j][head] = two.x;
          state.output[c][j][head + 2] = two.y;
        }
      }
    }
  }
  while (groups.more()) {
    groups.wait();
    groups.advance(state.add<T>(groups, query, scale, g, t));
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
        *reinterpret_cast<float2*>(&shared.output(warp)[result_index(2 * t + head, 64 * c + 8 * g + 2 * j)]) = {
            state.output[c][j][head], state.output[c][j][head + 2]};
      }
    }
  }
  __syncthreads();
  constexpr int kOwnHeads = kSharing / kRanks;
  if constexpr (kRanks > 1) cluster.barrier_wait();
#pragma unroll
  for (int head = warp; head < kSharing; head += kWarps) {
    const int owner = head / kOwnHeads, place = rank * kOwnHeads + head % kOwnHeads;
    float maximum = -INFINITY, sum = 0.f, weights[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) maximum = fmaxf(maximum, shared.maxima[w][head]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      weights[w] = shared.maxima[w][head] == -INFINITY ? 0.f : exp2f(shared.maxima[w][head] - maximum);
      sum += weights[w] * shared.sums[w][head];
    }
    float4 total{};  // of d = 4 * lane and the next three
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const auto* part = reinterpret_cast<const float2*>(&shared.output(w)[result_index(head, 4 * lane)]);
      total.x += weights[w] * part[0].x;
      total.y += weights[w] * part[0].y;
      total.z += weights[w] * part[1].x;
      total.w += weights[w] * part[1].y;
    }
    if constexpr (kRanks > 1) {
      const std::uint32_t all = cluster_address(&shared.received_all, owner);
      send(cluster_address(&shared.received[place][4 * lane], owner), total, all);
      if (lane == 0) send(cluster_address(&shared.received_softmax[place], owner), float2{maximum, sum}, all);
    } else {
      *reinterpret_cast<float4*>(&shared.received[place][4 * lane]) = total;
      if (lane == 0) shared.received_softmax[place] = {maximum, sum};
    }
  }
  if constexpr (kRanks > 1) {
    barrier_wait(&shared.received_all, 0);
  } else {
    __syncthreads();
  }
  for (int i = threadIdx.x; i < kOwnHeads * (kHeadSize / 2); i += kThreads) {
    const int own = i / (kHeadSize / 2), d = i % (kHeadSize / 2) * 2;
    float maximum = -INFINITY, sum = 0.f;
    float2 total{};
#pragma unroll
    for (int r = 0; r < kRanks; ++r) maximum = fmaxf(maximum, shared.received_softmax[r * kOwnHeads + own].x);
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      const int place = r * kOwnHeads + own;
      const float top = shared.received_softmax[place].x;
      const float by = top == -INFINITY ? 0.f : exp2f(top - maximum);
      const float2 part = *reinterpret_cast<const float2*>(&shared.received[place][d]);
      sum += by * shared.received_softmax[place].y;
      total.x += by * part.x;
      total.y += by * part.y;
    }
    T* out = static_cast<T*>(arguments.out) +
             (static_cast<std::int64_t>(sequence) * heads + kv_head * kSharing + rank * kOwnHeads + own) * kHeadSize;
    reinterpret_cast<std::uint32_t*>(out)[d / 2] = Element<T>::pack(total.x / sum, total.y / sum);
  }
}

template <typename T, int kRanks>
cudaError_t launch_attention(const AttentionArguments& arguments, int batch, cudaStream_t stream) {
  // Few sequences: many warps with a group or two each, in a block that fits beside another kernel's. Many: warps that
  // read on and on, two blocks a multiprocessor.
  constexpr int kWarps = kRanks > 2 ? 8 : 4, kDepth = kRanks > 2 ? 1 : 3;
  return launch(attention_kernel<T, kRanks, kWarps, kDepth>, dim3(kRanks, arguments.kv_heads, batch), kWarps * 32,
                sizeof(Shared<kWarps, kDepth>), kRanks, stream, arguments);
}

template <typename T>
cudaError_t dispatch_attention(const AttentionArguments& arguments, int batch, int splits, cudaStream_t stream) {
  switch (splits) {
    case 1: return launch_attention<T, 1>(arguments, batch, stream);
    case 2: return launch_attention<T, 2>(arguments, batch, stream);
    case 4: return launch_attention<T, 4>(arguments, batch, stream);
    case 8: return launch_attention<T, 8>(arguments, batch, stream);
    default: return cudaErrorInvalidValue;
  }
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
    splits = 8;  // as many as run at once; the exchange between many is dear, then one block a multiprocessor is enough
    while (splits > 1 && batch * kv_heads * splits > multiprocessor_count() * (splits > 2 ? 1 : 2)) splits /= 2;
  }
  const AttentionArguments arguments{out,    qkv,           query_norm, key_norm, cosines, sines, keys,
                                     values, total_lengths, kv_heads,   capacity, epsilon, scale};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_attention<__nv_bfloat16>(arguments, batch, splits, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_attention<__half>(arguments, batch, splits, on);
  return cudaErrorInvalidValue;
}
