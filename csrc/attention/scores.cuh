// SPDX-License-Identifier: MIT OR Apache-2.0
// Logits of a step: products of a warp's rows of queries with codes, and with numbers.
#ifndef LACUNA_ATTENTION_SCORES_CUH_
#define LACUNA_ATTENTION_SCORES_CUH_

#include "../common/dot.cuh"
#include "feed.cuh"

namespace {

template <uint32_t kDim>
struct Scores {
  const AttentionTieredParams& params;
  const Part& part;
  const Rows& rows;
  Chip<kDim>& chip;
  const uint4* queries;
  Feed<kDim>& feed;
  // That queries are folded for.
  uint32_t span;

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

  template <uint32_t kTag>
  __device__ __forceinline__ void score_codes(const Step& step, const uint8_t* stage,
                                              float (&products)[kStrips][4]) {
    load_affine<0>(params, stage + 32 * kDim, step.n, chip.affine);
    const Folded folded[2] = {chip.folded[2 * pair_of_lane()], chip.folded[2 * pair_of_lane() + 1]};
    uint32_t planes[kDim / 32][2][2];
#pragma unroll
    for (uint32_t tile = 0; tile < kDim / 32; ++tile) {
#pragma unroll
      for (uint32_t p = 0; p < 2; ++p) {
        const uint32_t* words =
            reinterpret_cast<const uint32_t*>(&chip.planes[p][group_of_lane()][32 * tile]) +
            pair_of_lane();
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
        const Affine affine = chip.affine[strip * 16 + i / 2 * 8 + group_of_lane()];
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
        logit = i / 2 * 8 + group_of_lane() < step.n ? clamp_logit(logit) : minus_infinity();
      }
      return false;
    }
    const StepTokens& tokens = chip.tokens[step.ordinal % 2];
    const uint32_t row = rows.tile * kQueries + 2 * pair_of_lane();
    const uint32_t query[2] = {row / params.attend.group, (row + 1) / params.attend.group};
#pragma unroll
    for (uint32_t i = 0; i < 4 * kStrips; ++i) {
      const uint32_t token = i / 2 * 8 + group_of_lane();
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
      const uint32_t r = 2 * pair_of_lane() + j;
      if (r >= rows.n) continue;
      const QueryRow row = locate_query(attend, rows.tile * kQueries + r);
      const uint64_t token = uint64_t{part.b} * attend.n_queries + row.query;
      const uint64_t head = uint64_t{part.head} * attend.group + row.in_group;
      float* target = params.tiers.logits +
                      (token * attend.n_heads * attend.group + head) * params.tiers.n_positions +
                      first;
#pragma unroll
      for (uint32_t i = 0; i < 2 * kStrips; ++i) {
        const uint32_t position = i * 8 + group_of_lane();
        if (position >= n) continue;
        const float logit = logits == nullptr ? minus_infinity() : logits[i / 2][i % 2 * 2 + j];
        // Of zeros, one.
        target[position] = canonical(__fadd_rn(logit, 0.0f));
      }
    }
  }

  // Of a step that is there, from its first piece on. Says what `mask_step` does.
  __device__ __forceinline__ bool score_step(const Step& step, const uint8_t* stage,
                                             float (&logits)[kStrips][4]) {
    if (step.tag(0) != 0 || step.tag(1) != 0) {
      enter_span(step.first / kStep / params.tiers.span_pages);
    }
    if (step.tag(0) == 0) {
      score_numbers(stage, logits);
    } else if (step.tag(0) == 1) {
      score_codes<1>(step, stage, logits);
    } else if (step.tag(0) == 2) {
      score_codes<2>(step, stage, logits);
    } else {
      score_codes<3>(step, stage, logits);
    }
    const bool is_plain = mask_step(step, logits);
    store_logits(step, logits);
    return is_plain;
  }
};

}  // namespace

#endif  // LACUNA_ATTENTION_SCORES_CUH_
