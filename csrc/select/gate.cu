// SPDX-License-Identifier: MIT OR Apache-2.0
// Whether a cached selection may be used again: the cosine of the query with the one that made it.
// One block for each request; its threads are the lanes of one inner product.
// src/select/gate/reference.rs is the specification.

#include "../common/number.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 512;
constexpr uint32_t kWarps = kThreads / 32;

// Of the query and the cached one.
struct Products {
  float across;
  float query;
  float cached;
};

struct Shared {
  float theta;
  Products warps[kWarps];
};

__device__ void load_eight(uint4 (&words)[2], const uint8_t* row, uint32_t i, uint32_t kind) {
  const uint4* at = reinterpret_cast<const uint4*>(row + uint64_t{i} * float_bytes(kind));
  words[0] = at[0];
  if (kind == kFloatF32) words[1] = at[1];
}

__device__ void store_eight(uint8_t* row, uint32_t i, uint32_t kind, const uint4 (&words)[2]) {
  uint4* at = reinterpret_cast<uint4*>(row + uint64_t{i} * float_bytes(kind));
  at[0] = words[0];
  if (kind == kFloatF32) at[1] = words[1];
}

__device__ void expand_eight(float (&values)[8], const uint4 (&words)[2], uint32_t kind) {
  const uint32_t low[4] = {words[0].x, words[0].y, words[0].z, words[0].w};
  if (kind != kFloatF32) return expand_floats(values, low, kind);
  const uint32_t high[4] = {words[1].x, words[1].y, words[1].z, words[1].w};
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    values[i] = __uint_as_float(low[i]);
    values[4 + i] = __uint_as_float(high[i]);
  }
}

// A thread's part of the products; its part of the query stays on chip, so that it is read once.
__device__ Products multiply_parts(const SelectGateParams& params, const uint8_t* query,
                                   const uint8_t* cached, bool is_cached, uint8_t* staged) {
  Products sums = {0.0f, 0.0f, 0.0f};
  const uint32_t kind = params.element;
  for (uint32_t i = 8 * threadIdx.x; i < params.n; i += 8 * kThreads) {
    uint4 words[2];
    load_eight(words, query, i, kind);
    store_eight(staged, i, kind, words);
    if (!is_cached) continue;
    float x[8];
    float y[8];
    expand_eight(x, words, kind);
    load_eight(words, cached, i, kind);
    expand_eight(y, words, kind);
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) {
      sums.across = __fmaf_rn(x[e], y[e], sums.across);
      sums.query = __fmaf_rn(x[e], x[e], sums.query);
      sums.cached = __fmaf_rn(y[e], y[e], sums.cached);
    }
  }
  return sums;
}

// Lane i takes lane i + `first`, then half of that, and so on.
__device__ void add_lanes(Products& sums, uint32_t first) {
  for (uint32_t delta = first; delta != 0; delta /= 2) {
    sums.across = __fadd_rn(sums.across, __shfl_xor_sync(0xFFFFFFFFu, sums.across, delta));
    sums.query = __fadd_rn(sums.query, __shfl_xor_sync(0xFFFFFFFFu, sums.query, delta));
    sums.cached = __fadd_rn(sums.cached, __shfl_xor_sync(0xFFFFFFFFu, sums.cached, delta));
  }
}

// NaN where a norm is zero or no number: nothing is like such a query.
__device__ float divide_by_norms(const Products& sums) {
  const float infinity = __uint_as_float(0x7F800000);
  const bool has_norms =
      sums.query > 0.0f && sums.query < infinity && sums.cached > 0.0f && sums.cached < infinity;
  if (!has_norms) return __uint_as_float(0x7FFFFFFF);
  return __fdiv_rn(sums.across, __fmul_rn(__fsqrt_rn(sums.query), __fsqrt_rn(sums.cached)));
}

}  // namespace

LACUNA_ENTRY(gate_selection, SelectGateParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  LACUNA_DYNAMIC_SHARED(staged);
  const uint32_t b = blockIdx.x;
  if (b >= params.batch) return;
  const uint32_t n_bytes = float_bytes(params.element);
  const uint8_t* query = params.queries + b * params.query_stride * n_bytes;
  uint8_t* cached = params.cached + b * params.cached_stride * n_bytes;
  const bool is_cached =
      params.states[b] != 0 && (params.forced == nullptr || params.forced[b] == 0);

  Products sums = multiply_parts(params, query, cached, is_cached, staged);
  add_lanes(sums, 16);
  if (threadIdx.x % 32 == 0) shared.warps[threadIdx.x / 32] = sums;
  if (threadIdx.x == 0) {
    shared.theta = params.thetas != nullptr ? params.thetas[b] : params.theta;
  }
  __syncthreads();
  sums = shared.warps[threadIdx.x % kWarps];
  add_lanes(sums, kWarps / 2);
  // Without a cached query all sums are zero.
  const float cosine = divide_by_norms(sums);
  const bool is_like = cosine >= shared.theta;

  uint32_t* skips = params.skips + uint64_t{b} * params.rows_per_request;
  for (uint32_t i = threadIdx.x; i < params.rows_per_request; i += kThreads) skips[i] = is_like;
  if (threadIdx.x == 0 && params.cosines != nullptr) params.cosines[b] = cosine;
  if (is_like) return;
  if (threadIdx.x == 0) params.states[b] = 1;
  for (uint32_t i = 8 * threadIdx.x; i < params.n; i += 8 * kThreads) {
    uint4 words[2];
    load_eight(words, staged, i, params.element);
    store_eight(cached, i, params.element, words);
  }
}
