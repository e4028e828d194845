// SPDX-License-Identifier: MIT OR Apache-2.0
// Sums of weights and of weights times values, relative to a power of two, and how those of several
// parts of a row become one: in the order of the parts.
#ifndef LACUNA_ATTENTION_STATE_CUH_
#define LACUNA_ATTENTION_STATE_CUH_

#include "../common/softmax.cuh"

namespace {

// Parts of a row that are merged at once, at most: splits.
constexpr uint32_t kMostParts = 64;
// Rows of queries, and positions, that are multiplied at once.
constexpr uint32_t kRows = 16;
constexpr uint32_t kTile = 16;
// A part of a row: as many words as a value has elements, and these.
enum ExtraWord : uint32_t {
  // The sum of weights as they are multiplied with values.
  kSumWord,
  // The integer that all sums are relative to.
  kGreatestWord,
  // The sum of weights before they were rounded.
  kMassWord,
  kExtraWords = 4
};

// How parts of rows become one, on chip. What is said of part `i` and row `r` is at `i * kRows +
// r`.
struct Merge {
  // What a part is multiplied by.
  float* factors;
  // Its sums of weights; afterwards, in the first part's place, those of the row.
  float* sums;
  float* masses;
  int32_t* greatest;

  // `words` of room: `(3 * n + 1) * kRows`.
  __device__ __forceinline__ Merge(uint32_t* words, uint32_t n)
      : factors(reinterpret_cast<float*>(words)),
        sums(factors + n * kRows),
        masses(sums + n * kRows),
        greatest(reinterpret_cast<int32_t*>(masses + n * kRows)) {}
};

// 2^(from - to), of what is not above 0.
__device__ __forceinline__ float scale_of(int32_t from, int32_t to) {
  const int32_t power = from - to;
  return power < -126 ? 0.0f : __uint_as_float(static_cast<uint32_t>(127 + power) << 23);
}

// `n` parts of each of `n_rows` rows: row `r` of part `i` at `words + i * part_stride + r * (d +
// kExtraWords)`. By all threads, which know what they read; afterwards `merge` says how parts are
// added and what the rows' sums are.
__device__ __forceinline__ void weigh_parts(const uint32_t* words, uint32_t n, uint32_t part_stride,
                                            uint32_t n_rows, uint32_t d, const Merge& merge) {
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t r = threadIdx.x / 32; r < n_rows; r += blockDim.x / 32) {
    int32_t greatest = kNoScore;
    for (uint32_t i = lane; i < n; i += 32) {
      const uint32_t* part = words + i * part_stride + r * (d + kExtraWords);
      greatest = max(greatest, static_cast<int32_t>(part[d + kGreatestWord]));
    }
    greatest = __reduce_max_sync(0xFFFFFFFFu, greatest);
    for (uint32_t i = lane; i < n; i += 32) {
      const uint32_t* part = words + i * part_stride + r * (d + kExtraWords);
      const uint32_t at = i * kRows + r;
      merge.factors[at] = scale_of(static_cast<int32_t>(part[d + kGreatestWord]), greatest);
      merge.sums[at] = __uint_as_float(part[d + kSumWord]);
      merge.masses[at] = __uint_as_float(part[d + kMassWord]);
    }
    if (lane == 0) merge.greatest[r] = greatest;
  }
  __syncthreads();
  const uint32_t r = threadIdx.x % kRows;
  if (threadIdx.x < 2 * kRows && r < n_rows) {
    float* sums = threadIdx.x < kRows ? merge.sums : merge.masses;
    float sum = 0.0f;
    for (uint32_t at = r; at < n * kRows; at += kRows) {
      sum = __fmaf_rn(sums[at], merge.factors[at], sum);
    }
    sums[r] = sum;
  }
  __syncthreads();
}

// Columns from `c` on, a multiple of 4, of a row, of all parts together.
__device__ __forceinline__ void add_parts(const uint32_t* words, uint32_t n, uint32_t part_stride,
                                          uint32_t r, uint32_t c, uint32_t d, const Merge& merge,
                                          float (&sums)[4]) {
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) sums[j] = 0.0f;
  const uint32_t* four = words + r * (d + kExtraWords) + c;
#pragma unroll 8
  for (uint32_t i = 0; i < n; ++i, four += part_stride) {
    const uint4 part = *reinterpret_cast<const uint4*>(four);
    const float factor = merge.factors[i * kRows + r];
    sums[0] = __fmaf_rn(__uint_as_float(part.x), factor, sums[0]);
    sums[1] = __fmaf_rn(__uint_as_float(part.y), factor, sums[1]);
    sums[2] = __fmaf_rn(__uint_as_float(part.z), factor, sums[2]);
    sums[3] = __fmaf_rn(__uint_as_float(part.w), factor, sums[3]);
  }
}

}  // namespace

#endif  // LACUNA_ATTENTION_STATE_CUH_
