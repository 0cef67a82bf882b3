// RowProduct, RowProductAdd and RowLogits: few tokens by the kernel of a step, many by cuBLASLt.
#pragma once

#include <cstdint>
#include <string>

#include "decoder_operator.h"

namespace qwen3vl {

// Up to so many tokens, reading the weights is what a product takes time for; beyond, cuBLASLt is better.
constexpr int64_t kStreamedTokens = 32;
constexpr int kProductWorkspace = 32 << 20;  // bytes

class Product : public DecoderKernel {
 public:
  using DecoderKernel::DecoderKernel;

  OrtStatus* initialise(const OrtKernelInfo* info) {
    QWEN3VL_RETURN_IF_ERROR(DecoderKernel::initialise(info));
    if (const int status = qwen3vl_prepare_prefill_product()) {
      return api_->CreateStatus(ORT_FAIL, ("cuBLASLt: CUDA error " + std::to_string(status)).c_str());
    }
    return nullptr;
  }

 protected:
  OrtStatus* product(const Call& call, const Tensor& x, const Tensor& weights, const Tensor* residual,
                     bool wide) const {
    const Rows rows(x);
    if (weights.shape.size() != 2 || weights.shape[1] != rows.width) {
      return call.error("x " + text(x.shape) + " does not go with weights " + text(weights.shape));
    }
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(product_places(call, x, weights.shape[0], residual, &out, &stream));
    if (rows.count == 0) return nullptr;
    const void* added = residual == nullptr ? nullptr : residual->data;
    const int tokens = static_cast<int>(rows.count), out_width = static_cast<int>(weights.shape[0]);
    const int inner = static_cast<int>(rows.width);
    if (tokens <= kStreamedTokens) {
      return call.launched(qwen3vl_product(out, x.data, added, weights.data, tokens, out_width, inner, type_,
                                           wide ? 1 : 0, stream),
                           {&x, &weights});
    }
    const Scratch workspace(allocator_, kProductWorkspace);
    if (workspace.data() == nullptr) return call.error("no GPU memory for cuBLASLt's workspace");
    return call.launched(qwen3vl_prefill_product(out, x.data, added, weights.data, tokens, out_width, inner, type_,
                                                 wide ? 1 : 0, workspace.data(), kProductWorkspace, stream),
                         {&x, &weights});
  }
};

class RowProduct : public Product {
 public:
  static constexpr char kName[] = "RowProduct";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement}, kOutputs[] = {Type::kElement};
  using Product::Product;

  OrtStatus* compute(const Call& call) const {
    Tensor x, weights;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&x, &weights}));
    return product(call, x, weights, nullptr, false);
  }
};

class RowProductAdd : public Product {
 public:
  static constexpr char kName[] = "RowProductAdd";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement, Type::kElement}, kOutputs[] = {Type::kElement};
  using Product::Product;

  OrtStatus* compute(const Call& call) const {
    Tensor x, weights, residual;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&x, &weights, &residual}));
    return product(call, x, weights, &residual, false);
  }
};

class RowLogits : public Product {
 public:
  static constexpr char kName[] = "RowLogits";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement}, kOutputs[] = {Type::kFloat32};
  using Product::Product;

  OrtStatus* compute(const Call& call) const {
    Tensor x, weights;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&x, &weights}));
    return product(call, x, weights, nullptr, true);
  }
};

}  // namespace qwen3vl
