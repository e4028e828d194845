// SPDX-License-Identifier: MIT OR Apache-2.0
// Sums of a warp's values up to each.
#ifndef LACUNA_COMMON_SCAN_CUH_
#define LACUNA_COMMON_SCAN_CUH_

#include "kernel.cuh"

// Inclusive, over the lanes of a warp.
template <typename Value>
__device__ __forceinline__ Value scan_warp(Value value) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll(sizeof(Value) == 8 ? 1 : 5)
  for (uint32_t delta = 1; delta < 32; delta *= 2) {
    const Value before = __shfl_up_sync(0xFFFFFFFFu, value, delta);
    if (lane >= delta) value += before;
  }
  return value;
}

#endif  // LACUNA_COMMON_SCAN_CUH_
