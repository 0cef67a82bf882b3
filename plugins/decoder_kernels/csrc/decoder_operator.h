// What the decoder's operators have in common.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "decoder_kernels.h"
#include "onnxruntime_operator.h"

namespace qwen3vl {

class DecoderKernel {
 public:
  DecoderKernel(const OrtApi* api, int type) : api_(api), type_(type) {}
  DecoderKernel(const DecoderKernel&) = delete;
  DecoderKernel(DecoderKernel&& other) noexcept
      : api_(other.api_), type_(other.type_), allocator_(std::exchange(other.allocator_, nullptr)) {}
  ~DecoderKernel() {
    if (allocator_ != nullptr) api_->ReleaseAllocator(allocator_);
  }

  static const char* unavailable() {
    int device = 0, major = 0, minor = 0;
    const bool known = cudaGetDevice(&device) == cudaSuccess &&
                       cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
                       cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess;
    const bool runs_here = known && major == 9 && minor == 0;
    return runs_here ? nullptr : "the decoder's kernels need a GPU of compute capability 9.0 (Hopper)";
  }

  OrtStatus* initialise(const OrtKernelInfo* info) {
    return api_->KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator_);
  }

 protected:
  OrtStatus* read(const OrtKernelInfo* info, const char* name, int& value) const {
    int64_t wide = 0;
    QWEN3VL_RETURN_IF_ERROR(api_->KernelInfoGetAttribute_int64(info, name, &wide));
    value = static_cast<int>(wide);
    return nullptr;
  }

  OrtStatus* read(const OrtKernelInfo* info, const char* name, float& value) const {
    return api_->KernelInfoGetAttribute_float(info, name, &value);
  }

  // The place of the product of x with `out_width` rows, and the stream. A residual has to be of the product's shape.
  static OrtStatus* product_places(const Call& call, const Tensor& x, int64_t out_width, const Tensor* residual,
                                   void** out, void** stream) {
    Shape shape = x.shape;
    shape.back() = out_width;
    if (residual != nullptr && residual->shape != shape) {
      return call.error("residual " + text(residual->shape) + " is not of the product's shape " + text(shape));
    }
    QWEN3VL_RETURN_IF_ERROR(call.output(0, shape, out));
    return call.stream(stream);
  }

  const OrtApi* api_;
  int type_;
  OrtAllocator* allocator_ = nullptr;
};

// Elements of all but the last dimension, and that.
struct Rows {
  explicit Rows(const Tensor& tensor)
      : width(tensor.shape.empty() ? 1 : tensor.shape.back()), count(width == 0 ? 0 : elements(tensor.shape) / width) {}
  int64_t width, count;
};

static_assert(kFloat16Number == QWEN3VL_FLOAT16 && kBfloat16Number == QWEN3VL_BFLOAT16);

}  // namespace qwen3vl
