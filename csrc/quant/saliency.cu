// SPDX-License-Identifier: MIT OR Apache-2.0
// How much tokens matter: sums of the weights that rows of queries gave them, and of how many rows.
// src/quant/saliency/reference.rs is the specification.

#include "../common/dot.cuh"
#include "../common/kv.cuh"
#include "../common/softmax.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 256;
// Of a thread that begins: what probes see is then read for 2,048 tokens at once.
constexpr uint32_t kTokens = 8;
// Of a block that measures, as many as it has rows.
constexpr uint32_t kNormThreads = 128;
// Of queries and a head of keys: eight of sixteen.
constexpr uint32_t kMostRows = 128;

struct Probes {
  uint32_t n_visible[kThreads];
};

struct Rows {
  // To base 2; infinite of a row that is no probe, which sees nothing.
  float log_sums[kMostRows];
};

__device__ __forceinline__ bool is_finite(float x) {
  return (__float_as_uint(x) & 0x7F800000) != 0x7F800000;
}

__device__ __forceinline__ bool is_skipped(const uint32_t* skips, uint32_t b) {
  return skips != nullptr && skips[b] != 0;
}

__device__ __forceinline__ uint32_t min_of(uint32_t a, uint32_t b) { return a < b ? a : b; }

// The norm of a row, by 8 lanes that all get it: products in the order of `dot`; 0 of no row.
template <uint32_t kPower>
__device__ __forceinline__ float norm_of(const LacunaKvView& kv, uint64_t element) {
  float sum = 0.0f;
  for (uint32_t i = 8 * (threadIdx.x % kDotLanes); i < kv.row_len; i += 64) {
    if (element == kNoRow) break;
    uint32_t words[4];
    load_kv(words, kv.values, element + i, kv.element);
    float x[8];
    expand_floats(x, words, kv.element);
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) {
      const float magnitude = __uint_as_float(__float_as_uint(x[e]) & 0x7FFFFFFF);
      sum = kPower == 1 ? __fadd_rn(sum, magnitude) : __fmaf_rn(x[e], x[e], sum);
    }
  }
  sum = add_over_lanes(sum);
  if (element == kNoRow) return 0.0f;
  return canonical(__fmul_rn(kPower == 1 ? sum : __fsqrt_rn(sum), kv.value_scale));
}

// A warp has 32 rows, four at a time, and writes their norms at once.
template <uint32_t kPower>
__device__ __forceinline__ void measure_rows(const QuantNormsParams& params, uint32_t b) {
  const uint32_t n = min_of(count_rows(params.kv, b), params.n_tokens);
  const uint32_t first = params.firsts != nullptr ? params.firsts[b] : 0;
  if (first >= n) return;
  const uint32_t lane = threadIdx.x % 32;
  KvRows rows(params.kv, b, blockIdx.y);
  float* norms = params.norms + (uint64_t{b} * gridDim.y + blockIdx.y) * params.n_tokens;
  const uint32_t own = blockIdx.x * kNormThreads + threadIdx.x - lane;
  for (uint32_t base = first + own; base < n; base += gridDim.x * kNormThreads) {
    float kept = 0.0f;
    for (uint32_t turn = 0; turn < kDotLanes && base + 4 * turn < n; ++turn) {
      const uint32_t row = base + 4 * turn + lane / kDotLanes;
      const float norm = norm_of<kPower>(params.kv, row < n ? rows.locate(row) : kNoRow);
      const float given = __shfl_sync(0xFFFFFFFFu, norm, lane % 4 * kDotLanes);
      if (lane / 4 == turn) kept = given;
    }
    if (base + lane < n) norms[base + lane] = kept;
  }
}

}  // namespace

LACUNA_ENTRY(begin_saliency, QuantBeginSaliencyParams, kThreads) {
  LACUNA_SHARED(Probes, probes);
  const uint32_t b = blockIdx.z;
  if (is_skipped(params.skips, b)) return;
  const uint32_t first_token = blockIdx.x * kTokens * kThreads + threadIdx.x;
  uint32_t n_seeing[kTokens] = {};
  for (uint32_t first = 0; first < params.n_probes; first += kThreads) {
    const uint32_t n = min_of(params.n_probes - first, kThreads);
    if (first != 0) __syncthreads();
    if (threadIdx.x < n) {
      probes.n_visible[threadIdx.x] =
          params.n_visible[uint64_t{b} * params.n_probes + first + threadIdx.x];
    }
    __syncthreads();
    for (uint32_t i = 0; i < n; ++i) {
      const uint32_t n_visible = probes.n_visible[i];
#pragma unroll
      for (uint32_t j = 0; j < kTokens; ++j) n_seeing[j] += first_token + j * kThreads < n_visible;
    }
  }
  const uint64_t head = uint64_t{b} * gridDim.y + blockIdx.y;
  const uint32_t n_there = min_of(params.lengths[b], params.n_massed);
#pragma unroll
  for (uint32_t j = 0; j < kTokens; ++j) {
    const uint32_t token = first_token + j * kThreads;
    if (token >= params.n_tokens) return;
    float mass = 0.0f;
    float count = 0.0f;
    if (token < n_there) {
      mass = canonical(params.masses[head * params.mass_stride + token]);
      count = __int2float_rn(static_cast<int32_t>(n_seeing[j] * params.group));
    }
    params.sums[head * params.n_tokens + token] = mass;
    params.counts[head * params.n_tokens + token] = count;
  }
}

LACUNA_ENTRY(add_saliency, QuantAddSaliencyParams, kThreads) {
  LACUNA_SHARED(Rows, rows);
  const uint32_t b = blockIdx.z;
  if (is_skipped(params.skips, b)) return;
  const uint32_t n_rows = params.n_queries * params.group;
  if (threadIdx.x < n_rows) {
    const uint32_t query = threadIdx.x / params.group;
    const uint32_t head = blockIdx.y * params.group + threadIdx.x % params.group;
    const float log_sum =
        __fmul_rn(params.log_sums[b * params.request_stride + query * params.query_stride +
                                  head * params.head_stride],
                  params.log2_scale);
    rows.log_sums[threadIdx.x] = is_finite(log_sum) ? log_sum : -minus_infinity();
  }
  __syncthreads();
  const uint32_t position = blockIdx.x * kThreads + threadIdx.x;
  if (position >= params.n_positions) return;
  const uint64_t head = uint64_t{b} * gridDim.y + blockIdx.y;
  uint32_t token = position;
  if (params.tokens != nullptr) {
    // A negative one is large.
    token = static_cast<uint32_t>(params.tokens[head * params.n_positions + position]);
  }
  const uint64_t n_q_heads = uint64_t{gridDim.y} * params.group;
  const float* logits =
      params.logits +
      (b * params.n_queries * n_q_heads + blockIdx.y * params.group) * params.n_positions +
      position;
  float sum = 0.0f;
  uint32_t n_seeing = 0;
  for (uint32_t query = 0; query < params.n_queries; ++query) {
    const float* log_sums = rows.log_sums + query * params.group;
    const float* of_query = logits + query * n_q_heads * params.n_positions;
#pragma unroll 4
    for (uint32_t i = 0; i < params.group; ++i) {
      // Inner loop: 1 element a load.
      const float logit = of_query[uint64_t{i} * params.n_positions];
      const float log2 = __fsub_rn(logit, log_sums[i]);
      // Of NaN 0.
      sum = __fadd_rn(sum, exp2_of(log2));
      n_seeing += log2 != minus_infinity();
    }
  }
  if (token >= params.n_tokens || n_seeing == 0) return;
  const uint64_t at = head * params.n_tokens + token;
  params.sums[at] = canonical(__fmaf_rn(params.sums[at], params.decay, sum));
  params.counts[at] = canonical(
      __fmaf_rn(params.counts[at], params.decay, __int2float_rn(static_cast<int32_t>(n_seeing))));
}

LACUNA_ENTRY(weigh_saliency, QuantWeighSaliencyParams, kThreads) {
  const uint32_t b = blockIdx.z;
  if (is_skipped(params.skips, b)) return;
  uint32_t n = params.n_tokens;
  if (params.lengths != nullptr) n = min_of(n, params.lengths[b]);
  const uint32_t token = blockIdx.x * kThreads + threadIdx.x;
  if (token >= n) return;
  const uint64_t row = uint64_t{b} * gridDim.y + blockIdx.y;
  float score = 0.0f;
  bool is_fresh = false;
  for (uint32_t i = 0; i < params.n_heads_together; ++i) {
    const uint64_t at = (row * params.n_heads_together + i) * params.n_tokens + token;
    const float count = params.counts[at];
    is_fresh = is_fresh || count == 0.0f;
    float saliency = params.sums[at];
    if (params.is_per_row != 0) saliency = __fdiv_rn(saliency, count);
    saliency = __fadd_rn(saliency, params.floor);
    if (params.norms != nullptr) saliency = __fmul_rn(saliency, params.norms[at]);
    score = __fadd_rn(score, saliency);
  }
  // What is infinite would be kept for ever.
  if (!is_finite(score)) score = __uint_as_float(0x7FFFFFFF);
  params.scores[row * params.n_tokens + token] = is_fresh ? params.fresh : score;
}

LACUNA_ENTRY(measure_norms, QuantNormsParams, kNormThreads) {
  if (params.power == 1) {
    measure_rows<1>(params, blockIdx.z);
  } else {
    measure_rows<2>(params, blockIdx.z);
  }
}
