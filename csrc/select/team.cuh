// SPDX-License-Identifier: MIT OR Apache-2.0
// Who picks from a row together: the blocks of a cluster, each of which has a slice of the row. In
// an image for less than 9.0 that is one block, and nothing of what follows is left of it.
#ifndef LACUNA_SELECT_TEAM_CUH_
#define LACUNA_SELECT_TEAM_CUH_

#include "../common/cluster.cuh"
#include "../common/scan.cuh"

namespace {

struct Team {
  uint32_t rank = cluster_rank();
  uint32_t n_blocks = cluster_n_blocks();

  __device__ bool is_alone() const { return n_blocks == 1; }

  __device__ void barrier() const {
    if (is_alone()) {
      __syncthreads();
    } else {
      cluster_barrier();
    }
  }

  // The same variable of each block's shared memory, which no block changes before another barrier
  // of the team.
  template <typename Value>
  __device__ __forceinline__ Value total(Value* own) const {
    if (is_alone()) return *own;
    Value sum = 0;
#pragma unroll 2
    for (uint32_t r = 0; r < n_blocks; ++r) sum += *of_block(own, r);
    return sum;
  }

  // The same, by a warp: what the block of the lane's number has, and 0 where there is none.
  template <typename Value>
  __device__ __forceinline__ Value of_lane(Value* own) const {
    const uint32_t lane = threadIdx.x % 32;
    return lane < n_blocks ? *of_block(own, lane) : 0;
  }
};

// Where a value stands among those of its block.
template <typename Value>
struct Place {
  Value before;
  Value all;
};

// Of a value that the lanes of each warp have together. `of_warps`, of 32 values, is shared memory
// that is written again after another barrier at the earliest. One barrier of the block.
template <typename Value>
__device__ __forceinline__ Place<Value> scan_warps(Value of_warp, Value* of_warps) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  if (lane == 0) of_warps[warp] = of_warp;
  __syncthreads();
  const Value of_lane = lane < blockDim.x / 32 ? of_warps[lane] : 0;
  const Value through = scan_warp(of_lane);
  return {__shfl_sync(0xFFFFFFFFu, through - of_lane, static_cast<int>(warp)),
          __shfl_sync(0xFFFFFFFFu, through, 31)};
}

}  // namespace

#endif  // LACUNA_SELECT_TEAM_CUH_
