// SPDX-License-Identifier: MIT OR Apache-2.0
// Attention of few queries over tiered pages and rows of paged caches. A step is 64 positions; of a
// split each warp has every fourth. Tokens are operand A of products with 8 rows of queries, and
// channels of values that with their weights, so that codes are multiplied as they lie in pages.
// src/attention/tiered/reference.rs is the specification.
#ifndef LACUNA_ATTENTION_TIERED_CUH_
#define LACUNA_ATTENTION_TIERED_CUH_

#include "../common/dot.cuh"
#include "feed.cuh"

namespace {

constexpr uint32_t kLeastSteps = 4;
constexpr uint32_t kStrips = kStep / 16;

struct TieredShared {
  Positions positions;
  Finishing finishing;
};

// The fewest steps, a power of two times 4, of which 64 splits have all.
__device__ __forceinline__ uint32_t split_steps_of(uint32_t n_steps) {
  uint32_t n = kLeastSteps;
  while (n_steps > kMostParts * n) n *= 2;
  return n;
}

// A value of each of the eight lanes that have the same rows of queries, added in a tree.
__device__ __forceinline__ float add_over_groups(float value) {
#pragma unroll
  for (uint32_t apart = 4; apart < 32; apart *= 2) {
    value = __fadd_rn(value, __shfl_xor_sync(0xFFFFFFFFu, value, apart));
  }
  return value;
}

// Of a lane: rows of queries `2 pair` and `2 pair + 1`; tokens `group` and `group + 8` of each
// strip of 16, or such channels.
template <uint32_t kDim>
struct Tiered {
  const AttentionTieredParams& params;
  const Part& part;
  const Rows& rows;
  Chip<kDim>& chip;
  const uint4* queries;
  Feed<kDim>& feed;
  float outputs[kDim / 16][4];
  Compensated masses[2];
  // What rounding weights for values that are numbers added to their sum.
  float excess[2];
  int32_t greatest[2];
  uint32_t span;

  __device__ __forceinline__ Tiered(const AttentionTieredParams& params, const Part& part,
                                    const Rows& rows, Chip<kDim>& chip, const uint4* queries,
                                    Feed<kDim>& feed)
      : params(params),
        part(part),
        rows(rows),
        chip(chip),
        queries(queries),
        feed(feed),
        outputs{},
        masses{},
        excess{},
        greatest{kNoScore, kNoScore},
        span(~0u) {}

  __device__ __forceinline__ uint32_t group() const { return threadIdx.x % 32 / 4; }
  __device__ __forceinline__ uint32_t pair() const { return threadIdx.x % 4; }

  // Of a span of pages: queries times its channels' scales, in fixed point, and what values'
  // channels are relative to. A piece has been taken since others were read, and a tail is loaded
  // before these are.
  __device__ __forceinline__ void enter_span(uint32_t next) {
    if (next == span) return;
    span = next;
    const uint64_t head = uint64_t{part.b} * params.attend.n_heads + part.head;
    const uint64_t channel = (head * params.tiers.n_spans + next) * kDim;
    const QuantChannels& keys = params.tiers.channels[0];
    const QuantChannels& values = params.tiers.channels[1];
    for (uint32_t c = threadIdx.x % 32; c < kDim; c += 32) {
      chip.channels[0][c] = values.scales != nullptr ? values.scales[channel + c] : 1.0f;
      chip.channels[1][c] = values.offsets != nullptr ? values.offsets[channel + c] : 0.0f;
    }
    constexpr uint32_t kTogether = 32 / kDotLanes;
    // Rarely.
#pragma unroll 1
    for (uint32_t first = 0; first < kQueries; first += kTogether) {
      fold_row(first + threadIdx.x % 32 / kDotLanes,
               keys.scales != nullptr ? keys.scales + channel : nullptr,
               keys.offsets != nullptr ? keys.offsets + channel : nullptr);
    }
  }

  // By eight lanes.
  __device__ __forceinline__ void fold_row(uint32_t row, const float* scales,
                                           const float* offsets) {
    const uint32_t lane = threadIdx.x % kDotLanes;
    const uint8_t* query = reinterpret_cast<const uint8_t*>(queries + row * pitch_of(kDim));
    constexpr uint32_t kChunks = (kDim + 63) / 64;
    float scaled[kChunks][8];
    float offset = 0.0f;
    uint32_t top = 0;
#pragma unroll
    for (uint32_t j = 0; j < kChunks; ++j) {
      const uint32_t c = 64 * j + 8 * lane;
      if (c >= kDim) break;
      const uint4 four = *reinterpret_cast<const uint4*>(query + 2 * c);
      const uint32_t words[4] = {four.x, four.y, four.z, four.w};
      expand_floats(scaled[j], words, params.attend.logits.element);
#pragma unroll
      for (uint32_t e = 0; e < 8; ++e) {
        if (offsets != nullptr) offset = __fmaf_rn(scaled[j][e], offsets[c + e], offset);
        if (scales != nullptr) scaled[j][e] = __fmul_rn(scaled[j][e], scales[c + e]);
        top = max(top, __float_as_uint(scaled[j][e]) & 0x7FFFFFFF);
      }
    }
    offset = add_over_lanes(offset);
#pragma unroll
    for (uint32_t apart = kDotLanes / 2; apart > 0; apart /= 2) {
      top = max(top, __shfl_xor_sync(0xFFFFFFFFu, top, apart));
    }
    const Fixed fixed = fix(top);
    int32_t sum = 0;
#pragma unroll
    for (uint32_t j = 0; j < kChunks; ++j) {
      const uint32_t c = 64 * j + 8 * lane;
      if (c >= kDim) break;
      uint32_t planes[2][2] = {};
#pragma unroll
      for (uint32_t e = 0; e < 8; ++e) {
        const uint32_t word = to_fixed(scaled[j][e], fixed);
        planes[0][e / 4] |= (word >> 8 & 0xFF) << e % 4 * 8;
        planes[1][e / 4] |= (word & 0xFF) << e % 4 * 8;
        sum += static_cast<int32_t>(word << 16) >> 16;
      }
#pragma unroll
      for (uint32_t p = 0; p < 2; ++p) {
        *reinterpret_cast<uint2*>(&chip.planes[p][row][c]) = make_uint2(planes[p][0], planes[p][1]);
      }
    }
#pragma unroll
    for (uint32_t apart = kDotLanes / 2; apart > 0; apart /= 2) {
      sum += __shfl_xor_sync(0xFFFFFFFFu, sum, apart);
    }
    if (lane == 0) chip.folded[row] = {fixed.unit, __int2float_rn(sum), offset};
  }

  // Of a page's tokens, from its tail; zeros past the last.
  template <uint32_t kMiddle>
  __device__ __forceinline__ void load_affine(const uint8_t* tail, uint32_t n) {
    for (uint32_t t = threadIdx.x % 32; t < kStep; t += 32) {
      Affine affine = {0.0f, 0.0f};
      if (t < n && params.tiers.pools.tail == kZeroPoints) {
        const uint16_t* halves = reinterpret_cast<const uint16_t*>(tail);
        affine.step = from_bf16(halves[t]);
        const int32_t zero = static_cast<int32_t>(uint32_t{halves[kStep + t]} << 16) >> 16;
        affine.least = __fmul_rn(affine.step, __fmul_rn(__int2float_rn(-zero), 0.0625f));
      } else if (t < n) {
        const float* words = reinterpret_cast<const float*>(tail);
        affine.step = words[t];
        affine.least = words[kStep + t];
      }
      if (kMiddle != 0) {
        affine.least = __fmaf_rn(static_cast<float>(kMiddle), affine.step, affine.least);
      }
      chip.affine[t] = affine;
    }
    __syncwarp();
  }

  template <uint32_t kTag>
  __device__ __forceinline__ void score_codes(const Step& step, const uint8_t* stage,
                                              float (&products)[kStrips][4]) {
    load_affine<0>(stage + 32 * kDim, step.n);
    const Folded folded[2] = {chip.folded[2 * pair()], chip.folded[2 * pair() + 1]};
    uint32_t planes[kDim / 32][2][2];
#pragma unroll
    for (uint32_t tile = 0; tile < kDim / 32; ++tile) {
#pragma unroll
      for (uint32_t p = 0; p < 2; ++p) {
        const uint32_t* words =
            reinterpret_cast<const uint32_t*>(&chip.planes[p][group()][32 * tile]) + pair();
        planes[tile][p][0] = words[0];
        planes[tile][p][1] = words[4];
      }
    }
    const uint32_t strip_bytes = 32 * kDim >> kTag;
#pragma unroll
    for (uint32_t strip = 0; strip < kStrips; ++strip) {
      if (kTag == 1 && strip == kStrips / 2) stage = feed.take() - strip * strip_bytes;
      float sums[4];
      multiply_codes<kTag>(stage + strip * strip_bytes, planes, sums);
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const Affine affine = chip.affine[strip * 16 + i / 2 * 8 + group()];
        const Folded& of = folded[i % 2];
        const float sum = is_fourfold<kTag>(i) ? __fmul_rn(sums[i], 0.25f) : sums[i];
        const float code = __fmaf_rn(affine.step, sum, __fmul_rn(affine.least, of.sum));
        products[strip][i] = __fmaf_rn(code, of.unit, of.offset);
      }
    }
  }

  template <bool kIsBf16>
  __device__ __forceinline__ void multiply_numbers(const uint8_t* stage, float (&products)[4]) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t pitch = pitch_of(kDim);
    const uint4* keys = reinterpret_cast<const uint4*>(stage) + lane % 16 * pitch + lane / 16;
    const uint4* query = queries + lane % 8 * pitch + lane / 8 % 2;
#pragma unroll
    for (uint32_t k = 0; k < kDim / 16; ++k) {
      uint32_t a[4];
      uint32_t b[2];
      load_matrices(a, keys + 2 * k);
      load_matrices(b, query + 2 * k);
      multiply<kIsBf16>(products, a, b);
    }
  }

  __device__ __forceinline__ void score_numbers(const uint8_t* stage,
                                                float (&products)[kStrips][4]) {
#pragma unroll 1
    for (uint32_t strip = 0; strip < kStrips; ++strip) {
      if (strip != 0) stage = feed.take();
      float of_strip[4] = {};
      if (params.attend.logits.element == kFloatBf16) {
        multiply_numbers<true>(stage, of_strip);
      } else {
        multiply_numbers<false>(stage, of_strip);
      }
      // An index that is not known would put the products in memory.
#pragma unroll
      for (uint32_t i = 0; i < 4 * kStrips; ++i) {
        if (i / 4 == strip) products[i / 4][i % 4] = of_strip[i % 4];
      }
    }
  }

  // Products become logits to base 2. Says whether all count, and none is far off or no number.
  __device__ __forceinline__ bool mask_step(const Step& step, float (&logits)[kStrips][4]) const {
    const AttentionLogits& rule = params.attend.logits;
    if (step.is_page && rule.cap_scale == 0.0f) {
      float squares = 0.0f;
#pragma unroll
      for (uint32_t i = 0; i < 4 * kStrips; ++i) {
        float& logit = logits[i / 4][i % 4];
        logit = __fmul_rn(logit, rule.log2_scale);
        squares = __fmaf_rn(logit, logit, squares);
      }
      const bool is_plain = step.n == kStep && squares < kMostLog2 * kMostLog2 / 4.0f;
      if (__all_sync(0xFFFFFFFFu, is_plain)) return true;
#pragma unroll
      for (uint32_t i = 0; i < 4 * kStrips; ++i) {
        float& logit = logits[i / 4][i % 4];
        logit = i / 2 * 8 + group() < step.n ? clamp_logit(logit) : minus_infinity();
      }
      return false;
    }
    const StepTokens& tokens = chip.tokens[step.ordinal % 2];
    const uint32_t row = rows.tile * kQueries + 2 * pair();
    const uint32_t query[2] = {row / params.attend.group, (row + 1) / params.attend.group};
#pragma unroll
    for (uint32_t i = 0; i < 4 * kStrips; ++i) {
      const uint32_t token = i / 2 * 8 + group();
      bool is_seen = token < step.n;
      float bias = 0.0f;
      if (!step.is_page) {
        const uint32_t seen = tokens.seen[token];
        const uint32_t begin = seen & 0xFFFF;
        is_seen = query[i % 2] - begin < (seen >> 16) - begin;
        bias = tokens.biases[token];
      }
      float& logit = logits[i / 4][i % 4];
      logit = is_seen ? to_logit(rule, logit, bias) : minus_infinity();
    }
    return false;
  }

  // Writes what weights are 2 to the power of; of null as if nothing stood there.
  __device__ __forceinline__ void store_logits(const Step& step, const float (*logits)[4]) const {
    if (params.tiers.logits == nullptr) return;
    const AttentionAttendParams& attend = params.attend;
    const uint32_t n = step.is_page ? kStep : step.n;
    const uint64_t first = uint64_t{step.is_page ? 0 : kStep * params.tiers.n_pages} + step.first;
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      const uint32_t r = 2 * pair() + j;
      if (r >= rows.n) continue;
      const QueryRow row = locate_query(attend, rows.tile * kQueries + r);
      const uint64_t token = uint64_t{part.b} * attend.n_queries + row.query;
      const uint64_t head = uint64_t{part.head} * attend.group + row.in_group;
      float* target = params.tiers.logits +
                      (token * attend.n_heads * attend.group + head) * params.tiers.n_positions +
                      first;
#pragma unroll
      for (uint32_t i = 0; i < 2 * kStrips; ++i) {
        const uint32_t position = i * 8 + group();
        if (position >= n) continue;
        const float logit = logits == nullptr ? minus_infinity() : logits[i / 2][i % 2 * 2 + j];
        // Of zeros, one.
        target[position] = canonical(__fadd_rn(logit, 0.0f));
      }
    }
  }

  // Relative to what is no less than any logit; which become weights.
  __device__ __forceinline__ void weigh_step(bool is_plain, float (&logits)[kStrips][4]) {
    // NaN is less than any.
    float most[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
    for (uint32_t i = 0; i < 4 * kStrips; ++i) {
      const float logit = logits[i / 4][i % 4];
      most[i % 2] = logit > most[i % 2] ? logit : most[i % 2];
    }
    int32_t next[2] = {max(greatest[0], ceiling(most[0])), max(greatest[1], ceiling(most[1]))};
#pragma unroll
    for (uint32_t apart = 4; apart < 32; apart *= 2) {
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j) {
        next[j] = max(next[j], __shfl_xor_sync(0xFFFFFFFFu, next[j], apart));
      }
    }
    raise(next);
    const float from[2] = {__int2float_rn(greatest[0]), __int2float_rn(greatest[1])};
    if (is_plain) {
#pragma unroll
      for (uint32_t i = 0; i < 4 * kStrips; ++i) {
        float& logit = logits[i / 4][i % 4];
        logit = exp2_of_negative(__fsub_rn(logit, from[i % 2]));
      }
      return;
    }
#pragma unroll
    for (uint32_t i = 0; i < 4 * kStrips; ++i) {
      float& logit = logits[i / 4][i % 4];
      const float weight = exp2_of(__fsub_rn(logit, from[i % 2]));
      logit = logit == logit ? weight : logit;
    }
  }

  __device__ __forceinline__ void raise(const int32_t (&next)[2]) {
    const bool is_same = next[0] == greatest[0] && next[1] == greatest[1];
    if (!__any_sync(0xFFFFFFFFu, !is_same)) return;
    const float scales[2] = {scale_of(greatest[0], next[0]), scale_of(greatest[1], next[1])};
#pragma unroll
    for (uint32_t i = 0; i < kDim / 16; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) outputs[i][j] = __fmul_rn(outputs[i][j], scales[j % 2]);
    }
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      masses[j].scale(scales[j]);
      excess[j] = __fmul_rn(excess[j], scales[j]);
      greatest[j] = next[j];
    }
  }

  __device__ __forceinline__ uint16_t* weight(uint32_t j, uint32_t token) const {
    return &chip.weights[2 * pair() + j][token];
  }

  template <uint32_t kTag>
  __device__ __forceinline__ void add_codes(const Step& step, const uint8_t* stage,
                                            const float (&weights)[kStrips][4],
                                            const float (&of_step)[2]) {
    // What rounding takes from weights is then multiplied by codes about 0.
    constexpr uint32_t kMiddle = 1u << ((16 >> kTag) - 1);
    load_affine<kMiddle>(stage + 32 * kDim, step.n);
    float scaled[kStrips][4];
    uint32_t top[2] = {0, 0};
    float least[2] = {0.0f, 0.0f};
#pragma unroll
    for (uint32_t i = 0; i < 4 * kStrips; ++i) {
      const Affine affine = chip.affine[i / 2 * 8 + group()];
      const float weight = weights[i / 4][i % 4];
      const float product = __fmul_rn(weight, affine.step);
      scaled[i / 4][i % 4] = product;
      top[i % 2] = max(top[i % 2], __float_as_uint(product) & 0x7FFFFFFF);
      least[i % 2] = __fmaf_rn(weight, affine.least, least[i % 2]);
    }
#pragma unroll
    for (uint32_t apart = 4; apart < 32; apart *= 2) {
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j) {
        top[j] = max(top[j], __shfl_xor_sync(0xFFFFFFFFu, top[j], apart));
      }
    }
    const Fixed fixed[2] = {fix(top[0]), fix(top[1])};
    // Of eight tokens.
    uint32_t total[2] = {0u - 2 * kStrips * kFixedZero, 0u - 2 * kStrips * kFixedZero};
#pragma unroll
    for (uint32_t i = 0; i < 4 * kStrips; ++i) {
      const uint32_t word = to_fixed(scaled[i / 4][i % 4], fixed[i % 2]);
      total[i % 2] += word;
      *weight(i % 2, i / 2 * 8 + group()) = static_cast<uint16_t>(word);
    }
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
#pragma unroll
      for (uint32_t apart = 4; apart < 32; apart *= 2) {
        total[j] += __shfl_xor_sync(0xFFFFFFFFu, total[j], apart);
      }
      const float middle = __fmul_rn(-static_cast<float>(kMiddle), fixed[j].unit);
      const float sum = __int2float_rn(static_cast<int32_t>(total[j]));
      least[j] = __fmaf_rn(middle, sum, add_over_groups(least[j]));
    }
    __syncwarp();
    // Of rows of queries `group`, tokens of each 32.
    uint32_t planes[2][2][2];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint16_t* first = &chip.weights[group()][i * 16 + 4 * pair()];
      const uint2 two = *reinterpret_cast<const uint2*>(first);
      planes[i / 2][0][i % 2] = __byte_perm(two.x, two.y, 0x7531);
      planes[i / 2][1][i % 2] = __byte_perm(two.x, two.y, 0x6420);
    }
    constexpr uint32_t kOutputStrips = kDim / 16;
    const uint32_t strip_bytes = 128 * (16 >> kTag);
#pragma unroll
    for (uint32_t strip = 0; strip < kDim / 16; ++strip) {
      if (kTag == 1 && strip == kOutputStrips / 2) {
        stage = feed.take() - kOutputStrips / 2 * strip_bytes;
      }
      float sums[4];
      multiply_codes<kTag>(stage + strip * strip_bytes, planes, sums);
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t channel = strip * 16 + i / 2 * 8 + group();
        const float own = fixed[i % 2].unit;
        // A power of two stays one.
        const float unit = is_fourfold<kTag>(i) ? __fmul_rn(own, 0.25f) : own;
        const float sum = __fmaf_rn(sums[i], unit, least[i % 2]);
        float& output = outputs[strip][i];
        output = __fmaf_rn(sum, chip.channels[0][channel], output);
      }
    }
    if (params.tiers.channels[1].offsets == nullptr) return;
    const float mass[2] = {add_over_groups(of_step[0]), add_over_groups(of_step[1])};
#pragma unroll
    for (uint32_t i = 0; i < 4 * kOutputStrips; ++i) {
      const uint32_t channel = i / 2 * 8 + group();
      float& output = outputs[i / 4][i % 4];
      output = __fmaf_rn(chip.channels[1][channel], mass[i % 2], output);
    }
  }

  template <bool kIsBf16>
  __device__ __forceinline__ void multiply_values(const uint8_t* stage, const uint32_t (&b)[2]) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t row = lane % 8 + lane / 16 * 8;
    const uint4* values =
        reinterpret_cast<const uint4*>(stage) + row * pitch_of(kDim) + lane / 8 % 2;
#pragma unroll
    for (uint32_t strip = 0; strip < kDim / 16; ++strip) {
      uint32_t a[4];
      load_matrices_transposed(a, values + 2 * strip);
      multiply<kIsBf16>(outputs[strip], a, b);
    }
  }

  __device__ __forceinline__ void add_numbers(const uint8_t* stage,
                                              const float (&weights)[kStrips][4]) {
    const uint32_t element = params.attend.logits.element;
#pragma unroll
    for (uint32_t i = 0; i < 4 * kStrips; ++i) {
      const float exact = weights[i / 4][i % 4];
      const uint32_t half = element == kFloatBf16 ? to_bf16(exact) : to_f16(exact);
      const float rounded = element == kFloatBf16 ? from_bf16(half) : from_f16(half);
      excess[i % 2] = __fadd_rn(excess[i % 2], __fsub_rn(rounded, exact));
      *weight(i % 2, i / 2 * 8 + group()) = static_cast<uint16_t>(half);
    }
    __syncwarp();
#pragma unroll 1
    for (uint32_t strip = 0; strip < kStrips; ++strip) {
      if (strip != 0) stage = feed.take();
      const uint16_t* first = &chip.weights[group()][strip * 16 + 2 * pair()];
      const uint32_t b[2] = {*reinterpret_cast<const uint32_t*>(first),
                             *reinterpret_cast<const uint32_t*>(first + 8)};
      if (element == kFloatBf16) {
        multiply_values<true>(stage, b);
      } else {
        multiply_values<false>(stage, b);
      }
    }
  }

  __device__ __forceinline__ void add_step(const Step& step) {
    const uint8_t* stage = feed.take();
    if (step.n == 0) {
      feed.take();
      store_logits(step, nullptr);
      return;
    }
    if (step.tag(0) != 0 || step.tag(1) != 0) {
      enter_span(step.first / kStep / params.tiers.span_pages);
    }
    float weights[kStrips][4];
    if (step.tag(0) == 0) {
      score_numbers(stage, weights);
    } else if (step.tag(0) == 1) {
      score_codes<1>(step, stage, weights);
    } else if (step.tag(0) == 2) {
      score_codes<2>(step, stage, weights);
    } else {
      score_codes<3>(step, stage, weights);
    }
    const bool is_plain = mask_step(step, weights);
    store_logits(step, weights);
    weigh_step(is_plain, weights);
    float of_step[2];
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      of_step[j] = __fadd_rn(weights[0][j], weights[0][2 + j]);
#pragma unroll
      for (uint32_t strip = 1; strip < kStrips; ++strip) {
        const float two = __fadd_rn(weights[strip][j], weights[strip][2 + j]);
        of_step[j] = __fadd_rn(of_step[j], two);
      }
      masses[j].add(of_step[j]);
    }
    stage = feed.take();
    if (step.tag(1) == 0) {
      add_numbers(stage, weights);
    } else if (step.tag(1) == 1) {
      add_codes<1>(step, stage, weights, of_step);
    } else if (step.tag(1) == 2) {
      add_codes<2>(step, stage, weights, of_step);
    } else {
      add_codes<3>(step, stage, weights, of_step);
    }
  }

  // As a part of the rows of queries.
  __device__ __forceinline__ void store(uint32_t* words) const {
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      const float mass = add_over_groups(__fadd_rn(masses[j].sum, masses[j].lost));
      const float sum = __fadd_rn(mass, add_over_groups(excess[j]));
      const uint32_t r = 2 * pair() + j;
      if (r >= rows.n) continue;
      uint32_t* row = words + r * (kDim + kExtraWords);
#pragma unroll
      for (uint32_t strip = 0; strip < kDim / 16; ++strip) {
        row[16 * strip + group()] = __float_as_uint(outputs[strip][j]);
        row[16 * strip + 8 + group()] = __float_as_uint(outputs[strip][2 + j]);
      }
      if (group() != 0) continue;
      row[kDim + kSumWord] = __float_as_uint(sum);
      row[kDim + kGreatestWord] = static_cast<uint32_t>(greatest[j]);
      row[kDim + kMassWord] = __float_as_uint(mass);
    }
  }
};

// Logits of positions that no step has.
__device__ __forceinline__ void clear_logits(const AttentionTieredParams& params, const Part& part,
                                             const Rows& rows, uint32_t n_page_steps) {
  const AttentionAttendParams& attend = params.attend;
  const uint32_t n_slots = kStep * params.tiers.n_pages;
  const uint32_t n_rest = static_cast<uint32_t>(params.tiers.n_positions);
  const uint32_t step = gridDim.x * blockDim.x;
  for (uint32_t r = 0; r < rows.n; ++r) {
    const QueryRow row = locate_query(attend, rows.tile * kQueries + r);
    const uint64_t token = uint64_t{part.b} * attend.n_queries + row.query;
    const uint64_t head = uint64_t{part.head} * attend.group + row.in_group;
    float* target = params.tiers.logits +
                    (token * attend.n_heads * attend.group + head) * params.tiers.n_positions;
    const uint32_t own = blockIdx.x * blockDim.x + threadIdx.x;
    for (uint32_t i = kStep * n_page_steps + own; i < n_slots; i += step) {
      target[i] = minus_infinity();
    }
    for (uint32_t i = n_slots + part.n_positions + own; i < n_rest; i += step) {
      target[i] = minus_infinity();
    }
  }
}

template <uint32_t kDim>
__device__ __forceinline__ void attend_tiers(const AttentionTieredParams& params, uint4* dynamic,
                                             TieredShared& shared) {
  const AttentionAttendParams& attend = params.attend;
  Part part;
  part.b = blockIdx.z;
  part.tile_rows = kQueries;
  part.n_sets = 1;
  if (attend.skips != nullptr && attend.skips[part.b] != 0) return;
  part.head = blockIdx.y / attend.n_tiles;
  part.first_tile = blockIdx.y - part.head * attend.n_tiles;
  part.n_all_rows = attend.n_queries * attend.group;
  if (threadIdx.x == 0) count_positions(attend, part.b, part.head, shared.positions);
  __syncthreads();
  part.n_positions = shared.positions.ends[attend.n_segments - 1];
  const uint32_t list =
      params.tiers.n_lists == 1 ? part.b : part.b * params.tiers.n_lists + part.head;
  uint32_t n_slots = kStep * params.tiers.n_pages;
  if (params.tiers.counts != nullptr) n_slots = min_of(n_slots, params.tiers.counts[list]);
  const uint32_t n_page_steps = (n_slots + kStep - 1) / kStep;
  const uint32_t n_steps = n_page_steps + (part.n_positions + kStep - 1) / kStep;
  part.split_len = split_steps_of(n_steps);
  part.n_splits = (n_steps + part.split_len - 1) / part.split_len;
  // A row of nothing has an output too.
  if (part.n_splits == 0) part.n_splits = 1;
  const Rows rows = rows_of_tile(part, part.first_tile);
  if (params.tiers.logits != nullptr) clear_logits(params, part, rows, n_page_steps);
  if (blockIdx.x >= part.n_splits) return;
  stage_queries(attend, part, dynamic);
  commit_copies();
  const uint32_t warp = threadIdx.x / 32;
  uint8_t* chips = reinterpret_cast<uint8_t*>(dynamic + kQueries * pitch_of(kDim));
  Chip<kDim>& chip = *(reinterpret_cast<Chip<kDim>*>(chips) + warp);
  const uint32_t first = blockIdx.x * part.split_len;
  Feed<kDim> feed(params, part, shared.positions, chip, chips + kWarps * sizeof(Chip<kDim>),
                  n_slots, first, min_of(first + part.split_len, n_steps));
  wait_copies<0>();
  __syncthreads();
  Tiered<kDim> tiered(params, part, rows, chip, dynamic, feed);
  // A step is known before the one before it is multiplied.
  feed.prepare(0);
  feed.begin();
  for (uint32_t n = 0; feed.has_step(n); ++n) {
    const Step step = feed.next;
    feed.prepare(n + 1);
    tiered.add_step(step);
  }
  wait_copies<0>();
  __syncthreads();
  uint32_t* words = reinterpret_cast<uint32_t*>(dynamic);
  tiered.store(words + warp * kQueries * (kDim + kExtraWords));
  __syncthreads();
  merge_parts(attend, part, rows, kWarps, dynamic, shared.finishing);
}

}  // namespace

#endif  // LACUNA_ATTENTION_TIERED_CUH_
