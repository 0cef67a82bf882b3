// A custom operator of ONNX Runtime's CUDA provider, from a class that describes and computes it.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <iterator>
#include <new>
#include <string>
#include <vector>

#include "vision_kernels.h"

namespace qwen3vl {

constexpr char kDomain[] = "qwen3vl";
constexpr char kProvider[] = "CUDAExecutionProvider";
constexpr uint32_t kApiVersion = 18;  // of ONNX Runtime's C interface: the oldest that has every function used here

// Returns from the function with the status if there is one, which is an error.
#define RETURN_IF_ERROR(expression)                      \
  do {                                                   \
    if (OrtStatus* status = (expression)) return status; \
  } while (false)

// What an input's or output's elements are; kElement is the type that the operator is registered for.
enum class Type { kElement, kFloat32, kInt32 };

using Shape = std::vector<int64_t>;

inline int64_t elements(const Shape& shape) {
  int64_t product = 1;
  for (int64_t size : shape) product *= size;
  return product;
}

inline std::string text(const Shape& shape) {
  std::string joined = "[";
  for (size_t i = 0; i < shape.size(); ++i) joined += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return joined + "]";
}

struct Tensor {
  const void* data = nullptr;
  Shape shape;
};

// One call: reading its inputs, making its output, and errors that name the operator.
class Call {
 public:
  Call(const OrtApi* api, const char* name, OrtKernelContext* context) : api_(api), name_(name), context_(context) {}

  OrtStatus* input(size_t index, Tensor& tensor) const {
    const OrtValue* value = nullptr;
    OrtTensorTypeAndShapeInfo* info = nullptr;
    void* data = nullptr;
    RETURN_IF_ERROR(api_->KernelContext_GetInput(context_, index, &value));
    RETURN_IF_ERROR(api_->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
    RETURN_IF_ERROR(api_->GetTensorTypeAndShape(value, &info));
    size_t rank = 0;
    OrtStatus* status = api_->GetDimensionsCount(info, &rank);
    tensor.shape.resize(rank);
    if (status == nullptr) status = api_->GetDimensions(info, tensor.shape.data(), rank);
    api_->ReleaseTensorTypeAndShapeInfo(info);
    tensor.data = data;
    return status;
  }

  OrtStatus* output(const Shape& shape, void** data) const {
    OrtValue* value = nullptr;
    RETURN_IF_ERROR(api_->KernelContext_GetOutput(context_, 0, shape.data(), shape.size(), &value));
    return api_->GetTensorMutableData(value, data);
  }

  OrtStatus* stream(void** stream) const { return api_->KernelContext_GetGPUComputeStream(context_, stream); }

  OrtStatus* error(const std::string& message) const {
    return api_->CreateStatus(ORT_FAIL, (std::string(name_) + ": " + message).c_str());
  }

  // For the result of a kernel's launch on arrays of that shape.
  OrtStatus* launched(int cuda_error, const Shape& shape) const {
    return cuda_error == 0 ? nullptr : error("CUDA error " + std::to_string(cuda_error) + " for " + text(shape));
  }

 private:
  const OrtApi* api_;
  const char* name_;
  OrtKernelContext* context_;
};

// Kernel has: kName; kInputs, an array of Type, the output being of kElement; a constructor (OrtApi, element type);
// initialise(OrtKernelInfo) and compute(Call), which return a status.
template <typename Kernel>
struct Operator : OrtCustomOp {
  Operator(ONNXTensorElementDataType onnx_type, Qwen3vlVisionType kernel_type)
      : OrtCustomOp{}, element(onnx_type), type(kernel_type) {
    version = kApiVersion;
    GetName = [](const OrtCustomOp*) { return Kernel::kName; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return kProvider; };
    GetInputTypeCount = [](const OrtCustomOp*) { return std::size(Kernel::kInputs); };
    GetInputType = [](const OrtCustomOp* op, size_t index) {
      switch (Kernel::kInputs[index]) {
        case Type::kFloat32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        case Type::kInt32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
        default: return static_cast<const Operator*>(op)->element;
      }
    };
    GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
    GetOutputType = [](const OrtCustomOp* op, size_t) { return static_cast<const Operator*>(op)->element; };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info,
                        void** created) -> OrtStatus* {
      if (!qwen3vl_vision_kernels_run_here())
        return api->CreateStatus(ORT_FAIL, "the vision kernels need a GPU of compute capability 9.0 (H100, H200); "
                                           "build the engine without --vision-kernels");
      auto* instance = new (std::nothrow) Instance{Kernel(api, static_cast<const Operator*>(op)->type), api};
      if (instance == nullptr) return api->CreateStatus(ORT_FAIL, "out of memory");
      if (OrtStatus* status = instance->kernel.initialise(info)) {
        delete instance;
        return status;
      }
      *created = instance;
      return nullptr;
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      auto* instance = static_cast<Instance*>(kernel);
      return instance->kernel.compute(Call(instance->api, Kernel::kName, context));
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Instance*>(kernel); };
  }

  struct Instance {
    Kernel kernel;
    const OrtApi* api;
  };

  ONNXTensorElementDataType element;
  Qwen3vlVisionType type;
};

}  // namespace qwen3vl
