// RoutedExperts: router and experts, by the kernels of a step or, for many tokens, by those of a chunk.
#pragma once

#include <cstdint>

#include "experts_operator.h"

namespace qwen3vl {

// Up to so many pairs of token and expert, the step's kernel takes a call; it could take 2048.
constexpr int64_t kStepPairs = 1024;

class RoutedExperts : public ExpertsOperator {
 public:
  static constexpr char kName[] = "RoutedExperts";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement, Type::kElement, Type::kElement, Type::kElement};
  static constexpr Type kOutputs[] = {Type::kElement};
  using ExpertsOperator::ExpertsOperator;

  OrtStatus* initialise(const OrtKernelInfo* info) { return ExpertsOperator::initialise(info, kName, kStepPairs); }

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
  OrtStatus* step(const Call& call, const Sizes& sizes, const Tensor& h, const Tensor& norm, const Tensor& router,
                  const Tensor& gate_up, const Tensor& down) const {
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(begin(call, h, &out, &stream));
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
      status = qwen3vl_experts(out, activations.data(), counted, routed.normed.data(), routed.experts(),
                               routed.factors(), gate_up.data, down.data, static_cast<int>(sizes.tokens), k_,
                               static_cast<int>(sizes.experts), static_cast<int>(sizes.hidden),
                               static_cast<int>(sizes.inner), type_, stream);
    }
    return call.launched(status, {&h, &gate_up});
  }

  OrtStatus* chunk(const Call& call, const Sizes& sizes, const Tensor& h, const Tensor& norm, const Tensor& router,
                   const Tensor& gate_up, const Tensor& down) const {
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(begin(call, h, &out, &stream));
    const int tokens = static_cast<int>(sizes.tokens);
    const Routed routed(allocator_, sizes);
    const Scratch workspace(allocator_, qwen3vl_experts_prefill_workspace(tokens, k_));
    for (const Scratch* scratch : {&routed.normed, &routed.chosen, &routed.weights, &workspace}) {
      if (scratch->data() == nullptr) return without_memory(call, sizes);
    }
    int status = route(routed, nullptr, 0, sizes, h, norm, router, stream);
    if (status == 0) {
      status = qwen3vl_experts_prefill(out, workspace.data(), routed.normed.data(), routed.experts(), routed.factors(),
                                       gate_up.data, down.data, tokens, k_, static_cast<int>(sizes.experts),
                                       static_cast<int>(sizes.hidden), static_cast<int>(sizes.inner), type_, stream);
    }
    return call.launched(status, {&h, &gate_up});
  }
};

}  // namespace qwen3vl
