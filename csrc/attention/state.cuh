// SPDX-License-Identifier: MIT OR Apache-2.0
// Sums of weights and of weights times values, relative to a power of two, and how those of several
// parts of a row become one: in the order of the parts.
#ifndef LACUNA_ATTENTION_STATE_CUH_
#define LACUNA_ATTENTION_STATE_CUH_

#include "../common/softmax.cuh"

namespace {

// Parts of a row that are merged at once, at most: splits.
constexpr uint32_t kMostParts = 64;
// Rows of queries of a block.
constexpr uint32_t kRows = 16;
// A part of a row: as many words as a value has elements, the sum of weights, and the integer that
// both are relative to.
constexpr uint32_t kExtraWords = 4;

struct MergeShared {
  // What each part is multiplied by.
  float factors[kRows][kMostParts];
  // Its sum of weights; afterwards the row's in the first place.
  float sums[kRows][kMostParts];
  int32_t greatest[kRows];
};

// 2^(from - to), of what is not above 0.
__device__ __forceinline__ float scale_of(int32_t from, int32_t to) {
  const int32_t power = from - to;
  return power < -126 ? 0.0f : __uint_as_float(static_cast<uint32_t>(127 + power) << 23);
}

// `n` parts of each of `n_rows` rows: row `r` of part `i` at `words + i * part_stride + r * (d +
// kExtraWords)`. By all threads, which know what they read; afterwards `shared` says how parts are
// added and what the rows' sums are.
__device__ __forceinline__ void weigh_parts(const uint32_t* words, uint32_t n, uint32_t part_stride,
                                            uint32_t n_rows, uint32_t d, MergeShared& shared) {
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t r = threadIdx.x / 32; r < n_rows; r += blockDim.x / 32) {
    int32_t greatest = kNoScore;
    for (uint32_t i = lane; i < n; i += 32) {
      const uint32_t* part = words + i * part_stride + r * (d + kExtraWords);
      greatest = max(greatest, static_cast<int32_t>(part[d + 1]));
    }
    greatest = __reduce_max_sync(0xFFFFFFFFu, greatest);
    for (uint32_t i = lane; i < n; i += 32) {
      const uint32_t* part = words + i * part_stride + r * (d + kExtraWords);
      shared.factors[r][i] = scale_of(static_cast<int32_t>(part[d + 1]), greatest);
      shared.sums[r][i] = __uint_as_float(part[d]);
    }
    if (lane == 0) shared.greatest[r] = greatest;
  }
  __syncthreads();
  if (threadIdx.x < n_rows) {
    const uint32_t r = threadIdx.x;
    float sum = 0.0f;
    for (uint32_t i = 0; i < n; ++i) sum = __fmaf_rn(shared.sums[r][i], shared.factors[r][i], sum);
    shared.sums[r][0] = sum;
  }
  __syncthreads();
}

// Column `c` of a row, of all parts together.
__device__ __forceinline__ float add_parts(const uint32_t* words, uint32_t n, uint32_t part_stride,
                                           uint32_t r, uint32_t c, uint32_t d,
                                           const MergeShared& shared) {
  float sum = 0.0f;
#pragma unroll 8
  for (uint32_t i = 0; i < n; ++i) {
    const float part = __uint_as_float(words[i * part_stride + r * (d + kExtraWords) + c]);
    sum = __fmaf_rn(part, shared.factors[r][i], sum);
  }
  return sum;
}

}  // namespace

#endif  // LACUNA_ATTENTION_STATE_CUH_
