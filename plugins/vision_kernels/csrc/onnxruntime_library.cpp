// The kernels as operators of ONNX Runtime's CUDA provider: a library for SessionOptions.register_custom_ops_library.
#include "onnxruntime_operator.h"
#include "vision_kernels.h"

namespace qwen3vl {
namespace {

static_assert(kFloat16Number == QWEN3VL_VISION_FLOAT16 && kBfloat16Number == QWEN3VL_VISION_BFLOAT16);

class VisionKernel {
 public:
  static constexpr Type kOutputs[] = {Type::kElement};

  VisionKernel(const OrtApi* api, int type) : api_(api), type_(static_cast<Qwen3vlVisionType>(type)) {}

  static const char* unavailable() {
    return qwen3vl_vision_kernels_run_here() ? nullptr
                                             : "the vision kernels need a GPU of compute capability 9.0 (H100, H200); "
                                               "build the engine without --vision-kernels";
  }

  OrtStatus* initialise(const OrtKernelInfo*) { return nullptr; }

 protected:
  const OrtApi* api_;
  Qwen3vlVisionType type_;
};

class VisionAttention : public VisionKernel {
 public:
  static constexpr char kName[] = "VisionAttention";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement, Type::kFloat32, Type::kFloat32};

  using VisionKernel::VisionKernel;
  ~VisionAttention() {
    if (allocator_ != nullptr) api_->ReleaseAllocator(allocator_);
  }

  OrtStatus* initialise(const OrtKernelInfo* info) {
    QWEN3VL_RETURN_IF_ERROR(api_->KernelInfoGetAttribute_int64(info, "num_heads", &heads_));
    if (heads_ < 1) return api_->CreateStatus(ORT_INVALID_ARGUMENT, "VisionAttention: num_heads is below 1");
    return api_->KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator_);
  }

  OrtStatus* compute(const Call& call) {
    Tensor qkv, bias, cosines, sines;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&qkv, &bias, &cosines, &sines}));
    if (qkv.shape.size() != 3 || qkv.shape[2] % (3 * heads_) != 0)
      return call.error("qkv has shape " + text(qkv.shape) + ", expected [frames, patches, 3 * heads * head size] of " +
                        std::to_string(heads_) + " heads");
    const int64_t frames = qkv.shape[0], patches = qkv.shape[1], hidden = qkv.shape[2] / 3, head = hidden / heads_;
    if (!qwen3vl_vision_attention_supports(static_cast<int>(head)))
      return call.error("there is no kernel for head size " + std::to_string(head));
    const int64_t angles = patches * (head / 2);
    if (elements(bias.shape) != 3 * hidden || elements(cosines.shape) != angles || elements(sines.shape) != angles)
      return call.error("qkv " + text(qkv.shape) + " does not go with bias " + text(bias.shape) + ", cosines " +
                        text(cosines.shape) + ", sines " + text(sines.shape));
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, {frames, patches, hidden}, &out));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    if (frames == 0 || patches == 0) return nullptr;

    const auto heads = static_cast<int>(heads_), head_size = static_cast<int>(head);
    const size_t bytes = qwen3vl_vision_attention_workspace(frames, patches, heads, head_size);
    const Scratch workspace(allocator_, bytes);
    if (workspace.data() == nullptr) return call.error("no " + std::to_string(bytes) + " bytes of GPU memory");
    const int status = qwen3vl_vision_attention(out, qkv.data, bias.data, static_cast<const float*>(cosines.data),
                                                static_cast<const float*>(sines.data), workspace.data(), frames,
                                                patches, heads, head_size, type_, stream);
    return call.launched(status, {&qkv});
  }

 private:
  int64_t heads_ = 0;
  OrtAllocator* allocator_ = nullptr;
};

class BiasGelu : public VisionKernel {
 public:
  static constexpr char kName[] = "BiasGelu";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement};

  using VisionKernel::VisionKernel;

  OrtStatus* compute(const Call& call) {
    Tensor x, bias;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&x, &bias}));
    if (x.shape.empty() || bias.shape.size() != 1 || x.shape.back() != bias.shape[0] || bias.shape[0] % 8 != 0)
      return call.error("x " + text(x.shape) + " and bias " + text(bias.shape) +
                        " do not go together, or their width is not a multiple of 8");
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, x.shape, &out));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    const int64_t count = elements(x.shape), columns = bias.shape[0];
    if (count == 0) return nullptr;
    return call.launched(qwen3vl_bias_gelu(out, x.data, bias.data, count / columns, columns, type_, stream), {&x});
  }
};

class AddPositions : public VisionKernel {
 public:
  static constexpr char kName[] = "AddPositions";
  static constexpr Type kInputs[] = {Type::kElement, Type::kElement, Type::kElement, Type::kInt32, Type::kFloat32};

  using VisionKernel::VisionKernel;

  OrtStatus* compute(const Call& call) {
    Tensor x, bias, table, indices, weights;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&x, &bias, &table, &indices, &weights}));
    const bool fits = x.shape.size() == 3 && x.shape[2] % 8 == 0 && bias.shape == Shape{x.shape[2]} &&
                      table.shape.size() == 2 && table.shape[1] == x.shape[2] &&
                      indices.shape == Shape{x.shape[1], 4} && weights.shape == indices.shape;
    if (!fits)
      return call.error("x " + text(x.shape) + " does not go with bias " + text(bias.shape) + ", table " +
                        text(table.shape) + ", indices " + text(indices.shape) + ", weights " + text(weights.shape) +
                        ", or its width is not a multiple of 8");
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, x.shape, &out));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    if (elements(x.shape) == 0) return nullptr;
    return call.launched(
        qwen3vl_add_positions(out, x.data, bias.data, table.data, static_cast<const int32_t*>(indices.data),
                              static_cast<const float*>(weights.data), x.shape[0], x.shape[1], x.shape[2],
                              table.shape[0], type_, stream),
        {&x});
  }
};

}  // namespace
}  // namespace qwen3vl

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                              const OrtApiBase* base) {
  using namespace qwen3vl;
  return register_kernels<VisionAttention, BiasGelu, AddPositions>(options, base);
}
