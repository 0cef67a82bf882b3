// Matrix products of a warpgroup: 64 rows by 16 of the inner dimension an instruction, float32 sums.
//
// A thread has two rows of the sums (8 apart), of each every fourth pair of columns: element 4 j + 2 r + e is column
// 8 j + 2 (lane % 4) + e of row lane / 4 + 8 r of its warp's 16. Rounded in pairs, in that order, four registers hold a
// [16 x 16] matrix as `multiply_registers` reads it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "matrix_layout.h"

namespace qwen3vl {

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

// sums (+)= a b': a [64 x 16] and b [2 n x 16] in shared memory, both with rows along the inner dimension, as their
// descriptors say (matrix_layout.h).
template <typename T, int n>
__device__ void multiply_shared(float (&sums)[n], std::uint64_t a, std::uint64_t b, bool accumulate);

// sums += a b: a [64 x 16] in registers, four pairs a thread; b [16 x 2 n] in shared memory, its rows along the outer
// dimension.
template <typename T, int n>
__device__ void multiply_registers(float (&sums)[n], const std::uint32_t* a, std::uint64_t b);

#define QWEN3VL_4(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3])
#define QWEN3VL_16(x, i) QWEN3VL_4(x, i), QWEN3VL_4(x, i + 4), QWEN3VL_4(x, i + 8), QWEN3VL_4(x, i + 12)
#define QWEN3VL_32(x, i) QWEN3VL_16(x, i), QWEN3VL_16(x, i + 16)
#define QWEN3VL_SUMS_16(x) QWEN3VL_16(x, 0)
#define QWEN3VL_SUMS_32(x) QWEN3VL_32(x, 0)
#define QWEN3VL_SUMS_36(x) QWEN3VL_32(x, 0), QWEN3VL_4(x, 32)
#define QWEN3VL_SUMS_48(x) QWEN3VL_32(x, 0), QWEN3VL_16(x, 32)
#define QWEN3VL_SUMS_64(x) QWEN3VL_32(x, 0), QWEN3VL_32(x, 32)
#define QWEN3VL_SUMS_80(x) QWEN3VL_SUMS_64(x), QWEN3VL_16(x, 64)
#define QWEN3VL_SUMS_128(x) QWEN3VL_SUMS_64(x), QWEN3VL_32(x, 64), QWEN3VL_32(x, 96)

#define QWEN3VL_NAMES_16                                                 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define QWEN3VL_NAMES_32                                                             \
  QWEN3VL_NAMES_16                                                                   \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define QWEN3VL_NAMES_36 QWEN3VL_NAMES_32 ", %32, %33, %34, %35"
#define QWEN3VL_NAMES_48                                                             \
  QWEN3VL_NAMES_32                                                                   \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define QWEN3VL_NAMES_64                                                             \
  QWEN3VL_NAMES_48                                                                   \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define QWEN3VL_NAMES_80                                                             \
  QWEN3VL_NAMES_64                                                                   \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define QWEN3VL_NAMES_128                                                                            \
  QWEN3VL_NAMES_80                                                                                   \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"                 \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"     \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// `columns` is 2 n; `a`, `b` and so on are the numbers of the operands behind the n sums.
#define QWEN3VL_MULTIPLY_SHARED(T, type, n, columns, a, b, accumulating)                                             \
  template <>                                                                                                        \
  __device__ __forceinline__ void multiply_shared<T, n>(float (&d)[n], std::uint64_t first, std::uint64_t second,    \
                                                        bool accumulate) {                                           \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " accumulating ", 0;\n"                                           \
                 "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" QWEN3VL_NAMES_##n "}, " a \
                 ", " b ", p, 1, 1, 0, 0;\n}\n"                                                                      \
                 : QWEN3VL_SUMS_##n(d)                                                                               \
                 : "l"(first), "l"(second), "r"(static_cast<int>(accumulate)));                                      \
  }

#define QWEN3VL_MULTIPLY_REGISTERS(T, type, n, columns, a0, a1, a2, a3, b)                                      \
  template <>                                                                                                   \
  __device__ __forceinline__ void multiply_registers<T, n>(float (&d)[n], const std::uint32_t* a,               \
                                                           std::uint64_t second) {                              \
    asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                                     \
                 "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" QWEN3VL_NAMES_##n    \
                 "}, {" a0 ", " a1 ", " a2 ", " a3 "}, " b ", p, 1, 1, 1;\n}\n"                                 \
                 : QWEN3VL_SUMS_##n(d)                                                                          \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(second));                                    \
  }

#define QWEN3VL_PRODUCTS(T, type)                                                             \
  QWEN3VL_MULTIPLY_SHARED(T, type, 16, "32", "%16", "%17", "%18")                             \
  QWEN3VL_MULTIPLY_SHARED(T, type, 32, "64", "%32", "%33", "%34")                             \
  QWEN3VL_MULTIPLY_SHARED(T, type, 48, "96", "%48", "%49", "%50")                             \
  QWEN3VL_MULTIPLY_SHARED(T, type, 64, "128", "%64", "%65", "%66")                            \
  QWEN3VL_MULTIPLY_SHARED(T, type, 80, "160", "%80", "%81", "%82")                            \
  QWEN3VL_MULTIPLY_SHARED(T, type, 128, "256", "%128", "%129", "%130")                        \
  QWEN3VL_MULTIPLY_REGISTERS(T, type, 32, "64", "%32", "%33", "%34", "%35", "%36")            \
  QWEN3VL_MULTIPLY_REGISTERS(T, type, 36, "72", "%36", "%37", "%38", "%39", "%40")            \
  QWEN3VL_MULTIPLY_REGISTERS(T, type, 64, "128", "%64", "%65", "%66", "%67", "%68")

QWEN3VL_PRODUCTS(__half, "f16")
QWEN3VL_PRODUCTS(__nv_bfloat16, "bf16")

#undef QWEN3VL_PRODUCTS
#undef QWEN3VL_MULTIPLY_SHARED
#undef QWEN3VL_MULTIPLY_REGISTERS
#undef QWEN3VL_NAMES_16
#undef QWEN3VL_NAMES_32
#undef QWEN3VL_NAMES_36
#undef QWEN3VL_NAMES_48
#undef QWEN3VL_NAMES_64
#undef QWEN3VL_NAMES_80
#undef QWEN3VL_NAMES_128
#undef QWEN3VL_SUMS_16
#undef QWEN3VL_SUMS_32
#undef QWEN3VL_SUMS_36
#undef QWEN3VL_SUMS_48
#undef QWEN3VL_SUMS_64
#undef QWEN3VL_SUMS_80
#undef QWEN3VL_SUMS_128
#undef QWEN3VL_32
#undef QWEN3VL_16
#undef QWEN3VL_4

}  // namespace qwen3vl
