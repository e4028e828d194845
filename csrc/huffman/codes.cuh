// SPDX-License-Identifier: MIT OR Apache-2.0
// What those who count exponents, place codes and pack them agree on.
#ifndef LACUNA_HUFFMAN_CODES_CUH_
#define LACUNA_HUFFMAN_CODES_CUH_

#include "../common/kernel.cuh"
#include "params.h"

constexpr uint32_t kExponents = 256;
constexpr uint32_t kPartWeights = 65536;
// Of compact groups, and of DF11's.
constexpr uint32_t kLongestCode = 12;
constexpr uint32_t kLongestGroupCode = 32;
// Weights that a lane loads at once, and how many such loads are on their way.
constexpr uint32_t kVector = 8;
constexpr uint32_t kTogether = 4;

__device__ __forceinline__ uint32_t count_left(uint64_t n_elements, uint64_t first, uint32_t most) {
  if (first >= n_elements) return 0;
  return n_elements - first < most ? static_cast<uint32_t>(n_elements - first) : most;
}

// Bits of an entry's code; 0 where no format has so many.
__device__ __forceinline__ uint32_t length_of(uint32_t entry) {
  const uint32_t length = entry & 63;
  return length > kLongestGroupCode ? 0 : length;
}

#endif  // LACUNA_HUFFMAN_CODES_CUH_
