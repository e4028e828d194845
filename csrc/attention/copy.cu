// SPDX-License-Identifier: MIT OR Apache-2.0
// Pages copied from pools to pools, those of all layers in one launch, and summed as they are read.
// Teams of up to 32 lanes have a chunk of a page each, and no barrier; sums are integers, so that
// the order in which teams add theirs cannot show. src/attention/copy/reference.rs is the
// specification.

#include "../common/kernel.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 128;
// A lane's share of a chunk.
constexpr uint32_t kLaneBytes = 256;
// What a sum is of no words, so that a page of zeros has another than no page.
constexpr uint64_t kEmptySum = 0x9E3779B97F4A7C15;
constexpr uint64_t kDiffers = 1;

// A block's part: pairs of a pool's chunk.
struct Tile {
  uint32_t pairs;
  uint32_t pool;
  uint32_t chunk;
};

__device__ __forceinline__ Tile locate_tile(const AttentionCopyPagesParams& params, uint32_t idx) {
  const uint32_t row = idx / params.n_pair_tiles;
  const uint32_t chunk = row / params.n_pools;
  return {idx - row * params.n_pair_tiles, row - chunk * params.n_pools, chunk};
}

// The pages that a team copies between.
struct Pair {
  // Among those of all lists.
  uint32_t idx;
  uint32_t source;
  uint32_t target;
  bool is_listed;
  bool is_copied;
};

__device__ __forceinline__ Pair find_pair(const AttentionCopyPagesParams& params,
                                          const Tile& tile) {
  Pair pair = {};
  pair.idx = tile.pairs * (kThreads >> params.lane_bits) + (threadIdx.x >> params.lane_bits);
  pair.is_listed = pair.idx < params.n_lists * params.n_pairs;
  if (!pair.is_listed) return pair;
  const uint32_t list = pair.idx / params.n_pairs;
  const uint32_t place = pair.idx - list * params.n_pairs;
  if (params.counts != nullptr && place >= params.counts[list]) return pair;
  // A negative number is large.
  pair.source = static_cast<uint32_t>(params.pairs[2 * uint64_t{pair.idx}]);
  pair.target = static_cast<uint32_t>(params.pairs[2 * uint64_t{pair.idx} + 1]);
  pair.is_copied = pair.source < params.n_source_pages && pair.target < params.n_target_pages;
  return pair;
}

// A team's part of a page: bytes, and where its first word is among those of the page in all pools.
struct Chunk {
  const uint8_t* from;
  uint8_t* to;
  uint32_t n_bytes;
  uint32_t first_word;
  uint32_t unit_bytes;
};

__device__ __forceinline__ Chunk find_chunk(const AttentionCopyPagesParams& params,
                                            const Tile& tile, const Pair& pair) {
  Chunk chunk = {};
  if (!pair.is_copied) return chunk;
  const AttentionPool& source = params.sources[tile.pool];
  const AttentionPool& target = params.targets[tile.pool];
  const uint32_t page_bytes = source.page_bytes;
  const uint32_t most = kLaneBytes << params.lane_bits;
  const uint64_t begin = uint64_t{tile.chunk} * most;
  if (begin >= page_bytes) return chunk;
  const uint32_t n_left = page_bytes - static_cast<uint32_t>(begin);
  chunk.from = source.pages + pair.source * source.page_stride + begin;
  chunk.to = target.pages + pair.target * target.page_stride + begin;
  chunk.n_bytes = n_left < most ? n_left : most;
  chunk.first_word = source.first_word + static_cast<uint32_t>(begin / 4);
  const uint64_t all =
      reinterpret_cast<uint64_t>(chunk.from) | reinterpret_cast<uint64_t>(chunk.to) | page_bytes;
  chunk.unit_bytes = all % 16 == 0 ? 16 : all % 8 == 0 ? 8 : 4;
  return chunk;
}

// What a word adds to the sum. The low half of its factor makes a difference of any two words that
// change places, the high half of patterns that cancel out in a line.
__device__ __forceinline__ uint64_t weigh(uint32_t word, uint32_t i) {
  uint32_t high = (i + 1) * 0x9E3779B1u;
  high ^= high >> 16;
  high *= 0x85EBCA6Bu;
  high ^= high >> 13;
  return word * (uint64_t{high} << 32 | (2 * i + 1));
}

__device__ __forceinline__ uint64_t weigh_unit(uint32_t unit, uint32_t i) { return weigh(unit, i); }
__device__ __forceinline__ uint64_t weigh_unit(const uint2& unit, uint32_t i) {
  return weigh(unit.x, i) + weigh(unit.y, i + 1);
}
__device__ __forceinline__ uint64_t weigh_unit(const uint4& unit, uint32_t i) {
  return weigh(unit.x, i) + weigh(unit.y, i + 1) + weigh(unit.z, i + 2) + weigh(unit.w, i + 3);
}

// Copies this lane's units, and returns their sum.
template <typename Unit, bool kIsSummed>
__device__ __forceinline__ uint64_t copy_units(const Chunk& chunk, uint32_t lane,
                                               uint32_t n_lanes) {
  constexpr uint32_t kWords = sizeof(Unit) / 4;
  const Unit* from = reinterpret_cast<const Unit*>(chunk.from);
  Unit* to = reinterpret_cast<Unit*>(chunk.to);
  const uint32_t n_units = chunk.n_bytes / sizeof(Unit);
  uint64_t sum = 0;
  uint32_t i = lane;
  // Four loads are on their way at once.
  for (; i + 3 * n_lanes < n_units; i += 4 * n_lanes) {
    Unit units[4];
#pragma unroll
    for (uint32_t u = 0; u < 4; ++u) units[u] = from[i + u * n_lanes];
#pragma unroll
    for (uint32_t u = 0; u < 4; ++u) {
      to[i + u * n_lanes] = units[u];
      if (kIsSummed) sum += weigh_unit(units[u], chunk.first_word + (i + u * n_lanes) * kWords);
    }
  }
  for (; i < n_units; i += n_lanes) {
    const Unit unit = from[i];
    to[i] = unit;
    if (kIsSummed) sum += weigh_unit(unit, chunk.first_word + i * kWords);
  }
  return sum;
}

template <bool kIsSummed>
__device__ __forceinline__ uint64_t copy_chunk(const Chunk& chunk, uint32_t lane,
                                               uint32_t n_lanes) {
  if (chunk.unit_bytes == 16) return copy_units<uint4, kIsSummed>(chunk, lane, n_lanes);
  if (chunk.unit_bytes == 8) return copy_units<uint2, kIsSummed>(chunk, lane, n_lanes);
  return copy_units<uint32_t, kIsSummed>(chunk, lane, n_lanes);
}

// By one lane of a team: what all teams of a page have found, by the last of them.
__device__ __forceinline__ void add_sum(const AttentionCopyPagesParams& params, const Pair& pair,
                                        uint64_t sum) {
  uint64_t* sums = params.sums + 2 * uint64_t{pair.idx};
  atomicAdd(sums, sum);
  __threadfence();
  const uint64_t n_teams = uint64_t{params.n_pools} * params.n_chunks;
  if (atomicAdd(sums + 1, uint64_t{1}) + 1 != n_teams) return;
  __threadfence();
  const uint64_t whole = kEmptySum + sums[0];
  sums[0] = 0;
  sums[1] = 0;
  if (params.checksums != nullptr) params.checksums[pair.idx] = whole;
  if (params.expected == nullptr || params.expected[pair.idx] == whole) return;
  atomicMax(params.status, uint64_t{0xFFFFFFFF - pair.idx} << 32 | kDiffers);
}

__device__ __forceinline__ void copy_tile(const AttentionCopyPagesParams& params,
                                          const Tile& tile) {
  const uint32_t n_lanes = 1u << params.lane_bits;
  const uint32_t lane = threadIdx.x & (n_lanes - 1);
  const Pair pair = find_pair(params, tile);
  const Chunk chunk = find_chunk(params, tile, pair);
  if (params.sums == nullptr) {
    copy_chunk<false>(chunk, lane, n_lanes);
    return;
  }
  uint64_t sum = copy_chunk<true>(chunk, lane, n_lanes);
  for (uint32_t delta = n_lanes / 2; delta != 0; delta /= 2) {
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, static_cast<int>(delta));
  }
  if (lane != 0) return;
  if (pair.is_copied) {
    add_sum(params, pair, sum);
  } else if (pair.is_listed && params.checksums != nullptr && tile.pool + tile.chunk == 0) {
    params.checksums[pair.idx] = 0;
  }
}

}  // namespace

LACUNA_ENTRY(copy_pages, AttentionCopyPagesParams, kThreads) {
  const uint32_t n_tiles = params.n_pair_tiles * params.n_pools * params.n_chunks;
  for (uint32_t idx = blockIdx.x; idx < n_tiles; idx += gridDim.x) {
    copy_tile(params, locate_tile(params, idx));
  }
}
