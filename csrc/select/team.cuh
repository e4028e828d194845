// SPDX-License-Identifier: MIT OR Apache-2.0
// Who picks from a row together. Search and gathering ask a team for everything that its blocks
// must know of each other, so that they are the same for one block and for several.
#ifndef LACUNA_SELECT_TEAM_CUH_
#define LACUNA_SELECT_TEAM_CUH_

#include "../common/kernel.cuh"

// A block's own part of a row's candidates.
struct Slice {
  uint32_t first;
  uint32_t length;
};

// Candidates above the cut, and at it.
struct Found {
  uint32_t n_above;
  uint32_t n_equal;
};

// One block, which has the whole row.
struct OneBlock {
  __device__ Slice share(uint32_t length) const { return {0, length}; }

  __device__ void barrier() const { __syncthreads(); }

  // The same variable of each block's shared memory, which its own thread has not changed since the
  // last barrier of the team; and a value that all threads of a block have.
  template <typename Value>
  __device__ Value total(const Value& own) const {
    return own;
  }
  template <typename Value>
  __device__ Value greatest(const Value& own) const {
    return own;
  }

  // What blocks with earlier slices find, once all blocks have come here: picks may overwrite what
  // they searched in. Who has no others does not count.
  template <typename Count>
  __device__ Found find_before(Count) const {
    return {0, 0};
  }

  // Where all blocks leave their picks, and whether this one writes them out.
  __device__ unsigned char* work(unsigned char* own) const { return own; }
  __device__ bool writes() const { return true; }
};

// Inclusive, over the lanes of a warp.
template <typename Value>
__device__ __forceinline__ Value scan_warp(Value value) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (uint32_t delta = 1; delta < 32; delta *= 2) {
    const Value before = __shfl_up_sync(0xFFFFFFFFu, value, delta);
    if (lane >= delta) value += before;
  }
  return value;
}

// Where a value stands among those of its block.
template <typename Value>
struct Place {
  Value before;
  Value all;
};

// Of a value that the lanes of each warp have together. `of_warps`, of 32 values, is shared memory
// that is written again after another barrier at the earliest. One barrier of the team.
template <typename Team, typename Value>
__device__ __forceinline__ Place<Value> scan_warps(const Team& team, Value of_warp,
                                                   Value* of_warps) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  if (lane == 0) of_warps[warp] = of_warp;
  team.barrier();
  const Value of_lane = lane < blockDim.x / 32 ? of_warps[lane] : 0;
  const Value through = scan_warp(of_lane);
  return {__shfl_sync(0xFFFFFFFFu, through - of_lane, static_cast<int>(warp)),
          __shfl_sync(0xFFFFFFFFu, through, 31)};
}

#endif  // LACUNA_SELECT_TEAM_CUH_
