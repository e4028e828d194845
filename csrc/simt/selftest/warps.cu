// SPDX-License-Identifier: MIT OR Apache-2.0
// Planted defects: collectives of a warp, threads that never end.

#include "../../common/kernel.cuh"
#include "params.h"

namespace {
constexpr uint32_t kAll = 0xFFFFFFFFu;

struct Words {
  uint32_t words[32];
};

struct Kibibytes {
  uint32_t words[2048];
};

struct TooLarge {
  uint8_t bytes[48 * 1024 + 1];
};

__noinline__ uint32_t descend(const uint32_t* words, uint32_t idx) {  // FAULT: too_much_local
  uint32_t values[128];                                               // FAULT: too_much_local
  for (uint32_t i = 0; i < 2; ++i) values[words[i]] = idx;            // FAULT: too_much_local
  if (words[idx % 32] != 0) values[1] += descend(words, idx + 1);     // FAULT: too_much_local
  return values[idx % 2];                                             // FAULT: too_much_local
}
}  // namespace

LACUNA_TWINS(missing_syncwarp) {
  LACUNA_SHARED(Words, shared);
  shared.words[threadIdx.x] = params.input[threadIdx.x];  // FAULT: missing_syncwarp
  if (kRight) __syncwarp();
  params.output[threadIdx.x] = shared.words[31 - threadIdx.x];  // FAULT: missing_syncwarp
}

LACUNA_TWINS(syncwarp_of_halves) {
  LACUNA_SHARED(Words, shared);
  shared.words[threadIdx.x] = params.input[threadIdx.x];  // FAULT: syncwarp_of_halves
  __syncwarp(kRight ? kAll : threadIdx.x < 16 ? 0xFFFFu : 0xFFFF0000u);
  params.output[threadIdx.x] = shared.words[31 - threadIdx.x];  // FAULT: syncwarp_of_halves
}

LACUNA_TWINS(missing_syncwarp_before_reuse) {
  LACUNA_SHARED(Words, shared);
  shared.words[threadIdx.x] = params.input[threadIdx.x];
  __syncwarp();
  const uint32_t other = shared.words[threadIdx.x ^ 1];  // FAULT: missing_syncwarp_before_reuse
  if (kRight) __syncwarp();
  shared.words[threadIdx.x] = other;  // FAULT: missing_syncwarp_before_reuse
  __syncwarp();
  params.output[threadIdx.x] = shared.words[threadIdx.x ^ 2];
}

// A shuffle moves registers and orders no memory.
LACUNA_TWINS(shuffle_for_syncwarp) {
  LACUNA_SHARED(Words, shared);
  shared.words[threadIdx.x] = params.input[threadIdx.x];  // FAULT: shuffle_for_syncwarp
  const uint32_t zero = __shfl_sync(kAll, 0u, 0);
  if (kRight) __syncwarp();
  params.output[threadIdx.x] =
      shared.words[31 - threadIdx.x] + zero;  // FAULT: shuffle_for_syncwarp
}

// A warp is not the block.
LACUNA_TWINS(syncwarp_for_barrier) {
  LACUNA_SHARED(Words, shared);
  if (threadIdx.x < 32) shared.words[threadIdx.x] = threadIdx.x;  // FAULT: syncwarp_for_barrier
  if (kRight) {
    __syncthreads();
  } else {
    __syncwarp();
  }
  params.output[threadIdx.x] = shared.words[threadIdx.x % 32];  // FAULT: syncwarp_for_barrier
}

LACUNA_TWINS(mask_too_wide) {
  uint32_t sum = 0;
  if (threadIdx.x < 16) {
    sum = __reduce_add_sync(kRight ? 0xFFFFu : kAll, 1u);  // FAULT: mask_too_wide
  }
  __syncwarp();  // FAULT: mask_too_wide
  params.output[threadIdx.x] = sum;
}

LACUNA_TWINS(mask_too_narrow) {
  params.output[threadIdx.x] = __ballot_sync(kRight ? kAll : 0xFFFFu, 1);  // FAULT: mask_too_narrow
}

LACUNA_TWINS(masks_that_differ) {
  const uint32_t mask = kRight || threadIdx.x != 9 ? kAll : kAll ^ 1u;
  params.output[threadIdx.x] = __ballot_sync(mask, 1);  // FAULT: masks_that_differ
}

// A mask may name a lane that has returned, and a shuffle may not read it.
LACUNA_TWINS(lane_that_left) {
  params.output[threadIdx.x] = 0;
  if (threadIdx.x == 5) return;
  const uint32_t n_lanes = __reduce_add_sync(kAll, 1u);
  const uint32_t lanes = __ballot_sync(kAll, 1);
  __syncwarp();
  // FAULT: lane_that_left
  params.output[threadIdx.x] = __shfl_sync(kAll, n_lanes + lanes, kRight ? 6 : 5);
}

// Two faults in two blocks.
LACUNA_ENTRY(selftest_two_faults, SelfTestParams, 32) {
  LACUNA_SHARED(Words, shared);
  uint32_t value = 1;
  if (blockIdx.x == 3) value = shared.words[threadIdx.x];
  if (blockIdx.x == 0) value = __ballot_sync(0xFFFFu, 1);
  params.output[blockIdx.x * 32 + threadIdx.x] = value;
}

LACUNA_TWINS(source_outside_mask) {
  uint32_t value = 0;
  if (threadIdx.x < 16) {
    value = __shfl_sync(0xFFFFu, 1u, kRight ? 12 : 20);  // FAULT: source_outside_mask
  }
  params.output[threadIdx.x] = value;
}

LACUNA_TWINS(shuffle_width) {
  params.output[threadIdx.x] = __shfl_sync(kAll, 1u, 3, kRight ? 8 : 12);  // FAULT: shuffle_width
}

// Lanes may meet from two lines, and not in two operations.
LACUNA_TWINS(two_shuffles) {
  uint32_t value = threadIdx.x;
  if (threadIdx.x < 16) {
    value = __shfl_sync(kAll, value, 0);  // FAULT: two_shuffles
  } else if (kRight) {
    value = __shfl_sync(kAll, value, 1);
  } else {
    value = __shfl_up_sync(kAll, value, 1);  // FAULT: two_shuffles
  }
  params.output[threadIdx.x] = value;
}

// Whoever waits for another thread of the block must let it run.
LACUNA_TWINS(flag_that_none_sets) {
  LACUNA_SHARED(Words, shared);
  if (threadIdx.x == 0) shared.words[0] = 0;
  __syncthreads();
  if (threadIdx.x % 63 == 0) {
    // The first and the last wait for the one in the middle.
    while (atomicAdd(&shared.words[0], 0u) == 0) {  // FAULT: flag_that_none_sets
    }
  }
  if (kRight && threadIdx.x == 35) atomicAdd(&shared.words[0], 1u);
  params.output[threadIdx.x] = 1;
}

LACUNA_TWINS(endless_loop) {
  params.output[threadIdx.x] = 0;
  if (threadIdx.x != 7) return;
  const volatile uint32_t* flag = params.state;
  while (*flag == (kRight ? 1 : 0)) {  // FAULT: endless_loop
  }
}

// The launch has as many threads as the kernel is compiled for, and its twin one fewer.
LACUNA_ENTRY(wrong_too_many_threads, SelfTestParams, 63) {  // FAULT: too_many_threads
  params.output[threadIdx.x] = 1;
}
LACUNA_ENTRY(right_too_many_threads, SelfTestParams, 64) { params.output[threadIdx.x] = 1; }

// Each within its own bound.
LACUNA_TWINS(shared_and_dynamic) {
  LACUNA_SHARED(Words, shared);  // FAULT: shared_and_dynamic
  shared.words[threadIdx.x % 32] = 0;
  if (!kRight) {
    LACUNA_SHARED(Kibibytes, more);  // FAULT: shared_and_dynamic
    more.words[threadIdx.x % 32] = 0;
  }
  params.output[threadIdx.x] = 1;
}

// 128 KiB of local memory are a thread's to have, and half a megabyte of calls is not.
LACUNA_TWINS(too_much_local) {
  uint32_t values[32 * 1024];
  memset(values, 1, sizeof values);
  uint32_t sum = values[params.input[threadIdx.x]];
  if (!kRight) sum += descend(params.input, threadIdx.x);
  params.output[threadIdx.x] = sum;
}

LACUNA_TWINS(too_much_shared) {
  if (kRight) {
    params.output[threadIdx.x] = 1;
    return;
  }
  LACUNA_SHARED(TooLarge, shared);  // FAULT: too_much_shared
  shared.bytes[threadIdx.x] = 1;
  params.output[threadIdx.x] = shared.bytes[threadIdx.x];
}
