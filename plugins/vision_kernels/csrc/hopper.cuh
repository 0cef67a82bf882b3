// The instructions of compute capability 9.0 that the kernels use.
#pragma once

#include <cstdint>

namespace qwen3vl {

constexpr int kWarp = 32;
constexpr int kWarpgroup = 128;

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// An mbarrier in shared memory. A phase ends when `count` threads have arrived and all announced bytes are there.
struct Barrier {
  std::uint64_t state;

  __device__ __forceinline__ void initialise(int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(count));
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  __device__ __forceinline__ void arrive_and_expect(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                 : "memory");
  }
  __device__ __forceinline__ void wait(int parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "AGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra DONE;\nbra AGAIN;\nDONE:\n}\n" ::"r"(shared_address(this)), "r"(parity)
        : "memory");
  }
  // Copy `bytes`, a multiple of 16, from global to shared memory; they count as announced to this barrier.
  __device__ __forceinline__ void copy(void* target, const void* source, int bytes) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(target)), "l"(source), "r"(bytes), "r"(shared_address(this))
                 : "memory");
  }
};

// Where in a ring of `stages` buffers a thread is, and the parity of that buffer's current round.
template <int stages>
struct Ring {
  int stage = 0, parity = 0;

  __device__ __forceinline__ Ring next() const {
    return stage + 1 == stages ? Ring{0, parity ^ 1} : Ring{stage + 1, parity};
  }
};

// The barriers 0 to 15 of a thread block; 0 is __syncthreads's.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void mma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void mma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Wait until at most `pending` of the committed groups of products are under way.
template <int pending>
__device__ __forceinline__ void mma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// Registers that running products read or write: the compiler keeps what is done with them after this line there.
template <int n>
__device__ __forceinline__ void settle(float (&values)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(values[i])::"memory");
}
template <int n>
__device__ __forceinline__ void settle(std::uint32_t (&values)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+r"(values[i])::"memory");
}

// A matrix in shared memory for wgmma, without swizzle: 8 x 8 blocks of 128 bytes, `leading` bytes apart along the
// products' inner dimension and `stride` bytes apart along the other. (For the matrix that is read transposed, too.)
__device__ __forceinline__ std::uint64_t matrix(std::uint32_t address, int leading, int stride) {
  return static_cast<std::uint64_t>((address & 0x3FFFF) >> 4) | static_cast<std::uint64_t>(leading >> 4) << 16 |
         static_cast<std::uint64_t>(stride >> 4) << 32;
}

// 2^x, relative error 2^-22.
__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace qwen3vl
