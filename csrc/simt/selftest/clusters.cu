// SPDX-License-Identifier: MIT OR Apache-2.0
// Planted defects: clusters, of two blocks unless said, and their distributed shared memory.

#include "../../common/async.cuh"
#include "../../common/cluster.cuh"
#include "params.h"

namespace {
struct Bins {
  uint32_t words[64];
};
struct Wide {
  uint32_t words[32 * 8];
};
struct Staged {
  CopyBarrier barrier;
  alignas(16) uint32_t words[32];
};

__forceinline__ uint32_t other_rank() { return cluster_n_blocks() - 1 - cluster_rank(); }
__forceinline__ uint32_t cluster_idx() { return blockIdx.x / cluster_n_blocks(); }
__forceinline__ uint32_t own_idx() { return blockIdx.x * blockDim.x + threadIdx.x; }
}  // namespace

LACUNA_TWINS(neighbour_before_barrier) {
  LACUNA_SHARED(Bins, bins);
  cluster_barrier();
  bins.words[threadIdx.x] = params.input[own_idx()];  // FAULT: neighbour_before_barrier
  if (kRight) cluster_barrier();
  const Bins* other = of_block(&bins, other_rank());
  params.output[own_idx()] = other->words[63 - threadIdx.x];  // FAULT: neighbour_before_barrier
  cluster_barrier();
}

LACUNA_TWINS(block_barrier_for_cluster) {
  LACUNA_SHARED(Bins, bins);
  cluster_barrier();
  bins.words[threadIdx.x] = params.input[own_idx()];  // FAULT: block_barrier_for_cluster
  if (kRight) {
    cluster_barrier();
  } else {
    __syncthreads();
  }
  const Bins* other = of_block(&bins, other_rank());
  params.output[own_idx()] = other->words[63 - threadIdx.x];  // FAULT: block_barrier_for_cluster
  cluster_barrier();
}

LACUNA_TWINS(reuse_before_neighbour_reads) {
  LACUNA_SHARED(Bins, bins);
  bins.words[threadIdx.x] = params.input[own_idx()];
  cluster_barrier();
  const Bins* other = of_block(&bins, other_rank());
  params.output[own_idx()] = other->words[threadIdx.x];  // FAULT: reuse_before_neighbour_reads
  if (kRight) cluster_barrier();
  bins.words[threadIdx.x] = 0;  // FAULT: reuse_before_neighbour_reads
  cluster_barrier();
}

LACUNA_TWINS(neighbour_has_returned) {
  LACUNA_SHARED(Bins, bins);
  bins.words[threadIdx.x] = params.input[own_idx()];
  cluster_barrier();
  const Bins* other = of_block(&bins, other_rank());
  params.output[own_idx()] = other->words[threadIdx.x];  // FAULT: neighbour_has_returned
  if (kRight) cluster_barrier();
}

// A block may be kept by other means than a barrier.
LACUNA_TWINS(neighbour_not_kept) {
  LACUNA_SHARED(Bins, bins);
  uint32_t* has_read = &params.state[cluster_idx()];
  bins.words[threadIdx.x] = threadIdx.x;
  cluster_barrier();
  if (cluster_rank() == 1) {
    if (threadIdx.x != 0) return;
    while (atomicAdd(has_read, 0u) == 0) {
    }
    if (kRight) __threadfence();
    return;
  }
  const Bins* other = of_block(&bins, 1);
  params.output[cluster_idx() * 32 + threadIdx.x] =
      other->words[threadIdx.x];  // FAULT: neighbour_not_kept
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) atomicExch(has_read, 1u);
}

LACUNA_TWINS(neighbour_not_begun) {
  LACUNA_SHARED(Bins, bins);
  if (kRight) cluster_barrier();
  of_block(&bins, other_rank())->words[threadIdx.x] = threadIdx.x;  // FAULT: neighbour_not_begun
  cluster_barrier();
  params.output[own_idx()] = bins.words[threadIdx.x];
}

LACUNA_TWINS(past_end_of_neighbour) {
  LACUNA_SHARED(Bins, bins);
  bins.words[threadIdx.x] = threadIdx.x;
  cluster_barrier();
  const uint32_t* words = of_block(bins.words, other_rank());
  params.output[own_idx()] = words[threadIdx.x + (kRight ? 0 : 1)];  // FAULT: past_end_of_neighbour
  cluster_barrier();
}

LACUNA_TWINS(rank_past_cluster) {
  LACUNA_SHARED(Bins, bins);
  bins.words[threadIdx.x] = threadIdx.x;
  cluster_barrier();
  const uint32_t rank = kRight ? other_rank() : cluster_n_blocks();
  const Bins* other = of_block(&bins, rank);  // FAULT: rank_past_cluster
  params.output[own_idx()] = other->words[threadIdx.x];
  cluster_barrier();
}

LACUNA_TWINS(neighbours_global_memory) {
  LACUNA_SHARED(Bins, bins);
  bins.words[threadIdx.x] = threadIdx.x;
  cluster_barrier();
  const uint32_t* own = kRight ? bins.words : params.input;
  const uint32_t* other = of_block(own, other_rank());  // FAULT: neighbours_global_memory
  params.output[own_idx()] = other[threadIdx.x];
  cluster_barrier();
}

// What a block has as its own memory, another one has as its own too.
LACUNA_TWINS(address_of_another_block) {
  LACUNA_SHARED(Bins, bins);
  uint64_t* address = reinterpret_cast<uint64_t*>(params.workspace) + cluster_idx();
  bins.words[threadIdx.x] = threadIdx.x;
  if (cluster_rank() == 0 && threadIdx.x == 0) *address = reinterpret_cast<uint64_t>(&bins);
  cluster_barrier();
  const Bins* first = kRight ? of_block(&bins, 0) : reinterpret_cast<const Bins*>(*address);
  params.output[own_idx()] = first->words[threadIdx.x];  // FAULT: address_of_another_block
  cluster_barrier();
}

LACUNA_TWINS(misaligned_in_neighbour) {
  LACUNA_SHARED(Bins, bins);
  bins.words[threadIdx.x] = threadIdx.x;
  bins.words[32 + threadIdx.x] = threadIdx.x;
  cluster_barrier();
  const uint32_t* words = of_block(&bins, other_rank())->words + (kRight ? 2 : 1);
  const uint2 pair =
      reinterpret_cast<const uint2*>(words)[threadIdx.x % 16];  // FAULT: misaligned_in_neighbour
  params.output[own_idx()] = pair.x + pair.y;
  cluster_barrier();
}

LACUNA_TWINS(neighbour_unwritten) {
  LACUNA_SHARED(Bins, bins);
  if (kRight || threadIdx.x < 40) bins.words[threadIdx.x] = threadIdx.x;
  cluster_barrier();
  const Bins* other = of_block(&bins, other_rank());
  params.output[own_idx()] = other->words[threadIdx.x];  // FAULT: neighbour_unwritten
  cluster_barrier();
}

LACUNA_TWINS(cluster_barrier_skipped) {
  params.output[own_idx()] = 0;
  // Whole blocks may have returned.
  if (cluster_rank() == 1 && (kRight || threadIdx.x == 7)) return;
  cluster_barrier();  // FAULT: cluster_barrier_skipped
  params.output[own_idx()] = 1;
}

LACUNA_TWINS(cluster_barrier_in_branch) {
  params.output[own_idx()] = 0;
  if (kRight || cluster_rank() == 0 || threadIdx.x < 32) {
    cluster_barrier();  // FAULT: cluster_barrier_in_branch
  } else {
    __syncthreads();  // FAULT: cluster_barrier_in_branch
  }
}

// Those of two blocks may be two.
LACUNA_TWINS(two_cluster_barriers) {
  params.output[own_idx()] = 0;
  if (kRight ? cluster_rank() == 0 : threadIdx.x < 32) {
    cluster_barrier();  // FAULT: two_cluster_barriers
  } else {
    cluster_barrier();  // FAULT: two_cluster_barriers
  }
}

// Clusters of four.
LACUNA_TWINS(stores_into_a_neighbour) {
  LACUNA_SHARED(Bins, bins);
  const uint32_t rank = cluster_rank();
  cluster_barrier();
  const uint32_t idx = kRight ? rank * 16 + threadIdx.x : threadIdx.x;
  of_block(&bins, 0)->words[idx] = rank;  // FAULT: stores_into_a_neighbour
  cluster_barrier();
  if (rank == 0) {
    for (uint32_t i = 0; i < 4; ++i) {
      params.output[blockIdx.x * 16 + i * 16 + threadIdx.x] = bins.words[i * 16 + threadIdx.x];
    }
  }
}

// Clusters of four.
LACUNA_TWINS(counts_read_too_early) {
  LACUNA_SHARED(Bins, bins);
  bins.words[threadIdx.x] = 0;
  cluster_barrier();
  const uint32_t bin = params.input[own_idx()] % 8;
  atomicAdd(&of_block(&bins, 0)->words[bin], 1u);  // FAULT: counts_read_too_early
  if (kRight) cluster_barrier();
  if (!kRight) __syncthreads();
  if (cluster_rank() == 0) {
    params.output[cluster_idx() * 32 + threadIdx.x] =
        bins.words[threadIdx.x];  // FAULT: counts_read_too_early
  }
  cluster_barrier();
}

LACUNA_TWINS(neighbours_one_word) {
  const uint32_t idx = kRight ? own_idx() : cluster_idx() * 64 + threadIdx.x;
  params.output[idx] = threadIdx.x;  // FAULT: neighbours_one_word
  if (!kRight && cluster_rank() == 0) params.output[idx + 32] = 0;
}

LACUNA_TWINS(global_before_cluster_barrier) {
  params.workspace[own_idx()] = threadIdx.x;  // FAULT: global_before_cluster_barrier
  if (kRight) cluster_barrier();
  if (!kRight) __syncthreads();
  const uint32_t other = cluster_idx() * 2 + other_rank();
  params.output[own_idx()] =
      params.workspace[other * 32 + threadIdx.x];  // FAULT: global_before_cluster_barrier
}

// A barrier of one cluster says nothing of another.
LACUNA_TWINS(neighbour_of_another_cluster) {
  params.workspace[own_idx()] = threadIdx.x;  // FAULT: neighbour_of_another_cluster
  cluster_barrier();
  const uint32_t other = blockIdx.x ^ (kRight ? 1 : 2);
  params.output[own_idx()] =
      params.workspace[other * 32 + threadIdx.x];  // FAULT: neighbour_of_another_cluster
}

LACUNA_TWINS(fence_of_block_for_neighbour) {
  uint32_t* flag = &params.state[cluster_idx()];
  if (cluster_rank() == 0) {
    params.workspace[cluster_idx()] = 7;  // FAULT: fence_of_block_for_neighbour
    if (kRight) {
      __threadfence();
    } else {
      __threadfence_block();
    }
    atomicExch(flag, 1u);
    return;
  }
  while (atomicAdd(flag, 0u) == 0) {
  }
  __threadfence();
  const uint32_t found = params.workspace[cluster_idx()];  // FAULT: fence_of_block_for_neighbour
  params.output[cluster_idx()] = found;
}

// What one block has fenced, another may count after the cluster's barrier, in clusters of four.
LACUNA_TWINS(fence_after_cluster_barrier) {
  LACUNA_SHARED(Bins, is_last);
  params.workspace[own_idx()] = threadIdx.x;  // FAULT: fence_after_cluster_barrier
  if (kRight) __threadfence();
  cluster_barrier();
  if (cluster_rank() == 3 && threadIdx.x == 0) {
    is_last.words[0] = atomicAdd(params.state, 1u) + 1 == gridDim.x / 4;
    __threadfence();
  }
  cluster_barrier();
  const uint32_t is_over = of_block(&is_last, 3)->words[0];
  cluster_barrier();
  if (cluster_rank() != 0 || !is_over) return;
  uint32_t sum = 0;
  for (uint32_t i = threadIdx.x; i < gridDim.x * 32; i += 32) {
    sum += params.workspace[i];  // FAULT: fence_after_cluster_barrier
  }
  params.output[threadIdx.x] = sum;
}

LACUNA_TWINS(strided_in_neighbour) {
  LACUNA_SHARED(Wide, wide);
  for (uint32_t i = threadIdx.x; i < 256; i += 32) wide.words[i] = i;
  cluster_barrier();
  const Wide* other = of_block(&wide, other_rank());
  const uint32_t idx = kRight ? threadIdx.x : threadIdx.x * 8;
  params.output[own_idx()] = other->words[idx];  // FAULT: strided_in_neighbour
  cluster_barrier();
}

LACUNA_TWINS(copy_into_neighbour) {
  LACUNA_SHARED(Staged, staged);
  cluster_barrier();
  uint32_t* target = of_block(&staged.words[threadIdx.x], kRight ? cluster_rank() : other_rank());
  copy_async<4>(target, params.input + threadIdx.x);  // FAULT: copy_into_neighbour
  commit_copies();
  wait_copies<0>();
  cluster_barrier();
  params.output[own_idx()] = staged.words[threadIdx.x];
}

LACUNA_TWINS(barrier_of_neighbour) {
  LACUNA_SHARED(Staged, staged);
  if (threadIdx.x == 0) init_barrier(staged.barrier, 32);
  cluster_barrier();
  const uint32_t rank = kRight ? cluster_rank() : other_rank();
  arrive(*of_block(&staged.barrier, rank));  // FAULT: barrier_of_neighbour
  wait_barrier(staged.barrier, 0);
  params.output[own_idx()] = 0;
}
