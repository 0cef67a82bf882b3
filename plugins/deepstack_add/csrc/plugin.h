// DeepstackAdd as a TensorRT plugin.
#pragma once

#include <NvInferRuntime.h>
#include <NvInferVersion.h>

#include <cstdint>
#include <string>
#include <vector>

#if defined(TRT_MAJOR_ENTERPRISE) && TRT_MAJOR_ENTERPRISE * 100 + TRT_MINOR_ENTERPRISE < 1013
#error "DeepstackAdd needs TensorRT 10.13 or newer"
#endif

namespace qwen3vl {

inline constexpr char kPluginName[] = "DeepstackAdd";
inline constexpr char kPluginVersion[] = "1";
inline constexpr char kPluginNamespace[] = "qwen3vl";

// What a plugin is created with and what the engine stores of it.
struct DeepstackAddFields {
  std::int32_t level = -1;       // 0 or more
  std::int32_t vocab_size = -1;  // 1 or more
  std::int32_t in_place = 0;     // 1: the output is written over `hidden`; the build needs ALIASED_PLUGIN_IO_10_03
};

// Inputs: hidden float32, float16 or bfloat16 [..., H]; token_ids int32 [...]; visual_rows like hidden [R, H].
// Output: like hidden. All of linear format; no workspace.
class DeepstackAddPlugin final : public nvinfer1::IPluginV3,
                                 public nvinfer1::IPluginV3OneCore,
                                 public nvinfer1::IPluginV3OneBuildV2,
                                 public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit DeepstackAddPlugin(const DeepstackAddFields& fields);
  DeepstackAddPlugin(const DeepstackAddPlugin&) = delete;  // `serialized_` points into the object
  DeepstackAddPlugin& operator=(const DeepstackAddPlugin&) = delete;

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  DeepstackAddPlugin* clone() noexcept override;

  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  std::int32_t getNbOutputs() const noexcept override { return 1; }
  std::int32_t getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t output_count,
                                  const nvinfer1::DataType* inputs, std::int32_t input_count) const noexcept override;
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                               const nvinfer1::DimsExprs* shape_inputs, std::int32_t shape_input_count,
                               nvinfer1::DimsExprs* outputs, std::int32_t output_count,
                               nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(std::int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 std::int32_t input_count, std::int32_t output_count) noexcept override;
  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t input_count,
                               const nvinfer1::DynamicPluginTensorDesc* outputs,
                               std::int32_t output_count) noexcept override;
  std::int32_t getAliasedInput(std::int32_t output) noexcept override;
  const char* getMetadataString() noexcept override { return metadata_.c_str(); }

  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, std::int32_t input_count,
                             const nvinfer1::PluginTensorDesc* outputs, std::int32_t output_count) noexcept override;
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descriptions,
                       const nvinfer1::PluginTensorDesc* output_descriptions, const void* const* inputs,
                       void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  DeepstackAddFields fields_;
  std::string metadata_;
  std::vector<nvinfer1::PluginField> serialized_;
  nvinfer1::PluginFieldCollection collection_{};
};

// Creates the plugin, of int32 (or int64) fields `level`, `vocab_size` and, if wanted, `in_place`.
class DeepstackAddCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  DeepstackAddCreator();
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

 private:
  std::vector<nvinfer1::PluginField> names_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace qwen3vl
