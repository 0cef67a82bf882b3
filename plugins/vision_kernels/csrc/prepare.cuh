// Bias and rotary embedding, and the result written as tiles.
#pragma once

#include "elements.cuh"
#include "tiles.h"

namespace qwen3vl {

constexpr int kPrepareRows = 64;  // patches of a thread block: a query tile, half a key tile
constexpr int kPrepareThreads = 256;

// One thread block takes kPrepareRows patches of one (head, frame). `factor` scales the queries: log2(e) / sqrt(kHead),
// so that attention's exponentials are powers of two. Rows beyond the last patch become zeros.
template <typename T, int kHead>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare(T* __restrict__ query_tiles, T* __restrict__ key_tiles, T* __restrict__ value_tiles,
            const T* __restrict__ qkv, const T* __restrict__ bias, const float* __restrict__ cosines,
            const float* __restrict__ sines, int patches, int heads, int query_tile_count, int key_tile_count,
            float factor) {
  constexpr int kVectors = kHead / kChunk, kHalf = kHead / 2, kQuads = kHalf / 4;
  static_assert(kHalf % 4 == 0 && kPrepareRows == kQueryRows && kKeyRows % kPrepareRows == 0);
  __shared__ __align__(16) T rows[3][kPrepareRows][kHead];
  __shared__ __align__(16) float angles[2][kPrepareRows][kHalf];
  const int head = blockIdx.y, frame = blockIdx.z, first = blockIdx.x * kPrepareRows, there = patches - first;
  const int hidden = heads * kHead;

  // All loads of a thread are on their way before the first is needed.
  const T* source = qkv + (static_cast<std::int64_t>(frame) * patches + first) * 3 * hidden + head * kHead;
  constexpr int kLoads = kPrepareRows * 3 * kVectors, kAngleLoads = 2 * kPrepareRows * kQuads;
  int4 loaded[ceil_div(kLoads, kPrepareThreads)];
  float4 angle[ceil_div(kAngleLoads, kPrepareThreads)];
#pragma unroll
  for (int k = 0; k < ceil_div(kLoads, kPrepareThreads); ++k) {
    const int i = threadIdx.x + k * kPrepareThreads, row = i / (3 * kVectors), part = i / kVectors % 3;
    loaded[k] = make_int4(0, 0, 0, 0);
    if (i < kLoads && row < there)
      loaded[k] = __ldg(reinterpret_cast<const int4*>(source + (static_cast<std::int64_t>(row) * 3 + part) * hidden) +
                        i % kVectors);
  }
#pragma unroll
  for (int k = 0; k < ceil_div(kAngleLoads, kPrepareThreads); ++k) {
    const int i = threadIdx.x + k * kPrepareThreads, row = i % (kPrepareRows * kQuads) / kQuads;
    const float* table = i < kPrepareRows * kQuads ? cosines : sines;
    if (i < kAngleLoads && row < there)
      angle[k] = __ldg(reinterpret_cast<const float4*>(table + static_cast<std::int64_t>(first + row) * kHalf) +
                       i % kQuads);
  }
#pragma unroll
  for (int k = 0; k < ceil_div(kLoads, kPrepareThreads); ++k) {
    const int i = threadIdx.x + k * kPrepareThreads;
    if (i < kLoads) reinterpret_cast<int4*>(rows[i / kVectors % 3][i / (3 * kVectors)])[i % kVectors] = loaded[k];
  }
#pragma unroll
  for (int k = 0; k < ceil_div(kAngleLoads, kPrepareThreads); ++k) {
    const int i = threadIdx.x + k * kPrepareThreads;
    if (i < kAngleLoads) reinterpret_cast<float4*>(angles)[i] = angle[k];
  }
  __syncthreads();

  // Queries and keys: four dimensions and their partners a thread, in place.
  const int row = threadIdx.x % kPrepareRows;
  for (int i = threadIdx.x / kPrepareRows; i < 2 * kQuads && row < there; i += kPrepareThreads / kPrepareRows) {
    const int part = i / kQuads, quad = i % kQuads;
    const T* part_bias = bias + part * hidden + head * kHead + 4 * quad;
    uint2* lows = reinterpret_cast<uint2*>(rows[part][row] + 4 * quad);
    uint2* highs = reinterpret_cast<uint2*>(rows[part][row] + 4 * quad + kHalf);
    const float4 cosine = reinterpret_cast<const float4*>(angles[0][row])[quad];
    const float4 sine = reinterpret_cast<const float4*>(angles[1][row])[quad];
    const float scale = part == 0 ? factor : 1.0f;
    const auto turn = [&](std::uint32_t& low, std::uint32_t& high, int d, float c0, float s0, float c1, float s1) {
      const float2 low_bias = unpack<T>(__ldg(reinterpret_cast<const std::uint32_t*>(part_bias + d)));
      const float2 high_bias = unpack<T>(__ldg(reinterpret_cast<const std::uint32_t*>(part_bias + d + kHalf)));
      float2 a = unpack<T>(low), b = unpack<T>(high);
      a.x += low_bias.x, a.y += low_bias.y, b.x += high_bias.x, b.y += high_bias.y;
      low = pack<T>((a.x * c0 - b.x * s0) * scale, (a.y * c1 - b.y * s1) * scale);
      high = pack<T>((b.x * c0 + a.x * s0) * scale, (b.y * c1 + a.y * s1) * scale);
    };
    uint2 low = *lows, high = *highs;
    turn(low.x, high.x, 0, cosine.x, sine.x, cosine.y, sine.y);
    turn(low.y, high.y, 2, cosine.z, sine.z, cosine.w, sine.w);
    *lows = low, *highs = high;
  }
  __syncthreads();

  // Rows of 16 bytes of neighbouring patches are neighbours in a tile.
  const std::int64_t frame_head = static_cast<std::int64_t>(frame) * heads + head;
  constexpr int kScore = score_chunks(kHead), kValue = value_chunks(kHead);
  T* query = query_tiles + tile_offset(frame_head, first + row, query_tile_count, kQueryRows, kScore);
  T* key = key_tiles + tile_offset(frame_head, first + row, key_tile_count, kKeyRows, kScore);
  T* value = value_tiles + tile_offset(frame_head, first + row, key_tile_count, kKeyRows, kValue);
  const bool has_query = first < query_tile_count * kQueryRows;
  for (int chunk = threadIdx.x / kPrepareRows; chunk < kScore; chunk += kPrepareThreads / kPrepareRows) {
    int4 q = make_int4(0, 0, 0, 0), k = q, v = q;
    if (chunk < kVectors) {
      q = reinterpret_cast<const int4*>(rows[0][row])[chunk];
      k = reinterpret_cast<const int4*>(rows[1][row])[chunk];
      if (row < there) {
        Eight x = Eight::from<T>(reinterpret_cast<const int4*>(rows[2][row])[chunk]);
        const Eight b = Eight::from<T>(
            __ldg(reinterpret_cast<const int4*>(bias + 2 * hidden + head * kHead) + chunk));
#pragma unroll
        for (int e = 0; e < kChunk; ++e) x.x[e] += b.x[e];
        v = x.packed<T>();
      }
      *reinterpret_cast<int4*>(value + chunk * kKeyRows * kChunk) = v;
    }
    if (has_query) *reinterpret_cast<int4*>(query + chunk * kQueryRows * kChunk) = q;
    *reinterpret_cast<int4*>(key + chunk * kKeyRows * kChunk) = k;
  }
}

}  // namespace qwen3vl
