// RoutedExperts: router and experts, by the kernels of a step or, for many tokens, by those of a chunk.
#pragma once

#include <cstdint>
#include <string>

#include "decoder_operator.h"

namespace qwen3vl {

constexpr int kStepCounters = 256;
// Up to so many pairs of token and expert, the step's kernel takes a call; it could take 2048.
constexpr int64_t kStepPairs = 1024;

class RoutedExperts : public DecoderKernel {
 public:
  static constexpr char kName[] = "RoutedExperts";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement, Type::kElement, Type::kElement, Type::kElement};
  static constexpr Type kOutputs[] = {Type::kFloat32};
  using DecoderKernel::DecoderKernel;

  OrtStatus* initialise(const OrtKernelInfo* info) {
    QWEN3VL_RETURN_IF_ERROR(DecoderKernel::initialise(info));
    QWEN3VL_RETURN_IF_ERROR(read(info, "k", k_));
    if (k_ < 1 || k_ > kStepPairs) return api_->CreateStatus(ORT_INVALID_ARGUMENT, "RoutedExperts: k is out of range");
    return read(info, "epsilon", epsilon_);
  }

  OrtStatus* compute(const Call& call) const {
    Tensor h, norm, router, gate_up, down;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&h, &norm, &router, &gate_up, &down}));
    const Rows rows(h);
    const int64_t hidden = rows.width, experts = router.shape.empty() ? 0 : router.shape[0];
    const int64_t inner = down.shape.size() == 3 ? down.shape[2] : 0;
    if (norm.shape != Shape{hidden} || router.shape != Shape{experts, hidden} ||
        gate_up.shape != Shape{experts, 2 * inner, hidden} || down.shape != Shape{experts, hidden, inner}) {
      return call.error("h " + text(h.shape) + " does not go with norm " + text(norm.shape) + ", router " +
                        text(router.shape) + ", gate_up " + text(gate_up.shape) + ", down " + text(down.shape));
    }
    const Sizes sizes{rows.count, rows.count * k_, hidden, experts, inner};
    return sizes.pairs <= kStepPairs ? step(call, sizes, h, norm, router, gate_up, down)
                                     : chunk(call, sizes, h, norm, router, gate_up, down);
  }

 private:
  static constexpr int64_t kElementBytes = 2;

  struct Sizes {
    int64_t tokens, pairs, hidden, experts, inner;
  };

  // Of h, by the router.
  struct Routed {
    Routed(OrtAllocator* allocator, const Sizes& sizes)
        : normed(allocator, sizes.tokens * sizes.hidden * kElementBytes),
          chosen(allocator, sizes.pairs * sizeof(int32_t)), weights(allocator, sizes.pairs * sizeof(float)) {}
    const int32_t* experts() const { return static_cast<const int32_t*>(chosen.data()); }
    const float* factors() const { return static_cast<const float*>(weights.data()); }
    const Scratch normed, chosen, weights;
  };

  // The summands' place, and the stream. `summands` of each token.
  OrtStatus* begin(const Call& call, const Tensor& h, int64_t summands, void** out, void** stream) const {
    Shape shape = h.shape;
    shape.insert(shape.end() - 1, summands);
    QWEN3VL_RETURN_IF_ERROR(call.output(0, shape, out));
    return call.stream(stream);
  }

  int route(const Routed& routed, int32_t* counters, int counter_count, const Sizes& sizes, const Tensor& h,
            const Tensor& norm, const Tensor& router, void* stream) const {
    return qwen3vl_router(routed.normed.data(), static_cast<int32_t*>(routed.chosen.data()),
                          static_cast<float*>(routed.weights.data()), counters, counter_count, h.data,
                          norm.data, router.data, static_cast<int>(sizes.tokens),
                          static_cast<int>(sizes.hidden), static_cast<int>(sizes.experts), k_, epsilon_, type_, stream);
  }

  OrtStatus* without_memory(const Call& call, const Sizes& sizes) const {
    return call.error("no GPU memory for " + std::to_string(sizes.tokens) + " tokens");
  }

  // A summand for each expert.
  OrtStatus* step(const Call& call, const Sizes& sizes, const Tensor& h, const Tensor& norm, const Tensor& router,
                  const Tensor& gate_up, const Tensor& down) const {
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(begin(call, h, k_, &out, &stream));
    if (sizes.tokens == 0) return nullptr;
    const Routed routed(allocator_, sizes);
    const Scratch counters(allocator_, kStepCounters * sizeof(int32_t));
    const Scratch activations(allocator_, sizes.pairs * sizes.inner * kElementBytes);
    for (const Scratch* scratch : {&routed.normed, &routed.chosen, &routed.weights, &counters, &activations}) {
      if (scratch->data() == nullptr) return without_memory(call, sizes);
    }
    auto* counted = static_cast<int32_t*>(counters.data());
    int status = route(routed, counted, kStepCounters, sizes, h, norm, router, stream);
    if (status == 0) {
      status = qwen3vl_experts(static_cast<float*>(out), activations.data(), counted, routed.normed.data(),
                               routed.experts(), routed.factors(), gate_up.data, down.data,
                               static_cast<int>(sizes.tokens), k_, static_cast<int>(sizes.experts),
                               static_cast<int>(sizes.hidden), static_cast<int>(sizes.inner), type_, stream);
    }
    return call.launched(status, {&h, &gate_up});
  }

  // One summand: many tokens' k outputs in float32 would take a fifth of the time that the weights take.
  OrtStatus* chunk(const Call& call, const Sizes& sizes, const Tensor& h, const Tensor& norm, const Tensor& router,
                   const Tensor& gate_up, const Tensor& down) const {
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(begin(call, h, 1, &out, &stream));
    const int tokens = static_cast<int>(sizes.tokens);
    const Routed routed(allocator_, sizes);
    const Scratch workspace(allocator_, qwen3vl_experts_prefill_workspace(tokens, k_));
    for (const Scratch* scratch : {&routed.normed, &routed.chosen, &routed.weights, &workspace}) {
      if (scratch->data() == nullptr) return without_memory(call, sizes);
    }
    int status = route(routed, nullptr, 0, sizes, h, norm, router, stream);
    if (status == 0) {
      status = qwen3vl_experts_prefill(static_cast<float*>(out), workspace.data(), routed.normed.data(),
                                       routed.experts(), routed.factors(), gate_up.data, down.data, tokens, k_,
                                       static_cast<int>(sizes.experts), static_cast<int>(sizes.hidden),
                                       static_cast<int>(sizes.inner), type_, stream);
    }
    return call.launched(status, {&h, &gate_up});
  }

  int k_ = 0;
  float epsilon_ = 0.f;
};

}  // namespace qwen3vl
