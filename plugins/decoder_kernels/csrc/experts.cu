// The chosen experts of each token: y[pair] = weight * down(silu(gate(x)) * up(x)).
//
// One kernel streams the weights of all used experts once, first gates and ups, then downs. Blocks take both in the
// experts' order, so that the activations which a block waits for are done, or nearly, when it comes to them, and its
// ring is full of weights meanwhile. All blocks have to be resident at once: one a multiprocessor.
#include <cuda_runtime.h>

#include <type_traits>

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
// Of the counters: tiles taken of the shared part of each list; the others count a unit's finished gate and up tiles.
constexpr int kUpsTaken = 254, kDownsTaken = 255;

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

// kFew: no more tokens than rows of a unit, so that every token has its own row.
template <int kHalves, bool kFew>
struct ExpertShape {
  static constexpr int kRows = kHalves * kHalfTile;
  static constexpr int kMaxPairs = kFew ? 64 : kHalves == 1 ? 512 : 2048;
  using Plan = ExpertPlan<kMaxPairs, kRows>;
  using Planning =
      std::conditional_t<kFew, FewTokensPlan<kMaxPairs, kRows>, ManyTokensPlan<kMaxPairs, kRows, kStreamWarps>>;
  static constexpr int kBudget = kHalves == 1 ? kHalfBudget : kFullBudget;
  static constexpr int kStages = stages_that_fit<kHalves>(kBudget, kUpPiece, sizeof(Plan));
  using Memory = StreamMemory<kHalves, kStages, kUpPiece>;
  struct Shared {
    Memory stream;
    Plan plan;
    // Of the plan, before the first sums are there.
    __device__ typename Planning::Scratch& scratch() {
      return reinterpret_cast<typename Planning::Scratch&>(stream.partials);
    }
  };
  static_assert(sizeof(Shared) <= kBudget);
  static_assert(sizeof(typename Planning::Scratch) <= sizeof(Memory::partials));
};

// A stage's tag: a tile of gates and ups, of downs, or the end.
constexpr int kDownTag = 1 << 30;
constexpr int kEndTag = -1;

// The tiles of a block: first of gates and ups, then of downs. Most of each list is divided among the blocks
// beforehand, in long runs, for which tokens have to be loaded once or twice; the rest is taken in small pieces by
// whichever block is ready, as some reach memory faster than others. How much, and how small, was found by measuring.
template <typename Plan>
class ExpertRows {
 public:
  __device__ ExpertRows(const ExpertArguments& arguments, const Plan& plan) : arguments_(arguments), plan_(plan) {
    begin_list();
  }

  __device__ __forceinline__ bool next(StageRows& rows) {
    while (tile_ == end_) {
      if (!take()) {
        if (ended_) return false;
        ended_ = true;
        rows = {nullptr, 0, kEndTag};
        return true;
      }
    }
    if (row_ == tiles()) locate(tile_);
    rows = {source_, piece(), downs_ ? kDownTag | tile_ : tile_};
    source_ += 2 * piece();
    ++row_;
    ++tile_;
    return true;
  }

 private:
  __device__ __forceinline__ int tiles() const { return downs_ ? kDownTiles : kUpTiles; }
  __device__ __forceinline__ int piece() const { return downs_ ? kDownPiece : kUpPiece; }

  __device__ __forceinline__ void begin_list() {
    const int blocks = static_cast<int>(gridDim.x), all = plan_.units * tiles(), own = all / blocks;
    constexpr bool kShortRing = Plan::kRows == kHalfTile;  // it makes less up for differences between blocks
    const int fixed = kShortRing ? own * 3 / 4 : own * 7 / 8;
    piece_ = kShortRing ? min(max(own / 8, 2), 8) : min(max(own / 16, 1), downs_ ? 4 : 6);
    shared_ = fixed * blocks;
    tile_ = fixed * static_cast<int>(blockIdx.x);
    end_ = tile_ + fixed;
    locate(tile_);
    ask();
  }

  // Asks for the next small piece: the answer is there when the present one is used up.
  __device__ __forceinline__ void ask() {
    if (threadIdx.x == 0) taken_ = atomicAdd(arguments_.counters + (downs_ ? kDownsTaken : kUpsTaken), piece_);
  }

  __device__ __forceinline__ bool take() {
    const int all = plan_.units * tiles();
    tile_ = shared_ + __shfl_sync(~0u, taken_, 0);
    if (tile_ >= all) {
      if (downs_) {
        tile_ = end_;
        return false;
      }
      downs_ = true;
      begin_list();
      return true;
    }
    end_ = min(tile_ + piece_, all);
    locate(tile_);
    ask();
    return true;
  }

  __device__ __forceinline__ void locate(int tile) {
    row_ = tile % tiles();
    const int unit = min(tile / tiles(), plan_.units - 1);
    const auto* weights = static_cast<const std::uint8_t*>(downs_ ? arguments_.down : arguments_.gate_up);
    source_ = weights + (static_cast<std::int64_t>(plan_.expert[unit]) * tiles() + row_) * (2 * piece());
  }

  const ExpertArguments& arguments_;
  const Plan& plan_;
  const std::uint8_t* source_ = nullptr;
  int tile_ = 0, end_ = 0, row_ = 0;       // next tile and the end of the present run; the tile's place in its unit
  int piece_ = 0, shared_ = 0, taken_ = 0;  // tiles of a small piece; where they begin; the last answer
  bool downs_ = false, ended_ = false;
};

template <typename T, int kHalves, bool kFew>
class Experts {
 public:
  using Shape = ExpertShape<kHalves, kFew>;

  __device__ Experts(const ExpertArguments& arguments, typename Shape::Shared& shared)
      : arguments_(arguments), plan_(shared.plan),
        stream_(shared.stream, ExpertRows<typename Shape::Plan>(arguments, shared.plan)), warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32) {}

  __device__ void run() {
    stream_.start();
    downs(gates_and_ups());
  }

 private:
  __device__ __forceinline__ int group() const { return lane_ / 4; }
  __device__ __forceinline__ int quad() const { return lane_ % 4; }

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
        const bool fresh = !kFew || loaded < 0;
        loaded = unit;
        unreported = 0;
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          const int row = half * kHalfTile + group(), pair = plan_.pairs[unit][row];
          if (fresh) {
            const int token = kFew ? (row < arguments_.tokens ? row : -1) : pair < 0 ? -1 : pair / arguments_.k;
            const T* x = static_cast<const T*>(arguments_.x) + static_cast<std::int64_t>(token) * kHidden + k;
#pragma unroll
            for (int i = 0; i < kRuns; ++i) tokens[half][i] = token >= 0 ? load_8(x + 32 * i) : uint4{};
          }
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
          const int pair = plan_.pairs[unit][half * kHalfTile + group()];
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
  WeightStream<kHalves, Shape::kStages, kUpPiece, ExpertRows<typename Shape::Plan>> stream_;
  const int warp_, lane_;
};

template <typename T, int kHalves, bool kFew>
__global__ void __launch_bounds__(kStreamThreads, kHalves == 1 ? 2 : 1)
    experts_kernel(const ExpertArguments arguments) {
  using Shape = ExpertShape<kHalves, kFew>;
  extern __shared__ __align__(128) std::uint8_t shared_memory[];
  auto& shared = *reinterpret_cast<typename Shape::Shared*>(shared_memory);
  if (threadIdx.x == 0) shared.stream.init();
  Shape::Planning::begin(shared.plan, shared.scratch());
  let_next_kernel_start();
  __syncthreads();
  wait_for_previous_kernel();
  Shape::Planning::make(shared.plan, shared.scratch(), arguments.chosen, arguments.tokens, arguments.k);
  Experts<T, kHalves, kFew>(arguments, shared).run();
}

template <typename T, int kHalves, bool kFew>
cudaError_t launch_experts(const ExpertArguments& arguments, cudaStream_t stream) {
  using Shape = ExpertShape<kHalves, kFew>;
  if (arguments.tokens * arguments.k > Shape::kMaxPairs) return cudaErrorInvalidValue;
  return launch(experts_kernel<T, kHalves, kFew>, dim3(multiprocessor_count()), kStreamThreads,
                sizeof(typename Shape::Shared), 1, stream, arguments);
}

// By how many tokens an expert has where all are chosen alike, with room for the fuller ones: half tiles of a unit.
template <typename T>
cudaError_t dispatch_experts(const ExpertArguments& arguments, cudaStream_t stream) {
  if (arguments.tokens <= 8 && arguments.k <= 8) return launch_experts<T, 1, true>(arguments, stream);
  if (arguments.tokens <= 48) return launch_experts<T, 1, false>(arguments, stream);
  if (arguments.tokens <= 96) return launch_experts<T, 2, false>(arguments, stream);
  return launch_experts<T, 4, false>(arguments, stream);
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_experts(float* y, void* activations, int32_t* counters, const void* x, const int32_t* chosen,
                    const float* chosen_weights, const void* gate_up, const void* down, int tokens, int k, int experts,
                    int hidden, int inner, int type, void* stream) {
  using namespace qwen3vl;
  const bool known = experts <= kMaxExperts && hidden == kHidden && inner == kInner;
  if (tokens < 1 || k < 1 || !known) return cudaErrorInvalidValue;
  const ExpertArguments arguments{y, activations, counters, x, chosen, chosen_weights, gate_up, down, tokens, k};
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == QWEN3VL_BFLOAT16) return dispatch_experts<__nv_bfloat16>(arguments, on);
  if (type == QWEN3VL_FLOAT16) return dispatch_experts<__half>(arguments, on);
  return cudaErrorInvalidValue;
}
