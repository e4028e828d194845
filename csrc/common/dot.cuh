// SPDX-License-Identifier: MIT OR Apache-2.0
// The one order in which rows are multiplied: lane l of 8 chains its products over the elements
// 64 j + 8 l + e, j and then e ascending, from 0 on; then lanes are added in a tree, 4, 2 and 1
// apart. In Rust `number::dot`.
#ifndef LACUNA_COMMON_DOT_CUH_
#define LACUNA_COMMON_DOT_CUH_

#include "kernel.cuh"

constexpr uint32_t kDotLanes = 8;

// All 8 lanes of a group get the sum.
__device__ __forceinline__ float add_over_lanes(float value) {
#pragma unroll
  for (uint32_t apart = kDotLanes / 2; apart > 0; apart /= 2) {
    value = __fadd_rn(value, __shfl_xor_sync(0xFFFFFFFFu, value, apart));
  }
  return value;
}

// Of the first `2 * kHalf` values a lane keeps half, and gives the other half to the lane `kApart`
// away.
template <uint32_t N, uint32_t kHalf, uint32_t kApart>
__device__ __forceinline__ void exchange_half(float (&values)[N]) {
  const bool is_upper = (threadIdx.x & kApart) != 0;
#pragma unroll
  for (uint32_t i = 0; i < kHalf; ++i) {
    const float low = values[i];
    const float high = values[i + kHalf];
    const float given = __shfl_xor_sync(0xFFFFFFFFu, is_upper ? low : high, kApart);
    values[i] = __fadd_rn(is_upper ? high : low, given);
  }
}

// Adds each of N values over the 8 lanes of a group, N a multiple of 8. Lanes exchange halves, so
// that in the end each has N / 8 sums, of the values from `first_dot<N>` on.
template <uint32_t N>
__device__ __forceinline__ void add_lanes(float (&values)[N]) {
  static_assert(N % kDotLanes == 0, "halves of halves of halves");
  exchange_half<N, N / 2, 4>(values);
  exchange_half<N, N / 4, 2>(values);
  exchange_half<N, N / 8, 1>(values);
}

template <uint32_t N>
__device__ __forceinline__ uint32_t first_dot(uint32_t lane) {
  return (lane & 4) / 4 * (N / 2) + (lane & 2) / 2 * (N / 4) + (lane & 1) * (N / 8);
}

#endif  // LACUNA_COMMON_DOT_CUH_
