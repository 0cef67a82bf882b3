// Products and experts with weights of 4 bits, and the output projection with those of 8. A chunk of a prompt goes through
// the kernels of a step, in pieces.
#pragma once

#include <algorithm>
#include <cstdint>

#include "experts_operator.h"

namespace qwen3vl {

class CodedProduct : public DecoderKernel {
 public:
  using DecoderKernel::DecoderKernel;

 protected:
  // `launch` gets the output's place, numbers of tokens, rows, values of a row and of a block, and the stream.
  template <typename Launch>
  static OrtStatus* product(const Call& call, int bits, const Tensor& x, const Tensor& codes, const Tensor& blocks,
                            const Tensor* residual, const Launch& launch) {
    const Rows rows(x);
    const int64_t count = codes.shape.empty() ? 0 : codes.shape[0];
    const int64_t groups = blocks.shape.size() == 3 ? blocks.shape[1] : 0;
    if (codes.shape != Shape{count, rows.width * bits / 8} || blocks.shape != Shape{count, groups, 2} || groups == 0 ||
        rows.width % groups != 0) {
      return call.error("x " + text(x.shape) + " does not go with codes " + text(codes.shape) + " and blocks " +
                        text(blocks.shape));
    }
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(product_places(call, x, count, residual, &out, &stream));
    if (rows.count == 0) return nullptr;
    return call.launched(launch(out, static_cast<int>(rows.count), static_cast<int>(count),
                                static_cast<int>(rows.width), static_cast<int>(rows.width / groups), stream),
                         {&x, &codes, &blocks});
  }

  OrtStatus* int4_product(const Call& call, const Tensor& x, const Tensor& codes, const Tensor& blocks,
                          const Tensor* residual) const {
    return product(call, 4, x, codes, blocks, residual,
                   [&](void* out, int tokens, int rows, int inner, int block, void* stream) {
                     return qwen3vl_int4_product(out, x.data, residual == nullptr ? nullptr : residual->data,
                                                 codes.data, blocks.data, tokens, rows, inner, block, type_, stream);
                   });
  }
};

class Int4RowProduct : public CodedProduct {
 public:
  static constexpr char kName[] = "Int4RowProduct";
  static constexpr Type kInputs[] = {Type::kElement, Type::kUint8, Type::kElement}, kOutputs[] = {Type::kElement};
  using CodedProduct::CodedProduct;

  OrtStatus* compute(const Call& call) const {
    Tensor x, codes, blocks;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&x, &codes, &blocks}));
    return int4_product(call, x, codes, blocks, nullptr);
  }
};

class Int4RowProductAdd : public CodedProduct {
 public:
  static constexpr char kName[] = "Int4RowProductAdd";
  static constexpr Type kInputs[] = {Type::kElement, Type::kUint8, Type::kElement, Type::kElement};
  static constexpr Type kOutputs[] = {Type::kElement};
  using CodedProduct::CodedProduct;

  OrtStatus* compute(const Call& call) const {
    Tensor x, codes, blocks, residual;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&x, &codes, &blocks, &residual}));
    return int4_product(call, x, codes, blocks, &residual);
  }
};

class Int8RowLogits : public CodedProduct {
 public:
  static constexpr char kName[] = "Int8RowLogits";
  static constexpr Type kInputs[] = {Type::kElement, Type::kUint8, Type::kElement}, kOutputs[] = {Type::kFloat32};
  using CodedProduct::CodedProduct;

  OrtStatus* compute(const Call& call) const {
    Tensor x, codes, blocks;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&x, &codes, &blocks}));
    return product(call, 8, x, codes, blocks, nullptr,
                   [&](void* out, int tokens, int rows, int inner, int block, void* stream) {
                     return qwen3vl_int8_logits(static_cast<float*>(out), x.data, codes.data, blocks.data, tokens,
                                                rows, inner, block, type_, stream);
                   });
  }
};

class Int4RoutedExperts : public ExpertsOperator {
 public:
  static constexpr char kName[] = "Int4RoutedExperts";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement, Type::kElement, Type::kUint8,
                                     Type::kElement, Type::kUint8,   Type::kElement};
  static constexpr Type kOutputs[] = {Type::kElement};
  using ExpertsOperator::ExpertsOperator;

  OrtStatus* initialise(const OrtKernelInfo* info) { return ExpertsOperator::initialise(info, kName, kPairs); }

  OrtStatus* compute(const Call& call) const {
    Tensor h, norm, router, gate_up, gate_up_blocks, down, down_blocks;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&h, &norm, &router, &gate_up, &gate_up_blocks, &down, &down_blocks}));
    const Rows rows(h);
    const int64_t hidden = rows.width, experts = router.shape.empty() ? 0 : router.shape[0];
    const int64_t inner = down.shape.size() == 3 ? 2 * down.shape[2] : 0;
    const int64_t groups = gate_up_blocks.shape.size() == 4 ? gate_up_blocks.shape[2] : 0;
    const int64_t block = groups > 0 ? hidden / groups : 0;
    if (norm.shape != Shape{hidden} || router.shape != Shape{experts, hidden} || block == 0 ||
        gate_up.shape != Shape{experts, 2 * inner, hidden / 2} || down.shape != Shape{experts, hidden, inner / 2} ||
        gate_up_blocks.shape != Shape{experts, 2 * inner, hidden / block, 2} ||
        down_blocks.shape != Shape{experts, hidden, inner / block, 2}) {
      return call.error("h " + text(h.shape) + " does not go with norm " + text(norm.shape) + ", router " +
                        text(router.shape) + ", gate_up " + text(gate_up.shape) + " and its blocks " +
                        text(gate_up_blocks.shape) + ", down " + text(down.shape) + " and its blocks " +
                        text(down_blocks.shape));
    }
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(begin(call, h, &out, &stream));
    if (rows.count == 0) return nullptr;

    const Sizes sizes{rows.count, rows.count * k_, hidden, experts, inner};
    const int64_t tokens_at_once = kPairs / k_, calls = (sizes.tokens + tokens_at_once - 1) / tokens_at_once;
    const Routed routed(allocator_, sizes);
    const int64_t each = kStepCounters + (sizes.tokens == 1 ? k_ * inner / 2 : 0), all = calls * each;
    const Scratch counters(allocator_, all * sizeof(int32_t));
    const Scratch activations(allocator_, std::min(sizes.tokens, tokens_at_once) * k_ * inner * kElementBytes);
    for (const Scratch* scratch : {&routed.normed, &routed.chosen, &routed.weights, &counters, &activations}) {
      if (scratch->data() == nullptr) return without_memory(call, sizes);
    }
    auto* counted = static_cast<int32_t*>(counters.data());
    int status = route(routed, counted, static_cast<int>(all), sizes, h, norm, router, stream);
    for (int64_t index = 0; index < calls && status == 0; ++index) {
      const int64_t first = index * tokens_at_once, count = std::min(tokens_at_once, sizes.tokens - first);
      status = qwen3vl_int4_experts(
          static_cast<char*>(out) + first * k_ * hidden * kElementBytes, activations.data(), counted + index * each,
          static_cast<const char*>(routed.normed.data()) + first * hidden * kElementBytes,
          routed.experts() + first * k_, routed.factors() + first * k_, gate_up.data, gate_up_blocks.data, down.data,
          down_blocks.data, static_cast<int>(count), k_, static_cast<int>(experts), static_cast<int>(hidden),
          static_cast<int>(inner), static_cast<int>(block), type_, stream);
    }
    return call.launched(status, {&h, &gate_up, &gate_up_blocks});
  }

 private:
  static constexpr int64_t kPairs = 2048;  // of one call of the experts' kernel
};

}  // namespace qwen3vl
