// out = x W^T [+ residual] for many tokens, by cuBLASLt.
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

#include "decoder_kernels.h"

namespace qwen3vl {
namespace {

cudaError_t cuda_error(cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) return cudaSuccess;
  const bool sizes = status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE;
  return sizes ? cudaErrorInvalidValue : cudaErrorUnknown;
}

// What the choice of an algorithm depends on.
struct Problem {
  int tokens, rows, inner, type;
  bool wide_out, adds;
  std::uint32_t alignment;  // bytes, of all arrays
  int workspace_bytes;

  bool operator<(const Problem& other) const { return tied() < other.tied(); }

 private:
  std::tuple<int, int, int, int, bool, bool, std::uint32_t, int> tied() const {
    return {tokens, rows, inner, type, wide_out, adds, alignment, workspace_bytes};
  }
};

// cuBLASLt counts columns first: to it, this is out' [rows, tokens] = weights'' [rows, inner] x' [inner, tokens], with
// the weights transposed.
struct Plan {
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t weights, x, out;
  cublasLtMatmulAlgo_t algorithm;

  cublasStatus_t make(cublasLtHandle_t handle, const Problem& problem) {
    const cudaDataType_t type = problem.type == QWEN3VL_BFLOAT16 ? CUDA_R_16BF : CUDA_R_16F;
    const cudaDataType_t out_type = problem.wide_out ? CUDA_R_32F : type;
    const auto tokens = static_cast<std::uint64_t>(problem.tokens), rows = static_cast<std::uint64_t>(problem.rows);
    const auto inner = static_cast<std::uint64_t>(problem.inner);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const auto workspace = static_cast<std::uint64_t>(problem.workspace_bytes);
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    cublasStatus_t status = cublasLtMatmulDescInit(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const auto then = [&](auto&& call) {
      if (status == CUBLAS_STATUS_SUCCESS) status = call();
    };
    then([&] {
      return cublasLtMatmulDescSetAttribute(&product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
    });
    then([&] { return cublasLtMatrixLayoutInit(&weights, type, inner, rows, problem.inner); });
    then([&] { return cublasLtMatrixLayoutInit(&x, type, inner, tokens, problem.inner); });
    then([&] { return cublasLtMatrixLayoutInit(&out, out_type, rows, tokens, problem.rows); });
    then([&] { return cublasLtMatmulPreferenceInit(&preference); });
    then([&] {
      return cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                  sizeof(workspace));
    });
    for (const auto alignment :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      then([&] {
        return cublasLtMatmulPreferenceSetAttribute(&preference, alignment, &problem.alignment,
                                                    sizeof(problem.alignment));
      });
    }
    then([&] {
      return cublasLtMatmulAlgoGetHeuristic(handle, &product, &weights, &x, &out, &out, &preference, 1, &found,
                                            &count);
    });
    if (status == CUBLAS_STATUS_SUCCESS && count == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
    algorithm = found.algo;
    return status;
  }
};

// Of one device. Lives as long as the process: CUDA may be gone before static objects are.
class Products {
 public:
  static cublasStatus_t of_this_device(Products** products) {
    static auto* of_devices = new std::map<int, Products>();
    static std::mutex mutex;
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return CUBLAS_STATUS_NOT_INITIALIZED;
    const std::lock_guard lock(mutex);
    *products = &(*of_devices)[device];
    return (*products)->handle_ != nullptr ? CUBLAS_STATUS_SUCCESS : cublasLtCreate(&(*products)->handle_);
  }

  cublasLtHandle_t handle() const { return handle_; }

  // A plan stays where it is and as it is, though cuBLASLt takes it through pointers that are not const.
  cublasStatus_t plan(const Problem& problem, Plan** plan) {
    const std::lock_guard lock(mutex_);
    const auto [at, fresh] = plans_.try_emplace(problem);
    *plan = &at->second;
    const cublasStatus_t status = fresh ? at->second.make(handle_, problem) : CUBLAS_STATUS_SUCCESS;
    if (status != CUBLAS_STATUS_SUCCESS) plans_.erase(at);
    return status;
  }

 private:
  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;
  std::map<Problem, Plan> plans_;
};

std::uint32_t common_alignment(const void* a, const void* b, const void* c, const void* d) {
  const auto bits = reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b) |
                    reinterpret_cast<std::uintptr_t>(c) | reinterpret_cast<std::uintptr_t>(d);
  return bits % 256 == 0 ? 256 : 16;
}

}  // namespace
}  // namespace qwen3vl

int qwen3vl_prepare_prefill_product(void) {
  qwen3vl::Products* products = nullptr;
  return qwen3vl::cuda_error(qwen3vl::Products::of_this_device(&products));
}

int qwen3vl_prefill_product(void* out, const void* x, const void* residual, const void* weights, int tokens, int rows,
                            int inner, int type, int wide_out, void* workspace, int workspace_bytes, void* stream) {
  using namespace qwen3vl;
  if (tokens < 1 || rows < 1 || rows % 8 != 0 || inner < 1 || inner % 8 != 0 || workspace_bytes < 0 ||
      (type != QWEN3VL_BFLOAT16 && type != QWEN3VL_FLOAT16) || (wide_out != 0 && residual != nullptr)) {
    return cudaErrorInvalidValue;
  }
  Products* products = nullptr;
  Plan* plan = nullptr;
  cublasStatus_t status = Products::of_this_device(&products);
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = products->plan({tokens, rows, inner, type, wide_out != 0, residual != nullptr,
                             common_alignment(out, x, residual, weights), workspace_bytes},
                            &plan);
  }
  if (status != CUBLAS_STATUS_SUCCESS) return cuda_error(status);
  const float one = 1.f, of_residual = residual == nullptr ? 0.f : 1.f;
  status = cublasLtMatmul(products->handle(), &plan->product, &one, weights, &plan->weights, x, &plan->x, &of_residual,
                          residual == nullptr ? out : residual, &plan->out, out, &plan->out, &plan->algorithm,
                          workspace, static_cast<std::size_t>(workspace_bytes), static_cast<cudaStream_t>(stream));
  return cuda_error(status);
}
