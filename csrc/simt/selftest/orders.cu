// SPDX-License-Identifier: MIT OR Apache-2.0
// Planted defects: what is remembered of many accesses to one place, and what releases nothing.

#include "../../common/async.cuh"
#include "params.h"

namespace {
struct Words {
  alignas(8) unsigned long long wide;
  uint32_t x;
  uint32_t flag;
  CopyBarrier barrier;
};

__forceinline__ void clear(Words& words) {
  if (threadIdx.x == 0) {
    words.wide = 0;
    words.x = 0;
    words.flag = 0;
  }
  __syncthreads();
}

// No lane goes on before all have come; and nothing is ordered by it.
__forceinline__ void meet() { __shfl_sync(0xFFFFFFFFu, 0u, 0); }
}  // namespace

LACUNA_TWINS(volatile_read_beside_read) {
  LACUNA_SHARED(Words, shared);
  clear(shared);
  uint32_t found = 0;
  volatile uint32_t* x = &shared.x;
  if (threadIdx.x == 1) found = *x;  // FAULT: volatile_read_beside_read
  if (threadIdx.x == 0) found = shared.x;
  meet();
  if (kRight) __syncwarp();
  if (threadIdx.x == 0) shared.x = 1;  // FAULT: volatile_read_beside_read
  params.output[threadIdx.x] = found;
}

LACUNA_TWINS(read_before_own_atomic) {
  LACUNA_SHARED(Words, shared);
  clear(shared);
  uint32_t found = 0;
  if (threadIdx.x == 0) {
    found = shared.x;  // FAULT: read_before_own_atomic
    atomicAdd(&shared.x, 1u);
  }
  meet();
  if (kRight) __syncwarp();
  if (threadIdx.x == 1) atomicAdd(&shared.x, 1u);  // FAULT: read_before_own_atomic
  params.output[threadIdx.x] = found;
}

LACUNA_TWINS(read_before_ordered_atomic) {
  LACUNA_SHARED(Words, shared);
  clear(shared);
  uint32_t found = 0;
  if (threadIdx.x == 0) found = shared.x;  // FAULT: read_before_ordered_atomic
  if (threadIdx.x < 2) __syncwarp(3);
  if (threadIdx.x == 1) atomicAdd(&shared.x, 1u);
  meet();
  if (kRight) __syncwarp();
  if (threadIdx.x == 2) atomicAdd(&shared.x, 1u);  // FAULT: read_before_ordered_atomic
  params.output[threadIdx.x] = found;
}

LACUNA_TWINS(read_between_fences) {
  LACUNA_SHARED(Words, shared);
  clear(shared);
  uint32_t found = 0;
  const bool is_outer = threadIdx.x == 0 || threadIdx.x == 31;
  if (is_outer) {
    found = shared.x;
    __threadfence_block();
  }
  meet();
  if (threadIdx.x == 5) found = shared.x;  // FAULT: read_between_fences
  meet();
  if (is_outer) __syncwarp(0x80000001u);
  if (kRight) __syncwarp();
  if (threadIdx.x == 0) shared.x = 8;  // FAULT: read_between_fences
  params.output[threadIdx.x] = found;
}

// Three warps read, and the barrier that says so counts two of them.
LACUNA_TWINS(barrier_counts_too_few) {
  LACUNA_SHARED(Words, shared);
  if (threadIdx.x == 0) init_barrier(shared.barrier, kRight ? 3 : 2);
  clear(shared);
  uint32_t found = 0;
  if (threadIdx.x < 96) {
    found = shared.x;  // FAULT: barrier_counts_too_few
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(shared.barrier);
  } else if (threadIdx.x == 96) {
    wait_barrier(shared.barrier, 0);
    shared.x = 8;  // FAULT: barrier_counts_too_few
  }
  params.output[threadIdx.x] = found;
}

// Three blocks read and say so; the fourth listens to two of them.
LACUNA_TWINS(reader_of_a_third_block) {
  volatile uint32_t* flags = params.state + 1;
  if (threadIdx.x == 0) {
    const uint32_t ticket = atomicAdd(params.state, 1u);
    if (ticket < 3) {
      params.output[ticket] = params.state[512];  // FAULT: reader_of_a_third_block
      __threadfence();
      flags[ticket] = 1;
    } else {
      const bool are_done = flags[0] == 1 && flags[2] == 1 && (!kRight || flags[1] == 1);
      __threadfence();
      if (are_done) params.state[512] = 9;  // FAULT: reader_of_a_third_block
      params.output[ticket] = are_done;
    }
  }
}

// The flag has the same address in every block, and is another.
LACUNA_TWINS(shared_flag_of_another_block) {
  LACUNA_SHARED(Words, shared);
  clear(shared);
  if (threadIdx.x == 0) {
    uint32_t* flag = kRight ? params.state + 1 : &shared.flag;
    atomicAdd(flag, 1u);
    __threadfence();
    params.state[0] += 1;  // FAULT: shared_flag_of_another_block
    __threadfence();
    atomicAdd(flag, 1u);
  }
  params.output[blockIdx.x * 32 + threadIdx.x] = 1;
}

LACUNA_TWINS(exchange_that_fails) {
  LACUNA_SHARED(Words, shared);
  clear(shared);
  if (threadIdx.x == 0) {
    shared.x = 7;  // FAULT: exchange_that_fails
    __threadfence();
    atomicCAS(&shared.flag, kRight ? 0u : 5u, 6u);
  }
  meet();
  uint32_t found = 0;
  if (threadIdx.x == 1) {
    found = atomicAdd(&shared.flag, 0u);
    __threadfence();
    found += shared.x;  // FAULT: exchange_that_fails
  }
  params.output[threadIdx.x] = found;
}

LACUNA_TWINS(store_over_release) {
  LACUNA_SHARED(Words, shared);
  clear(shared);
  volatile uint32_t* flag = &shared.flag;
  if (threadIdx.x == 0) {
    shared.x = 7;  // FAULT: store_over_release
    __threadfence();
    *flag = 1;
  }
  meet();
  if (!kRight && threadIdx.x == 2) *flag = 2;
  meet();
  uint32_t found = 0;
  if (threadIdx.x == 1) {
    found = *flag;
    __threadfence();
    found += shared.x;  // FAULT: store_over_release
  }
  params.output[threadIdx.x] = found;
}

LACUNA_TWINS(wait_for_an_earlier_phase) {
  LACUNA_SHARED(Words, shared);
  if (threadIdx.x == 0) init_barrier(shared.barrier, 2);
  clear(shared);
  if (threadIdx.x < 2) arrive(shared.barrier);
  meet();
  if (threadIdx.x == 1) {
    shared.x = 7;  // FAULT: wait_for_an_earlier_phase
    arrive(shared.barrier);
  }
  if (kRight && threadIdx.x == 0) arrive(shared.barrier);
  meet();
  uint32_t found = 0;
  if (threadIdx.x == 2) {
    wait_barrier(shared.barrier, kRight ? 1 : 0);
    found = shared.x;  // FAULT: wait_for_an_earlier_phase
  }
  params.output[threadIdx.x] = found;
}

LACUNA_TWINS(atomics_of_two_sizes) {
  LACUNA_SHARED(Words, shared);
  clear(shared);
  if (threadIdx.x == 0) atomicAdd(&shared.wide, 1ull);  // FAULT: atomics_of_two_sizes
  if (threadIdx.x == 1) {
    if (kRight) {
      atomicAdd(&shared.wide, 1ull);
    } else {
      atomicAdd(reinterpret_cast<uint32_t*>(&shared.wide), 1u);  // FAULT: atomics_of_two_sizes
    }
  }
  params.output[threadIdx.x] = 1;
}

// One lane counts, and all lanes' fences come after it by way of the warp.
LACUNA_TWINS(acquire_by_all_lanes) {
  uint32_t is_last = 0;
  if (threadIdx.x == 0) {
    params.workspace[blockIdx.x] = 1;  // FAULT: acquire_by_all_lanes
    __threadfence();
    is_last = atomicAdd(params.state, 1u) + 1 == gridDim.x;
  }
  is_last = __shfl_sync(0xFFFFFFFFu, is_last, 0);
  if (is_last == 0) return;
  __syncwarp();
  if (kRight) __threadfence();
  uint32_t sum = 0;
  for (uint32_t block = 0; block < gridDim.x; ++block) {
    sum += params.workspace[block];  // FAULT: acquire_by_all_lanes
  }
  params.output[threadIdx.x] = sum;
}
