// EmbedTokens, RotaryAngles, DeepstackAdd and TopLogits: what is done once a step, or once a DeepStack level.
#pragma once

#include <cstdint>

#include "decoder_operator.h"
#include "deepstack_add.h"

namespace qwen3vl {

class EmbedTokens : public DecoderKernel {
 public:
  static constexpr char kName[] = "EmbedTokens";
  static constexpr Type kInputs[] = {Type::kInt32, Type::kElement}, kOutputs[] = {Type::kElement};
  using DecoderKernel::DecoderKernel;

  OrtStatus* initialise(const OrtKernelInfo*) { return nullptr; }

  OrtStatus* compute(const Call& call) const {
    Tensor token_ids, table;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&token_ids, &table}));
    if (table.shape.size() != 2) return call.error("table " + text(table.shape) + " is no matrix");
    Shape shape = token_ids.shape;
    shape.push_back(table.shape[1]);
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, shape, &out));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    const int64_t tokens = elements(token_ids.shape);
    if (tokens == 0) return nullptr;
    return call.launched(
        qwen3vl_embed_tokens(out, static_cast<const int32_t*>(token_ids.data), table.data, static_cast<int>(tokens),
                             static_cast<int>(table.shape[0]), static_cast<int>(table.shape[1]), type_, stream),
        {&token_ids, &table});
  }
};

class RotaryAngles : public DecoderKernel {
 public:
  static constexpr char kName[] = "RotaryAngles";
  static constexpr Type kInputs[] = {Type::kInt32, Type::kInt64, Type::kFloat32};
  static constexpr Type kOutputs[] = {Type::kFloat32, Type::kFloat32};
  using DecoderKernel::DecoderKernel;

  OrtStatus* initialise(const OrtKernelInfo*) { return nullptr; }

  OrtStatus* compute(const Call& call) const {
    Tensor positions, axes, frequencies;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&positions, &axes, &frequencies}));
    if (positions.shape.size() != 3 || positions.shape[0] != 3 || axes.shape != frequencies.shape) {
      return call.error("positions " + text(positions.shape) + " or axes " + text(axes.shape) +
                        " do not go with frequencies " + text(frequencies.shape));
    }
    const int64_t count = elements(frequencies.shape);
    const Shape shape{positions.shape[1], positions.shape[2], count};
    void *cosines = nullptr, *sines = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, shape, &cosines));
    QWEN3VL_RETURN_IF_ERROR(call.output(1, shape, &sines));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    if (elements(shape) == 0) return nullptr;
    return call.launched(
        qwen3vl_rotary_angles(static_cast<float*>(cosines), static_cast<float*>(sines),
                              static_cast<const int32_t*>(positions.data), static_cast<const int64_t*>(axes.data),
                              static_cast<const float*>(frequencies.data), static_cast<int>(shape[0] * shape[1]),
                              static_cast<int>(count), stream),
        {&positions, &frequencies});
  }
};

// Visual rows are float32, as they come.
class DeepstackAdd : public DecoderKernel {
 public:
  static constexpr char kName[] = "DeepstackAdd";
  static constexpr Type kInputs[] = {Type::kElement, Type::kInt32, Type::kFloat32}, kOutputs[] = {Type::kElement};
  using DecoderKernel::DecoderKernel;

  OrtStatus* initialise(const OrtKernelInfo* info) {
    QWEN3VL_RETURN_IF_ERROR(read(info, "level", level_));
    return read(info, "vocab_size", vocab_size_);
  }

  OrtStatus* compute(const Call& call) const {
    Tensor hidden, token_ids, rows;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&hidden, &token_ids, &rows}));
    const Rows of_hidden(hidden), of_table(rows);
    if (of_hidden.count != elements(token_ids.shape) || of_hidden.width != of_table.width) {
      return call.error("hidden " + text(hidden.shape) + " does not go with token_ids " + text(token_ids.shape) +
                        " and visual_rows " + text(rows.shape));
    }
    void *out = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, hidden.shape, &out));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    return call.launched(
        qwen3vl_deepstack_add(out, hidden.data, static_cast<const int32_t*>(token_ids.data), rows.data,
                              of_hidden.count, of_hidden.width, of_table.count, level_, vocab_size_, type_,
                              QWEN3VL_FLOAT32, stream),
        {&hidden, &rows});
  }

 private:
  int level_ = 0, vocab_size_ = 0;
};

class TopLogits : public DecoderKernel {
 public:
  static constexpr char kName[] = "TopLogits";
  static constexpr Type kInputs[] = {Type::kFloat32}, kOutputs[] = {Type::kFloat32, Type::kInt64};
  using DecoderKernel::DecoderKernel;

  OrtStatus* initialise(const OrtKernelInfo* info) {
    QWEN3VL_RETURN_IF_ERROR(DecoderKernel::initialise(info));
    return read(info, "k", k_);
  }

  OrtStatus* compute(const Call& call) const {
    Tensor logits;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&logits}));
    const Rows rows(logits);
    Shape shape = logits.shape;
    if (shape.empty()) return call.error("logits are a single number");
    shape.back() = k_;
    void *best = nullptr, *ids = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, shape, &best));
    QWEN3VL_RETURN_IF_ERROR(call.output(1, shape, &ids));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    if (rows.count == 0) return nullptr;
    const int count = static_cast<int>(rows.count), vocabulary = static_cast<int>(rows.width);
    const Scratch workspace(allocator_, qwen3vl_top_logits_workspace(count, vocabulary, k_));
    if (workspace.data() == nullptr) return call.error("no GPU memory, or no kernel for logits " + text(logits.shape));
    return call.launched(
        qwen3vl_top_logits(static_cast<float*>(best), static_cast<int64_t*>(ids), workspace.data(),
                           static_cast<const float*>(logits.data), count, vocabulary, k_, stream),
        {&logits});
  }

 private:
  int k_ = 0;
};

}  // namespace qwen3vl
