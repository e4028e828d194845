// SPDX-License-Identifier: MIT OR Apache-2.0
// Right kernels of many rounds: what is remembered of who knows what may not grow with each.

#include "../../common/async.cuh"
#include "params.h"

namespace {
struct Rounds {
  uint32_t count;
  uint32_t flag;
  uint32_t words[256];
  CopyBarrier full;
  CopyBarrier empty;
};
}  // namespace

// Each thread releases, and each barrier carries it to all.
LACUNA_ENTRY(selftest_rounds_of_fences, SelfTestParams, 256) {
  LACUNA_SHARED(Rounds, shared);
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  for (uint32_t round = 0; round < params.reserved; ++round) {
    shared.words[threadIdx.x] = round;
    __threadfence();
    atomicAdd(&shared.count, 1u);
    __syncthreads();
    shared.words[255 - threadIdx.x] += 1;
    __syncthreads();
  }
  params.output[threadIdx.x] = shared.words[threadIdx.x];
}

// Half of the warps fill, and half empty.
LACUNA_ENTRY(selftest_rounds_of_barriers, SelfTestParams, 128) {
  LACUNA_SHARED(Rounds, shared);
  if (threadIdx.x == 0) {
    init_barrier(shared.full, 64);
    init_barrier(shared.empty, 64);
  }
  __syncthreads();
  uint32_t sum = 0;
  for (uint32_t round = 0; round < params.reserved; ++round) {
    if (threadIdx.x < 64) {
      if (round > 0) wait_barrier(shared.empty, (round - 1) % 2);
      shared.words[threadIdx.x] = round;
      arrive(shared.full);
    } else {
      wait_barrier(shared.full, round % 2);
      sum += shared.words[127 - threadIdx.x];
      arrive(shared.empty);
    }
  }
  params.output[threadIdx.x] = sum;
}

// What a lane knows, its warp knows, over and over.
LACUNA_ENTRY(selftest_rounds_of_syncwarps, SelfTestParams, 64) {
  LACUNA_SHARED(Rounds, shared);
  if (threadIdx.x == 0) init_barrier(shared.full, 64);
  __syncthreads();
  shared.words[threadIdx.x] = threadIdx.x;
  arrive(shared.full);
  wait_barrier(shared.full, 0);
  for (uint32_t round = 0; round < params.reserved; ++round) __syncwarp();
  params.output[threadIdx.x] = shared.words[63 - threadIdx.x];
}

// Each block, in the order in which they come, hands on what it was handed.
LACUNA_ENTRY(selftest_chain, SelfTestParams, 32) {
  LACUNA_SHARED(Rounds, shared);
  if (threadIdx.x == 0) {
    const uint32_t ticket = atomicAdd(params.state, 1u);
    shared.count = ticket;
    if (ticket > 0) {
      shared.flag = *static_cast<volatile uint32_t*>(params.workspace + ticket - 1);
      __threadfence();
    }
  }
  __syncthreads();
  const uint32_t ticket = shared.count;
  uint32_t* table = params.workspace + 900;
  if (ticket == 0) table[threadIdx.x] = threadIdx.x;
  const uint32_t word = table[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    *static_cast<volatile uint32_t*>(params.workspace + ticket) = 1;
  }
  if (ticket == gridDim.x - 1) params.output[threadIdx.x] = word;
}
