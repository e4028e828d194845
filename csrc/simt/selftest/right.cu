// SPDX-License-Identifier: MIT OR Apache-2.0
// Kernels without a defect: what the executor must run, and how fast.

#include "../../common/cluster.cuh"
#include "params.h"

namespace {
constexpr uint32_t kThreads = 512;
constexpr uint32_t kAll = 0xFFFFFFFFu;

struct ScanShared {
  uint32_t sums[kThreads];
};
struct OneWord {
  uint32_t word;
};
struct alignas(1024) Tile {
  uint32_t words[64];
};
}  // namespace

// Inclusive scan of 512 words by 5 shuffles and 18 barriers.
LACUNA_ENTRY(selftest_scan, SelfTestParams, kThreads) {
  LACUNA_SHARED(ScanShared, shared);
  const uint32_t thread = threadIdx.x;
  const uint32_t base = blockIdx.x * kThreads;
  uint32_t sum = params.input[base + thread];
  for (uint32_t distance = 1; distance < 32; distance *= 2) {
    const uint32_t before = __shfl_up_sync(kAll, sum, distance);
    if (thread % 32 >= distance) sum += before;
  }
  shared.sums[thread] = sum;
  __syncthreads();
  // Doubles over whole warps, and then over nothing, to the barriers that the figure asks for.
  for (uint32_t step = 0; step < 8; ++step) {
    const uint32_t distance = 32u << step;
    const uint32_t warp_end = thread / 32 * 32 + 31;
    const uint32_t before =
        distance <= warp_end && distance < kThreads ? shared.sums[warp_end - distance] : 0;
    const uint32_t own = shared.sums[thread];
    __syncthreads();
    shared.sums[thread] = own + before;
    __syncthreads();
  }
  __syncthreads();
  params.output[base + thread] = shared.sums[thread];
}

// One word per collective and lane; tests/simt.rs computes the same plainly.
LACUNA_ENTRY(selftest_collectives, SelfTestParams, 32) {
  const uint32_t lane = threadIdx.x;
  const uint32_t value = params.input[lane];
  uint32_t* row = params.output + lane;
  row[0 * 32] = __shfl_sync(kAll, value, static_cast<int>(value % 32));
  row[1 * 32] = __shfl_up_sync(kAll, value, 3, 16);
  row[2 * 32] = __shfl_down_sync(kAll, value, 5, 8);
  row[3 * 32] = __shfl_xor_sync(kAll, value, 9);
  row[4 * 32] = __ballot_sync(kAll, value % 2);
  row[5 * 32] = static_cast<uint32_t>(__any_sync(kAll, value == 7));
  row[6 * 32] = static_cast<uint32_t>(__all_sync(kAll, value != 7));
  row[7 * 32] = __match_any_sync(kAll, value % 4);
  row[8 * 32] = __reduce_add_sync(kAll, value);
  row[9 * 32] = __reduce_min_sync(kAll, value);
  row[10 * 32] = __reduce_max_sync(kAll, value);
  row[11 * 32] = __reduce_xor_sync(kAll, value);
  uint32_t half = 0;
  if (lane < 16) half = __reduce_add_sync(0xFFFFu, value);
  row[12 * 32] = half;
  const uint64_t wide = static_cast<uint64_t>(value) << 33 | lane;
  row[13 * 32] = static_cast<uint32_t>(__shfl_xor_sync(kAll, wide, 1) >> 33);
  row[14 * 32] = static_cast<uint32_t>(__syncthreads_count(value % 2 == 1));
  row[15 * 32] = static_cast<uint32_t>(__syncthreads_or(value == 1));
  row[16 * 32] = __shfl_up_sync(kAll, value, 0xFFFFFFFFu, 16);
}

// The last block to finish sums what all blocks wrote.
LACUNA_ENTRY(selftest_last_block, SelfTestParams, 64) {
  LACUNA_SHARED(OneWord, is_last);
  if (threadIdx.x == 0) {
    params.output[2 + blockIdx.x] = blockIdx.x + 1;
    __threadfence();
    is_last.word = atomicInc(&params.output[0], gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last.word) return;
  for (uint32_t i = threadIdx.x; i < gridDim.x; i += blockDim.x) {
    atomicAdd(&params.output[1], params.output[2 + i]);
  }
}

// What CUDA accepts: shared structs of any alignment, masks that name lanes that never were,
// shifted negative numbers, atomics of another integer.
LACUNA_ENTRY(selftest_accepted, SelfTestParams, 48) {
  LACUNA_SHARED(OneWord, before);
  LACUNA_SHARED(Tile, tile);
  const uint32_t thread = threadIdx.x;
  if (thread == 0) before.word = 0;
  tile.words[thread] = thread;
  __syncthreads();
  atomicAdd(&before.word, 1);
  atomicMax(&tile.words[thread], 7);
  __syncthreads();
  uint32_t* row = params.output + thread;
  row[0 * 48] = static_cast<uint32_t>(reinterpret_cast<uint64_t>(&tile) % 1024);
  row[1 * 48] = before.word;
  row[2 * 48] = tile.words[thread];
  row[3 * 48] = __reduce_add_sync(kAll, 1u);
  row[4 * 48] = static_cast<uint32_t>(-static_cast<int32_t>(thread) << 2);
}

// Many requests of 128 bytes, and no barrier between them.
LACUNA_ENTRY(selftest_long_loop, SelfTestParams, 64) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < 2000; ++i) sum += params.input[i % 32 * 32 + threadIdx.x % 32];
  params.output[threadIdx.x] = sum;
}

// Shared memory as a block finds it.
LACUNA_ENTRY(selftest_poison, SelfTestParams, 32) {
  LACUNA_SHARED(OneWord, shared);
  LACUNA_DYNAMIC_SHARED(bytes);
  uint32_t first;
  memcpy(&first, bytes, sizeof first);
  if (threadIdx.x == 0) {
    params.output[blockIdx.x * 2] = shared.word;
    params.output[blockIdx.x * 2 + 1] = first;
  }
  __syncthreads();
  shared.word = 1;
  memset(bytes, 1, 4);
}

namespace {
struct Bins {
  uint32_t words[64];
};
__forceinline__ Bins& counts_of_block() {
  LACUNA_SHARED(Bins, counts);
  return counts;
}
__forceinline__ Bins& totals_of_block() {
  LACUNA_SHARED(Bins, totals);
  return totals;
}
}  // namespace

// How many of the cluster's inputs are in each of 64 bins or in one below: each block counts 128 of
// them, and sums up some of the bins.
LACUNA_ENTRY(selftest_cluster_histogram, SelfTestParams, 64) {
  const uint32_t thread = threadIdx.x;
  const uint32_t rank = cluster_rank();
  const uint32_t n = cluster_n_blocks();
  // Whichever a block comes to first, it is at one place in all.
  if (rank % 2 == 1) totals_of_block().words[thread] = 0;
  counts_of_block().words[thread] = 0;
  if (rank % 2 == 0) totals_of_block().words[thread] = 0;
  __syncthreads();
  for (uint32_t i = 0; i < 2; ++i) {
    const uint32_t value = params.input[blockIdx.x * 128 + i * 64 + thread];
    atomicAdd(&counts_of_block().words[value % 64], 1u);
  }
  cluster_barrier();
  if (thread % n == rank) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < n; ++i) sum += of_block(&counts_of_block(), i)->words[thread];
    // By a store into one block, by an atomic into another.
    of_block(&totals_of_block(), 0)->words[thread] = sum;
    atomicAdd(&of_block(&totals_of_block(), n - 1)->words[thread], n > 1 ? sum : 0u);
  }
  cluster_barrier();
  const Bins* totals = of_block(&totals_of_block(), rank % 2 == 0 ? 0 : n - 1);
  if (thread % n == rank) {
    uint32_t sum = 0;
    for (uint32_t bin = 0; bin <= thread; ++bin) sum += totals->words[bin];
    params.output[blockIdx.x / n * 64 + thread] = sum;
  }
  cluster_barrier();
}
