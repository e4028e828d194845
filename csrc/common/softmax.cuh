// SPDX-License-Identifier: MIT OR Apache-2.0
// What softmaxes are relative to: the least integer not below any of their scores' logarithms to
// base 2, so that a change of it multiplies by a power of two.
#ifndef LACUNA_COMMON_SOFTMAX_CUH_
#define LACUNA_COMMON_SOFTMAX_CUH_

#include "number.cuh"

// Of no scores.
constexpr int32_t kNoScore = -(1 << 30);
// Scores beyond it count as it, so that their differences are exact.
constexpr float kMostLog2 = 4194304.0f;

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xFF800000); }

// Of what is no NaN.
__device__ __forceinline__ int32_t ceiling(float log2) {
  return log2 == minus_infinity() ? kNoScore : __float2int_ru(log2);
}

#endif  // LACUNA_COMMON_SOFTMAX_CUH_
