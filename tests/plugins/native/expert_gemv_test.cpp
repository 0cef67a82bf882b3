// The experts' kernel of one token with weights of 4 bits, run by the emulation, beside sums in double precision.
#include "expert_case.h"
#include "expect.h"

#include "expert_gemv.cuh"

namespace {

// All thread blocks at once, as they wait for each other.
template <typename T, int kBlock>
void check(const char* name, const std::vector<int>& chosen) {
  const int k = static_cast<int>(chosen.size());
  ExpertCase<Int4Rows<T, kBlock>> experts(1, k, chosen);
  const ExpertArguments arguments = experts.arguments();
  const auto blocks = static_cast<unsigned>(k * kExpertBlocks);
  emulation::launch(dim3(blocks), kStreamThreads, sizeof(typename ExpertGemvShape<T, kBlock>::Shared), blocks,
                    [&] { expert_gemv_kernel<T, kBlock>(arguments); });
  experts.error().report(name, 1, 1, kLargestError<T>);
}

}  // namespace

int main() {
  EXPECT(takes_expert_gemv(1, 8, 132) && takes_expert_gemv(1, 8, 128));
  EXPECT(!takes_expert_gemv(1, 8, 127));  // they could not all be resident
  EXPECT(!takes_expert_gemv(1, 9, 1000) && !takes_expert_gemv(2, 8, 132));
  check<Bfloat16, 128>("bfloat16, blocks of 128", {3, 1});
  check<Float16, 128>("float16, blocks of 128", {2});
  check<Bfloat16, 64>("bfloat16, blocks of 64", {0});
  check<Float16, 64>("float16, blocks of 64", {1, 1});  // an expert twice
  check<Bfloat16, 32>("bfloat16, blocks of 32", {2, 0});
  check<Float16, 32>("float16, blocks of 32", {3});
  return all_right ? 0 : 1;
}
