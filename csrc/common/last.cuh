// SPDX-License-Identifier: MIT OR Apache-2.0
// Which of several blocks ends last, and so sees what all of them wrote: no block waits for
// another.
#ifndef LACUNA_COMMON_LAST_CUH_
#define LACUNA_COMMON_LAST_CUH_

#include "kernel.cuh"

// Called by all threads of each of `n_blocks` blocks: true in the last of them, to which the
// others' writes are then visible. `ticket` is 0 before, and afterwards again; `is_last` is shared
// memory.
__device__ __forceinline__ bool is_last_block(uint32_t* ticket, uint32_t n_blocks,
                                              uint32_t& is_last) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(ticket, 1u) == n_blocks - 1;
    if (is_last) atomicExch(ticket, 0u);
    __threadfence();
  }
  __syncthreads();
  return is_last != 0;
}

#endif  // LACUNA_COMMON_LAST_CUH_
