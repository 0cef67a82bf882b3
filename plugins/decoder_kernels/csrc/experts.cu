// The chosen experts of each token: y[pair] = weight * down(silu(gate(x)) * up(x)).
//
// One kernel streams the weights of all used experts once, first gates and ups, then downs. Blocks take both in the
// experts' order, so that the activations which a block waits for are done, or nearly, when it comes to them, and its ring
// is full of weights meanwhile. All blocks have to be resident at once: one a multiprocessor.
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
constexpr int kDownRows = 2 * kRowTile;          // of one tile: 4 warps have the first half, 4 the second
constexpr int kDownTiles = kHidden / kDownRows;
constexpr int kUpPiece = kRowTile / 2 * kHidden * 2, kDownPiece = kDownRows / 2 * kInner * 2;  // bytes
static_assert(kDownPiece <= kUpPiece);
constexpr int kDownSlices = kStreamWarps / 2;
constexpr int kNextChunk = 255;  // of the counters: chunks taken; the ones before it count finished tiles of a unit

struct ExpertArguments {
  float* y;                     // [tokens * k, kHidden]
  void* activations;            // T [tokens * k, kInner], scratch
  std::int32_t* counters;       // [256], 0 at the start
  const void* x;                // T [tokens, kHidden]
  const std::int32_t* chosen;   // [tokens, k]
  const float* chosen_weights;  // [tokens, k]
  const void* gate_up;          // T [experts, 2 * kInner, kHidden]
  const void* down;             // T [experts, kHidden, kInner]
  int tokens, k;
};

template <int kHalves>
struct ExpertShape {
  static constexpr int kMaxPairs = kHalves == 1 ? 512 : 2048;
  // Tiles that a block takes at once, from either list.
  static constexpr int kChunk = kHalves == 1 ? 4 : 8;
  static_assert(kUpTiles % kChunk == 0 && kDownTiles % kChunk == 0);
  using Plan = ExpertPlan<kMaxPairs, kHalves * kHalfTile>;
  static constexpr int kBudget = kHalves == 1 ? kHalfBudget : kFullBudget;
  static constexpr int kStages = stages_that_fit<kHalves>(kBudget, kUpPiece, sizeof(Plan));
  using Memory = StreamMemory<kHalves, kStages, kUpPiece>;
  using Scratch = ExpertPlanScratch<kStreamWarps>;
  struct Shared {
    Memory stream;
    Plan plan;
    // Of the plan, before the first sums are there.
    __device__ Scratch& scratch() { return reinterpret_cast<Scratch&>(stream.partials); }
  };
  static_assert(sizeof(Shared) <= kBudget);
  static_assert(sizeof(Scratch) <= sizeof(Memory::partials));
};

// A stage's tag: a tile of gates and ups, of downs, or the end.
constexpr int kDownTag = 1 << 30;
constexpr int kEndTag = -1;

// Chunks of tiles, first those of gates and ups, then those of downs, are taken by whichever block is ready.
template <int kHalves>
class ExpertRows {
 public:
  using Shape = ExpertShape<kHalves>;
  static constexpr int kChunk = Shape::kChunk;

  __device__ ExpertRows(const ExpertArguments& arguments, const typename Shape::Plan& plan)
      : arguments_(arguments), plan_(plan), next_chunk_(static_cast<int>(blockIdx.x)) {}

  __device__ __forceinline__ bool next(StageRows& rows) {
    if (tile_ == end_ && !take_chunk()) {
      if (ended_) return false;
      ended_ = true;
      rows = {nullptr, 0, kEndTag};
      return true;
    }
    rows = {source_, downs_ ? kDownPiece : kUpPiece, downs_ ? kDownTag | tile_ : tile_};
    source_ += 2 * rows.bytes;
    ++tile_;
    return true;
  }

 private:
  __device__ __forceinline__ bool take_chunk() {
    const int up_chunks = plan_.units * (kUpTiles / kChunk), down_chunks = plan_.units * (kDownTiles / kChunk);
    const int chunk = __shfl_sync(~0u, next_chunk_, 0);
    if (chunk >= up_chunks + down_chunks) return false;
    if (threadIdx.x == 0) {  // asked for now, needed a chunk later
      next_chunk_ = static_cast<int>(gridDim.x) + atomicAdd(arguments_.counters + kNextChunk, 1);
    }
    downs_ = chunk >= up_chunks;
    tile_ = (downs_ ? chunk - up_chunks : chunk) * kChunk;
    end_ = tile_ + kChunk;
    const int tiles = downs_ ? kDownTiles : kUpTiles;
    const auto* weights = static_cast<const std::uint8_t*>(downs_ ? arguments_.down : arguments_.gate_up);
    const std::int64_t tile = static_cast<std::int64_t>(plan_.expert[tile_ / tiles]) * tiles + tile_ % tiles;
    source_ = weights + tile * 2 * (downs_ ? kDownPiece : kUpPiece);
    return true;
  }

  const ExpertArguments& arguments_;
  const typename Shape::Plan& plan_;
  const std::uint8_t* source_ = nullptr;
  int next_chunk_, tile_ = 0, end_ = 0;
  bool downs_ = false, ended_ = false;
};

template <typename T, int kHalves>
class Experts {
 public:
  using Shape = ExpertShape<kHalves>;

  __device__ Experts(const ExpertArguments& arguments, typename Shape::Shared& shared)
      : arguments_(arguments), plan_(shared.plan), stream_(shared.stream, {arguments, shared.plan}),
        warp_(threadIdx.x / 32), lane_(threadIdx.x % 32) {}

  __device__ void run() {
    stream_.start();
    downs(gates_and_ups());
  }

 private:
  __device__ __forceinline__ int group() const { return lane_ / 4; }
  __device__ __forceinline__ int quad() const { return lane_ % 4; }

  // The pair in a row of a unit's token tile, -1 beyond the last.
  __device__ __forceinline__ int pair_of(int unit, int row) const {
    return row < plan_.count[unit] ? plan_.order[plan_.first[unit] + row] : -1;
  }

  // Works until a tag of another kind comes, and returns that.
  __device__ int gates_and_ups() {
    constexpr int kSlice = kHidden / kStreamWarps, kRuns = kSlice / 32;
    const int k = warp_ * kSlice + quad() * 8;
    uint4 tokens[kHalves][kRuns];
    int pairs[kHalves];  // whose activations this thread writes in its turn, -1 for none
    float weights[kHalves];
    int loaded = -1, unreported = 0, tag;
    for (tag = stream_.wait(); tag >= 0 && tag < kDownTag; tag = stream_.wait()) {
      const int unit = tag / kUpTiles;
      if (unit != loaded) {
        report(loaded, unreported);
        loaded = unit;
        unreported = 0;
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          const int pair = pair_of(unit, half * kHalfTile + group());
          const T* row = static_cast<const T*>(arguments_.x) + static_cast<std::int64_t>(pair / arguments_.k) * kHidden;
#pragma unroll
          for (int i = 0; i < kRuns; ++i) tokens[half][i] = pair >= 0 ? load_8(row + k + 32 * i) : uint4{};
          pairs[half] = writes(half) ? pair : -1;
          weights[half] = pairs[half] >= 0 ? __ldcg(arguments_.chosen_weights + pair) : 0.f;
        }
      }
      Accumulators<kHalves> sums;
      stream_.template multiply<T, kRuns>(sums, tokens, 0, row_offset(kUpPiece, kHidden * 2, 0, group()) + 2 * k);
      if (stream_.finish_tile(sums)) {
        // An even lane has gates, rows `quad` and `quad + 4` of the tile, and the lane after it their ups.
        const bool odd = lane_ % 2 == 1;
        const int column = tag % kUpTiles * (kRowTile / 2) + quad() / 2 + (odd ? 2 : 0);
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          const float2 sum = stream_.template sum<kStreamWarps>(0, half);
          const float other = __shfl_xor_sync(~0u, odd ? sum.x : sum.y, 1);
          const float gate = odd ? other : sum.x, up = odd ? sum.y : other;
          if (pairs[half] < 0) continue;
          const float activation = gate / (1.f + __expf(-gate)) * up * weights[half];
          static_cast<T*>(arguments_.activations)[static_cast<std::int64_t>(pairs[half]) * kInner + column] =
              Element<T>::narrow(activation);
        }
        ++unreported;
      }
      stream_.next_tile();
    }
    report(loaded, unreported);
    return tag;
  }

  // Whether this thread, in its pair of warps' turn, writes its row of a half tile of tokens.
  __device__ __forceinline__ bool writes(int half) const {
    return kHalves == 1 ? lane_ / 16 == warp_ % 2 : half % 2 == warp_ % 2;
  }

  // Makes the activations that this warp has written known to the unit's other blocks.
  __device__ __forceinline__ void report(int unit, int tiles) {
    if (tiles == 0) return;
    __syncwarp();
    if (lane_ == 0) release_add(arguments_.counters + unit, tiles);
  }

  __device__ void downs(int tag) {
    constexpr int kSlice = kInner / kDownSlices, kRuns = kSlice / 32;
    static_assert(kSlice % 32 == 0);
    const int slice = warp_ % kDownSlices, row_half = warp_ / kDownSlices;
    const int k = slice * kSlice + quad() * 8;
    uint4 tokens[kHalves][kRuns];
    int pairs[kHalves];
    int loaded = -1;
    for (; tag >= 0; tag = stream_.wait()) {
      const int tile = tag - kDownTag, unit = tile / kDownTiles;
      if (unit != loaded) {
        loaded = unit;
        if (lane_ == 0) {
          while (acquire_load(arguments_.counters + unit) < kUpTiles * 2) __nanosleep(20);
        }
        __syncwarp();
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          const int pair = pair_of(unit, half * kHalfTile + group());
          const T* row = static_cast<const T*>(arguments_.activations) + static_cast<std::int64_t>(pair) * kInner;
#pragma unroll
          for (int i = 0; i < kRuns; ++i) tokens[half][i] = pair >= 0 ? load_8(row + k + 32 * i) : uint4{};
          pairs[half] = pair;
        }
      }
      Accumulators<kHalves> sums;
      const int offset = row_offset(kDownPiece, kInner * 2, row_half * (kRowTile / 2), group()) + 2 * k;
      stream_.template multiply<T, kRuns>(sums, tokens, 0, offset);
      if (stream_.finish_tile(sums)) {
        const int rows = warp_ % 2;  // each of the pair has one half of the rows
        const int column = tile % kDownTiles * kDownRows + rows * (kRowTile / 2) + quad();
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          if (pairs[half] < 0) continue;
          float* y = arguments_.y + static_cast<std::int64_t>(pairs[half]) * kHidden + column;
          const float2 sum = stream_.template sum<kDownSlices>(rows * kDownSlices, half);
          y[0] = sum.x;
          y[kDownRows / 2] = sum.y;
        }
      }
      stream_.next_tile();
    }
  }

  const ExpertArguments& arguments_;
  const typename Shape::Plan& plan_;
  WeightStream<kHalves, Shape::kStages, kUpPiece, ExpertRows<kHalves>> stream_;
  const int warp_, lane_;
};

template <typename T, int kHalves>
__global__ void __launch_bounds__(kStreamThreads, kHalves == 1 ? 2 : 1)
    experts_kernel(const ExpertArguments arguments) {
  using Shape = ExpertShape<kHalves>;
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<typename Shape::Shared*>(shared_memory);
  if (threadIdx.x == 0) shared.stream.init();
  let_next_kernel_start();
  wait_for_previous_kernel();
  make_expert_plan(shared.plan, shared.scratch(), arguments.chosen, arguments.tokens * arguments.k);
  Experts<T, kHalves>(arguments, shared).run();
}

template <typename T, int kHalves>
cudaError_t launch_experts(const ExpertArguments& arguments, cudaStream_t stream) {
  if (arguments.tokens * arguments.k > ExpertShape<kHalves>::kMaxPairs) return cudaErrorInvalidValue;
  return launch(experts_kernel<T, kHalves>, dim3(multiprocessor_count()), kStreamThreads,
                sizeof(typename ExpertShape<kHalves>::Shared), 1, stream, arguments);
}

// By how many tokens an expert has where all are chosen alike, with room for the fuller ones: half tiles of a unit.
template <typename T>
cudaError_t dispatch_experts(const ExpertArguments& arguments, cudaStream_t stream) {
  if (arguments.tokens <= 48) return launch_experts<T, 1>(arguments, stream);
  if (arguments.tokens <= 96) return launch_experts<T, 2>(arguments, stream);
  return launch_experts<T, 4>(arguments, stream);
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_experts(float* y, void* activations, int32_t* counters, const void* x, const int32_t* chosen,
                    const float* chosen_weights, const void* gate_up, const void* down, int tokens, int k, int experts,
                    int hidden, int inner, int type, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || k < 1 || experts > kMaxExperts || hidden != kHidden || inner != kInner) return cudaErrorInvalidValue;
  const ExpertArguments arguments{y, activations, counters, x, chosen, chosen_weights, gate_up, down, tokens, k};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_experts<__nv_bfloat16>(arguments, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_experts<__half>(arguments, on);
  return cudaErrorInvalidValue;
}
