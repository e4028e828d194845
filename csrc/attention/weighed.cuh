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

template <uint32_t kDim, uint32_t kQueries>
struct Weighed {
  enum : uint32_t { kOwn = own_of(kQueries), kOfStrip = 2 * kOwn, kOfStep = kStrips * kOfStrip };

  const AttentionTieredParams& params;
  const Rows& rows;
  Chip<kDim, kQueries>& chip;
  float outputs[kDim / 16][kOfStrip];
  Compensated masses[kOwn];
  // What rounding weights for values that are numbers added to their sum.
  float excess[kOwn];
  int32_t greatest[kOwn];
  // Of the step's weights: their sum; what fixed point is times, and what is added to its products.
  float of_step[kOwn];
  float unit[kOwn];
  float least[kOwn];

  __device__ __forceinline__ Weighed(const AttentionTieredParams& params, const Rows& rows,
                                     Chip<kDim, kQueries>& chip)
      : params(params), rows(rows), chip(chip), outputs{}, masses{}, excess{} {
    for (int32_t& of_row : greatest) of_row = kNoScore;
  }

  // Relative to what is no less than any logit; which become weights.
  __device__ __forceinline__ void weigh_step(bool is_plain, OfStep<kQueries>& logits) {
    int32_t next[kOwn];
#pragma unroll
    for (uint32_t j = 0; j < kOwn; ++j) {
      // NaN is less than any.
      float most = minus_infinity();
#pragma unroll
      for (uint32_t i = j; i < kOfStep; i += kOwn) most = logits[i] > most ? logits[i] : most;
      next[j] = max(greatest[j], ceiling(most));
    }
#pragma unroll
    for (uint32_t apart = 4; apart < 32; apart *= 2) {
#pragma unroll
      for (uint32_t j = 0; j < kOwn; ++j) {
        next[j] = max(next[j], __shfl_xor_sync(0xFFFFFFFFu, next[j], apart));
      }
    }
    raise(next);
    float from[kOwn];
#pragma unroll
    for (uint32_t j = 0; j < kOwn; ++j) from[j] = __int2float_rn(greatest[j]);
    if (is_plain) {
#pragma unroll
      for (uint32_t i = 0; i < kOfStep; ++i) {
        // Way of 2 bits and 4 bits: here.
        logits[i] = exp2_of_negative(__fsub_rn(logits[i], from[i % kOwn]));
      }
    } else {
#pragma unroll
      for (uint32_t i = 0; i < kOfStep; ++i) {
        const float weight = exp2_of(__fsub_rn(logits[i], from[i % kOwn]));
        logits[i] = logits[i] == logits[i] ? weight : logits[i];
      }
    }
#pragma unroll
    for (uint32_t j = 0; j < kOwn; ++j) {
      of_step[j] = __fadd_rn(logits[j], logits[kOwn + j]);
#pragma unroll
      for (uint32_t i = kOfStrip + j; i < kOfStep; i += kOfStrip) {
        of_step[j] = __fadd_rn(of_step[j], __fadd_rn(logits[i], logits[kOwn + i]));
      }
      masses[j].add(of_step[j]);
    }
  }

  __device__ __forceinline__ void raise(const int32_t (&next)[kOwn]) {
    bool is_same = true;
#pragma unroll
    for (uint32_t j = 0; j < kOwn; ++j) is_same = is_same && next[j] == greatest[j];
    if (!__any_sync(0xFFFFFFFFu, !is_same)) return;
#pragma unroll
    for (uint32_t j = 0; j < kOwn; ++j) {
      const float scale = scale_of(greatest[j], next[j]);
#pragma unroll
      for (uint32_t strip = 0; strip < kDim / 16; ++strip) {
#pragma unroll
        for (uint32_t i = j; i < kOfStrip; i += kOwn) {
          outputs[strip][i] = __fmul_rn(outputs[strip][i], scale);
        }
      }
      masses[j].scale(scale);
      excess[j] = __fmul_rn(excess[j], scale);
      greatest[j] = next[j];
    }
  }

  // Both rows of a lane are of the same four.
  __device__ __forceinline__ uint16_t* weight(uint32_t i) const {
    return chip.weights_of(kOwn * pair_of_lane()) + i % kOwn * kWeightPitch + i / kOwn * 8 +
           group_of_lane();
  }

  // Weights times steps, in fixed point, and what is added to their products with codes. These are
  // about their middle, since they multiply what rounding takes from weights.
  template <uint32_t kMiddle>
  __device__ __forceinline__ void fix_weights(const OfStep<kQueries>& weights) {
    float scaled[kOfStep];
    uint32_t top[kOwn] = {};
#pragma unroll
    for (uint32_t j = 0; j < kOwn; ++j) least[j] = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < kOfStep; ++i) {
      const Affine affine = chip.affine[i / kOwn * 8 + group_of_lane()];
      scaled[i] = __fmul_rn(weights[i], affine.step);
      top[i % kOwn] = max(top[i % kOwn], __float_as_uint(scaled[i]) & 0x7FFFFFFF);
      least[i % kOwn] = __fmaf_rn(weights[i], affine.least, least[i % kOwn]);
    }
#pragma unroll
    for (uint32_t j = 0; j < kOwn; ++j) {
#pragma unroll
      for (uint32_t apart = 4; apart < 32; apart *= 2) {
        top[j] = max(top[j], __shfl_xor_sync(0xFFFFFFFFu, top[j], apart));
      }
      const Fixed fixed = fix(top[j]);
      unit[j] = fixed.unit;
      // Of eight tokens.
      uint32_t total = 0u - 2 * kStrips * kFixedZero;
#pragma unroll
      for (uint32_t i = j; i < kOfStep; i += kOwn) {
        const uint32_t word = to_fixed(scaled[i], fixed);
        total += word;
        *weight(i) = static_cast<uint16_t>(word);
      }
#pragma unroll
      for (uint32_t apart = 4; apart < 32; apart *= 2) {
        total += __shfl_xor_sync(0xFFFFFFFFu, total, apart);
      }
      const float middle = __fmul_rn(-static_cast<float>(kMiddle), fixed.unit);
      const float sum = __int2float_rn(static_cast<int32_t>(total));
      least[j] = __fmaf_rn(middle, sum, add_over_groups(least[j]));
    }
    __syncwarp();
  }

  // Of strips of channels from `kFirst` on; of a piece that begins with them.
  template <uint32_t kTag, uint32_t kFirst, uint32_t kEnd>
  __device__ __forceinline__ void add_codes(const uint8_t* stage) {
    // Of a row of queries, tokens of each 32.
    uint32_t planes[2][kOwn][2];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t group = group_of_lane();
      const uint16_t* first = chip.weights_of(group * kQueries / 8) + i * 16 + 4 * pair_of_lane();
      const uint2 two = *reinterpret_cast<const uint2*>(first);
      const uint32_t high = __byte_perm(two.x, two.y, 0x7531);
      const uint32_t low = __byte_perm(two.x, two.y, 0x6420) ^ 0x80808080;
      if constexpr (kOwn == 1) {
        planes[i / 2][0][i % 2] = group % 2 == 0 ? high : low;
      } else {
        planes[i / 2][0][i % 2] = high;
        planes[i / 2][1][i % 2] = low;
      }
    }
#pragma unroll
    for (uint32_t strip = kFirst; strip < kEnd; ++strip) {
      float sums[kOfStrip];
      multiply_codes<kTag>(stage + (strip - kFirst) * 128 * (16 >> kTag), planes, sums);
#pragma unroll
      for (uint32_t i = 0; i < kOfStrip; ++i) {
        const uint32_t channel = strip * 16 + i / kOwn * 8 + group_of_lane();
        const float own = unit[i % kOwn];
        // A power of two stays one.
        const float of_code = is_fourfold<kTag>(i / kOwn) ? __fmul_rn(own, 0.25f) : own;
        const float sum = __fmaf_rn(sums[i], of_code, least[i % kOwn]);
        float& output = outputs[strip][i];
        output = __fmaf_rn(sum, chip.channels[0][channel], output);
      }
    }
  }

  // What was taken from values, once a step.
  __device__ __forceinline__ void add_offsets() {
    if (params.tiers.channels[1].offsets == nullptr) return;
    float mass[kOwn];
#pragma unroll
    for (uint32_t j = 0; j < kOwn; ++j) mass[j] = add_over_groups(of_step[j]);
#pragma unroll
    for (uint32_t strip = 0; strip < kDim / 16; ++strip) {
#pragma unroll
      for (uint32_t i = 0; i < kOfStrip; ++i) {
        const uint32_t channel = strip * 16 + i / kOwn * 8 + group_of_lane();
        float& output = outputs[strip][i];
        output = __fmaf_rn(chip.channels[1][channel], mass[i % kOwn], output);
      }
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
      // Columns are of eight rows, or two of each of four.
      float sums[4];
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) sums[i] = outputs[strip][i * kOwn / 2];
      multiply<kIsBf16>(sums, a, b);
#pragma unroll
      for (uint32_t i = 0; i < kOfStrip; ++i) outputs[strip][i] = sums[i * 2 / kOwn];
    }
  }

  // Rounded as values are.
  __device__ __forceinline__ void round_weights(const OfStep<kQueries>& weights) {
    const uint32_t element = params.attend.logits.element;
#pragma unroll
    for (uint32_t i = 0; i < kOfStep; ++i) {
      const uint32_t half = element == kFloatBf16 ? to_bf16(weights[i]) : to_f16(weights[i]);
      const float rounded = element == kFloatBf16 ? from_bf16(half) : from_f16(half);
      excess[i % kOwn] = __fadd_rn(excess[i % kOwn], __fsub_rn(rounded, weights[i]));
      *weight(i) = static_cast<uint16_t>(half);
    }
    __syncwarp();
  }

  // Of one strip of tokens.
  __device__ __forceinline__ void add_numbers(const uint8_t* stage, uint32_t strip) {
    const uint16_t* first =
        chip.weights_of(group_of_lane() * kQueries / 8) + strip * 16 + 2 * pair_of_lane();
    const uint32_t b[2] = {*reinterpret_cast<const uint32_t*>(first),
                           *reinterpret_cast<const uint32_t*>(first + 8)};
    if (params.attend.logits.element == kFloatBf16) {
      multiply_values<true>(stage, b);
    } else {
      multiply_values<false>(stage, b);
    }
  }

  template <uint32_t kTag, uint32_t kFirst, uint32_t kEnd>
  __device__ __forceinline__ void add_piece_of(const Step& step, const uint8_t* stage,
                                               const OfStep<kQueries>& weights) {
    constexpr uint32_t kMiddle = 1u << ((16 >> kTag) - 1);
    if (kFirst == 0) {
      load_affine<kMiddle>(params, stage + 32 * kDim, step.n, chip.affine);
      fix_weights<kMiddle>(weights);
    }
    add_codes<kTag, kFirst, kEnd>(stage);
    if (kEnd == kDim / 16) add_offsets();
  }

  // Of a piece of a step that is there, and its weights.
  __device__ __forceinline__ void add_piece(const Step& step, uint32_t piece, const uint8_t* stage,
                                            const OfStep<kQueries>& weights) {
    constexpr uint32_t kAll = kDim / 16;
    if (step.tags[1] == 0) {
      if (piece == 0) round_weights(weights);
      add_numbers(stage, piece);
    } else if (step.tags[1] == 3) {
      // Way of 2 bits: here.
      // Way of 4 bits: not here.
      add_piece_of<3, 0, kAll>(step, stage, weights);
    } else if (step.tags[1] == 2) {
      // Way of 4 bits: here.
      // Way of 2 bits: not here.
      add_piece_of<2, 0, kAll>(step, stage, weights);
    } else if (piece == 0) {
      // Way of 2 bits and 4 bits: not here.
      add_piece_of<1, 0, kAll / 2>(step, stage, weights);
    } else {
      add_piece_of<1, kAll / 2, kAll>(step, stage, weights);
    }
  }

  // As a part of the rows of queries.
  __device__ __forceinline__ void store(uint32_t* words) const {
#pragma unroll
    for (uint32_t j = 0; j < kOwn; ++j) {
      const float mass = add_over_groups(__fadd_rn(masses[j].sum, masses[j].lost));
      const float sum = __fadd_rn(mass, add_over_groups(excess[j]));
      const uint32_t r = kOwn * pair_of_lane() + j;
      if (r >= rows.n) continue;
      uint32_t* row = words + r * (kDim + kExtraWords);
#pragma unroll
      for (uint32_t strip = 0; strip < kDim / 16; ++strip) {
        row[16 * strip + group_of_lane()] = __float_as_uint(outputs[strip][j]);
        row[16 * strip + 8 + group_of_lane()] = __float_as_uint(outputs[strip][kOwn + j]);
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
