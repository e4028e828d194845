// SPDX-License-Identifier: MIT OR Apache-2.0
// Groups with an index of their stream to bf16: a warp decodes a tile of 4,096 weights, each lane
// 128 of them, two codes a lookup mostly, while the next tile's codes are on their way.
// src/huffman/indexed/reference.rs is the specification.

#include "group.cuh"
#include "indexed.cuh"

namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kThreads = kWarps * 32;
// Weights that a lane joins at once.
constexpr uint32_t kVector = 8;
constexpr uint32_t kSteps = kTileWeights / kVector / 32;

struct Shared {
  alignas(16) uint32_t table[kTableEntries];
  WarpShared warps[kWarps];
};

__device__ __forceinline__ uint32_t count_weights(const HuffmanIndexedGroup& group, uint32_t tile) {
  const uint64_t n_left = group.n_elements - uint64_t{tile} * kTileWeights;
  return n_left < kTileWeights ? static_cast<uint32_t>(n_left) : kTileWeights;
}

__device__ __forceinline__ Span find_tile(const HuffmanIndexedGroup& group, uint32_t tile) {
  const uint32_t n_granules = (count_weights(group, tile) + kGranuleWeights - 1) / kGranuleWeights;
  return find_span(group, tile * kTileGranules, n_granules);
}

// The word of four exponents from weight `i` of the tile on.
__device__ __forceinline__ uint32_t read_four(const uint8_t* exponents, uint32_t i) {
  return *reinterpret_cast<const uint32_t*>(exponents + i / kGranuleWeights * kRowBytes +
                                            i % kGranuleWeights);
}

// Signs and mantissas of a whole tile: they are on their way while its codes are decoded.
__device__ __forceinline__ void load_tile(const uint8_t* sign_mantissa, uint2 (&bytes)[kSteps]) {
#pragma unroll
  for (uint32_t step = 0; step < kSteps; ++step) {
    // Way of a tile: here.
    bytes[step] = reinterpret_cast<const uint2*>(sign_mantissa)[step * 32 + threadIdx.x % 32];
  }
}

__device__ __forceinline__ void write_tile(const uint8_t* exponents, const uint2 (&bytes)[kSteps],
                                           uint16_t* output) {
#pragma unroll
  for (uint32_t step = 0; step < kSteps; ++step) {
    const uint32_t i = (step * 32 + threadIdx.x % 32) * kVector;
    const uint2 first = join_four(read_four(exponents, i), bytes[step].x);
    // Way of a tile: here.
    const uint2 second = join_four(read_four(exponents, i + 4), bytes[step].y);
    // Way of a tile: 8 elements a store.
    *reinterpret_cast<uint4*>(output + i) = make_uint4(first.x, first.y, second.x, second.y);
  }
}

// A tile that is not whole, or whose output is not aligned.
__device__ __forceinline__ void write_weights(const uint8_t* exponents,
                                              const uint8_t* sign_mantissa, uint32_t n_weights,
                                              uint16_t* output) {
  for (uint32_t i = threadIdx.x % 32; i < n_weights; i += 32) {
    const uint8_t exponent = exponents[i / kGranuleWeights * kRowBytes + i % kGranuleWeights];
    output[i] = join_one(exponent, sign_mantissa[i]);
  }
}

}  // namespace

LACUNA_ENTRY(decode_indexed, HuffmanIndexedParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  const uint32_t group_idx = find_group(params.groups, params.n_groups, blockIdx.x);
  const HuffmanIndexedGroup group = params.groups[group_idx];
  const uint64_t n_tiles = (group.n_elements + kTileWeights - 1) / kTileWeights;
  const uint64_t begin = uint64_t{blockIdx.x - group.first_block} * params.block_tiles;
  const uint64_t block_end = begin + params.block_tiles;
  const uint32_t end = static_cast<uint32_t>(block_end < n_tiles ? block_end : n_tiles);
  stage_table(group, kThreads, shared.table);
  WarpShared& warp = shared.warps[threadIdx.x / 32];
  // A walk that strays reads what it finds there; that is never used.
  for (uint32_t i = threadIdx.x % 32; i < 2 * kStagedBytes / 16; i += 32) {
    reinterpret_cast<uint4*>(warp.codes[0])[i] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();

  uint32_t tile = static_cast<uint32_t>(begin) + threadIdx.x / 32;
  if (tile >= end) return;
  uint16_t* output = params.output + group.output_offset;
  const bool is_aligned = reinterpret_cast<uint64_t>(output) % 16 == 0;
  Span span = find_tile(group, tile);
  stage_codes(group, span, warp.codes[0]);
  for (uint32_t stage = 0; tile < end; tile += kWarps, stage ^= 1) {
    const Span own = span;
    if (tile + kWarps < end) {
      span = find_tile(group, tile + kWarps);
      stage_codes(group, span, warp.codes[stage ^ 1]);
    } else {
      commit_copies();
    }
    const uint64_t first = uint64_t{tile} * kTileWeights;
    const uint32_t n_weights = count_weights(group, tile);
    const bool is_whole = n_weights == kTileWeights && is_aligned;
    uint2 bytes[kSteps];
    if (is_whole) load_tile(group.sign_mantissa + first, bytes);
    wait_copies<1>();
    __syncwarp();
    const TileReason reason =
        decode_span(group, shared.table, own, n_weights, warp.codes[stage], warp.exponents);
    __syncwarp();
    if (reason != kSound) {
      for (uint32_t i = threadIdx.x % 32; i < n_weights; i += 32) output[first + i] = kQuietNan;
      report_tile(params.status, group.first_tile + tile, reason);
    } else if (is_whole) {
      write_tile(warp.exponents, bytes, output + first);
    } else {
      write_weights(warp.exponents, group.sign_mantissa + first, n_weights, output + first);
    }
  }
}
