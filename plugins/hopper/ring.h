// Buffers in shared memory that are filled and emptied in turn. Plain C++, for host and device.
#pragma once

#ifdef __CUDACC__
#define QWEN3VL_RING_FUNCTION __host__ __device__ constexpr
#else
#define QWEN3VL_RING_FUNCTION constexpr
#endif

namespace qwen3vl {

// Where in a ring of `stages` buffers a thread is, and the parity of that buffer's current round.
template <int stages>
struct Ring {
  int stage = 0, parity = 0;

  QWEN3VL_RING_FUNCTION Ring next() const {
    return stage + 1 == stages ? Ring{0, parity ^ 1} : Ring{stage + 1, parity};
  }
};

}  // namespace qwen3vl
