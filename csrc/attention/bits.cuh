// SPDX-License-Identifier: MIT OR Apache-2.0
// Sets as bits in shared memory, 32 a word, and how many there are before a place: by 512 threads.
#ifndef LACUNA_ATTENTION_BITS_CUH_
#define LACUNA_ATTENTION_BITS_CUH_

#include "../common/scan.cuh"

namespace {

constexpr uint32_t kThreads = 512;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kAllLanes = 0xFFFFFFFF;

__device__ __forceinline__ bool has_bit(const uint32_t* words, uint32_t i) {
  return (words[i / 32] >> i % 32 & 1) != 0;
}

__device__ __forceinline__ uint32_t count_below(uint32_t word, uint32_t i) {
  return static_cast<uint32_t>(__popc(word & ((1u << i % 32) - 1)));
}

// Bits of a word from place `begin` on and before `end`.
__device__ __forceinline__ uint32_t span_of(uint32_t word, uint32_t begin, uint32_t end) {
  const auto below = [=](uint32_t place) {
    const uint32_t first = word * 32;
    return place <= first ? 0u : place - first >= 32 ? ~0u : (1u << (place - first)) - 1;
  };
  return below(end) & ~below(begin);
}

// By all lanes of a warp, whose places are a word.
__device__ __forceinline__ void mark(uint32_t* words, uint32_t e, bool is_marked) {
  const uint32_t bits = __ballot_sync(kAllLanes, is_marked);
  if (e % 32 == 0) words[e / 32] = bits;
}

// Sums of the threads before, and of all.
struct Scan {
  uint64_t before;
  uint64_t all;
};

// One barrier, and one that the caller has before the next.
__device__ __forceinline__ Scan scan_block(uint64_t own, uint64_t (&of_warps)[kWarps]) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint64_t through = scan_warp(own);
  if (lane == 31) of_warps[warp] = through;
  __syncthreads();
  Scan scan = {through - own, 0};
  for (uint32_t other = 0; other < kWarps; ++other) {
    const uint64_t n = of_warps[other];
    scan.all += n;
    if (other < warp) scan.before += n;
  }
  return scan;
}

// Three counts in one sum.
__device__ __forceinline__ uint64_t pack(uint32_t x, uint32_t y, uint32_t z) {
  return x | uint64_t{y} << 21 | uint64_t{z} << 42;
}
__device__ __forceinline__ uint32_t unpack(uint64_t sum, uint32_t which) {
  return static_cast<uint32_t>(sum >> (21 * which) & 0x1FFFFF);
}

}  // namespace

#endif  // LACUNA_ATTENTION_BITS_CUH_
