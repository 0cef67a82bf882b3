// The products' and experts' kernels of a decode step, run by the emulation, beside sums in double precision.
#include "expert_case.h"

#include "experts.cuh"
#include "product.cuh"

namespace {

template <typename Rows, int kInnerSize, int kHalves, bool kDeep = false, typename Out = typename Rows::Value>
void check_product(const char* name, int tokens, int rows) {
  using T = typename Rows::Value;
  using Shape = ProductShape<Rows, kInnerSize, kHalves, kDeep>;
  Weights<Rows> weights(rows, kInnerSize);
  auto x = activations<T>(static_cast<std::size_t>(tokens) * kInnerSize);
  constexpr bool kAdds = std::is_same_v<T, Out>;  // float32 outputs have no residual
  auto residual = activations<T>(static_cast<std::size_t>(tokens) * rows);
  auto out = Array<Out>::of(static_cast<std::size_t>(tokens) * rows, [](std::size_t) { return Out(NAN); });
  const ProductArguments arguments{out.data(), x.data(), kAdds ? residual.data() : nullptr, weights.rows(), tokens,
                                   rows, weights.extra()};
  const dim3 blocks(2, static_cast<unsigned>(groups_of(tokens, kHalves * kHalfTile)));
  emulation::launch(blocks, kStreamThreads, sizeof(typename Shape::Memory), 1,
                    [&] { product_kernel<Rows, Out, kInnerSize, kHalves, kDeep>(arguments); });
  Error error;
  for (int token = 0; token < tokens; ++token) {
    for (int row = 0; row < rows; ++row) {
      double sum = kAdds ? static_cast<float>(residual[token * rows + row]) : 0.0;
      for (int k = 0; k < kInnerSize; ++k) {
        sum += static_cast<float>(x[static_cast<std::size_t>(token) * kInnerSize + k]) * weights.at(row, k);
      }
      error.add(static_cast<float>(out[token * rows + row]), sum);
    }
  }
  error.report(name, kHalves, tokens, kLargestError<Out>);
}

template <typename Rows, int kHalves, bool kFew>
void check_experts(const char* name, int tokens, int k) {
  using Shape = ExpertShape<Rows, kHalves, kFew>;
  std::vector<int> chosen;  // of a token all differ; with one each, only every second expert is used
  for (int token = 0; token < tokens; ++token) {
    for (int choice = 0; choice < k; ++choice) {
      chosen.push_back(k == 1 ? token % 3 / 2 * 2 : (token + 2 * choice + 1) % 4);
    }
  }
  ExpertCase<Rows> experts(tokens, k, chosen);
  const ExpertArguments arguments = experts.arguments();
  emulation::launch(dim3(2), kStreamThreads, sizeof(typename Shape::Shared), 2,
                    [&] { experts_kernel<Rows, kHalves, kFew>(arguments); });
  experts.error().report(name, kHalves, tokens, kLargestError<typename Rows::Value>);
}

}  // namespace

int main() {
  check_product<WideRows<Bfloat16>, 2048, 1>("product, bfloat16", 3, 48);
  check_product<WideRows<Float16>, 2048, 2>("product, float16", 13, 48);
  check_product<WideRows<Bfloat16>, 4096, 1>("product of long rows, bfloat16", 2, 80);
  check_product<WideRows<Float16>, 4096, 1, true>("product of long rows, float16", 8, 80);
  check_product<Int4Rows<Bfloat16, 128>, 2048, 1>("product, bfloat16, blocks of 128", 8, 240);
  check_product<Int4Rows<Float16, 64>, 2048, 1>("product, float16, blocks of 64", 5, 80);
  check_product<Int4Rows<Bfloat16, 128>, 4096, 1>("product of long rows, bfloat16, blocks of 128", 7, 80);
  check_product<Int4Rows<Float16, 32>, 4096, 2>("product of long rows, float16, blocks of 32", 13, 48);
  check_product<Int4Rows<Bfloat16, 128>, 2048, 4>("product, bfloat16, blocks of 128", 45, 48);
  check_product<WideRows<Bfloat16>, 2048, 1, false, float>("logits, bfloat16", 3, 48);
  check_product<Int8Rows<Bfloat16, 128>, 2048, 1, false, float>("logits, bfloat16, 8 bits, blocks of 128", 3, 240);
  check_product<Int8Rows<Float16, 64>, 2048, 2, false, float>("logits, float16, 8 bits, blocks of 64", 13, 80);
  check_product<Int8Rows<Bfloat16, 32>, 2048, 4, false, float>("logits, bfloat16, 8 bits, blocks of 32", 37, 48);
  check_experts<WideRows<Bfloat16>, 1, true>("experts, bfloat16", 2, 1);
  check_experts<WideRows<Float16>, 1, true>("experts, float16", 3, 1);
  check_experts<Int4Rows<Bfloat16, 128>, 1, true>("experts, bfloat16, blocks of 128", 2, 2);
  check_experts<Int4Rows<Float16, 128>, 1, false>("experts, float16, blocks of 128", 11, 1);
  check_experts<Int4Rows<Bfloat16, 64>, 2, false>("experts, bfloat16, blocks of 64", 5, 1);
  check_experts<Int4Rows<Bfloat16, 32>, 1, false>("experts, bfloat16, blocks of 32", 4, 1);
  check_experts<WideRows<Bfloat16>, 2, false>("experts of many, bfloat16", 19, 1);
  check_experts<WideRows<Float16>, 4, false>("experts of many, float16", 37, 1);
  return all_right ? 0 : 1;
}
