// The chosen experts of each token: y[pair] = weight * down(silu(gate(x)) * up(x)).
//
// One kernel streams the weights of all used experts once, first gates and ups, then downs. A block's part of the second
// list belongs to the same experts as its part of the first, so the activations it waits for are those of its neighbours,
// and its ring is full of weights meanwhile. All blocks have to be resident at once: one a multiprocessor.
#include <cuda_runtime.h>

#include "decoder_kernels.h"
#include "expert_plan.cuh"
#include "launch.h"
#include "partition.h"
#include "weight_stream.cuh"

namespace qwen3vl {
namespace {

constexpr int kHidden = 2048;
constexpr int kInner = 768;
constexpr int kUpTiles = 2 * kInner / kRowTile;  // of one expert; gate and up rows alternate
constexpr int kDownRows = 2 * kRowTile;          // of one tile: 8 warps have the first half, 8 the second
constexpr int kDownTiles = kHidden / kDownRows;
constexpr int kUpPitch = row_pitch(kHidden * 2), kDownPitch = row_pitch(kInner * 2);
constexpr int kStageBytes = kRowTile * kUpPitch;
static_assert(kDownRows * kDownPitch <= kStageBytes);

struct ExpertArguments {
  float* y;                       // [tokens * k, kHidden]
  void* activations;              // T [tokens * k, kInner], scratch
  std::int32_t* counters;         // [units], 0 at the start
  const void* x;                  // T [tokens, kHidden]
  const std::int32_t* chosen;     // [tokens, k]
  const float* chosen_weights;    // [tokens, k]
  const void* gate_up;            // T [experts, 2 * kInner, kHidden]
  const void* down;               // T [experts, kHidden, kInner]
  int tokens, k;
};

template <int kTokenTiles>
struct ExpertShape {
  static constexpr int kUnitTokens = kTokenTiles * kTokenTile;
  static constexpr int kOther = sizeof(Partials<kTokenTiles>) + sizeof(ExpertPlan) + 1024;
  static constexpr int kStages = (kSharedBytes - kOther) / kStageBytes;
  struct Shared {
    alignas(128) std::uint8_t stages[kStages][kStageBytes];
    union {
      Partials<kTokenTiles> partials;
      ExpertPlanScratch<kConsumerWarps> scratch;
    };
    Ring<kStages> ring;
    ExpertPlan plan;
  };
  static_assert(sizeof(Shared) <= kSharedBytes);
};

// The unit that a tile belongs to, as a walk over tiles meets it.
struct Place {
  int unit, row_tile;
  __device__ __forceinline__ Place(int tile, int tiles) : unit(tile / tiles), row_tile(tile % tiles) {}
  __device__ __forceinline__ void advance(int tiles) {
    if (++row_tile == tiles) {
      row_tile = 0;
      ++unit;
    }
  }
};

template <typename T, int kTokenTiles>
class Consumer {
 public:
  using Shape = ExpertShape<kTokenTiles>;
  using Shared = typename Shape::Shared;

  __device__ Consumer(const ExpertArguments& arguments, Shared& shared)
      : arguments_(arguments), shared_(shared), warp_(threadIdx.x / 32), lane_(threadIdx.x % 32) {}

  __device__ void gates_and_ups(Range tiles) {
    constexpr int kSlice = kHidden / kConsumerWarps, kRuns = kSlice / 32;
    const int k = warp_ * kSlice + quad() * 8;
    uint4 tokens[kTokenTiles][2][kRuns];
    Place place(tiles.begin, kUpTiles);
    int loaded = -1;
    for (int tile = tiles.begin; tile < tiles.end; ++tile, place.advance(kUpTiles)) {
      if (place.unit != loaded) {
        loaded = place.unit;
        take_unit(loaded);
#pragma unroll
        for (int m = 0; m < kTokenTiles; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int pair = pairs_[m][half];
            const T* row = static_cast<const T*>(arguments_.x) + static_cast<std::int64_t>(pair / arguments_.k) * kHidden;
#pragma unroll
            for (int i = 0; i < kRuns; ++i) tokens[m][half][i] = pair >= 0 ? load_8(row + k + 32 * i) : uint4{};
          }
        }
      }
      multiply<kRuns>(tokens, group() * kUpPitch + 2 * k);
      const int unit_tokens = shared_.plan.count[loaded];
      if (warp_ < 2 * kTokenTiles) {
        const int row = group() + 8 * warp_;
        if (row < unit_tokens) {
          float2 sum{};
          add_partials<kConsumerWarps>(sum, 0, warp_);
          const int pair = shared_.plan.order[shared_.plan.first[loaded] + row];
          const float activation = sum.x / (1.f + __expf(-sum.x)) * sum.y * __ldcg(arguments_.chosen_weights + pair);
          static_cast<T*>(arguments_.activations)[static_cast<std::int64_t>(pair) * kInner + place.row_tile * 4 + quad()] =
              Element<T>::narrow(activation);
        }
        __syncwarp();
        if (lane_ == 0) release_add(arguments_.counters + loaded, 1);
      }
      turn_ ^= 1;
    }
  }

  __device__ void downs(Range tiles) {
    constexpr int kSlices = kConsumerWarps / 2, kSlice = kInner / kSlices, kRuns = kSlice / 32;
    static_assert(kSlice % 32 == 0);
    const int slice = warp_ % kSlices, row_half = warp_ / kSlices;
    const int k = slice * kSlice + quad() * 8;
    uint4 tokens[kTokenTiles][2][kRuns];
    Place place(tiles.begin, kDownTiles);
    int loaded = -1;
    for (int tile = tiles.begin; tile < tiles.end; ++tile, place.advance(kDownTiles)) {
      if (place.unit != loaded) {
        loaded = place.unit;
        take_unit(loaded);
        if (lane_ == 0) {
          while (acquire_load(arguments_.counters + loaded) < kUpTiles * 2 * kTokenTiles) __nanosleep(20);
        }
        __syncwarp();
#pragma unroll
        for (int m = 0; m < kTokenTiles; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int pair = pairs_[m][half];
            const T* row = static_cast<const T*>(arguments_.activations) + static_cast<std::int64_t>(pair) * kInner;
#pragma unroll
            for (int i = 0; i < kRuns; ++i) tokens[m][half][i] = pair >= 0 ? load_8(row + k + 32 * i) : uint4{};
          }
        }
      }
      multiply<kRuns>(tokens, (row_half * kRowTile + group()) * kDownPitch + 2 * k);
      const int unit_tokens = shared_.plan.count[loaded];
      if (warp_ < 4 * kTokenTiles) {  // a warp for each half of the rows and half of the token tile
        const int rows = warp_ % 2, half = warp_ / 2;
        const int row = group() + 8 * half;
        if (row < unit_tokens) {
          float2 sum{};
          add_partials<kSlices>(sum, rows * kSlices, half);
          const int pair = shared_.plan.order[shared_.plan.first[loaded] + row];
          *reinterpret_cast<float2*>(arguments_.y + static_cast<std::int64_t>(pair) * kHidden +
                                     place.row_tile * kDownRows + rows * kRowTile + 2 * quad()) = sum;
        }
      }
      turn_ ^= 1;
    }
  }

 private:
  __device__ __forceinline__ int group() const { return lane_ / 4; }
  __device__ __forceinline__ int quad() const { return lane_ % 4; }

  // The pairs whose rows this thread holds, -1 beyond the last.
  __device__ __forceinline__ void take_unit(int unit) {
#pragma unroll
    for (int m = 0; m < kTokenTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = m * kTokenTile + 8 * half + group();
        pairs_[m][half] = row < shared_.plan.count[unit] ? shared_.plan.order[shared_.plan.first[unit] + row] : -1;
      }
    }
  }

  // Multiplies the next tile of the ring, whose part for this thread begins at `offset`, and puts the sums of this warp's
  // k where `add_partials` finds those of all.
  template <int kRuns>
  __device__ __forceinline__ void multiply(const uint4 (&tokens)[kTokenTiles][2][kRuns], int offset) {
    barrier_wait(&shared_.ring.full[cursor_.stage], cursor_.parity);
    const std::uint8_t* weights = shared_.stages[cursor_.stage] + offset;
    float even[kTokenTiles][4] = {}, odd[kTokenTiles][4] = {};
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const uint4 run = *reinterpret_cast<const uint4*>(weights + 64 * i);
#pragma unroll
      for (int m = 0; m < kTokenTiles; ++m) multiply_32<T>(even[m], odd[m], tokens[m][0][i], tokens[m][1][i], run);
    }
    __syncwarp();
    if (lane_ == 0) barrier_arrive(&shared_.ring.empty[cursor_.stage]);
    cursor_.advance();
    auto& sums = shared_.partials.sums[turn_][warp_];
#pragma unroll
    for (int m = 0; m < kTokenTiles; ++m) {
      sums[2 * m][lane_] = {even[m][0] + odd[m][0], even[m][1] + odd[m][1]};
      sums[2 * m + 1][lane_] = {even[m][2] + odd[m][2], even[m][3] + odd[m][3]};
    }
    named_barrier(1, kConsumers);
  }

  template <int kCount>
  __device__ __forceinline__ void add_partials(float2& sum, int first_warp, int half) const {
#pragma unroll
    for (int w = 0; w < kCount; ++w) {
      const float2 part = shared_.partials.sums[turn_][first_warp + w][half][lane_];
      sum.x += part.x;
      sum.y += part.y;
    }
  }

  const ExpertArguments& arguments_;
  Shared& shared_;
  const int warp_, lane_;
  int pairs_[kTokenTiles][2];
  Cursor<Shape::kStages> cursor_;
  int turn_ = 0;  // which of the two sets of partial sums
};

template <typename T, int kTokenTiles>
__global__ void __launch_bounds__(kStreamThreads, 1) experts_kernel(const ExpertArguments arguments) {
  using Shape = ExpertShape<kTokenTiles>;
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<typename Shape::Shared*>(shared_memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) shared.ring.init();
  let_next_kernel_start();
  wait_for_previous_kernel();
  make_expert_plan(shared.plan, shared.scratch, arguments.chosen, arguments.tokens * arguments.k, Shape::kUnitTokens);

  const Range ups = share_of(shared.plan.units * kUpTiles, blockIdx.x, gridDim.x);
  const Range downs = share_of(shared.plan.units * kDownTiles, blockIdx.x, gridDim.x);
  if (warp < kConsumerWarps) {
    Consumer<T, kTokenTiles> consumer(arguments, shared);
    consumer.gates_and_ups(ups);
    consumer.downs(downs);
    return;
  }
  const std::uint64_t policy = streaming_policy();
  Cursor<Shape::kStages> cursor;
  Place place(ups.begin, kUpTiles);
  for (int tile = ups.begin; tile < ups.end; ++tile, place.advance(kUpTiles)) {
    const std::int64_t row = (static_cast<std::int64_t>(shared.plan.expert[place.unit]) * kUpTiles + place.row_tile) * kRowTile;
    produce<kRowTile, kHidden * 2>(shared.ring, cursor, shared.stages[cursor.stage],
                                   static_cast<const std::uint8_t*>(arguments.gate_up) + row * kHidden * 2, lane, policy);
  }
  place = Place(downs.begin, kDownTiles);
  for (int tile = downs.begin; tile < downs.end; ++tile, place.advance(kDownTiles)) {
    const std::int64_t row = (static_cast<std::int64_t>(shared.plan.expert[place.unit]) * kDownTiles + place.row_tile) * kDownRows;
    produce<kDownRows, kInner * 2>(shared.ring, cursor, shared.stages[cursor.stage],
                                   static_cast<const std::uint8_t*>(arguments.down) + row * kInner * 2, lane, policy);
  }
}

template <typename T, int kTokenTiles>
cudaError_t launch_experts(const ExpertArguments& arguments, cudaStream_t stream) {
  return launch(experts_kernel<T, kTokenTiles>, dim3(multiprocessor_count()), kStreamThreads,
                sizeof(typename ExpertShape<kTokenTiles>::Shared), 1, stream, arguments);
}

// h[token] = h[token] + sum of y over the token's pairs, in the pairs' order.
template <typename T>
__global__ void __launch_bounds__(256) combine_kernel(T* h, const float* y, int hidden, int k) {
  let_next_kernel_start();
  const std::int64_t token = blockIdx.y;
  const int at = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
  wait_for_previous_kernel();
  if (at >= hidden) return;
  auto* row = reinterpret_cast<uint2*>(h + token * hidden + at);
  const uint2 own = __ldcg(row);
  const float2 low = Element<T>::unpack(own.x), high = Element<T>::unpack(own.y);
  float4 sum{};
  for (int i = 0; i < k; ++i) {
    const float4 part = __ldcg(reinterpret_cast<const float4*>(y + (token * k + i) * hidden + at));
    sum.x += part.x;
    sum.y += part.y;
    sum.z += part.z;
    sum.w += part.w;
  }
  *row = {Element<T>::pack(low.x + sum.x, low.y + sum.y), Element<T>::pack(high.x + sum.z, high.y + sum.w)};
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_experts(float* y, void* activations, int32_t* counters, const void* x, const int32_t* chosen,
                    const float* chosen_weights, const void* gate_up, const void* down, int tokens, int k, int experts,
                    int hidden, int inner, int type, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || k < 1 || tokens * k > kMaxPairs || experts > kMaxExperts || hidden != kHidden || inner != kInner) {
    return cudaErrorInvalidValue;
  }
  const ExpertArguments arguments{y, activations, counters, x, chosen, chosen_weights, gate_up, down, tokens, k};
  const auto on = static_cast<cudaStream_t>(stream);
  const bool few = tokens <= 48;  // more than 16 of them at one expert are then rare
  if (type == QWEN3VL_BFLOAT16) {
    return few ? launch_experts<__nv_bfloat16, 1>(arguments, on) : launch_experts<__nv_bfloat16, 2>(arguments, on);
  }
  if (type == QWEN3VL_FLOAT16) {
    return few ? launch_experts<__half, 1>(arguments, on) : launch_experts<__half, 2>(arguments, on);
  }
  return cudaErrorInvalidValue;
}

int qwen3vl_combine(void* h, const float* y, int tokens, int k, int hidden, int type, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || hidden % 4 != 0) return cudaErrorInvalidValue;
  constexpr int kThreads = 128;
  const dim3 grid(static_cast<unsigned>(groups_of(hidden, 4 * kThreads)), static_cast<unsigned>(tokens));
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) {
    return launch(combine_kernel<__nv_bfloat16>, grid, kThreads, 0, 1, on, static_cast<__nv_bfloat16*>(h), y, hidden, k);
  }
  if (type == QWEN3VL_FLOAT16) {
    return launch(combine_kernel<__half>, grid, kThreads, 0, 1, on, static_cast<__half*>(h), y, hidden, k);
  }
  return cudaErrorInvalidValue;
}
