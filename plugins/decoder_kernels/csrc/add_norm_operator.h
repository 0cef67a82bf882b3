// AddNorm: the sum of a token's experts, residual and norm.
#pragma once

#include <cstdint>

#include "decoder_operator.h"

namespace qwen3vl {

class AddNorm : public DecoderKernel {
 public:
  static constexpr char kName[] = "AddNorm";
  static constexpr Type kInputs[] = {Type::kElement, Type::kFloat32, Type::kElement};
  static constexpr Type kOutputs[] = {Type::kElement, Type::kElement};
  using DecoderKernel::DecoderKernel;

  OrtStatus* initialise(const OrtKernelInfo* info) { return read(info, "epsilon", epsilon_); }

  OrtStatus* compute(const Call& call) const {
    Tensor h, y, norm;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&h, &y, &norm}));
    const Rows rows(h), of_experts(y);
    const int64_t k = rows.count == 0 ? 0 : of_experts.count / rows.count;
    if (of_experts.width != rows.width || of_experts.count != k * rows.count || norm.shape != Shape{rows.width}) {
      return call.error("h " + text(h.shape) + " does not go with y " + text(y.shape) + " and norm " +
                        text(norm.shape));
    }
    void *normed = nullptr, *total = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, h.shape, &normed));
    QWEN3VL_RETURN_IF_ERROR(call.output(1, h.shape, &total));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    if (rows.count == 0) return nullptr;
    return call.launched(
        qwen3vl_add_norm(normed, total, h.data, static_cast<const float*>(y.data), norm.data,
                         static_cast<int>(rows.count), static_cast<int>(k), static_cast<int>(rows.width), epsilon_,
                         type_, stream),
        {&h, &y});
  }

 private:
  float epsilon_ = 0.f;
};

}  // namespace qwen3vl
