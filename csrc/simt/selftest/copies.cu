// SPDX-License-Identifier: MIT OR Apache-2.0
// Planted defects: asynchronous copies.

#include "../../common/async.cuh"
#include "params.h"

namespace {
struct Stages {
  alignas(16) uint32_t words[2][128];
};

struct BulkStage {
  alignas(16) uint32_t words[128];
  CopyBarrier barrier;
};

// One thread copies 512 bytes, and announces so many.
__forceinline__ void start_bulk(const SelfTestParams& params, BulkStage& shared, uint32_t n_bytes) {
  if (threadIdx.x == 0) init_barrier(shared.barrier, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    copy_bulk(shared.words, params.input, 512, shared.barrier);  // FAULT: bulk_left_behind
    arrive_expecting(shared.barrier, n_bytes);
  }
}
}  // namespace

LACUNA_TWINS(copy_without_wait) {
  LACUNA_SHARED(Stages, shared);
  const uint32_t thread = threadIdx.x;
  copy_async<4>(&shared.words[0][thread], params.input + thread);
  commit_copies();
  if (kRight) wait_copies<0>();
  params.output[thread] = shared.words[0][thread];  // FAULT: copy_without_wait
  wait_copies<0>();
}

LACUNA_TWINS(copy_without_commit) {
  LACUNA_SHARED(Stages, shared);
  const uint32_t thread = threadIdx.x;
  copy_async<4>(&shared.words[0][thread], params.input + thread);
  if (kRight) commit_copies();
  wait_copies<0>();
  params.output[thread] = shared.words[0][thread];  // FAULT: copy_without_commit
}

// Two stages: the last group may be pending, and not the one before.
LACUNA_TWINS(wait_for_too_few) {
  LACUNA_SHARED(Stages, shared);
  const uint32_t thread = threadIdx.x;
  for (uint32_t stage = 0; stage < 2; ++stage) {
    copy_async<16>(&shared.words[stage][thread * 4], params.input + stage * 128 + thread * 4);
    commit_copies();
  }
  if (kRight) {
    wait_copies<1>();
  } else {
    wait_copies<2>();
  }
  uint32_t sum = shared.words[0][thread * 4];  // FAULT: wait_for_too_few
  wait_copies<0>();
  params.output[thread] = sum + shared.words[1][thread * 4];
}

LACUNA_TWINS(copy_without_barrier) {
  LACUNA_SHARED(Stages, shared);
  const uint32_t thread = threadIdx.x;
  // FAULT: copy_without_barrier
  copy_async<4>(&shared.words[0][thread], params.input + thread);
  commit_copies();
  wait_copies<0>();
  if (kRight) __syncthreads();
  params.output[thread] = shared.words[0][31 - thread];  // FAULT: copy_without_barrier
}

LACUNA_TWINS(write_under_copy) {
  LACUNA_SHARED(Stages, shared);
  const uint32_t thread = threadIdx.x;
  copy_async<4>(&shared.words[0][thread], params.input + thread);
  commit_copies();
  if (kRight) wait_copies<0>();
  shared.words[0][thread] = 0;  // FAULT: write_under_copy
  wait_copies<0>();
  params.output[thread] = shared.words[0][thread];
}

// What a copy reads may not be written before the copy has been waited for.
LACUNA_TWINS(source_written_under_copy) {
  LACUNA_SHARED(Stages, shared);
  const uint32_t thread = threadIdx.x;
  params.workspace[thread] = thread;
  // FAULT: source_written_under_copy
  copy_async<4>(&shared.words[0][thread], params.workspace + thread);
  commit_copies();
  if (kRight) wait_copies<0>();
  params.workspace[thread] = 0;  // FAULT: source_written_under_copy
  wait_copies<0>();
  params.output[thread] = shared.words[0][thread];
}

// Nor by another thread behind a barrier.
LACUNA_TWINS(source_written_by_another) {
  LACUNA_SHARED(Stages, shared);
  const uint32_t thread = threadIdx.x;
  params.workspace[thread] = thread;
  // FAULT: source_written_by_another
  copy_async<4>(&shared.words[0][thread], params.workspace + thread);
  commit_copies();
  if (kRight) wait_copies<0>();
  __syncthreads();
  params.workspace[31 - thread] = 0;  // FAULT: source_written_by_another
  wait_copies<0>();
  params.output[thread] = shared.words[0][thread];
}

// All have waited for their own, and a shuffle tells nobody so.
LACUNA_TWINS(source_written_after_wait) {
  LACUNA_SHARED(Stages, shared);
  const uint32_t thread = threadIdx.x;
  params.workspace[thread] = thread;
  // FAULT: source_written_after_wait
  copy_async<4>(&shared.words[0][thread], params.workspace + thread);
  commit_copies();
  __syncthreads();
  wait_copies<0>();
  const uint32_t zero = __shfl_sync(0xFFFFFFFFu, 0u, 0);
  if (kRight) __syncthreads();
  params.workspace[31 - thread] = zero;  // FAULT: source_written_after_wait
  params.output[thread] = shared.words[0][thread];
}

LACUNA_TWINS(source_written_under_bulk) {
  LACUNA_SHARED(BulkStage, shared);
  params.workspace[threadIdx.x] = threadIdx.x;
  if (threadIdx.x == 0) init_barrier(shared.barrier, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    // FAULT: source_written_under_bulk
    copy_bulk(shared.words, params.workspace, 128, shared.barrier);
    arrive_expecting(shared.barrier, 128);
  }
  __syncthreads();
  if (kRight) wait_barrier(shared.barrier, 0);
  params.workspace[threadIdx.x] = 0;  // FAULT: source_written_under_bulk
  wait_barrier(shared.barrier, 0);
  params.output[threadIdx.x] = shared.words[threadIdx.x];
}

LACUNA_TWINS(copy_from_shared) {
  LACUNA_SHARED(Stages, shared);
  const uint32_t thread = threadIdx.x;
  shared.words[1][thread] = thread;
  const uint32_t* source = kRight ? params.input : shared.words[1];
  copy_async<4>(&shared.words[0][thread], source + thread);  // FAULT: copy_from_shared
  commit_copies();
  wait_copies<0>();
  params.output[thread] = shared.words[0][thread];
}

LACUNA_TWINS(bulk_from_local) {
  LACUNA_SHARED(BulkStage, shared);
  alignas(16) uint32_t words[4] = {1, 2, 3, 4};
  if (threadIdx.x == 0) init_barrier(shared.barrier, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    // FAULT: bulk_from_local
    copy_bulk(shared.words, kRight ? params.input : words, 16, shared.barrier);
    arrive_expecting(shared.barrier, 16);
  }
  wait_barrier(shared.barrier, 0);
  params.output[threadIdx.x] = shared.words[threadIdx.x % 4];
}

LACUNA_TWINS(copy_past_end) {
  LACUNA_SHARED(Stages, shared);
  const uint32_t* source = params.input + 1024 - 128 + (kRight ? 0 : 4);
  // FAULT: copy_past_end
  copy_async<16>(&shared.words[0][threadIdx.x * 4], source + threadIdx.x * 4);
  commit_copies();
  wait_copies<0>();
  params.output[threadIdx.x] = shared.words[0][threadIdx.x * 4];
}

LACUNA_TWINS(misaligned_copy) {
  LACUNA_SHARED(Stages, shared);
  const uint32_t* source = params.input + (kRight ? 8 : 1);
  // FAULT: misaligned_copy
  copy_async<16>(&shared.words[0][threadIdx.x * 4], source + threadIdx.x * 4);
  commit_copies();
  wait_copies<0>();
  params.output[threadIdx.x] = shared.words[0][threadIdx.x * 4];
}

LACUNA_TWINS(copy_left_behind) {
  LACUNA_SHARED(Stages, shared);
  copy_async<4>(&shared.words[0][threadIdx.x], params.input);  // FAULT: copy_left_behind
  commit_copies();
  if (kRight) wait_copies<0>();
  params.output[threadIdx.x] = 1;
}

LACUNA_TWINS(bulk_left_behind) {
  LACUNA_SHARED(BulkStage, shared);
  start_bulk(params, shared, 512);
  if (kRight) wait_barrier(shared.barrier, 0);
  params.output[threadIdx.x] = 1;
}

LACUNA_TWINS(barrier_in_global) {
  LACUNA_SHARED(BulkStage, shared);
  CopyBarrier* barrier = reinterpret_cast<CopyBarrier*>(params.workspace);
  if (kRight) barrier = &shared.barrier;
  if (threadIdx.x == 0) init_barrier(*barrier, 32);  // FAULT: barrier_in_global
  __syncthreads();
  arrive(*barrier);
  wait_barrier(*barrier, 0);
  params.output[threadIdx.x] = 1;
}

LACUNA_TWINS(bulk_without_wait) {
  LACUNA_SHARED(BulkStage, shared);
  start_bulk(params, shared, 512);
  __syncthreads();
  if (kRight) wait_barrier(shared.barrier, 0);
  params.output[threadIdx.x] = shared.words[threadIdx.x];  // FAULT: bulk_without_wait
}

LACUNA_TWINS(bulk_wrong_parity) {
  LACUNA_SHARED(BulkStage, shared);
  start_bulk(params, shared, 512);
  __syncthreads();
  wait_barrier(shared.barrier, kRight ? 0 : 1);
  params.output[threadIdx.x] = shared.words[threadIdx.x];  // FAULT: bulk_wrong_parity
}

LACUNA_TWINS(bulk_expects_too_much) {
  LACUNA_SHARED(BulkStage, shared);
  start_bulk(params, shared, kRight ? 512 : 528);
  wait_barrier(shared.barrier, 0);  // FAULT: bulk_expects_too_much
  params.output[threadIdx.x] = shared.words[threadIdx.x];
}

LACUNA_TWINS(barrier_used_before_init) {
  LACUNA_SHARED(BulkStage, shared);
  if (threadIdx.x == 0) init_barrier(shared.barrier, 32);  // FAULT: barrier_used_before_init
  if (kRight) __syncthreads();
  arrive(shared.barrier);           // FAULT: barrier_used_before_init
  wait_barrier(shared.barrier, 0);  // FAULT: barrier_used_before_init
  params.output[threadIdx.x] = 1;
}

// What lanes hand over by a barrier in shared memory needs no other.
LACUNA_TWINS(arrive_after_write) {
  LACUNA_SHARED(BulkStage, shared);
  if (threadIdx.x == 0) init_barrier(shared.barrier, 32);
  __syncthreads();
  if (!kRight) arrive(shared.barrier);
  shared.words[threadIdx.x] = threadIdx.x;  // FAULT: arrive_after_write
  if (kRight) arrive(shared.barrier);
  wait_barrier(shared.barrier, 0);
  params.output[threadIdx.x] = shared.words[31 - threadIdx.x];  // FAULT: arrive_after_write
}
