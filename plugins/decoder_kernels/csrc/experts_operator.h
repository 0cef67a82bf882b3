// What the operators of experts have in common: their attributes, the router, and what it gives.
#pragma once

#include <cstdint>
#include <string>

#include "decoder_operator.h"

namespace qwen3vl {

constexpr int kStepCounters = 256;  // of one call of a step's kernel

class ExpertsOperator : public DecoderKernel {
 public:
  using DecoderKernel::DecoderKernel;

 protected:
  static constexpr int64_t kElementBytes = 2;

  struct Sizes {
    int64_t tokens, pairs, hidden, experts, inner;
  };

  // `most`: pairs of token and expert that one call of the kernels takes.
  OrtStatus* initialise(const OrtKernelInfo* info, const char* name, int64_t most) {
    QWEN3VL_RETURN_IF_ERROR(DecoderKernel::initialise(info));
    QWEN3VL_RETURN_IF_ERROR(read(info, "k", k_));
    if (k_ < 1 || k_ > most) {
      return api_->CreateStatus(ORT_INVALID_ARGUMENT, (std::string(name) + ": k is out of range").c_str());
    }
    return read(info, "epsilon", epsilon_);
  }

  // Of h, by the router.
  struct Routed {
    Routed(OrtAllocator* allocator, const Sizes& sizes)
        : normed(allocator, sizes.tokens * sizes.hidden * kElementBytes),
          chosen(allocator, sizes.pairs * sizeof(int32_t)), weights(allocator, sizes.pairs * sizeof(float)) {}
    const int32_t* experts() const { return static_cast<const int32_t*>(chosen.data()); }
    const float* factors() const { return static_cast<const float*>(weights.data()); }
    const Scratch normed, chosen, weights;
  };

  // The outputs' place, k of each token, and the stream.
  OrtStatus* begin(const Call& call, const Tensor& h, void** out, void** stream) const {
    Shape shape = h.shape;
    shape.insert(shape.end() - 1, k_);
    QWEN3VL_RETURN_IF_ERROR(call.output(0, shape, out));
    return call.stream(stream);
  }

  int route(const Routed& routed, int32_t* counters, int counter_count, const Sizes& sizes, const Tensor& h,
            const Tensor& norm, const Tensor& router, void* stream) const {
    return qwen3vl_router(routed.normed.data(), static_cast<int32_t*>(routed.chosen.data()),
                          static_cast<float*>(routed.weights.data()), counters, counter_count, h.data,
                          norm.data, router.data, static_cast<int>(sizes.tokens),
                          static_cast<int>(sizes.hidden), static_cast<int>(sizes.experts), k_, epsilon_, type_, stream);
  }

  OrtStatus* without_memory(const Call& call, const Sizes& sizes) const {
    return call.error("no GPU memory for " + std::to_string(sizes.tokens) + " tokens");
  }

  int k_ = 0;
  float epsilon_ = 0.f;
};

}  // namespace qwen3vl
