// SPDX-License-Identifier: MIT OR Apache-2.0
// Exponents of bf16 weights, counted in parts of 65,536 and in all; and where each part's codes
// begin, which its counts tell. src/huffman/compact/reference.rs is the specification.

#include "../common/last.cuh"
#include "../common/scan.cuh"
#include "codes.cuh"

namespace {

constexpr uint32_t kCountThreads = 256;

constexpr uint32_t kPlaceThreads = 256;
constexpr uint32_t kPlaceWarps = kPlaceThreads / 32;
// Parts whose bits a warp counts.
constexpr uint32_t kWarpParts = 8;
constexpr uint32_t kBlockParts = kPlaceWarps * kWarpParts;

struct CountShared {
  // Of each exponent a bin for each lane: equal neighbours do not wait for each other.
  alignas(16) uint32_t bins[kExponents][32];
  uint32_t is_last;
};

struct PlaceShared {
  uint32_t warp_bits[2][kPlaceWarps];
  uint32_t is_last;
};

__device__ __forceinline__ void count_pair(CountShared& shared, uint32_t pair) {
  const uint32_t lane = threadIdx.x % 32;
  atomicAdd(&shared.bins[pair >> 7 & 255][lane], 1u);
  atomicAdd(&shared.bins[pair >> 23 & 255][lane], 1u);
}

}  // namespace

LACUNA_ENTRY(count_exponents, HuffmanCountParams, kCountThreads) {
  LACUNA_SHARED(CountShared, shared);
  const uint32_t thread = threadIdx.x;
  uint4* bins = reinterpret_cast<uint4*>(shared.bins[0]);
  for (uint32_t i = thread; i < kExponents * 32 / 4; i += kCountThreads) {
    bins[i] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  const uint64_t first = uint64_t{blockIdx.x} * kPartWeights;
  const uint32_t n_weights = count_left(params.n_elements, first, kPartWeights);
  const uint32_t n_vectors = n_weights / kVector;
  const uint4* vectors = reinterpret_cast<const uint4*>(params.weights + first);
  for (uint32_t i = thread; i < n_vectors; i += kTogether * kCountThreads) {
    uint4 eights[kTogether];
#pragma unroll
    for (uint32_t k = 0; k < kTogether; ++k) {
      const uint32_t at = i + k * kCountThreads;
      eights[k] = make_uint4(0, 0, 0, 0);
      // Inner loop: 8 elements a load.
      if (at < n_vectors) eights[k] = vectors[at];
    }
#pragma unroll
    for (uint32_t k = 0; k < kTogether; ++k) {
      if (i + k * kCountThreads >= n_vectors) break;
      count_pair(shared, eights[k].x);
      count_pair(shared, eights[k].y);
      count_pair(shared, eights[k].z);
      count_pair(shared, eights[k].w);
    }
  }
  const uint32_t last = n_vectors * kVector + thread;
  if (last < n_weights) {
    atomicAdd(&shared.bins[params.weights[first + last] >> 7 & 255][thread % 32], 1u);
  }
  __syncthreads();
  uint32_t n_own = 0;
#pragma unroll 8
  for (uint32_t k = 0; k < 32; ++k) n_own += shared.bins[thread][(k + thread) % 32];
  params.parts[uint64_t{blockIdx.x} * kExponents + thread] = n_own;
  unsigned long long* sums = reinterpret_cast<unsigned long long*>(params.sums);
  if (n_own != 0) atomicAdd(&sums[thread], static_cast<unsigned long long>(n_own));
  uint32_t* ticket = reinterpret_cast<uint32_t*>(params.sums + kExponents);
  if (!is_last_block(ticket, gridDim.x, shared.is_last)) return;
  params.counts[thread] = sums[thread];
  sums[thread] = 0;
}

LACUNA_ENTRY(place_codes, HuffmanPlaceParams, kPlaceThreads) {
  LACUNA_SHARED(PlaceShared, shared);
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t first = blockIdx.x * kBlockParts + warp * kWarpParts;
  // Those of exponents 4 * lane to 4 * lane + 3, and of 128 more than these.
  uint32_t lengths[8] = {};
  if (first < params.n_parts) {
    const uint4* table = reinterpret_cast<const uint4*>(params.table) + lane;
    const uint4 low = table[0];
    const uint4 high = table[32];
    const uint32_t entries[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) lengths[e] = length_of(entries[e]);
  }
  for (uint32_t k = 0; k < kWarpParts && first + k < params.n_parts; ++k) {
    const uint4* counts =
        reinterpret_cast<const uint4*>(params.parts + uint64_t{first + k} * kExponents) + lane;
    const uint4 low = counts[0];
    const uint4 high = counts[32];
    const uint32_t n_bits = low.x * lengths[0] + low.y * lengths[1] + low.z * lengths[2] +
                            low.w * lengths[3] + high.x * lengths[4] + high.y * lengths[5] +
                            high.z * lengths[6] + high.w * lengths[7];
    const uint32_t all = __reduce_add_sync(0xFFFFFFFFu, n_bits);
    if (lane == 0) params.part_bits[first + k] = all;
  }
  if (!is_last_block(params.ticket, gridDim.x, shared.is_last)) return;
  uint64_t begin = 0;
  uint32_t turn = 0;
  for (uint32_t chunk = 0; chunk < params.n_parts; chunk += 4 * kPlaceThreads, turn ^= 1) {
    const uint32_t part = chunk + 4 * threadIdx.x;
    uint32_t bits[4];
    uint32_t n_own = 0;
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) {
      bits[k] = part + k < params.n_parts ? params.part_bits[part + k] : 0;
      n_own += bits[k];
    }
    const uint32_t inclusive = scan_warp(n_own);
    if (lane == 31) shared.warp_bits[turn][warp] = inclusive;
    __syncthreads();
    uint32_t before = inclusive - n_own;
    uint32_t all = 0;
#pragma unroll
    for (uint32_t w = 0; w < kPlaceWarps; ++w) {
      const uint32_t of_warp = shared.warp_bits[turn][w];
      before += w < warp ? of_warp : 0;
      all += of_warp;
    }
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) {
      if (part + k < params.n_parts) params.starts[part + k] = begin + before;
      before += bits[k];
    }
    begin += all;
  }
  if (threadIdx.x == 0) params.starts[params.n_parts] = begin;
}
