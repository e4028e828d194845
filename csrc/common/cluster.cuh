// SPDX-License-Identifier: MIT OR Apache-2.0
// Clusters of blocks, along x, on compute capability 9.0 and above: their blocks run at once, and
// reach each other's shared memory. In an image for less, a block is a cluster of one.
//
// A block's shared memory is there for others from the cluster's first barrier to the block's end:
// a kernel has a barrier before the first access and one after the last.
#ifndef LACUNA_COMMON_CLUSTER_CUH_
#define LACUNA_COMMON_CLUSTER_CUH_

#include "kernel.cuh"

#ifdef __CUDACC__

#if __CUDA_ARCH__ >= 900

// Which of its cluster's blocks this is.
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ __forceinline__ uint32_t cluster_n_blocks() {
  uint32_t n;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(n));
  return n;
}

// By all threads of all blocks of the cluster: what any of them did before it, in whatever memory,
// all of them see after it.
__device__ __forceinline__ void cluster_barrier() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      " barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// Where block `rank` of the cluster has what this block has at `own`, in its shared memory; for
// loads, stores and atomics, not for asynchronous copies or mbarriers.
template <typename T>
__device__ __forceinline__ T* of_block(T* own, uint32_t rank) {
  uint64_t address;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(own), "r"(rank));
  return reinterpret_cast<T*>(address);
}

#else

__device__ __forceinline__ uint32_t cluster_rank() { return 0; }
__device__ __forceinline__ uint32_t cluster_n_blocks() { return 1; }
__device__ __forceinline__ void cluster_barrier() { __syncthreads(); }
template <typename T>
__device__ __forceinline__ T* of_block(T* own, uint32_t) {
  return own;
}

#endif  // __CUDA_ARCH__ >= 900

#else

__forceinline__ uint32_t cluster_rank() { return lacuna_simt::cluster_rank(); }
__forceinline__ uint32_t cluster_n_blocks() { return lacuna_simt::cluster_n_blocks(); }
__forceinline__ void cluster_barrier(LACUNA_PLACE) {
  lacuna_simt::cluster_barrier(LACUNA_PASS_PLACE);
}
template <typename T>
__forceinline__ T* of_block(T* own, uint32_t rank) {
  return reinterpret_cast<T*>(lacuna_simt::map_shared(reinterpret_cast<uint64_t>(own), rank));
}

#endif  // __CUDACC__

#endif  // LACUNA_COMMON_CLUSTER_CUH_
