// SPDX-License-Identifier: MIT OR Apache-2.0
// Logits of a step: products of a warp's rows of queries with codes, and with numbers.
#ifndef LACUNA_ATTENTION_SCORES_CUH_
#define LACUNA_ATTENTION_SCORES_CUH_

#include "../common/dot.cuh"
#include "feed.cuh"

namespace {

template <uint32_t kDim, uint32_t kQueries>
struct Scores {
  enum : uint32_t { kOwn = own_of(kQueries), kOfStrip = 2 * kOwn, kOfStep = kStrips * kOfStrip };

  const AttentionTieredParams& params;
  const Part& part;
  const Rows& rows;
  Chip<kDim, kQueries>& chip;
  const uint4* queries;
  // The first slot past the span that queries are folded for.
  uint32_t span_end;

  // Of a span of pages: queries times its channels' scales, in fixed point, and what values'
  // channels are relative to. A piece has been taken since others were read, and a tail is loaded
  // before these are.
  __device__ __forceinline__ void enter_span(uint32_t slot) {
    const uint32_t span = slot / kStep / params.tiers.span_pages;
    span_end = (span + 1) * params.tiers.span_pages * kStep;
    const uint64_t head = uint64_t{part.b} * params.attend.n_heads + part.head;
    const uint64_t channel = (head * params.tiers.n_spans + span) * kDim;
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
    uint32_t sum = 0;
#pragma unroll
    for (uint32_t j = 0; j < kChunks; ++j) {
      const uint32_t c = 64 * j + 8 * lane;
      if (c >= kDim) break;
      uint32_t planes[2][2] = {};
#pragma unroll
      for (uint32_t e = 0; e < 8; ++e) {
        const uint32_t word = to_fixed(scaled[j][e], fixed);
        planes[0][e / 4] |= (word >> 8 & 0xFF) << e % 4 * 8;
        planes[1][e / 4] |= ((word & 0xFF) ^ 0x80) << e % 4 * 8;
        sum += word - kFixedZero;
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
    const float total = __int2float_rn(static_cast<int32_t>(sum));
    if (lane == 0) chip.folded[row] = {fixed.unit, total, offset};
  }

  // Of strips from `kFirst` on; of a piece that begins with them.
  template <uint32_t kTag, uint32_t kFirst, uint32_t kEnd>
  __device__ __forceinline__ void score_codes(const uint8_t* stage,
                                              OfStep<kQueries>& products) const {
    Folded folded[kOwn];
    uint32_t planes[kDim / 32][kOwn][2];
#pragma unroll
    for (uint32_t j = 0; j < kOwn; ++j) {
      folded[j] = chip.folded[kOwn * pair_of_lane() + j];
      // Columns of a product are both planes of four rows, or one of eight.
      const uint32_t group = group_of_lane();
      const uint8_t* plane =
          kOwn == 1 ? chip.planes[group % 2][group / 2] : chip.planes[j][group % kQueries];
#pragma unroll
      for (uint32_t tile = 0; tile < kDim / 32; ++tile) {
        const uint32_t* words =
            reinterpret_cast<const uint32_t*>(plane + 32 * tile) + pair_of_lane();
        planes[tile][j][0] = words[0];
        planes[tile][j][1] = words[4];
      }
    }
#pragma unroll
    for (uint32_t strip = kFirst; strip < kEnd; ++strip) {
      float sums[kOfStrip];
      multiply_codes<kTag>(stage + (strip - kFirst) * (32 * kDim >> kTag), planes, sums);
#pragma unroll
      for (uint32_t i = 0; i < kOfStrip; ++i) {
        const Affine affine = chip.affine[strip * 16 + i / kOwn * 8 + group_of_lane()];
        const Folded& of = folded[i % kOwn];
        const float sum = is_fourfold<kTag>(i / kOwn) ? __fmul_rn(sums[i], 0.25f) : sums[i];
        const float code = __fmaf_rn(affine.step, sum, __fmul_rn(affine.least, of.sum));
        products[strip * kOfStrip + i] = __fmaf_rn(code, of.unit, of.offset);
      }
    }
  }

  template <bool kIsBf16>
  __device__ __forceinline__ void multiply_numbers(const uint8_t* stage,
                                                   float (&products)[4]) const {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t pitch = pitch_of(kDim);
    const uint4* keys = reinterpret_cast<const uint4*>(stage) + lane % 16 * pitch + lane / 16;
    // Columns are of eight rows, or two of each of four.
    const uint4* query = queries + lane % 8 * kQueries / 8 * pitch + lane / 8 % 2;
#pragma unroll
    for (uint32_t k = 0; k < kDim / 16; ++k) {
      uint32_t a[4];
      uint32_t b[2];
      load_matrices(a, keys + 2 * k);
      load_matrices(b, query + 2 * k);
      multiply<kIsBf16>(products, a, b);
    }
  }

  // Of one strip.
  __device__ __forceinline__ void score_numbers(const uint8_t* stage, uint32_t strip,
                                                OfStep<kQueries>& products) const {
    float of_strip[4] = {};
    if (params.attend.logits.element == kFloatBf16) {
      multiply_numbers<true>(stage, of_strip);
    } else {
      multiply_numbers<false>(stage, of_strip);
    }
    // An index that is not known would put the products in memory.
#pragma unroll
    for (uint32_t i = 0; i < kOfStep; ++i) {
      if (i / kOfStrip == strip) products[i] = of_strip[i % kOfStrip * 2 / kOwn];
    }
  }

  // Products become logits to base 2. Says whether all count, and none is far off or no number.
  __device__ __forceinline__ bool mask_step(const Step& step, OfStep<kQueries>& logits) const {
    const AttentionLogits& rule = params.attend.logits;
    if (step.is_page && rule.cap_scale == 0.0f) {
      float squares = 0.0f;
#pragma unroll
      for (float& logit : logits) {
        logit = __fmul_rn(logit, rule.log2_scale);
        // Way of 2 bits and 4 bits: here.
        squares = __fmaf_rn(logit, logit, squares);
      }
      const bool is_plain = step.n == kStep && squares < kMostLog2 * kMostLog2 / 4.0f;
      if (__all_sync(0xFFFFFFFFu, is_plain)) return true;
#pragma unroll
      for (uint32_t i = 0; i < kOfStep; ++i) {
        const bool is_there = i / kOwn * 8 + group_of_lane() < step.n;
        logits[i] = is_there ? clamp_logit(logits[i]) : minus_infinity();
      }
      return false;
    }
    const StepTokens& tokens = chip.tokens[step.ordinal % 2];
    uint32_t query[kOwn];
#pragma unroll
    for (uint32_t j = 0; j < kOwn; ++j) {
      query[j] = (rows.tile * kQueries + kOwn * pair_of_lane() + j) / params.attend.group;
    }
#pragma unroll
    for (uint32_t i = 0; i < kOfStep; ++i) {
      const uint32_t token = i / kOwn * 8 + group_of_lane();
      bool is_seen = token < step.n;
      float bias = 0.0f;
      if (!step.is_page) {
        const uint32_t seen = tokens.seen[token];
        const uint32_t begin = seen & 0xFFFF;
        is_seen = query[i % kOwn] - begin < (seen >> 16) - begin;
        bias = tokens.biases[token];
      }
      logits[i] = is_seen ? to_logit(rule, logits[i], bias) : minus_infinity();
    }
    return false;
  }

  // Writes what weights are 2 to the power of; of null as if nothing stood there.
  __device__ __forceinline__ void store_logits(const Step& step, const float* logits) const {
    if (params.tiers.logits == nullptr) return;
    const AttentionAttendParams& attend = params.attend;
    const uint32_t n = step.is_page ? kStep : step.n;
    const uint64_t first = uint64_t{step.is_page ? 0 : kStep * params.tiers.n_pages} + step.first;
#pragma unroll
    for (uint32_t j = 0; j < kOwn; ++j) {
      const uint32_t r = kOwn * pair_of_lane() + j;
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
        const float logit = logits == nullptr ? minus_infinity() : logits[i * kOwn + j];
        // Of zeros, one.
        target[position] = canonical(__fadd_rn(logit, 0.0f));
      }
    }
  }

  // Of a piece of a step that is there.
  __device__ __forceinline__ void score_piece(const Step& step, uint32_t piece,
                                              const uint8_t* stage, OfStep<kQueries>& products) {
    const bool has_codes = step.tags[0] != 0 || step.tags[1] != 0;
    if (piece == 0 && has_codes && step.first >= span_end) enter_span(step.first);
    if (step.tags[0] == 0) {
      score_numbers(stage, piece, products);
      return;
    }
    if (piece == 0) load_affine<0>(params, stage + 32 * kDim, step.n, chip.affine);
    if (step.tags[0] == 3) {
      // Way of 2 bits: here.
      score_codes<3, 0, kStrips>(stage, products);
    } else if (step.tags[0] == 2) {
      // Way of 4 bits: here.
      score_codes<2, 0, kStrips>(stage, products);
    } else if (piece == 0) {
      score_codes<1, 0, kStrips / 2>(stage, products);
    } else {
      score_codes<1, kStrips / 2, kStrips>(stage, products);
    }
  }
};

}  // namespace

#endif  // LACUNA_ATTENTION_SCORES_CUH_
