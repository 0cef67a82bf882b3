#include "plugin.h"

#include <cstring>
#include <new>
#include <optional>

#include "deepstack_add.h"

namespace qwen3vl {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

enum Input { kHidden, kTokenIds, kVisualRows, kInputCount };

void log_error(const std::string& message) noexcept {
  if (nvinfer1::ILogger* logger = getLogger()) logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
}

std::optional<Qwen3vlType> kernel_type(DataType type) {
  switch (type) {
    case DataType::kFLOAT: return QWEN3VL_FLOAT32;
    case DataType::kHALF: return QWEN3VL_FLOAT16;
    case DataType::kBF16: return QWEN3VL_BFLOAT16;
    default: return std::nullopt;
  }
}

std::string text(const Dims& dims) {
  std::string result = "[";
  for (std::int32_t i = 0; i < dims.nbDims; ++i) result += (i ? ", " : "") + std::to_string(dims.d[i]);
  return result + "]";
}

// A size that is -1 is not known yet and agrees with any.
bool agree(std::int64_t a, std::int64_t b) { return a == b || a == -1 || b == -1; }

// Whether the inputs' shapes fit together: hidden [..., H], token_ids [...], visual_rows [R, H].
bool shapes_fit(const Dims& hidden, const Dims& token_ids, const Dims& visual_rows) {
  bool fit = hidden.nbDims == token_ids.nbDims + 1 && visual_rows.nbDims == 2;
  for (std::int32_t i = 0; fit && i < token_ids.nbDims; ++i) fit = agree(hidden.d[i], token_ids.d[i]);
  fit = fit && agree(hidden.d[hidden.nbDims - 1], visual_rows.d[1]);
  if (!fit)
    log_error("DeepstackAdd: hidden " + text(hidden) + ", token_ids " + text(token_ids) + " and visual_rows " +
              text(visual_rows) + " do not fit together; expected [..., H], [...] and [R, H]");
  return fit;
}

// A field's value; nothing where it is not one number that fits into 32 bits.
std::optional<std::int32_t> integer(const PluginField& field) {
  if (field.data == nullptr || field.length != 1) return std::nullopt;
  if (field.type == PluginFieldType::kINT32) return *static_cast<const std::int32_t*>(field.data);
  if (field.type != PluginFieldType::kINT64) return std::nullopt;
  std::int64_t value = 0;
  std::memcpy(&value, field.data, sizeof value);
  if (value < INT32_MIN || value > INT32_MAX) return std::nullopt;
  return static_cast<std::int32_t>(value);
}

std::optional<DeepstackAddFields> read_fields(const nvinfer1::PluginFieldCollection& collection) {
  DeepstackAddFields fields;
  for (std::int32_t i = 0; i < collection.nbFields; ++i) {
    const PluginField& field = collection.fields[i];
    const std::string name = field.name == nullptr ? "" : field.name;
    std::int32_t* const target = name == "level"        ? &fields.level
                                 : name == "vocab_size" ? &fields.vocab_size
                                 : name == "in_place"   ? &fields.in_place
                                                        : nullptr;
    const std::optional<std::int32_t> value = integer(field);
    if (target == nullptr || !value) {
      log_error("DeepstackAdd: field '" + name + "' is not known or not one int32; expected level, vocab_size, in_place");
      return std::nullopt;
    }
    *target = *value;
  }
  if (fields.level < 0 || fields.vocab_size < 1 || fields.in_place < 0 || fields.in_place > 1) {
    log_error("DeepstackAdd: level " + std::to_string(fields.level) + ", vocab_size " +
              std::to_string(fields.vocab_size) + ", in_place " + std::to_string(fields.in_place) +
              "; expected level >= 0, vocab_size >= 1, in_place 0 or 1, and the first two always given");
    return std::nullopt;
  }
  return fields;
}

}  // namespace

DeepstackAddPlugin::DeepstackAddPlugin(const DeepstackAddFields& fields)
    : fields_(fields),
      metadata_("level=" + std::to_string(fields.level) + " vocab_size=" + std::to_string(fields.vocab_size) +
                " in_place=" + std::to_string(fields.in_place)),
      serialized_{PluginField("level", &fields_.level, PluginFieldType::kINT32, 1),
                  PluginField("vocab_size", &fields_.vocab_size, PluginFieldType::kINT32, 1),
                  PluginField("in_place", &fields_.in_place, PluginFieldType::kINT32, 1)},
      collection_{static_cast<std::int32_t>(serialized_.size()), serialized_.data()} {}

nvinfer1::IPluginCapability* DeepstackAddPlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuildV2*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

DeepstackAddPlugin* DeepstackAddPlugin::clone() noexcept {
  try {
    return new DeepstackAddPlugin(fields_);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

std::int32_t DeepstackAddPlugin::getOutputDataTypes(DataType* outputs, std::int32_t output_count,
                                                    const DataType* inputs, std::int32_t input_count) const noexcept {
  if (input_count != kInputCount || output_count != 1) return 1;
  outputs[0] = inputs[kHidden];
  return 0;
}

std::int32_t DeepstackAddPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                                                 const nvinfer1::DimsExprs*, std::int32_t,
                                                 nvinfer1::DimsExprs* outputs, std::int32_t output_count,
                                                 nvinfer1::IExprBuilder&) noexcept {
  if (input_count != kInputCount || output_count != 1) return 1;
  outputs[0] = inputs[kHidden];
  return 0;
}

bool DeepstackAddPlugin::supportsFormatCombination(std::int32_t position,
                                                   const nvinfer1::DynamicPluginTensorDesc* tensors,
                                                   std::int32_t input_count, std::int32_t output_count) noexcept {
  if (input_count != kInputCount || output_count != 1) return false;
  const PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  if (position == kHidden) return kernel_type(tensor.type).has_value();
  if (position == kTokenIds) return tensor.type == DataType::kINT32;
  return tensor.type == tensors[kHidden].desc.type;
}

std::int32_t DeepstackAddPlugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs,
                                                 std::int32_t input_count, const nvinfer1::DynamicPluginTensorDesc*,
                                                 std::int32_t output_count) noexcept {
  if (input_count != kInputCount || output_count != 1) return 1;
  return shapes_fit(inputs[kHidden].desc.dims, inputs[kTokenIds].desc.dims, inputs[kVisualRows].desc.dims) ? 0 : 1;
}

std::int32_t DeepstackAddPlugin::getAliasedInput(std::int32_t output) noexcept {
  return output == 0 && fields_.in_place == 1 ? kHidden : -1;
}

std::int32_t DeepstackAddPlugin::onShapeChange(const PluginTensorDesc* inputs, std::int32_t input_count,
                                               const PluginTensorDesc*, std::int32_t output_count) noexcept {
  if (input_count != kInputCount || output_count != 1) return 1;
  return shapes_fit(inputs[kHidden].dims, inputs[kTokenIds].dims, inputs[kVisualRows].dims) ? 0 : 1;
}

std::int32_t DeepstackAddPlugin::enqueue(const PluginTensorDesc* input_descriptions, const PluginTensorDesc*,
                                         const void* const* inputs, void* const* outputs, void*,
                                         cudaStream_t stream) noexcept {
  const Dims& hidden = input_descriptions[kHidden].dims;
  const std::optional<Qwen3vlType> type = kernel_type(input_descriptions[kHidden].type);
  if (!type) return 1;
  std::int64_t tokens = 1;
  for (std::int32_t i = 0; i + 1 < hidden.nbDims; ++i) tokens *= hidden.d[i];
  return qwen3vl_deepstack_add(outputs[0], inputs[kHidden], static_cast<const std::int32_t*>(inputs[kTokenIds]),
                               inputs[kVisualRows], tokens, hidden.d[hidden.nbDims - 1],
                               input_descriptions[kVisualRows].dims.d[0], fields_.level, fields_.vocab_size, *type,
                               *type, stream);
}

nvinfer1::IPluginV3* DeepstackAddPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return clone();
}

const nvinfer1::PluginFieldCollection* DeepstackAddPlugin::getFieldsToSerialize() noexcept { return &collection_; }

DeepstackAddCreator::DeepstackAddCreator()
    : names_{PluginField("level", nullptr, PluginFieldType::kINT32, 1),
             PluginField("vocab_size", nullptr, PluginFieldType::kINT32, 1),
             PluginField("in_place", nullptr, PluginFieldType::kINT32, 1)},
      collection_{static_cast<std::int32_t>(names_.size()), names_.data()} {}

nvinfer1::IPluginV3* DeepstackAddCreator::createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                                       nvinfer1::TensorRTPhase) noexcept {
  try {
    const std::optional<DeepstackAddFields> read =
        fields == nullptr ? std::optional<DeepstackAddFields>() : read_fields(*fields);
    return read ? new DeepstackAddPlugin(*read) : nullptr;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

namespace {

// Registers the creator when the library is loaded, whoever loads it and whatever it calls: LD_PRELOAD is enough.
struct Registration {
  DeepstackAddCreator creator;
  Registration() { getPluginRegistry()->registerCreator(creator, kPluginNamespace); }
} registration;

}  // namespace
}  // namespace qwen3vl
