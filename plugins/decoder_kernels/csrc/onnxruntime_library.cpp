// The kernels as operators of ONNX Runtime's CUDA provider: a library for SessionOptions.register_custom_ops_library.
//
// plugins/decoder_kernels/operators.py defines the operators. They take one step of many sequences or a chunk of one
// sequence, for which products, attention and experts have other kernels.
#include "add_norm_operator.h"
#include "cached_attention_operator.h"
#include "int4_operators.h"
#include "product_operators.h"
#include "routed_experts_operator.h"
#include "step_ends_operators.h"

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace qwen3vl;
  return register_kernels<StepInputs, DeepstackAdd, InputNorm, RowProduct, RowProductAdd, RowLogits, AddNorm,
                          RoutedExperts, CachedAttention, Int4RowProduct, Int4RowProductAdd, Int4RoutedExperts,
                          WantedNorm, Int8RowLogits, TopLogits>(options, base);
}
