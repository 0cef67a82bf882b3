// The two matrix products of attention, one warpgroup's part of 64 rows: 16 dimensions or keys an instruction.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace qwen3vl {

// scores (+)= query tile x key tile of 128: both in shared memory, as `matrix` describes them.
template <typename T>
__device__ void score_product(float (&scores)[64], std::uint64_t query, std::uint64_t key, bool accumulate);

// mixed += weights x value tile: weights in registers, [64 x 16] as four pairs a thread; values in shared memory.
template <typename T>
__device__ void value_product(float (&mixed)[36], const std::uint32_t* weights, std::uint64_t value);
template <typename T>
__device__ void value_product(float (&mixed)[32], const std::uint32_t* weights, std::uint64_t value);

#define QWEN3VL_4(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3])
#define QWEN3VL_16(x, i) QWEN3VL_4(x, i), QWEN3VL_4(x, i + 4), QWEN3VL_4(x, i + 8), QWEN3VL_4(x, i + 12)
#define QWEN3VL_32(x) QWEN3VL_16(x, 0), QWEN3VL_16(x, 16)
#define QWEN3VL_36(x) QWEN3VL_32(x), QWEN3VL_4(x, 32)
#define QWEN3VL_64(x) QWEN3VL_32(x), QWEN3VL_16(x, 32), QWEN3VL_16(x, 48)

#define QWEN3VL_SCORE_PRODUCT(T, type)                                                                                 \
  template <>                                                                                                          \
  __device__ __forceinline__ void score_product<T>(float (&d)[64], std::uint64_t query, std::uint64_t key,             \
                                                   bool accumulate) {                                                  \
    asm volatile(                                                                                                      \
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                                                   \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {"                                              \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                       \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                             \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                             \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                               \
        "}, %64, %65, p, 1, 1, 0, 0;\n}\n"                                                                             \
        : QWEN3VL_64(d)                                                                                                \
        : "l"(query), "l"(key), "r"(static_cast<int>(accumulate)));                                                    \
  }

#define QWEN3VL_VALUE_PRODUCT_72(T, type)                                                                              \
  template <>                                                                                                          \
  __device__ __forceinline__ void value_product<T>(float (&d)[36], const std::uint32_t* a, std::uint64_t value) {      \
    asm volatile(                                                                                                      \
        "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                                                     \
        "wgmma.mma_async.sync.aligned.m64n72k16.f32." type "." type " {"                                               \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                       \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                             \
        "%32, %33, %34, %35"                                                                                           \
        "}, {%36, %37, %38, %39}, %40, p, 1, 1, 1;\n}\n"                                                               \
        : QWEN3VL_36(d)                                                                                                \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(value));                                                     \
  }

#define QWEN3VL_VALUE_PRODUCT_64(T, type)                                                                              \
  template <>                                                                                                          \
  __device__ __forceinline__ void value_product<T>(float (&d)[32], const std::uint32_t* a, std::uint64_t value) {      \
    asm volatile(                                                                                                      \
        "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                                                     \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {"                                               \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                       \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"                               \
        "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}\n"                                                               \
        : QWEN3VL_32(d)                                                                                                \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(value));                                                     \
  }

QWEN3VL_SCORE_PRODUCT(__half, "f16")
QWEN3VL_SCORE_PRODUCT(__nv_bfloat16, "bf16")
QWEN3VL_VALUE_PRODUCT_72(__half, "f16")
QWEN3VL_VALUE_PRODUCT_72(__nv_bfloat16, "bf16")
QWEN3VL_VALUE_PRODUCT_64(__half, "f16")
QWEN3VL_VALUE_PRODUCT_64(__nv_bfloat16, "bf16")

#undef QWEN3VL_SCORE_PRODUCT
#undef QWEN3VL_VALUE_PRODUCT_72
#undef QWEN3VL_VALUE_PRODUCT_64
#undef QWEN3VL_64
#undef QWEN3VL_36
#undef QWEN3VL_32
#undef QWEN3VL_16
#undef QWEN3VL_4

}  // namespace qwen3vl
