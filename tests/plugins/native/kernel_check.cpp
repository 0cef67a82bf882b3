// The kernel library against exact expected outputs on a GPU. Usage: kernel_check [cases] [seed]

#include "device_case.h"

namespace {

int call(const check::Shape& shape, const check::Operands& x) {
  return qwen3vl_deepstack_add(x.out, x.hidden, x.token_ids, x.visual_rows, shape.tokens, shape.hidden_size,
                               shape.row_count, shape.level, shape.vocab_size, shape.type, shape.rows_type(), x.stream);
}

// Captures the call into a graph and replays that: a call that synchronised or allocated could not be captured.
int call_by_graph(const check::Shape& shape, const check::Operands& x) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check::require_cuda(cudaStreamBeginCapture(x.stream, cudaStreamCaptureModeGlobal), "begin capture");
  const int status = call(shape, x);
  check::require_cuda(cudaStreamEndCapture(x.stream, &graph), "end capture");
  check::require_cuda(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  check::require_cuda(cudaGraphLaunch(executable, x.stream), "launch");
  check::require_cuda(cudaStreamSynchronize(x.stream), "replay");
  check::require_cuda(cudaGraphExecDestroy(executable), "destroy executable");
  check::require_cuda(cudaGraphDestroy(graph), "destroy graph");
  return status;
}

void check_refusals() {
  alignas(16) char memory[16] = {};
  std::int32_t ids[1] = {};
  const auto status = [&](void* out, std::int64_t tokens, int type) {
    return qwen3vl_deepstack_add(out, memory, ids, nullptr, tokens, 4, 0, 0, 100, type, type, nullptr);
  };
  check::require(status(memory, 1, 7) == cudaErrorInvalidValue, "type 7 is refused");
  check::require(status(nullptr, 1, QWEN3VL_FLOAT32) == cudaErrorInvalidValue, "a null output is refused");
  check::require(status(memory, -1, QWEN3VL_FLOAT32) == cudaErrorInvalidValue, "a negative size is refused");
  check::require(status(nullptr, 0, QWEN3VL_FLOAT32) == cudaSuccess, "no tokens are no work");
}

}  // namespace

int main(int count, char** arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 300;
  std::mt19937_64 random(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1);
  cudaStream_t stream;
  check::require_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  check_refusals();
  for (int i = 0; i < cases; ++i) {
    check::Shape shape = check::random_shape(random);
    shape.wide_rows = i % 3 == 0;
    check::run_case(shape, random, i % 8 == 0 ? call_by_graph : call, stream);
  }
  check::require_cuda(cudaStreamDestroy(stream), "destroy the stream");
  std::printf("kernel: %d random cases exact\n", cases);
  return 0;
}
