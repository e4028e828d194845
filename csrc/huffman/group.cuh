// SPDX-License-Identifier: MIT OR Apache-2.0
// Which group a thread block works for.
#ifndef LACUNA_HUFFMAN_GROUP_CUH_
#define LACUNA_HUFFMAN_GROUP_CUH_

#include "../common/kernel.cuh"
#include "params.h"

// The last of `n_groups` rows, one or more, that begins at `block` or before it.
template <typename Row>
__device__ __forceinline__ uint32_t find_group(const Row* rows, uint32_t n_groups, uint32_t block) {
  uint32_t low = 0;
  uint32_t high = n_groups;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    if (rows[middle].first_block <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

#endif  // LACUNA_HUFFMAN_GROUP_CUH_
