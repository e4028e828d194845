// SPDX-License-Identifier: MIT OR Apache-2.0
// What an index counts by: GRANULE_WEIGHTS, TILE_GRANULES and TILE_WEIGHTS of src/huffman/indexed.
#ifndef LACUNA_HUFFMAN_GRANULE_CUH_
#define LACUNA_HUFFMAN_GRANULE_CUH_

#include "../common/kernel.cuh"

constexpr uint32_t kGranuleWeights = 128;
constexpr uint32_t kTileGranules = 32;
constexpr uint32_t kTileWeights = kGranuleWeights * kTileGranules;

#endif  // LACUNA_HUFFMAN_GRANULE_CUH_
