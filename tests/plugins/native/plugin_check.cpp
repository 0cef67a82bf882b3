// The TensorRT plugin without TensorRT: this program stands in for its plugin registry and calls the plugin in the
// order in which TensorRT does, from the creator that registered itself to enqueue() on the device, whose output is
// compared with exact expected values. Needs TensorRT's headers only.
// Usage: plugin_check [cases] [seed]; with 0 cases everything but enqueue(), for which no GPU is needed.

#include "device_case.h"
#include "plugin.h"

#include <memory>

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;
using nvinfer1::TensorRTPhase;

namespace {

class Registry final : public nvinfer1::IPluginRegistry {
 public:
  bool registerCreator(nvinfer1::IPluginCreatorInterface& creator, const char* name_space) noexcept override {
    creator_ = &creator, namespace_ = name_space;
    return true;
  }
  nvinfer1::IPluginCreatorInterface* getCreator(const char* name, const char* version,
                                                const char* name_space) noexcept override {
    auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creator_);
    const bool found = creator != nullptr && std::string(creator->getInterfaceInfo().kind) == "PLUGIN CREATOR_V3ONE" &&
                       namespace_ == name_space && std::string(creator->getPluginNamespace()) == name_space &&
                       std::string(creator->getPluginName()) == name &&
                       std::string(creator->getPluginVersion()) == version;
    return found ? creator_ : nullptr;
  }
  nvinfer1::IPluginCreatorInterface* const* getAllCreators(std::int32_t* count) const noexcept override {
    *count = creator_ != nullptr;
    return &creator_;
  }
  nvinfer1::IPluginCreatorInterface* const* getAllCreatorsRecursive(std::int32_t* count) noexcept override {
    return getAllCreators(count);
  }
  bool deregisterCreator(const nvinfer1::IPluginCreatorInterface&) noexcept override { return false; }
  void setErrorRecorder(nvinfer1::IErrorRecorder*) noexcept override {}
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  bool isParentSearchEnabled() const override { return false; }
  void setParentSearchEnabled(bool) override {}
  PluginLibraryHandle loadLibrary(const char*) noexcept override { return nullptr; }
  void deregisterLibrary(PluginLibraryHandle) noexcept override {}
  nvinfer1::IPluginResource* acquirePluginResource(const char*, nvinfer1::IPluginResource*) noexcept override {
    return nullptr;
  }
  std::int32_t releasePluginResource(const char*) noexcept override { return 1; }
#if NV_TENSORRT_MAJOR < 11  // what older registries have besides, for plugins of the first version
  bool registerCreator(nvinfer1::IPluginCreator&, const char*) noexcept override { return false; }
  nvinfer1::IPluginCreator* const* getPluginCreatorList(std::int32_t*) const noexcept override { return nullptr; }
  nvinfer1::IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept override {
    return nullptr;
  }
  bool deregisterCreator(const nvinfer1::IPluginCreator&) noexcept override { return false; }
#endif

 private:
  nvinfer1::IPluginCreatorInterface* creator_ = nullptr;
  std::string namespace_;
};

// Counts the plugin's error messages, which go where TensorRT's own do.
class CountingLogger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    check::require(severity == Severity::kERROR && message[0] != '\0', "errors are logged as errors");
    ++count;
  }
  int count = 0;
};

CountingLogger& logger() {
  static CountingLogger instance;
  return instance;
}

}  // namespace

extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
  static Registry registry;
  return &registry;
}

extern "C" nvinfer1::ILogger* getLogger() noexcept { return &logger(); }

namespace {

using Plugin = std::unique_ptr<nvinfer1::IPluginV3>;

struct Interfaces {
  nvinfer1::IPluginV3OneCore* core;
  nvinfer1::IPluginV3OneBuildV2* build;
  nvinfer1::IPluginV3OneRuntime* runtime;

  explicit Interfaces(const Plugin& plugin) {
    using Type = nvinfer1::PluginCapabilityType;
    core = static_cast<nvinfer1::IPluginV3OneCore*>(plugin->getCapabilityInterface(Type::kCORE));
    build = static_cast<nvinfer1::IPluginV3OneBuildV2*>(plugin->getCapabilityInterface(Type::kBUILD));
    runtime = static_cast<nvinfer1::IPluginV3OneRuntime*>(plugin->getCapabilityInterface(Type::kRUNTIME));
    check::require(core && build && runtime, "the plugin has its three capabilities");
    check::require(std::string(build->getInterfaceInfo().kind) == "PLUGIN_V3ONE_BUILD" &&
                       build->getInterfaceInfo().major == 2,
                   "the build capability is the one with aliasing");
  }
};

nvinfer1::IPluginCreatorV3One* creator() {
  auto* found = getPluginRegistry()->getCreator("DeepstackAdd", "1", "qwen3vl");
  check::require(found != nullptr, "the creator registered itself under qwen3vl, DeepstackAdd, 1");
  return static_cast<nvinfer1::IPluginCreatorV3One*>(found);
}

Plugin create(std::vector<PluginField> fields, TensorRTPhase phase = TensorRTPhase::kBUILD) {
  const PluginFieldCollection collection{static_cast<std::int32_t>(fields.size()), fields.data()};
  return Plugin(creator()->createPlugin("node", &collection, phase));
}

PluginField field(const char* name, const std::int32_t& value) {
  return PluginField(name, &value, PluginFieldType::kINT32, 1);
}

// As for an engine: what is serialised of a plugin creates its like at run time.
Plugin deserialised(const Plugin& plugin) {
  const PluginFieldCollection* stored = Interfaces(plugin).runtime->getFieldsToSerialize();
  return Plugin(creator()->createPlugin("node", stored, TensorRTPhase::kRUNTIME));
}

Dims dims(std::initializer_list<std::int64_t> sizes) {
  Dims result{};
  for (const std::int64_t size : sizes) result.d[result.nbDims++] = size;
  return result;
}

PluginTensorDesc description(const Dims& shape, DataType type, TensorFormat format = TensorFormat::kLINEAR) {
  PluginTensorDesc result{};
  result.dims = shape, result.type = type, result.format = format;
  return result;
}

void check_creation() {
  const std::int32_t level = 2, vocab_size = 151936, one = 1, negative = -1;
  const std::int64_t wide_level = 2, too_wide = std::int64_t{1} << 40;
  check::require(creator()->getFieldNames()->nbFields == 3, "the creator names three fields");
  check::require(create({field("level", level), field("vocab_size", vocab_size)}) != nullptr, "int32 fields create");
  check::require(create({PluginField("level", &wide_level, PluginFieldType::kINT64, 1),
                         field("vocab_size", vocab_size)}) != nullptr, "an int64 field creates");

  const int before = logger().count;
  check::require(!create({field("level", level)}), "vocab_size is required");
  check::require(!create({field("vocab_size", vocab_size)}), "level is required");
  check::require(!create({field("level", negative), field("vocab_size", vocab_size)}), "level is not negative");
  check::require(!create({field("level", level), field("vocab_size", vocab_size), field("depth", one)}),
                 "an unknown field is refused");
  check::require(!create({PluginField("level", &too_wide, PluginFieldType::kINT64, 1),
                          field("vocab_size", vocab_size)}), "a level beyond 32 bits is refused");
  check::require(logger().count == before + 5, "each refusal is logged");

  for (const std::int32_t in_place : {0, 1}) {
    const Plugin plugin = create({field("level", level), field("vocab_size", vocab_size), field("in_place", in_place)});
    const Plugin stored = deserialised(plugin), copy(plugin->clone()), copy_of_stored(stored->clone());
    for (const Plugin* each : {&plugin, &stored, &copy, &copy_of_stored}) {
      const Interfaces interfaces(*each);
      check::require(std::string(interfaces.build->getMetadataString()) ==
                         "level=2 vocab_size=151936 in_place=" + std::to_string(in_place),
                     "fields survive serialisation and cloning");
      check::require(interfaces.build->getAliasedInput(0) == (in_place ? 0 : -1), "in_place decides on aliasing");
      check::require(std::string(interfaces.core->getPluginNamespace()) == "qwen3vl", "the plugin's namespace");
    }
  }
}

void check_build() {
  const std::int32_t level = 0, vocab_size = 100;
  const Plugin plugin = create({field("level", level), field("vocab_size", vocab_size)});
  nvinfer1::IPluginV3OneBuildV2* build = Interfaces(plugin).build;

  const auto accepts = [&](DataType hidden, DataType ids, DataType rows, DataType out,
                           TensorFormat format = TensorFormat::kLINEAR) {
    const DataType types[] = {hidden, ids, rows, out};
    nvinfer1::DynamicPluginTensorDesc tensors[4]{};
    for (int i = 0; i < 4; ++i) tensors[i].desc = description(dims({1, 1}), types[i], format);
    for (int i = 0; i < 4; ++i)
      if (!build->supportsFormatCombination(i, tensors, 3, 1)) return false;
    return true;
  };
  for (const DataType type : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16}) {
    check::require(accepts(type, DataType::kINT32, type, type), "one float type throughout is taken");
    check::require(!accepts(type, DataType::kINT64, type, type), "int64 ids are not");
    check::require(!accepts(type, DataType::kINT32, type, type, TensorFormat::kCHW32), "other formats are not");
    DataType output{};
    const DataType inputs[] = {type, DataType::kINT32, type};
    check::require(build->getOutputDataTypes(&output, 1, inputs, 3) == 0 && output == type, "the output's type");
  }
  check::require(!accepts(DataType::kHALF, DataType::kINT32, DataType::kFLOAT, DataType::kHALF), "types may not mix");
  check::require(!accepts(DataType::kINT8, DataType::kINT32, DataType::kINT8, DataType::kINT8), "int8 is not taken");

  const auto fits = [&](const Dims& hidden, const Dims& ids, const Dims& rows) {
    nvinfer1::DynamicPluginTensorDesc inputs[3]{}, output{};
    const Dims* shapes[] = {&hidden, &ids, &rows};
    for (int i = 0; i < 3; ++i) inputs[i].desc = description(*shapes[i], i == 1 ? DataType::kINT32 : DataType::kHALF);
    return build->configurePlugin(inputs, 3, &output, 1) == 0;
  };
  check::require(fits(dims({-1, -1, 64}), dims({-1, -1}), dims({-1, 64})), "a padded batch fits");
  check::require(fits(dims({-1, 64}), dims({-1}), dims({-1, 64})), "packed sequences fit");
  check::require(!fits(dims({-1, 64}), dims({-1, -1}), dims({-1, 64})), "ids of another rank do not");
  check::require(!fits(dims({-1, 64}), dims({-1}), dims({-1, 32})), "rows of another width do not");
  check::require(!fits(dims({7, 64}), dims({8}), dims({-1, 64})), "another number of ids does not");
}

// enqueue() of a plugin that went through an engine and an execution context.
int run_plugin(const check::Shape& shape, const check::Operands& x) {
  const std::int32_t in_place = shape.in_place;
  const Plugin built = create({field("level", shape.level), field("vocab_size", shape.vocab_size),
                               field("in_place", in_place)});
  const Plugin stored = deserialised(built);
  const Plugin attached(Interfaces(stored).runtime->attachToContext(nullptr));
  nvinfer1::IPluginV3OneRuntime* runtime = Interfaces(attached).runtime;

  constexpr DataType kTypes[] = {DataType::kFLOAT, DataType::kHALF, DataType::kBF16};
  const DataType type = kTypes[shape.type];
  const bool padded = shape.tokens % 2 == 0;  // [2, S] or [T]
  const Dims ids = padded ? dims({2, shape.tokens / 2}) : dims({shape.tokens});
  const Dims hidden = padded ? dims({2, shape.tokens / 2, shape.hidden_size}) : dims({shape.tokens, shape.hidden_size});
  const PluginTensorDesc inputs[] = {description(hidden, type), description(ids, DataType::kINT32),
                                     description(dims({shape.row_count, shape.hidden_size}), type)};
  const PluginTensorDesc output = description(hidden, type);
  const void* const input_data[] = {x.hidden, x.token_ids, x.visual_rows};
  void* const output_data[] = {x.out};
  const std::int32_t status = runtime->onShapeChange(inputs, 3, &output, 1);
  if (status != 0) return status;
  return runtime->enqueue(inputs, &output, input_data, output_data, nullptr, x.stream);
}

}  // namespace

int main(int count, char** arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 300;
  std::mt19937_64 random(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1);
  check_creation();
  check_build();
  std::printf("plugin: creation, serialisation, types and shapes as expected (TensorRT headers %d.%d.%d)\n",
              NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, NV_TENSORRT_PATCH);
  if (cases == 0) return 0;
  cudaStream_t stream;
  check::require_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  for (int i = 0; i < cases; ++i) check::run_case(check::random_shape(random), random, run_plugin, stream);
  check::require_cuda(cudaStreamDestroy(stream), "destroy the stream");
  std::printf("plugin: %d random cases of enqueue exact\n", cases);
  return 0;
}
