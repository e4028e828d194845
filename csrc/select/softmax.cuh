// SPDX-License-Identifier: MIT OR Apache-2.0
// Softmaxes whose sums are exact: terms are integers in units of 2^-40, relative to an integer
// power of two, so that they may be added in any order. Partial ones are of 256 scores from a
// multiple of 256 on, whoever computes them.
#ifndef LACUNA_SELECT_SOFTMAX_CUH_
#define LACUNA_SELECT_SOFTMAX_CUH_

#include "../common/softmax.cuh"
#include "params.h"

constexpr uint32_t kTile = 256;

// A score as a power of two; of NaN and -inf, which weigh nothing, -inf.
__device__ __forceinline__ float to_log2(float score, float scale) {
  const float x = __fmul_rn(score, scale);
  if (!(x > minus_infinity())) return minus_infinity();
  return x > kMostLog2 ? kMostLog2 : x < -kMostLog2 ? -kMostLog2 : x;
}

__device__ __forceinline__ float weigh(float log2, int32_t greatest) {
  return exp2_of(__fsub_rn(log2, __int2float_rn(greatest)));
}

__device__ __forceinline__ uint64_t to_fixed(float weight) {
  return __float2ull_rn(__fmul_rn(weight, 0x1p+40f));
}

// Over a warp.
__device__ __forceinline__ uint64_t add_over_warp(uint64_t value) {
#pragma unroll
  for (uint32_t apart = 16; apart > 0; apart /= 2) {
    value += __shfl_xor_sync(0xFFFFFFFFu, value, apart);
  }
  return value;
}

// By a warp, of `n` of the scores from `scores` on, at most a tile.
__device__ __forceinline__ SelectPartialSoftmax sum_tile(const float* scores, uint32_t n,
                                                         float scale) {
  const uint32_t lane = threadIdx.x % 32;
  int32_t own = kNoScore;
  for (uint32_t i = lane; i < n; i += 32) own = max(own, ceiling(to_log2(scores[i], scale)));
  SelectPartialSoftmax partial = {};
  partial.greatest = __reduce_max_sync(0xFFFFFFFFu, own);
  uint64_t sum = 0;
  for (uint32_t i = lane; i < n; i += 32) {
    sum += to_fixed(weigh(to_log2(scores[i], scale), partial.greatest));
  }
  partial.sum = add_over_warp(sum);
  return partial;
}

// By a warp: all of them as one. A term loses what is below a unit when it is made relative to a
// greater power of two.
__device__ __forceinline__ SelectSoftmax merge_partials(const SelectPartialSoftmax* partials,
                                                        uint32_t n) {
  const uint32_t lane = threadIdx.x % 32;
  int32_t own = kNoScore;
  for (uint32_t i = lane; i < n; i += 32) own = max(own, partials[i].greatest);
  SelectSoftmax softmax;
  softmax.greatest = __reduce_max_sync(0xFFFFFFFFu, own);
  uint64_t sum = 0;
  for (uint32_t i = lane; i < n; i += 32) {
    const int32_t shift = softmax.greatest - partials[i].greatest;
    if (shift < 64) sum += partials[i].sum >> shift;
  }
  sum = add_over_warp(sum);
  softmax.reciprocal = sum == 0 ? 0.0f : __fdiv_rn(0x1p+40f, __ull2float_rn(sum));
  return softmax;
}

// What one head adds to the vote for a score, `n_before` heads having voted.
__device__ __forceinline__ float add_vote(float vote, float score, const SelectSoftmax& softmax,
                                          float scale, uint32_t reduction) {
  const float weight = weigh(to_log2(score, scale), softmax.greatest);
  if (reduction == 0) return __fmaf_rn(weight, softmax.reciprocal, vote);
  const float share = __fmul_rn(weight, softmax.reciprocal);
  return share > vote ? share : vote;
}

#endif  // LACUNA_SELECT_SOFTMAX_CUH_
