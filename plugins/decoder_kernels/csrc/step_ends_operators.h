// StepInputs, DeepstackAdd and TopLogits: what is done once a step, or once a DeepStack level.
#pragma once

#include <cstdint>

#include "decoder_operator.h"
#include "deepstack_add.h"

namespace qwen3vl {

// The first layer's inputs and the angles are one operator's, so that whatever the order of nodes, the angles are there
// before attention, which reads them early: DeepstackAdd's kernel, which begins only when this one has ended, comes
// between.
class StepInputs : public DecoderKernel {
 public:
  static constexpr char kName[] = "StepInputs";
  static constexpr Type kInputs[] = {Type::kInt32, Type::kInt64, Type::kElement,
                                     Type::kInt32, Type::kInt64, Type::kFloat32};
  static constexpr Type kOutputs[] = {Type::kElement, Type::kFloat32, Type::kFloat32};
  using DecoderKernel::DecoderKernel;

  OrtStatus* initialise(const OrtKernelInfo*) { return nullptr; }

  OrtStatus* compute(const Call& call) const {
    Tensor token_ids, chosen, table, positions, axes, frequencies;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&token_ids, &chosen, &table, &positions, &axes, &frequencies}));
    Shape hidden_shape = token_ids.shape, angle_shape = token_ids.shape, position_shape = token_ids.shape;
    position_shape.insert(position_shape.begin(), 3);
    if (table.shape.size() != 2 || positions.shape != position_shape || axes.shape != frequencies.shape) {
      return call.error("token_ids " + text(token_ids.shape) + ", table " + text(table.shape) + ", position_ids " +
                        text(positions.shape) + ", axes " + text(axes.shape) + " and frequencies " +
                        text(frequencies.shape) + " do not go together");
    }
    if (chosen.shape.size() != 1) return call.error("chosen is " + text(chosen.shape) + ", not a list of token ids");
    const int64_t tokens = elements(token_ids.shape), count = elements(frequencies.shape);
    hidden_shape.push_back(table.shape[1]);
    angle_shape.push_back(count);
    void *hidden = nullptr, *cosines = nullptr, *sines = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, hidden_shape, &hidden));
    QWEN3VL_RETURN_IF_ERROR(call.output(1, angle_shape, &cosines));
    QWEN3VL_RETURN_IF_ERROR(call.output(2, angle_shape, &sines));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    if (tokens == 0) return nullptr;
    return call.launched(
        qwen3vl_step_inputs(hidden, static_cast<float*>(cosines), static_cast<float*>(sines),
                            static_cast<const int32_t*>(token_ids.data), static_cast<const int64_t*>(chosen.data),
                            table.data, static_cast<const int32_t*>(positions.data),
                            static_cast<const int64_t*>(axes.data), static_cast<const float*>(frequencies.data),
                            static_cast<int>(tokens), static_cast<int>(chosen.shape[0]),
                            static_cast<int>(table.shape[0]), static_cast<int>(table.shape[1]),
                            static_cast<int>(count), type_, stream),
        {&token_ids, &table, &frequencies});
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
  static constexpr Type kInputs[] = {Type::kFloat32, Type::kFloat64};
  static constexpr Type kOutputs[] = {Type::kFloat32, Type::kInt64, Type::kInt64};
  using DecoderKernel::DecoderKernel;

  OrtStatus* initialise(const OrtKernelInfo* info) {
    QWEN3VL_RETURN_IF_ERROR(DecoderKernel::initialise(info));
    return read(info, "k", k_);
  }

  OrtStatus* compute(const Call& call) const {
    Tensor logits, draws;
    QWEN3VL_RETURN_IF_ERROR(call.inputs({&logits, &draws}));
    if (logits.shape.size() != 2) return call.error("logits are " + text(logits.shape) + ", not [rows, vocabulary]");
    const int64_t rows = logits.shape[0];
    if (draws.shape != Shape{rows, kDrawNumbers}) {
      return call.error("draws are " + text(draws.shape) + ", not temperature, top_k, top_p and a random number, " +
                        text({rows, kDrawNumbers}) + ", for logits " + text(logits.shape));
    }
    void *best = nullptr, *ids = nullptr, *chosen = nullptr, *stream = nullptr;
    QWEN3VL_RETURN_IF_ERROR(call.output(0, {rows, k_}, &best));
    QWEN3VL_RETURN_IF_ERROR(call.output(1, {rows, k_}, &ids));
    QWEN3VL_RETURN_IF_ERROR(call.output(2, {rows}, &chosen));
    QWEN3VL_RETURN_IF_ERROR(call.stream(&stream));
    if (rows == 0) return nullptr;
    const int count = static_cast<int>(rows), vocabulary = static_cast<int>(logits.shape[1]);
    const Scratch workspace(allocator_, qwen3vl_top_logits_workspace(count, vocabulary, k_));
    if (workspace.data() == nullptr) return call.error("no GPU memory, or no kernel for logits " + text(logits.shape));
    return call.launched(
        qwen3vl_top_logits(static_cast<float*>(best), static_cast<int64_t*>(ids), static_cast<int64_t*>(chosen),
                           workspace.data(), static_cast<const float*>(logits.data),
                           static_cast<const double*>(draws.data), count, vocabulary, k_, stream),
        {&logits});
  }

 private:
  static constexpr int64_t kDrawNumbers = 4;
  int k_ = 0;
};

}  // namespace qwen3vl
