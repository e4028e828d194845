// SPDX-License-Identifier: MIT OR Apache-2.0
// Eight weights of a lane that packs codes, and what of them is not coded.
#ifndef LACUNA_HUFFMAN_PLANES_CUH_
#define LACUNA_HUFFMAN_PLANES_CUH_

#include "codes.cuh"

// Signs and mantissas of four weights.
__device__ __forceinline__ uint32_t take_rest(uint32_t x, uint32_t y) {
  return (__byte_perm(x, y, 0x7531) & 0x80808080u) | (__byte_perm(x, y, 0x6420) & 0x7F7F7F7Fu);
}

// Eight weights, of which the first `n_valid` are there.
template <bool kIsWhole>
__device__ __forceinline__ uint4 load_eight(const uint16_t* weights, uint32_t n_valid) {
  if (kIsWhole || n_valid == kVector) return *reinterpret_cast<const uint4*>(weights);
  uint32_t words[4] = {};
#pragma unroll
  for (uint32_t i = 0; i < kVector; ++i) {
    if (i < n_valid) words[i / 2] |= uint32_t{weights[i]} << (16 * (i % 2));
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Signs and mantissas of eight weights, of which the first `n_valid` are there.
__device__ __forceinline__ void store_rest(uint8_t* sign_mantissa, const uint4& eight,
                                           uint32_t n_valid) {
  const uint2 rest = make_uint2(take_rest(eight.x, eight.y), take_rest(eight.z, eight.w));
  if (n_valid == kVector) {
    // Inner loop: 8 elements a store.
    *reinterpret_cast<uint2*>(sign_mantissa) = rest;
    return;
  }
  for (uint32_t i = 0; i < n_valid; ++i) {
    sign_mantissa[i] = static_cast<uint8_t>((i < 4 ? rest.x : rest.y) >> (8 * (i % 4)));
  }
}

#endif  // LACUNA_HUFFMAN_PLANES_CUH_
