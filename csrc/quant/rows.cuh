// SPDX-License-Identifier: MIT OR Apache-2.0
// Rows as the codes of a page. src/quant/row.rs is the specification.
#ifndef LACUNA_QUANT_ROWS_CUH_
#define LACUNA_QUANT_ROWS_CUH_

#include "../common/dot.cuh"
#include "page.cuh"

namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kMostDim = 256;
// Of a lane: 8 elements of every 64.
constexpr uint32_t kChunks = kMostDim / 64;

// What channels are relative to.
struct Channels {
  float scales[kMostDim];
  float offsets[kMostDim];
};

struct Quantized {
  Channels channels;
  // Of each token, with room so that columns are in different banks.
  uint8_t codes[kPageTokens][kMostDim + 8];
  // Steps, and then zero points.
  uint16_t of_tokens[2][kPageTokens];
};

__device__ __forceinline__ void stage_channels(const Work& work, uint32_t d, Channels& channels) {
  for (uint32_t i = threadIdx.x; i < d; i += kThreads) {
    channels.scales[i] = work.scales != nullptr ? work.scales[i] : 1.0f;
    channels.offsets[i] = work.offsets != nullptr ? work.offsets[i] : 0.0f;
  }
}

// The least bf16 no less than a number from 0 on.
__device__ __forceinline__ uint32_t round_up(float x) {
  return (__float_as_uint(x) + 0xFFFF) >> 16;
}

template <typename Keep>
__device__ __forceinline__ float over_lanes(float value, Keep keep) {
#pragma unroll
  for (uint32_t apart = kDotLanes / 2; apart > 0; apart /= 2) {
    value = keep(value, __shfl_xor_sync(0xFFFFFFFFu, value, apart));
  }
  return value;
}

// What is no number counts as 0, and what is infinite as the greatest number.
__device__ __forceinline__ void make_finite(float (&y)[8]) {
#pragma unroll
  for (uint32_t e = 0; e < 8; ++e) {
    constexpr float kGreatest = 0x1.fffffep127f;
    y[e] = y[e] > kGreatest ? kGreatest : y[e] < -kGreatest ? -kGreatest : y[e];
    if (!(y[e] == y[e])) y[e] = 0.0f;
  }
}

// A lane's eight elements from `channel` on, relative to their channels.
__device__ __forceinline__ void load_chunk(const Channels& channels, const uint8_t* row,
                                           uint32_t kind, uint32_t channel, float (&y)[8]) {
  const uint4 four = *reinterpret_cast<const uint4*>(row + 2 * channel);
  const uint32_t words[4] = {four.x, four.y, four.z, four.w};
  expand_floats(y, words, kind);
#pragma unroll
  for (uint32_t e = 0; e < 8; ++e) {
    y[e] = __fdiv_rn(__fsub_rn(y[e], channels.offsets[channel + e]), channels.scales[channel + e]);
  }
  make_finite(y);
}

// Of both zeros the positive one.
__device__ __forceinline__ float magnitude(float x) {
  return __uint_as_float(__float_as_uint(x) & 0x7FFFFFFF);
}

// To the nearest integer, of what is far below 2^31.
__device__ __forceinline__ float round_even(float x) { return __int2float_rn(__float2int_rn(x)); }

// The codes of the row in a slot, by 8 lanes, of which each has `load` give it eight elements from
// a channel on, or leave zeros. Where codes are kept, none are made.
template <typename Load>
__device__ __forceinline__ void quantize_row(const Work& work, uint32_t d, uint32_t slot,
                                             bool is_kept, Quantized& shared, Load load) {
  const uint32_t lane = threadIdx.x % kDotLanes;
  const float infinity = __uint_as_float(0x7F800000);
  float y[kChunks][8] = {};
  float least = infinity;
  float most = -infinity;
  float sum = 0.0f;
#pragma unroll
  for (uint32_t j = 0; j < kChunks; ++j) {
    const uint32_t channel = 64 * j + 8 * lane;
    if (channel >= d) break;
    load(channel, y[j]);
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) {
      least = y[j][e] < least ? y[j][e] : least;
      most = y[j][e] > most ? y[j][e] : most;
      sum = __fadd_rn(sum, y[j][e]);
    }
  }
  least = over_lanes(least, [](float a, float b) { return b < a ? b : a; });
  most = over_lanes(most, [](float a, float b) { return b > a ? b : a; });
  const int32_t greatest_code = static_cast<int32_t>((1u << bits_of(work.tag)) - 1);
  const float greatest = __int2float_rn(greatest_code);
  const float whole = __fsub_rn(__fdiv_rn(most, greatest), __fdiv_rn(least, greatest));
  float step = whole;
  float mean = 0.0f;
  bool is_about_mean = false;
  if (bits_of(work.tag) == 2) {
    const float n = __int2float_rn(static_cast<int32_t>(d));
    mean = __fdiv_rn(add_over_lanes(sum), n);
    float squares = 0.0f;
#pragma unroll
    for (uint32_t j = 0; j < kChunks; ++j) {
      if (64 * j + 8 * lane >= d) break;
#pragma unroll
      for (uint32_t e = 0; e < 8; ++e) {
        const float apart = __fsub_rn(y[j][e], mean);
        squares = __fmaf_rn(apart, apart, squares);
      }
    }
    const float deviation = __fsqrt_rn(__fdiv_rn(add_over_lanes(squares), n));
    // 0 too of numbers whose squares are nothing.
    is_about_mean = deviation > 0.0f && deviation < whole;
    if (is_about_mean) step = deviation;
  }
  const float farthest = magnitude(least) > magnitude(most) ? magnitude(least) : magnitude(most);
  const float far = __fmul_rn(farthest, 0x1p-10f);
  const uint32_t scale = round_up(step > far ? step : far);
  const float s = from_bf16(scale);
  float zero = 0.0f;
  if (scale != 0) {
    const float first = is_about_mean ? __fmaf_rn(-1.5f, s, mean) : least;
    zero = round_even(__fmul_rn(__fdiv_rn(-first, s), 16.0f));
  }
  if (is_kept) return;
  const float up = __fmul_rn(zero, 0.0625f);
#pragma unroll
  for (uint32_t j = 0; j < kChunks; ++j) {
    const uint32_t channel = 64 * j + 8 * lane;
    if (channel >= d) break;
    uint32_t words[2] = {0, 0};
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) {
      if (scale == 0) break;
      const int32_t code = __float2int_rn(__fadd_rn(__fdiv_rn(y[j][e], s), up));
      const int32_t kept = code > greatest_code ? greatest_code : code < 0 ? 0 : code;
      words[e / 4] |= static_cast<uint32_t>(kept) << e % 4 * 8;
    }
    *reinterpret_cast<uint2*>(&shared.codes[slot][channel]) = make_uint2(words[0], words[1]);
  }
  if (lane != 0) return;
  shared.of_tokens[0][slot] = static_cast<uint16_t>(scale);
  shared.of_tokens[1][slot] = static_cast<uint16_t>(__float2int_rn(zero));
}

// Four codes of a register, of a row's columns from a multiple of four on.
__device__ __forceinline__ uint32_t load_register(const Quantized& shared, uint32_t part,
                                                  uint32_t row, uint32_t column) {
  if (part == 0) return *reinterpret_cast<const uint32_t*>(&shared.codes[row][column]);
  uint32_t word = 0;
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) word |= uint32_t{shared.codes[column + j][row]} << 8 * j;
  return word;
}

// The codes of all tokens in the page's order.
__device__ __forceinline__ void write_codes(const Work& work, uint32_t d, const Quantized& shared) {
  const uint32_t bits = bits_of(work.tag);
  const Order order(work.tag, work.part == 0 ? d : kPageTokens);
  for (uint32_t i = 4 * threadIdx.x; i < 2 * d * bits; i += 4 * kThreads) {
    uint32_t words[4];
#pragma unroll
    for (uint32_t w = 0; w < 4; ++w) {
      const WordPlace place = locate_word(order, i + w);
      words[w] = 0;
      // Registers that share the word: all, two, or one.
      for (uint32_t reg = place.word; reg < 4; reg += 1u << order.word_bits) {
        const uint32_t codes =
            load_register(shared, work.part, place.row + reg % 2 * 8, place.column + reg / 2 * 16);
        words[w] |= codes << (reg >> order.word_bits) * bits;
      }
    }
    *reinterpret_cast<uint4*>(work.page + 4 * i) =
        make_uint4(words[0], words[1], words[2], words[3]);
  }
  if (threadIdx.x >= kPageTokens) return;
  const uint32_t* pairs = reinterpret_cast<const uint32_t*>(shared.of_tokens);
  reinterpret_cast<uint32_t*>(work.page + 8 * d * bits)[threadIdx.x] = pairs[threadIdx.x];
}

}  // namespace

#endif  // LACUNA_QUANT_ROWS_CUH_
