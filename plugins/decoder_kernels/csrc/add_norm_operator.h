// AddNorm: the sum of a token's experts, residual and norm. WantedNorm: the norm alone, of some tokens. InputNorm: of
// what has no experts yet.
#pragma once

#include <cstdint>

#include "decoder_operator.h"

namespace qwen3vl {

class NormOperator : public DecoderKernel {
 public:
  using DecoderKernel::DecoderKernel;

  OrtStatus* initialise(const OrtKernelInfo* info) { return read(info, "epsilon", epsilon_); }

 protected:
  // Sets k, the experts' outputs of each token, or fails for what does not go together.
  static OrtStatus* check(const Call& call, const Tensor& h, const Tensor& y, const Tensor& norm, int* k) {
    const Rows rows(h), of_experts(y);
    const int64_t each = rows.count == 0 ? 0 : of_experts.count / rows.count;
    *k = static_cast<int>(each);
    if (of_experts.width == rows.width && of_experts.count == each * rows.count && norm.shape == Shape{rows.width}) {
      return nullptr;
    }
    return call.error("h " + text(h.shape) + " does not go with y " + text(y.shape) + " and norm " + text(norm.shape));
  }

  float epsilon_ = 0.f;
};

class AddNorm : public NormOperator {
 public:
  static constexpr char kName[] = "AddNorm";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement, Type::kElement};
  static constexpr Type kOutputs[] = {Type::kElement, Type::kElement};
  using NormOperator::NormOperator;

  OrtStatus* compute(const Call& call) const {
    Tensor h, y, norm;
    int k = 0;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&h, &y, &norm}));
    QWEN3VL_RETURN_IF_ERROR(check(call, h, y, norm, &k));
    const Rows rows(h);
    void *normed = nullptr, *total = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, h.shape, &normed));
    QWEN3VL_RETURN_IF_ERROR(call.output(1, h.shape, &total));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    if (rows.count == 0) return nullptr;
    return call.launched(
        qwen3vl_add_norm(normed, total, h.data, y.data, norm.data, static_cast<int>(rows.count), k,
                         static_cast<int>(rows.width), epsilon_, type_, stream),
        {&h, &y});
  }
};

class WantedNorm : public NormOperator {
 public:
  static constexpr char kName[] = "WantedNorm";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement, Type::kElement, Type::kInt32};
  static constexpr Type kOutputs[] = {Type::kElement};
  using NormOperator::NormOperator;

  OrtStatus* compute(const Call& call) const {
    Tensor h, y, norm, wanted;
    int k = 0;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&h, &y, &norm, &wanted}));
    QWEN3VL_RETURN_IF_ERROR(check(call, h, y, norm, &k));
    const Rows rows(h);
    const int64_t count = elements(wanted.shape);
    void *normed = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, {count, rows.width}, &normed));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    if (count == 0) return nullptr;
    if (rows.count == 0) return call.error("there are no tokens to choose from");
    return call.launched(
        qwen3vl_add_norm_rows(normed, h.data, y.data, norm.data, static_cast<const int32_t*>(wanted.data),
                              static_cast<int>(count), static_cast<int>(rows.count), k, static_cast<int>(rows.width),
                              epsilon_, type_, stream),
        {&h, &y, &wanted});
  }
};

class InputNorm : public NormOperator {
 public:
  static constexpr char kName[] = "InputNorm";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement}, kOutputs[] = {Type::kElement};
  using NormOperator::NormOperator;

  OrtStatus* compute(const Call& call) const {
    Tensor h, norm;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&h, &norm}));
    const Rows rows(h);
    if (norm.shape != Shape{rows.width}) {
      return call.error("h " + text(h.shape) + " does not go with norm " + text(norm.shape));
    }
    void *normed = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, h.shape, &normed));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    if (rows.count == 0) return nullptr;
    return call.launched(
        qwen3vl_add_norm(normed, nullptr, h.data, nullptr, norm.data, static_cast<int>(rows.count), 0,
                         static_cast<int>(rows.width), epsilon_, type_, stream),
        {&h});
  }
};

}  // namespace qwen3vl
