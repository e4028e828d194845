// SPDX-License-Identifier: MIT OR Apache-2.0
// Planted defects: global memory that blocks share.

#include "../../common/kernel.cuh"
#include "params.h"

namespace {
struct OneWord {
  uint32_t word;
};

enum Lapse : uint32_t {
  kNoLapse,
  kNoRelease,
  kNoAcquire,
  kLateRelease,
  kStrangers,
  kEarlyStrangers,
  kBlockScope,
  kBothScopes
};

// Every block's threads write, and the last block to count itself sums what all have written.
template <Lapse kLapse>
__forceinline__ void sum_in_last_block(const SelfTestParams& params) {
  LACUNA_SHARED(OneWord, is_last);
  const bool by_all = kLapse == kStrangers || kLapse == kEarlyStrangers;
  if (kLapse == kEarlyStrangers) __threadfence();
  // FAULT: release_missing
  // FAULT: acquire_missing
  // FAULT: release_late
  // FAULT: fences_of_strangers
  // FAULT: fence_of_block
  // FAULT: fences_of_both_scopes
  params.workspace[blockIdx.x * 64 + threadIdx.x] = threadIdx.x;
  if (kLapse == kStrangers) __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    if (kLapse == kBlockScope) {
      __threadfence_block();
    } else if (kLapse != kNoRelease && kLapse != kLateRelease && !by_all) {
      __threadfence();
    }
    // A narrower fence takes nothing from a wider one.
    if (kLapse == kBothScopes) __threadfence_block();
    is_last.word = atomicAdd(params.state, 1u) + 1 == gridDim.x;
    if (kLapse == kLateRelease) __threadfence();
    if (kLapse == kBothScopes) __threadfence_block();
    if (kLapse != kNoAcquire && !by_all) __threadfence();
  }
  __syncthreads();
  if (!is_last.word) return;
  if (by_all) __threadfence();
  uint32_t sum = 0;
  for (uint32_t block = 0; block < gridDim.x; ++block) {
    // FAULT: release_missing
    // FAULT: acquire_missing
    // FAULT: release_late
    // FAULT: fences_of_strangers
    // FAULT: fence_of_block
    // FAULT: fences_of_both_scopes
    sum += params.workspace[block * 64 + threadIdx.x];
  }
  params.output[threadIdx.x] = sum;
}
}  // namespace

LACUNA_TWINS(release_missing) { sum_in_last_block<kRight ? kNoLapse : kNoRelease>(params); }

LACUNA_TWINS(acquire_missing) { sum_in_last_block<kRight ? kNoLapse : kNoAcquire>(params); }

LACUNA_TWINS(release_late) { sum_in_last_block<kRight ? kNoLapse : kLateRelease>(params); }

// Every thread fences its own writes, and another thread counts: right after the writes, and wrong
// before them.
LACUNA_TWINS(fences_of_strangers) {
  sum_in_last_block<kRight ? kStrangers : kEarlyStrangers>(params);
}

LACUNA_TWINS(fences_of_both_scopes) {
  sum_in_last_block<kRight ? kBothScopes : kBlockScope>(params);
}

LACUNA_TWINS(fence_of_block) { sum_in_last_block<kRight ? kNoLapse : kBlockScope>(params); }

LACUNA_TWINS(two_blocks_one_word) {
  const uint32_t idx = kRight ? blockIdx.x * 32 + threadIdx.x : threadIdx.x;
  if (!kRight && blockIdx.x == 0) params.output[32 + threadIdx.x] = 1;
  params.output[idx] = 1;  // FAULT: two_blocks_one_word
}

LACUNA_TWINS(blocks_that_overlap) {
  // 33 words a block, 32 apart.
  const uint32_t n_words = kRight ? 32 : 33;
  const uint32_t idx = blockIdx.x * 32 + threadIdx.x;
  if (threadIdx.x < n_words && idx < params.n)
    params.output[idx] = 1;  // FAULT: blocks_that_overlap
}

LACUNA_TWINS(neighbour_of_another_block) {
  const uint32_t idx = blockIdx.x * 32 + threadIdx.x;
  params.state[idx] = idx;  // FAULT: neighbour_of_another_block
  __syncthreads();
  const uint32_t first = blockIdx.x * 32;
  const uint32_t other = kRight ? first + 31 - threadIdx.x : 63 - idx;
  params.output[idx] = params.state[other];  // FAULT: neighbour_of_another_block
}

LACUNA_TWINS(lost_update) {
  params.output[blockIdx.x * 32 + threadIdx.x] = 1;
  if (kRight) {
    atomicAdd(params.state, 1u);
  } else {
    params.state[0] += 1;  // FAULT: lost_update
  }
}

LACUNA_TWINS(atomic_and_plain) {
  params.output[blockIdx.x * 32 + threadIdx.x] = 1;
  atomicAdd(params.state, 1u);  // FAULT: atomic_and_plain
  if (kRight || threadIdx.x != 0) return;
  params.state[1 + blockIdx.x] = params.state[0];  // FAULT: atomic_and_plain
}

LACUNA_TWINS(bytes_of_one_word) {
  uint8_t* bytes = reinterpret_cast<uint8_t*>(params.output);
  const uint32_t first = (blockIdx.x * 32 + threadIdx.x) * 4;
  for (uint32_t i = 0; i < 4; ++i) bytes[first + i] = 1;  // FAULT: bytes_of_one_word
  // The last byte is the next thread's first.
  if (!kRight && first + 4 < params.n * 4) bytes[first + 4] = 1;  // FAULT: bytes_of_one_word
}
