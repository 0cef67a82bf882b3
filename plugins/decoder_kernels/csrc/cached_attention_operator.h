// CachedAttention: a token of each sequence by the kernel of a step, a chunk of one by that of a chunk.
#pragma once

#include <cstdint>
#include <string>

#include "decoder_operator.h"

namespace qwen3vl {

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

}  // namespace qwen3vl
