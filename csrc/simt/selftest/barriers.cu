// SPDX-License-Identifier: MIT OR Apache-2.0
// Planted defects: barriers of a block.

#include "../../common/kernel.cuh"
#include "params.h"

namespace {
constexpr uint32_t kAll = 0xFFFFFFFFu;

struct Words {
  uint32_t words[256];
};

struct ScanShared {
  uint32_t sums[8];
  uint32_t values[256];
};

enum Phase : uint32_t { kNone, kAfterSums, kBeforeReuse, kAfterValues };

// Sums of all values up to a thread's, in reverse order of threads; one barrier may be missing.
template <Phase kMissing>
__forceinline__ void scan_256(const SelfTestParams& params) {
  LACUNA_SHARED(ScanShared, shared);
  const uint32_t thread = threadIdx.x;
  uint32_t sum = params.input[thread];
  for (uint32_t distance = 1; distance < 32; distance *= 2) {
    const uint32_t before = __shfl_up_sync(kAll, sum, distance);
    if (thread % 32 >= distance) sum += before;
  }
  if (thread % 32 == 31) shared.sums[thread / 32] = sum;  // FAULT: scan_after_sums
  if (kMissing != kAfterSums) __syncthreads();
  for (uint32_t warp = 0; warp < thread / 32; ++warp) {
    sum += shared.sums[warp];  // FAULT: scan_after_sums scan_before_reuse
  }
  if (kMissing != kBeforeReuse) __syncthreads();
  if (thread < 8) shared.sums[thread] = 0;  // FAULT: scan_before_reuse
  shared.values[thread] = sum;              // FAULT: scan_after_values
  if (kMissing != kAfterValues) __syncthreads();
  params.output[thread] = shared.values[255 - thread];  // FAULT: scan_after_values
}
}  // namespace

LACUNA_TWINS(scan_after_sums) { scan_256<kRight ? kNone : kAfterSums>(params); }

LACUNA_TWINS(scan_before_reuse) { scan_256<kRight ? kNone : kBeforeReuse>(params); }

LACUNA_TWINS(scan_after_values) { scan_256<kRight ? kNone : kAfterValues>(params); }

// Whole warps may have returned.
LACUNA_TWINS(divergent_barrier) {
  params.output[threadIdx.x] = 0;
  if (threadIdx.x >= (kRight ? 32 : 40)) return;
  __syncthreads();  // FAULT: divergent_barrier
  params.output[threadIdx.x] = 1;
}

LACUNA_TWINS(barrier_in_branch) {
  if (kRight || threadIdx.x < 16) {
    __syncthreads();  // FAULT: barrier_in_branch
  }
  params.output[threadIdx.x] = 1;
}

LACUNA_TWINS(counted_barrier_in_loop) {
  const uint32_t n_rounds = kRight ? 3 : 2 + threadIdx.x / 48;
  int count = 0;
  for (uint32_t i = 0; i < n_rounds; ++i) {
    count += __syncthreads_count(1);  // FAULT: counted_barrier_in_loop
  }
  params.output[threadIdx.x] = static_cast<uint32_t>(count);
}

LACUNA_TWINS(two_barriers) {
  if (kRight) {
    __syncthreads();
  } else if (threadIdx.x < 32) {
    __syncthreads();  // FAULT: two_barriers
  } else {
    __syncthreads();  // FAULT: two_barriers
  }
  params.output[threadIdx.x] = 1;
}

LACUNA_TWINS(barrier_and_warp_deadlock) {
  if (!kRight && threadIdx.x == 3) {
    __syncthreads();
  } else {
    if (!kRight) __syncwarp(kAll);  // FAULT: barrier_and_warp_deadlock
    __syncthreads();
  }
  params.output[threadIdx.x] = 1;
}

// One buffer where two take turns.
LACUNA_TWINS(double_buffer) {
  LACUNA_SHARED(Words, even);
  LACUNA_SHARED(Words, odd);
  const uint32_t thread = threadIdx.x;
  uint32_t value = params.input[thread];
  for (uint32_t round = 0; round < 4; ++round) {
    Words& buffer = kRight && round % 2 == 1 ? odd : even;
    buffer.words[thread] = value;  // FAULT: double_buffer
    __syncthreads();
    value += buffer.words[(thread + 1) % 256];  // FAULT: double_buffer
  }
  params.output[thread] = value;
}

// The same value from every thread: no schedule gives another result.
LACUNA_TWINS(same_value_by_all) {
  LACUNA_SHARED(Words, shared);
  if (!kRight || threadIdx.x == 0) shared.words[0] = 7;  // FAULT: same_value_by_all
  __syncthreads();
  params.output[threadIdx.x] = shared.words[0];
}

// The reader is long after the writer unless it alone is scheduled first.
LACUNA_TWINS(one_schedule_in_thousands) {
  LACUNA_SHARED(Words, shared);
  if (threadIdx.x == 0) shared.words[0] = 7;  // FAULT: one_schedule_in_thousands
  uint32_t sum = 0;
  for (uint32_t i = 0; i < 500; ++i) sum = sum * 5 + i;
  if (kRight) __syncthreads();
  if (threadIdx.x == 255) sum += shared.words[0];  // FAULT: one_schedule_in_thousands
  params.output[threadIdx.x] = sum;
}
