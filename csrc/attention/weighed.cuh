// SPDX-License-Identifier: MIT OR Apache-2.0
// A warp's sums over its steps: of weights, and of weights times values, codes and numbers.
#ifndef LACUNA_ATTENTION_WEIGHED_CUH_
#define LACUNA_ATTENTION_WEIGHED_CUH_

#include "feed.cuh"

namespace {

// A value of each of the eight lanes that have the same rows of queries, added in a tree.
__device__ __forceinline__ float add_over_groups(float value) {
#pragma unroll
  for (uint32_t apart = 4; apart < 32; apart *= 2) {
    value = __fadd_rn(value, __shfl_xor_sync(0xFFFFFFFFu, value, apart));
  }
  return value;
}

template <uint32_t kDim>
struct Weighed {
  const AttentionTieredParams& params;
  const Rows& rows;
  Chip<kDim>& chip;
  Feed<kDim>& feed;
  float outputs[kDim / 16][4];
  Compensated masses[2];
  // What rounding weights for values that are numbers added to their sum.
  float excess[2];
  int32_t greatest[2];

  __device__ __forceinline__ Weighed(const AttentionTieredParams& params, const Rows& rows,
                                     Chip<kDim>& chip, Feed<kDim>& feed)
      : params(params),
        rows(rows),
        chip(chip),
        feed(feed),
        outputs{},
        masses{},
        excess{},
        greatest{kNoScore, kNoScore} {}

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
    return &chip.weights[2 * pair_of_lane() + j][token];
  }

  template <uint32_t kTag>
  __device__ __forceinline__ void add_codes(const Step& step, const uint8_t* stage,
                                            const float (&weights)[kStrips][4],
                                            const float (&of_step)[2]) {
    // What rounding takes from weights is then multiplied by codes about 0.
    constexpr uint32_t kMiddle = 1u << ((16 >> kTag) - 1);
    load_affine<kMiddle>(params, stage + 32 * kDim, step.n, chip.affine);
    float scaled[kStrips][4];
    uint32_t top[2] = {0, 0};
    float least[2] = {0.0f, 0.0f};
#pragma unroll
    for (uint32_t i = 0; i < 4 * kStrips; ++i) {
      const Affine affine = chip.affine[i / 2 * 8 + group_of_lane()];
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
      *weight(i % 2, i / 2 * 8 + group_of_lane()) = static_cast<uint16_t>(word);
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
      const uint16_t* first = &chip.weights[group_of_lane()][i * 16 + 4 * pair_of_lane()];
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
        const uint32_t channel = strip * 16 + i / 2 * 8 + group_of_lane();
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
      const uint32_t channel = i / 2 * 8 + group_of_lane();
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
      *weight(i % 2, i / 2 * 8 + group_of_lane()) = static_cast<uint16_t>(half);
    }
    __syncwarp();
#pragma unroll 1
    for (uint32_t strip = 0; strip < kStrips; ++strip) {
      if (strip != 0) stage = feed.take();
      const uint16_t* first = &chip.weights[group_of_lane()][strip * 16 + 2 * pair_of_lane()];
      const uint32_t b[2] = {*reinterpret_cast<const uint32_t*>(first),
                             *reinterpret_cast<const uint32_t*>(first + 8)};
      if (element == kFloatBf16) {
        multiply_values<true>(stage, b);
      } else {
        multiply_values<false>(stage, b);
      }
    }
  }

  // Of the step's logits, and of its values, from their first piece on.
  __device__ __forceinline__ void add_step(const Step& step, bool is_plain,
                                           float (&weights)[kStrips][4]) {
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
    const uint8_t* stage = feed.take();
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
      const uint32_t r = 2 * pair_of_lane() + j;
      if (r >= rows.n) continue;
      uint32_t* row = words + r * (kDim + kExtraWords);
#pragma unroll
      for (uint32_t strip = 0; strip < kDim / 16; ++strip) {
        row[16 * strip + group_of_lane()] = __float_as_uint(outputs[strip][j]);
        row[16 * strip + 8 + group_of_lane()] = __float_as_uint(outputs[strip][2 + j]);
      }
      if (group_of_lane() != 0) continue;
      row[kDim + kSumWord] = __float_as_uint(sum);
      row[kDim + kGreatestWord] = static_cast<uint32_t>(greatest[j]);
      row[kDim + kMassWord] = __float_as_uint(mass);
    }
  }
};

}  // namespace

#endif  // LACUNA_ATTENTION_WEIGHED_CUH_
