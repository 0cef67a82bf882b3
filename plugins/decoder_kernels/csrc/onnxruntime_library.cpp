// The kernels as operators of ONNX Runtime's CUDA provider: a library for SessionOptions.register_custom_ops_library.
//
// plugins/decoder_kernels/operators.py defines the operators. They take one step of many sequences or a chunk of one
// sequence, for which attention and experts have other kernels.
#include "decoder_kernels.h"
#include "decoder_operator.h"
#include "int4_operators.h"
#include "routed_experts_operator.h"

namespace qwen3vl {
namespace {

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
    Shape shape = x.shape;
    shape.back() = weights.shape[0];
    if (residual != nullptr && residual->shape != shape) {
      return call.error("residual " + text(residual->shape) + " is not of the product's shape " + text(shape));
    }
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, shape, &out));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
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

class CachedAttention : public DecoderKernel {
 public:
  static constexpr char kName[] = "CachedAttention";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement, Type::kElement, Type::kFloat32,
                                     Type::kFloat32, Type::kElement, Type::kElement, Type::kInt32};
  static constexpr Type kOutputs[] = {Type::kElement, Type::kElement, Type::kElement};
  using DecoderKernel::DecoderKernel;

  OrtStatus* initialise(const OrtKernelInfo* info) {
    QWEN3VL_RETURN_IF_ERROR(read(info, "num_heads", heads_));
    QWEN3VL_RETURN_IF_ERROR(read(info, "kv_num_heads", kv_heads_));
    QWEN3VL_RETURN_IF_ERROR(read(info, "epsilon", epsilon_));
    return read(info, "scale", scale_);
  }

  OrtStatus* compute(const Call& call) const {
    Tensor qkv, query_norm, key_norm, cosines, sines, keys, values, total_lengths;
    QWEN3VL_RETURN_IF_ERROR(
        call.inputs({&qkv, &query_norm, &key_norm, &cosines, &sines, &keys, &values, &total_lengths}));
    if (qkv.shape.size() != 3 || keys.shape.size() != 4) {
      return call.error("qkv is " + text(qkv.shape) + " and keys " + text(keys.shape) +
                        ", expected [batch, tokens, heads] and [batch, heads, capacity, size]");
    }
    const int64_t batch = qkv.shape[0], tokens = qkv.shape[1], capacity = keys.shape[2], size = keys.shape[3];
    const int64_t width = (heads_ + 2 * kv_heads_) * size;
    if (qkv.shape[2] != width || keys.shape != Shape{batch, kv_heads_, capacity, size} || values.shape != keys.shape ||
        query_norm.shape != Shape{size} || key_norm.shape != Shape{size} ||
        cosines.shape != Shape{batch, tokens, size / 2} || sines.shape != cosines.shape ||
        total_lengths.shape != Shape{batch} || (batch > 1 && tokens > 1)) {
      return call.error("qkv " + text(qkv.shape) + " does not go with keys " + text(keys.shape) + ", values " +
                        text(values.shape) + ", cosines " + text(cosines.shape) + ", total_lengths " +
                        text(total_lengths.shape) + "; of several sequences it takes one token each");
    }
    void *out = nullptr, *present_keys = nullptr, *present_values = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, {batch, tokens, heads_ * size}, &out));
    QWEN3VL_RETURN_IF_ERROR(call.output(1, keys.shape, &present_keys));
    QWEN3VL_RETURN_IF_ERROR(call.output(2, values.shape, &present_values));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    if (batch == 0 || tokens == 0) return nullptr;
    if (present_keys != keys.data || present_values != values.data) {
      return call.error("present keys and values have to be bound to the memory of the past ones");
    }
    const auto *cosine = static_cast<const float*>(cosines.data), *sine = static_cast<const float*>(sines.data);
    const auto* totals = static_cast<const int32_t*>(total_lengths.data);
    const int status =
        tokens == 1
            ? qwen3vl_decode_attention(out, qkv.data, query_norm.data, key_norm.data, cosine, sine, keys.data,
                                       values.data, totals, static_cast<int>(batch), heads_, kv_heads_,
                                       static_cast<int>(size), static_cast<int>(capacity), epsilon_, scale_, type_, 0,
                                       stream)
            : qwen3vl_prefill_attention(out, qkv.data, query_norm.data, key_norm.data, cosine, sine, keys.data,
                                        values.data, totals, static_cast<int>(tokens), heads_, kv_heads_,
                                        static_cast<int>(size), static_cast<int>(capacity), epsilon_, scale_, type_,
                                        stream);
    return call.launched(status, {&qkv, &keys});
  }

 private:
  int heads_ = 0, kv_heads_ = 0;
  float epsilon_ = 0.f, scale_ = 0.f;
};

}  // namespace
}  // namespace qwen3vl

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace qwen3vl;
  return register_kernels<RowProduct, RowProductAdd, RowLogits, AddNorm, RoutedExperts, CachedAttention, Int4RowProduct,
                          Int4RowProductAdd, Int4RoutedExperts>(options, base);
}
