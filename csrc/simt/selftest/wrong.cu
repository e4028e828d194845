// SPDX-License-Identifier: MIT OR Apache-2.0
// Kernels with one planted defect each. The line that a fault must name is marked `FAULT:
// <kernel>`.

#include "../../common/kernel.cuh"
#include "params.h"

namespace {
constexpr uint32_t kAll = 0xFFFFFFFFu;
struct Words {
  uint32_t words[256];
};
struct TooLarge {
  uint8_t bytes[48 * 1024 + 1];
};
}  // namespace

LACUNA_ENTRY(wrong_divergent_barrier, SelfTestParams, 64) {
  if (threadIdx.x >= 40) return;
  __syncthreads();  // FAULT: wrong_divergent_barrier
  params.output[threadIdx.x] = 1;
}

LACUNA_ENTRY(wrong_two_barriers, SelfTestParams, 64) {
  if (threadIdx.x < 32) {
    __syncthreads();  // FAULT: wrong_two_barriers
  } else {
    __syncthreads();  // FAULT: wrong_two_barriers
  }
}

LACUNA_ENTRY(wrong_mask_too_wide, SelfTestParams, 32) {
  if (threadIdx.x < 16) {
    params.output[threadIdx.x] = __reduce_add_sync(kAll, 1u);  // FAULT: wrong_mask_too_wide
  }
}

LACUNA_ENTRY(wrong_mask_too_narrow, SelfTestParams, 32) {
  params.output[threadIdx.x] = __ballot_sync(0xFFFFu, 1);  // FAULT: wrong_mask_too_narrow
}

LACUNA_ENTRY(wrong_lane_left, SelfTestParams, 32) {
  if (threadIdx.x == 5) return;
  params.output[threadIdx.x] = __shfl_sync(kAll, 1u, 5);  // FAULT: wrong_lane_left
}

LACUNA_ENTRY(wrong_source_outside_mask, SelfTestParams, 32) {
  if (threadIdx.x < 16) {
    params.output[threadIdx.x] = __shfl_sync(0xFFFFu, 1u, 20);  // FAULT: wrong_source_outside_mask
  }
}

LACUNA_ENTRY(wrong_deadlock, SelfTestParams, 64) {
  if (threadIdx.x == 3) {
    __syncthreads();
  } else {
    __syncwarp(kAll);  // FAULT: wrong_deadlock
    __syncthreads();
  }
}

LACUNA_ENTRY(wrong_endless_loop, SelfTestParams, 32) {
  if (threadIdx.x != 7) return;
  while (*static_cast<const volatile uint32_t*>(params.input) == 0) {  // FAULT: wrong_endless_loop
  }
}

LACUNA_ENTRY(wrong_shared_size, SelfTestParams, 32) {
  LACUNA_SHARED(TooLarge, shared);  // FAULT: wrong_shared_size
  shared.bytes[threadIdx.x] = 1;
  params.output[threadIdx.x] = shared.bytes[threadIdx.x];
}

// Reverses 256 words without the barrier that it needs: no fault in this form of the executor, but
// another result under other schedules.
LACUNA_ENTRY(wrong_missing_barrier, SelfTestParams, 256) {
  LACUNA_SHARED(Words, shared);
  shared.words[threadIdx.x] = params.input[threadIdx.x];
  params.output[threadIdx.x] = shared.words[255 - threadIdx.x];
}
