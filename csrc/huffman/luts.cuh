// SPDX-License-Identifier: MIT OR Apache-2.0
// DFloat11's chained decode tables: src/huffman/reference.rs is the specification.
#ifndef LACUNA_HUFFMAN_LUTS_CUH_
#define LACUNA_HUFFMAN_LUTS_CUH_

#include "../common/kernel.cuh"

constexpr uint32_t kMostLutRows = 17;
constexpr uint32_t kFirstPointer = 240;
constexpr uint32_t kLongestCode = 32;
// What weights are whose codes are corrupt.
constexpr uint16_t kQuietNan = 0x7FC0;

#endif  // LACUNA_HUFFMAN_LUTS_CUH_
