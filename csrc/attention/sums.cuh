// SPDX-License-Identifier: MIT OR Apache-2.0
// A warp's sums over tiles of 16 positions: products with keys, weights, and products of weights
// with values, on tensor cores.
#ifndef LACUNA_ATTENTION_SUMS_CUH_
#define LACUNA_ATTENTION_SUMS_CUH_

#include "../common/mma.cuh"
#include "params.h"
#include "state.cuh"

namespace {

constexpr float kLog2E = 0x1.715476p+0f;

// Chunks of 16 bytes from row to row on chip: an odd number, so that eight rows' are in different
// banks.
__device__ __forceinline__ uint32_t pitch_of(uint32_t head_dim) { return head_dim / 8 + 1; }

// NaN stays NaN.
__device__ __forceinline__ float clamp_logit(float x) {
  if (x == minus_infinity()) return x;
  return x > kMostLog2 ? kMostLog2 : x < -kMostLog2 ? -kMostLog2 : x;
}

// A product as the logarithm to base 2 of its weight, with a bias.
__device__ __forceinline__ float to_logit(const AttentionLogits& rule, float product, float bias) {
  float x;
  if (rule.cap_scale != 0.0f) {
    const float twice = __fmul_rn(product, rule.cap_scale);
    const float e = exp2_of(twice < 0.0f ? twice : -twice);
    const float tanh = __fdiv_rn(__fsub_rn(1.0f, e), __fadd_rn(1.0f, e));
    x = __fmul_rn(twice < 0.0f ? -tanh : tanh, rule.cap_log2);
    if (!(twice == twice)) x = twice;
  } else {
    x = __fmul_rn(product, rule.log2_scale);
  }
  return clamp_logit(__fmaf_rn(bias, kLog2E, x));
}

// The same of a sink's.
__device__ __forceinline__ float to_sink(float logit) {
  return clamp_logit(__fmul_rn(logit, kLog2E));
}

__device__ __forceinline__ float weigh(float logit, int32_t greatest) {
  return logit == logit ? exp2_of(__fsub_rn(logit, __int2float_rn(greatest))) : logit;
}

template <bool kIsBf16>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  if (kIsBf16) {
    mma_bf16(d, a, b);
  } else {
    mma_f16(d, a, b);
  }
}

// A sum of many terms, and the sum of what rounding it lost. A term of 0 changes neither.
struct Compensated {
  float sum;
  float lost;

  __device__ __forceinline__ void add(float term) {
    const float next = __fadd_rn(sum, term);
    lost = __fadd_rn(lost, __fsub_rn(term, __fsub_rn(next, sum)));
    sum = next;
  }

  // By a power of two.
  __device__ __forceinline__ void scale(float factor) {
    sum = __fmul_rn(sum, factor);
    lost = __fmul_rn(lost, factor);
  }
};

// Where products are summed: where they are added to, or apart.
template <bool kIsDirect>
struct Sum {
  float of[4];

  __device__ __forceinline__ explicit Sum(const float (&sums)[4]) {
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) of[j] = kIsDirect ? sums[j] : 0.0f;
  }

  __device__ __forceinline__ void add_to(float (&sums)[4]) const {
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) sums[j] = kIsDirect ? of[j] : __fadd_rn(sums[j], of[j]);
  }
};

// A warp's sums over its tiles: as the fragments of products are, of rows `lane / 4` and 8 more.
template <uint32_t kMostDim>
struct Sums {
  float outputs[kMostDim / 8][4];
  // The products with a column of ones.
  float weights[4];
  // Of the weights before they are rounded: those of this lane's positions.
  Compensated masses[2];
  int32_t greatest[2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (uint32_t i = 0; i < kMostDim / 8; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) outputs[i][j] = 0.0f;
    }
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) weights[j] = 0.0f;
    masses[0] = {0.0f, 0.0f};
    masses[1] = {0.0f, 0.0f};
    greatest[0] = kNoScore;
    greatest[1] = kNoScore;
  }

  // Relative to `next`, no less than before.
  __device__ __forceinline__ void raise(const int32_t (&next)[2]) {
    const bool is_same = next[0] == greatest[0] && next[1] == greatest[1];
    if (!__any_sync(0xFFFFFFFFu, !is_same)) return;
    const float scales[2] = {scale_of(greatest[0], next[0]), scale_of(greatest[1], next[1])};
#pragma unroll
    for (uint32_t i = 0; i < kMostDim / 8; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) outputs[i][j] = __fmul_rn(outputs[i][j], scales[j / 2]);
    }
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) weights[j] = __fmul_rn(weights[j], scales[j / 2]);
    masses[0].scale(scales[0]);
    masses[1].scale(scales[1]);
    greatest[0] = next[0];
    greatest[1] = next[1];
  }

  // The products of tiles that stand one after the other with the queries.
  template <bool kIsBf16, uint32_t kTiles>
  __device__ __forceinline__ void multiply_keys(const uint4* queries, const uint4* keys,
                                                uint32_t head_dim,
                                                float (&products)[kTiles][2][4]) {
    const uint32_t matrix = threadIdx.x % 32 / 8;
    const uint32_t pitch = pitch_of(head_dim);
    const uint4* query = queries + (threadIdx.x % 8 + matrix % 2 * 8) * pitch + matrix / 2;
    const uint4* key = keys + (threadIdx.x % 8 + matrix / 2 * 8) * pitch + matrix % 2;
#pragma unroll
    for (uint32_t k = 0; k < kMostDim / 16; ++k) {
      if (16 * k >= head_dim) break;
      uint32_t a[4];
      load_matrices(a, query + 2 * k);
#pragma unroll
      for (uint32_t tile = 0; tile < kTiles; ++tile) {
        uint32_t b[4];
        load_matrices(b, key + tile * kTile * pitch + 2 * k);
        multiply<kIsBf16>(products[tile][0], a, {b[0], b[1]});
        multiply<kIsBf16>(products[tile][1], a, {b[2], b[3]});
      }
    }
  }

  // Of one tile the products continue sums; those of several are summed, and then added.
  template <bool kIsBf16, uint32_t kTiles>
  __device__ __forceinline__ void multiply_values(const uint32_t (&weights_of)[kTiles][4],
                                                  const uint4* values, uint32_t head_dim) {
    const uint32_t one = kIsBf16 ? 0x3F803F80 : 0x3C003C00;
    Sum<kTiles == 1> sum(weights);
#pragma unroll
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      multiply<kIsBf16>(sum.of, weights_of[tile], {one, one});
    }
    sum.add_to(weights);
    const uint32_t matrix = threadIdx.x % 32 / 8;
    const uint32_t pitch = pitch_of(head_dim);
    const uint4* value = values + (threadIdx.x % 8 + matrix % 2 * 8) * pitch + matrix / 2;
#pragma unroll
    for (uint32_t k = 0; k < kMostDim / 16; ++k) {
      if (16 * k >= head_dim) break;
      Sum<kTiles == 1> low(outputs[2 * k]);
      Sum<kTiles == 1> high(outputs[2 * k + 1]);
#pragma unroll
      for (uint32_t tile = 0; tile < kTiles; ++tile) {
        uint32_t b[4];
        load_matrices_transposed(b, value + tile * kTile * pitch + 2 * k);
        multiply<kIsBf16>(low.of, weights_of[tile], {b[0], b[1]});
        multiply<kIsBf16>(high.of, weights_of[tile], {b[2], b[3]});
      }
      low.add_to(outputs[2 * k]);
      high.add_to(outputs[2 * k + 1]);
    }
  }

  // Tiles on chip, one after the other. `sees(half, position)` says whether the lane's row of that
  // half sees what stands at a position of theirs, and `bias_of(position)` what is added to its
  // logits.
  template <uint32_t kTiles, typename Sees, typename Bias>
  __device__ __forceinline__ void add_tiles(const AttentionLogits& rule, uint32_t head_dim,
                                            const uint4* queries, const uint4* keys,
                                            const uint4* values, Sees sees, Bias bias_of) {
    float logits[kTiles][2][4] = {};
    if (rule.element == kFloatBf16) {
      multiply_keys<true>(queries, keys, head_dim, logits);
    } else {
      multiply_keys<false>(queries, keys, head_dim, logits);
    }
    int32_t next[2] = {greatest[0], greatest[1]};
#pragma unroll
    for (uint32_t i = 0; i < 8 * kTiles; ++i) {
      const uint32_t j = i % 4;
      float& logit = logits[i / 8][i / 4 % 2][j];
      const uint32_t position = i / 4 * 8 + threadIdx.x % 4 * 2 + j % 2;
      const float seen = to_logit(rule, logit, bias_of(position));
      logit = sees(j / 2, position) ? seen : minus_infinity();
      if (logit == logit) next[j / 2] = max(next[j / 2], ceiling(logit));
    }
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      next[half] = max(next[half], __shfl_xor_sync(0xFFFFFFFFu, next[half], 1));
      next[half] = max(next[half], __shfl_xor_sync(0xFFFFFFFFu, next[half], 2));
    }
    raise(next);
    uint32_t packed[kTiles][4];
#pragma unroll
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      float of_pairs[4];
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const float low = weigh(logits[tile][i / 2][i % 2 * 2], greatest[i % 2]);
        const float high = weigh(logits[tile][i / 2][i % 2 * 2 + 1], greatest[i % 2]);
        of_pairs[i] = __fadd_rn(low, high);
        packed[tile][i] = to_halves(low, high, rule.element);
      }
      masses[0].add(__fadd_rn(of_pairs[0], of_pairs[2]));
      masses[1].add(__fadd_rn(of_pairs[1], of_pairs[3]));
    }
    if (rule.element == kFloatBf16) {
      multiply_values<true>(packed, values, head_dim);
    } else {
      multiply_values<false>(packed, values, head_dim);
    }
  }

  // As a part of `n_rows` rows.
  __device__ __forceinline__ void store(uint32_t* words, uint32_t n_rows, uint32_t head_dim) const {
    const uint32_t pair = threadIdx.x % 4;
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      float mass = __fadd_rn(masses[half].sum, masses[half].lost);
      mass = __fadd_rn(mass, __shfl_xor_sync(0xFFFFFFFFu, mass, 1));
      mass = __fadd_rn(mass, __shfl_xor_sync(0xFFFFFFFFu, mass, 2));
      const uint32_t r = threadIdx.x % 32 / 4 + half * 8;
      if (r >= n_rows) continue;
      uint32_t* row = words + r * (head_dim + kExtraWords);
#pragma unroll
      for (uint32_t i = 0; i < kMostDim / 8; ++i) {
        if (8 * i >= head_dim) break;
        *reinterpret_cast<uint2*>(row + 8 * i + 2 * pair) = make_uint2(
            __float_as_uint(outputs[i][2 * half]), __float_as_uint(outputs[i][2 * half + 1]));
      }
      if (pair != 0) continue;
      row[head_dim + kSumWord] = __float_as_uint(weights[2 * half]);
      row[head_dim + kGreatestWord] = static_cast<uint32_t>(greatest[half]);
      row[head_dim + kMassWord] = __float_as_uint(mass);
    }
  }
};

// What makes outputs of a row's sums: first by the scale, then by the reciprocal, which is 0 of a
// row of nothing.
struct Finish {
  float scale;
  float reciprocal;
  float log_sum;
};

// Of nothing 0, though a sum of no weight and values that are no numbers may be NaN.
__device__ __forceinline__ float finish_output(float sum, float scale, float reciprocal) {
  return reciprocal == 0.0f ? 0.0f : __fmul_rn(__fmul_rn(sum, scale), reciprocal);
}

// `sink` is null where there is none.
__device__ __forceinline__ Finish finish_sums(const AttentionLogits& rule, int32_t greatest,
                                              float sum, float mass, const float* sink) {
  Finish finish;
  finish.scale = 1.0f;
  if (sink != nullptr) {
    const float logit = to_sink(*sink);
    const int32_t next = logit == logit ? max(greatest, ceiling(logit)) : greatest;
    finish.scale = scale_of(greatest, next);
    const float weight = weigh(logit, next);
    sum = __fmaf_rn(sum, finish.scale, weight);
    mass = __fmaf_rn(mass, finish.scale, weight);
    greatest = next;
  }
  // Both sums are 0, or above a quarter, or NaN.
  const bool is_empty = sum == 0.0f;
  finish.reciprocal = is_empty ? 0.0f : __fdiv_rn(1.0f, sum);
  const float log2 = __fadd_rn(__int2float_rn(greatest), log2_of(mass));
  finish.log_sum = is_empty ? minus_infinity() : __fmul_rn(log2, rule.log_unit);
  if (!(sum == sum)) finish.log_sum = canonical(sum);
  return finish;
}

}  // namespace

#endif  // LACUNA_ATTENTION_SUMS_CUH_
