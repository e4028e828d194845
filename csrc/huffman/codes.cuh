// SPDX-License-Identifier: MIT OR Apache-2.0
// What those who count exponents and those who pack codes of at most 12 bits agree on.
#ifndef LACUNA_HUFFMAN_CODES_CUH_
#define LACUNA_HUFFMAN_CODES_CUH_

#include "../common/kernel.cuh"
#include "params.h"

constexpr uint32_t kExponents = 256;
constexpr uint32_t kPartWeights = 65536;
constexpr uint32_t kLongestCode = 12;
// Weights that a lane loads at once, and how many such loads are on their way.
constexpr uint32_t kVector = 8;
constexpr uint32_t kTogether = 4;

__device__ __forceinline__ uint32_t count_left(uint64_t n_elements, uint64_t first, uint32_t most) {
  if (first >= n_elements) return 0;
  return n_elements - first < most ? static_cast<uint32_t>(n_elements - first) : most;
}

// An entry of a table, as safe as one of a code.
__device__ __forceinline__ uint32_t check_entry(uint32_t entry) {
  return (entry & 15) > kLongestCode ? 0 : entry & 0xFFF0000Fu;
}

#endif  // LACUNA_HUFFMAN_CODES_CUH_
