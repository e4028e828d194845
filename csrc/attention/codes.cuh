// SPDX-License-Identifier: MIT OR Apache-2.0
// Products with codes of tiered pages, on integer tensor cores: what is multiplied with them is in
// fixed point, of which one plane has the upper eight bits and the other the lower.
#ifndef LACUNA_ATTENTION_CODES_CUH_
#define LACUNA_ATTENTION_CODES_CUH_

#include "../common/mma.cuh"
#include "../quant/page.cuh"

namespace {

// Numbers as integers of 15 bits, sign included, times a power of two.
struct Fixed {
  float unit;
  float inverse;
};

// By the bits of the greatest magnitude; of what is not finite the unit is NaN, and of what is
// below 2^-113 it is 0.
__device__ __forceinline__ Fixed fix(uint32_t greatest) {
  const uint32_t exponent = greatest >> 23;
  if (exponent == 255) return {__uint_as_float(0x7FFFFFFF), 0.0f};
  if (exponent < 14) return {0.0f, 0.0f};
  return {__uint_as_float((exponent - 13) << 23), __uint_as_float((267 - exponent) << 23)};
}

// The bits of an integer 0 in fixed point, and that of a number: its bits less these.
constexpr uint32_t kFixedZero = 0x4B400080;

// The lower 16 bits are the integer and 128: the upper eight of them are what is multiplied by 256,
// and what is left, from -128 on, is the lower eight with the highest bit the other way.
__device__ __forceinline__ uint32_t to_fixed(float x, const Fixed& fixed) {
  return __float_as_uint(__fmaf_rn(x, fixed.inverse, 12583040.0f));
}

// A lane's words of a tile as operand A.
template <uint32_t kTag>
__device__ __forceinline__ void expand_codes(const uint32_t* words, uint32_t (&a)[4]) {
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    if (kTag == 1) a[i] = words[i];
    if (kTag == 2) a[i] = words[i % 2] >> i / 2 * 4 & 0x0F0F0F0F;
    // Those of rows that are 8 further are four times as large, which saves shifts.
    if (kTag == 3) a[i] = words[0] >> i / 2 * 4 & 0x03030303u << i % 2 * 2;
  }
}

// A lane's words of tiles that stand together, 4, 8 or 16 bytes.
template <uint32_t kWords>
__device__ __forceinline__ void load_words(uint32_t (&words)[kWords], const uint8_t* strip,
                                           uint32_t i) {
  if constexpr (kWords == 4) {
    const uint4 four = reinterpret_cast<const uint4*>(strip)[i];
    words[0] = four.x;
    words[1] = four.y;
    words[2] = four.z;
    words[3] = four.w;
  } else if constexpr (kWords == 2) {
    const uint2 two = reinterpret_cast<const uint2*>(strip)[i];
    words[0] = two.x;
    words[1] = two.y;
  } else {
    words[0] = reinterpret_cast<const uint32_t*>(strip)[i];
  }
}

// How many tiles stand together, of a strip of so many.
constexpr uint32_t together_of(uint32_t tag, uint32_t n_tiles) {
  return tag == 3 && n_tiles % 4 == 0 ? 4 : tag >= 2 && n_tiles % 2 == 0 ? 2 : 1;
}

// Whether products with codes of a strip's first or second eight rows are four times what they must
// be.
template <uint32_t kTag>
__device__ __forceinline__ constexpr bool is_fourfold(uint32_t half) {
  return kTag == 3 && half == 1;
}

// Sums of the products of a strip's tiles with the planes of each: both planes' as one. Columns of
// one product are both planes of four rows of queries, those of a row next to each other; of two
// products the planes of eight.
template <uint32_t kTag, uint32_t kTiles, uint32_t kProducts>
__device__ __forceinline__ void multiply_codes(const uint8_t* strip,
                                               const uint32_t (&planes)[kTiles][kProducts][2],
                                               float (&sums)[2 * kProducts]) {
  constexpr uint32_t kTogether = together_of(kTag, kTiles);
  constexpr uint32_t kWords = 8 >> kTag;
  int32_t all[kProducts][4] = {};
#pragma unroll
  for (uint32_t first = 0; first < kTiles; first += kTogether) {
    uint32_t words[kTogether * kWords];
    load_words(words, strip, first / kTogether * 32 + threadIdx.x % 32);
#pragma unroll
    for (uint32_t j = 0; j < kTogether; ++j) {
      uint32_t a[4];
      expand_codes<kTag>(words + j * kWords, a);
      if constexpr (kProducts == 1) {
        // Way of 2 bits and 4 bits: 16 elements a product.
        mma_u8_s8(all[0], a, planes[first + j][0]);
      } else {
        // Way of 2 bits and 4 bits: 8 elements a product.
        mma_u8_s8(all[0], a, planes[first + j][0]);
        // Way of 2 bits and 4 bits: 8 elements a product.
        mma_u8_s8(all[1], a, planes[first + j][1]);
      }
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < 2 * kProducts; ++i) {
    const int32_t high = kProducts == 1 ? all[0][2 * i] : all[0][i];
    const int32_t low = kProducts == 1 ? all[0][2 * i + 1] : all[kProducts - 1][i];
    sums[i] = __int2float_rn(high * 256 + low);
  }
}

}  // namespace

#endif  // LACUNA_ATTENTION_CODES_CUH_
