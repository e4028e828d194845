// SPDX-License-Identifier: MIT OR Apache-2.0
// Partial results of attention, each over tokens of its own, as one. A warp has four rows: each
// lane weighs one part of one of them, and then all share the rows' elements. What is merged in
// place is read and written by the same thread. src/attention/merge/reference.rs is the
// specification.

#include "../common/softmax.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kWarpRows = 4;
// Parts whose loads are on their way at once.
constexpr uint32_t kBatch = 4;
constexpr uint32_t kAllLanes = 0xFFFFFFFF;
// Of a warp's lanes, the first row's: part `p` of row `r` is that of lane `p * kWarpRows + r`.
constexpr uint32_t kFirstRow = 0x11111111;

struct Weights {
  // The lane's row.
  uint32_t token;
  uint32_t head;
  // What the outputs of its part are multiplied by.
  float factor;
  // A bit for each lane whose part adds to its row.
  uint32_t counted;
  // And for each row that stays as it is.
  uint32_t left;
};

// Of nothing -inf: some write +inf for it.
__device__ __forceinline__ float load_log_sum(const AttentionPartial& part, uint32_t token,
                                              uint64_t place) {
  if (part.mask != nullptr && part.mask[token] == 0) return minus_infinity();
  const float log_sum = part.log_sums[place];
  return log_sum == -minus_infinity() ? minus_infinity() : log_sum;
}

// The rows' log-sums are written on the way.
__device__ __forceinline__ Weights weigh_parts(const AttentionMergeParams& params,
                                               uint32_t first_row) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t part = lane / kWarpRows;
  const uint32_t r = lane % kWarpRows;
  const uint32_t row = first_row + r;
  const bool is_row = row < params.n_rows;
  Weights weights;
  weights.token = row / params.n_heads;
  weights.head = row - weights.token * params.n_heads;
  const uint32_t request = weights.token / params.n_queries;
  const uint32_t query = weights.token - request * params.n_queries;
  const auto place_of = [&](const AttentionLogSumStrides& strides) {
    return request * strides.request + query * strides.query + weights.head * strides.head;
  };
  float log_sum = minus_infinity();
  if (is_row && part < params.n_parts) {
    const AttentionPartial& own = params.parts[part];
    log_sum = load_log_sum(own, weights.token, place_of(own.log_sum_strides));
  }
  // NaN makes NaN of the row, whatever else there is.
  float greatest = log_sum;
#pragma unroll
  for (uint32_t apart = kWarpRows; apart < 32; apart *= 2) {
    const float other = __shfl_xor_sync(kAllLanes, greatest, apart);
    greatest = other > greatest ? other : greatest;
  }
  const float log2 = __fmul_rn(__fsub_rn(log_sum, greatest), params.log2_scale);
  const float weight = log_sum == log_sum ? exp2_of(log2) : log_sum;
  float sum = 0.0f;
#pragma unroll
  for (uint32_t from = r; from < 32; from += kWarpRows) {
    sum = __fadd_rn(sum, __shfl_sync(kAllLanes, weight, from));
  }
  weights.factor = __fmul_rn(weight, __fdiv_rn(1.0f, sum));
  weights.counted = __ballot_sync(kAllLanes, weight != 0.0f);
  const bool is_alone = (weights.counted >> r & kFirstRow) == 1 && sum == sum;
  const bool is_left = params.is_in_place != 0 && is_alone;
  weights.left = __ballot_sync(kAllLanes, is_left);
  if (part == 0 && is_row && !is_left && params.log_sums != nullptr) {
    // Also of nothing.
    float merged = greatest;
    if (sum > 1.0f) merged = __fmaf_rn(log2_of(sum), params.log_unit, greatest);
    params.log_sums[place_of(params.log_sum_strides)] = sum == sum ? merged : canonical(sum);
  }
  return weights;
}

// Neighbouring elements that one lane has: 16 bytes of the wider type, or one.
template <uint32_t kWidth>
struct Words {
  uint32_t words[kWidth == 1 ? 1 : 4];
};

template <uint32_t kWidth>
__device__ __forceinline__ Words<kWidth> load_words(const uint8_t* elements, uint64_t i,
                                                    uint32_t kind) {
  Words<kWidth> loaded = {};
  if constexpr (kWidth == 1) {
    loaded.words[0] = kind == kFloatF32 ? reinterpret_cast<const uint32_t*>(elements)[i]
                                        : reinterpret_cast<const uint16_t*>(elements)[i];
  } else if (kWidth == 8 || kind == kFloatF32) {
    const uint64_t offset = (kWidth == 8 ? 2 : 4) * i;
    const uint4 four = *reinterpret_cast<const uint4*>(elements + offset);
    loaded = {{four.x, four.y, four.z, four.w}};
  } else {
    const uint2 two = *reinterpret_cast<const uint2*>(elements + 2 * i);
    loaded = {{two.x, two.y}};
  }
  return loaded;
}

template <uint32_t kWidth>
__device__ __forceinline__ void expand_words(float (&values)[kWidth], const Words<kWidth>& loaded,
                                             uint32_t kind) {
  if constexpr (kWidth == 8) {
    expand_floats(values, loaded.words, kind);
  } else {
    const bool is_wide = kind == kFloatF32;
#pragma unroll
    for (uint32_t i = 0; i < kWidth; ++i) {
      // An index that is chosen would put the words in memory.
      const uint32_t word = is_wide ? loaded.words[i] : loaded.words[i / 2];
      const uint32_t half = i % 2 == 0 ? word & 0xFFFF : word >> 16;
      values[i] = is_wide              ? __uint_as_float(word)
                  : kind == kFloatBf16 ? from_bf16(half)
                                       : from_f16(half);
    }
  }
}

template <uint32_t kWidth>
__device__ __forceinline__ void store_values(const float (&values)[kWidth], uint8_t* elements,
                                             uint64_t i, uint32_t kind) {
  if constexpr (kWidth == 8) {
    // Inner loop: 8 elements a store.
    *reinterpret_cast<uint4*>(elements + 2 * i) =
        make_uint4(to_halves(values[0], values[1], kind), to_halves(values[2], values[3], kind),
                   to_halves(values[4], values[5], kind), to_halves(values[6], values[7], kind));
  } else if constexpr (kWidth == 1) {
    store_float(elements, i, kind, values[0]);
  } else {
    store_four(elements, i, kind, values);
  }
}

// The sum of a row's parts, at `offset` of its token. By all lanes of a warp; of the row of lanes
// `r` and so on, whose parts that count are the bits of `counted`.
template <uint32_t kWidth>
__device__ __forceinline__ void add_parts(const AttentionMergeParams& params,
                                          const Weights& weights, uint32_t r, uint64_t token,
                                          uint32_t offset, uint32_t counted,
                                          float (&sums)[kWidth]) {
#pragma unroll
  for (uint32_t i = 0; i < kWidth; ++i) sums[i] = -0.0f;
  for (uint32_t first = 0; first < params.n_parts; first += kBatch) {
    Words<kWidth> loaded[kBatch];
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      const AttentionPartial& part = params.parts[first + i];
      const bool is_counted = (counted >> (first + i) * kWarpRows & 1) != 0;
      if (is_counted) {
        loaded[i] = load_words<kWidth>(part.outputs, token * part.stride + offset, params.element);
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      const uint32_t from = (first + i) * kWarpRows;
      const float factor = __shfl_sync(kAllLanes, weights.factor, from + r);
      if ((counted >> from & 1) == 0) continue;
      float values[kWidth];
      expand_words(values, loaded[i], params.element);
#pragma unroll
      for (uint32_t c = 0; c < kWidth; ++c) sums[c] = __fmaf_rn(values[c], factor, sums[c]);
    }
  }
  // Of nothing, +0.
#pragma unroll
  for (uint32_t i = 0; i < kWidth; ++i) sums[i] = counted == 0 ? 0.0f : sums[i];
}

template <uint32_t kWidth>
__device__ __forceinline__ void merge_rows(const AttentionMergeParams& params, uint32_t first_row,
                                           const Weights& weights) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t n_chunks = params.head_dim / kWidth;
  const uint32_t row_step = 32 / n_chunks;
  const uint32_t chunk_step = 32 - row_step * n_chunks;
  uint32_t r = lane / n_chunks;
  uint32_t chunk = lane - r * n_chunks;
  for (uint32_t done = 0; done < kWarpRows * n_chunks; done += 32) {
    const bool is_row = r < kWarpRows && first_row + r < params.n_rows;
    const uint32_t own = r % kWarpRows;
    const uint64_t token = __shfl_sync(kAllLanes, weights.token, own);
    const uint32_t head = __shfl_sync(kAllLanes, weights.head, own);
    const bool is_merged = is_row && (weights.left >> own & 1) == 0;
    const uint32_t counted = is_merged ? weights.counted >> own & kFirstRow : 0;
    const uint32_t offset = head * params.head_dim + chunk * kWidth;
    float sums[kWidth];
    add_parts(params, weights, own, token, offset, counted, sums);
    if (is_merged) {
      const uint64_t element = token * params.output_stride + offset;
      store_values(sums, params.outputs, element, params.output_element);
    }
    r += row_step;
    chunk += chunk_step;
    if (chunk >= n_chunks) {
      chunk -= n_chunks;
      r += 1;
    }
  }
}

}  // namespace

LACUNA_ENTRY(merge_partials, AttentionMergeParams, kThreads) {
  const uint32_t warp = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  const uint32_t first_row = warp * kWarpRows;
  if (first_row >= params.n_rows) return;
  const Weights weights = weigh_parts(params, first_row);
  if (params.width == 8) {
    merge_rows<8>(params, first_row, weights);
  } else if (params.width == 4) {
    merge_rows<4>(params, first_row, weights);
  } else {
    merge_rows<1>(params, first_row, weights);
  }
}
