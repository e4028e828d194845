// SPDX-License-Identifier: MIT OR Apache-2.0
// Asynchronous copies from global to shared memory. What a copy writes may not be touched before
// the copy has been waited for, nor by another thread before a barrier after that.
#ifndef LACUNA_COMMON_ASYNC_CUH_
#define LACUNA_COMMON_ASYNC_CUH_

#include "kernel.cuh"

// An mbarrier in shared memory: its phase ends when all threads that it was told of have arrived
// and all bytes that they announced have been copied.
struct alignas(8) CopyBarrier {
  uint64_t word;
};

#ifdef __CUDACC__

// Copies 4, 8 or 16 bytes, both addresses multiples of that; zeros where not `is_valid`.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool is_valid = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "what cp.async copies");
  const uint32_t target = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t n_valid = is_valid ? kBytes : 0;
  if (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(global),
                 "r"(n_valid)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(target), "l"(global),
                 "n"(kBytes), "r"(n_valid)
                 : "memory");
  }
}

// Ends a group of this thread's copies.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for all of this thread's groups but the last `kPending`.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#if __CUDA_ARCH__ >= 900

// By one thread; the others see it after a barrier.
__device__ __forceinline__ void init_barrier(CopyBarrier& barrier, uint32_t n_arrivals) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(&barrier));
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(address), "r"(n_arrivals) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// One arrival, that announces `n_bytes` of bulk copies.
__device__ __forceinline__ void arrive_expecting(CopyBarrier& barrier, uint32_t n_bytes) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(&barrier));
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(address), "r"(n_bytes)
               : "memory");
}

__device__ __forceinline__ void arrive(CopyBarrier& barrier) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(&barrier));
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(address) : "memory");
}

// Copies a multiple of 16 bytes between multiples of 16, by one thread; `barrier` hears of it.
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, uint32_t n_bytes,
                                          CopyBarrier& barrier) {
  const uint32_t target = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(&barrier));
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(target),
      "l"(global), "r"(n_bytes), "r"(address)
      : "memory");
}

// Waits for the end of the phase of this parity; a new barrier is in phase 0.
__device__ __forceinline__ void wait_barrier(CopyBarrier& barrier, uint32_t parity) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(&barrier));
  uint32_t is_over = 0;
  while (!is_over) {
    asm volatile(
        "{\n .reg .pred p;\n mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
        " selp.u32 %0, 1, 0, p;\n}"
        : "=r"(is_over)
        : "r"(address), "r"(parity)
        : "memory");
  }
}

#endif  // __CUDA_ARCH__ >= 900

#else

template <int kBytes>
__forceinline__ void copy_async(void* shared, const void* global, bool is_valid = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "what cp.async copies");
  lacuna_simt::copy_async(shared, global, kBytes, is_valid);
}
__forceinline__ void commit_copies() { lacuna_simt::commit_copies(); }
template <int kPending>
__forceinline__ void wait_copies() {
  lacuna_simt::wait_copies(kPending);
}
__forceinline__ void init_barrier(CopyBarrier& barrier, uint32_t n_arrivals) {
  lacuna_simt::init_barrier(&barrier.word, n_arrivals);
}
__forceinline__ void arrive_expecting(CopyBarrier& barrier, uint32_t n_bytes) {
  lacuna_simt::arrive(&barrier.word, n_bytes);
}
__forceinline__ void arrive(CopyBarrier& barrier) { lacuna_simt::arrive(&barrier.word, 0); }
__forceinline__ void copy_bulk(void* shared, const void* global, uint32_t n_bytes,
                               CopyBarrier& barrier) {
  lacuna_simt::copy_bulk(shared, global, n_bytes, &barrier.word);
}
__forceinline__ void wait_barrier(CopyBarrier& barrier, uint32_t parity) {
  lacuna_simt::wait_barrier(&barrier.word, parity);
}

#endif  // __CUDACC__

#endif  // LACUNA_COMMON_ASYNC_CUH_
