// A custom operator of ONNX Runtime's CUDA provider, from a class that describes and computes it.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace qwen3vl {

constexpr char kDomain[] = "qwen3vl";
constexpr char kProvider[] = "CUDAExecutionProvider";
constexpr uint32_t kApiVersion = 18;  // of ONNX Runtime's C interface: the oldest that has every function used here

// Returns from the function with the status if there is one, which is an error.
#define QWEN3VL_RETURN_IF_ERROR(expression)              \
  do {                                                   \
    if (OrtStatus* status = (expression)) return status; \
  } while (false)

// What an input's or output's elements are; kElement is the type that the operator is registered for.
enum class Type { kElement, kFloat32, kFloat64, kInt32, kInt64, kUint8 };

using Shape = std::vector<int64_t>;

inline int64_t elements(const Shape& shape) {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

inline std::string text(const Shape& shape) {
  std::string joined = "[";
  for (size_t i = 0; i < shape.size(); ++i) joined += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return joined + "]";
}

struct Tensor {
  void* data = nullptr;
  Shape shape;
};

// Device memory of the provider. Whoever gets it after `Scratch` is gone uses it on the same stream, after this call.
class Scratch {
 public:
  Scratch(OrtAllocator* allocator, size_t bytes) : allocator_(allocator), data_(allocator->Alloc(allocator, bytes)) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (data_ != nullptr) allocator_->Free(allocator_, data_);
  }
  void* data() const { return data_; }

 private:
  OrtAllocator* allocator_;
  void* data_;
};

// One call: reading its inputs, making its outputs, and errors that name the operator.
class Call {
 public:
  Call(const OrtApi* api, const char* name, OrtKernelContext* context) : api_(api), name_(name), context_(context) {}

  OrtStatus* inputs(std::initializer_list<Tensor*> tensors) const {
    size_t index = 0;
    for (Tensor* tensor : tensors) QWEN3VL_RETURN_IF_ERROR(input(index++, *tensor));
    return nullptr;
  }

  OrtStatus* output(size_t index, const Shape& shape, void** data) const {
    OrtValue* value = nullptr;
    QWEN3VL_RETURN_IF_ERROR(api_->KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value));
    return api_->GetTensorMutableData(value, data);
  }

  OrtStatus* stream(void** stream) const { return api_->KernelContext_GetGPUComputeStream(context_, stream); }

  OrtStatus* error(const std::string& message) const {
    return api_->CreateStatus(ORT_FAIL, (std::string(name_) + ": " + message).c_str());
  }

  // For the result of a launch on inputs of these shapes.
  OrtStatus* launched(int cuda_error, std::initializer_list<const Tensor*> tensors) const {
    if (cuda_error == 0) return nullptr;
    std::string shapes;
    for (const Tensor* tensor : tensors) shapes += (shapes.empty() ? "" : ", ") + text(tensor->shape);
    return error("CUDA error " + std::to_string(cuda_error) + " for " + shapes +
                 (cuda_error == 1 ? ": no kernel was compiled for these sizes" : ""));
  }

 private:
  OrtStatus* input(size_t index, Tensor& tensor) const {
    const OrtValue* value = nullptr;
    OrtTensorTypeAndShapeInfo* info = nullptr;
    QWEN3VL_RETURN_IF_ERROR(api_->KernelContext_GetInput(context_, index, &value));
    QWEN3VL_RETURN_IF_ERROR(api_->GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));
    QWEN3VL_RETURN_IF_ERROR(api_->GetTensorTypeAndShape(value, &info));
    size_t rank = 0;
    OrtStatus* status = api_->GetDimensionsCount(info, &rank);
    tensor.shape.resize(rank);
    if (status == nullptr) status = api_->GetDimensions(info, tensor.shape.data(), rank);
    api_->ReleaseTensorTypeAndShapeInfo(info);
    return status;
  }

  const OrtApi* api_;
  const char* name_;
  OrtKernelContext* context_;
};

// Numbers of the element types in the kernels' C interfaces.
constexpr int kFloat16Number = 1, kBfloat16Number = 2;

// Kernel has: kName; kInputs and kOutputs, arrays of Type; a constructor (OrtApi, number of the element type);
// initialise(OrtKernelInfo) and compute(Call), which return a status; unavailable(), why it can't run here, or null.
template <typename Kernel>
struct Operator : OrtCustomOp {
  Operator(ONNXTensorElementDataType onnx_type, int kernel_type)
      : OrtCustomOp{}, element(onnx_type), type(kernel_type) {
    version = kApiVersion;
    GetName = [](const OrtCustomOp*) { return Kernel::kName; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return kProvider; };
    GetInputTypeCount = [](const OrtCustomOp*) { return std::size(Kernel::kInputs); };
    GetInputType = [](const OrtCustomOp* op, size_t index) { return onnx_type_of(op, Kernel::kInputs[index]); };
    GetOutputTypeCount = [](const OrtCustomOp*) { return std::size(Kernel::kOutputs); };
    GetOutputType = [](const OrtCustomOp* op, size_t index) { return onnx_type_of(op, Kernel::kOutputs[index]); };
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
      if (const char* reason = Kernel::unavailable()) return api->CreateStatus(ORT_FAIL, reason);
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
  int type;

 private:
  static ONNXTensorElementDataType onnx_type_of(const OrtCustomOp* op, Type type) {
    switch (type) {
      case Type::kFloat32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
      case Type::kFloat64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
      case Type::kInt32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
      case Type::kInt64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
      case Type::kUint8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
      default: return static_cast<const Operator*>(op)->element;
    }
  }
};

template <typename Kernel>
constexpr bool has_element_type() {
  for (const Type type : Kernel::kInputs)
    if (type == Type::kElement) return true;
  for (const Type type : Kernel::kOutputs)
    if (type == Type::kElement) return true;
  return false;
}

// Registers a kernel for both half-precision types, or once where it has neither.
template <typename Kernel>
OrtStatus* add(const OrtApi* api, OrtCustomOpDomain* domain) {
  // ONNX Runtime keeps the pointers as long as it has sessions.
  static const Operator<Kernel> half(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, kFloat16Number);
  static const Operator<Kernel> bfloat(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, kBfloat16Number);
  QWEN3VL_RETURN_IF_ERROR(api->CustomOpDomain_Add(domain, &half));
  if (!has_element_type<Kernel>()) return nullptr;
  return api->CustomOpDomain_Add(domain, &bfloat);
}

// What a library's RegisterCustomOps does: adds all of its kernels.
template <typename... Kernels>
OrtStatus* register_kernels(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kApiVersion);
  OrtCustomOpDomain* domain = nullptr;
  QWEN3VL_RETURN_IF_ERROR(api->CreateCustomOpDomain(kDomain, &domain));
  OrtStatus* status = nullptr;
  static_cast<void>(((status = add<Kernels>(api, domain)) || ...));
  return status != nullptr ? status : api->AddCustomOpDomain(options, domain);
}

}  // namespace qwen3vl
