// SPDX-License-Identifier: MIT OR Apache-2.0
// What a matrix of lanes takes: a block counts the values of 16 rows, chooses their palette, and
// counts what that lacks in each tile; the last block adds the rows' counts up.
// src/huffman/lane/pack.rs is the specification.

#include "../common/last.cuh"
#include "../common/scan.cuh"
#include "lane.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kAll = 0xFFFFFFFF;
// Of the upper seven bits of an exponent.
constexpr uint32_t kValues = 128;

struct Shared {
  // Of each value a count for each lane, so that no two lanes meet in a bank.
  uint32_t counts[kValues][32];
  uint32_t totals[kValues];
  // A bit for each value of the palette, and a byte.
  uint32_t listed[kValues / 32];
  uint8_t is_listed[kValues];
  // By turns, so that a barrier is between a round and the next but one.
  uint32_t warp_sums[2][kWarps];
  uint32_t is_last;
};

__device__ __forceinline__ uint32_t value_of(uint32_t word, uint32_t half) {
  return word >> (16 * half + 8) & 0x7F;
}

__device__ __forceinline__ void add_one(Shared& shared, uint32_t value) {
  atomicAdd(&shared.counts[value][threadIdx.x % 32], 1u);
}

__device__ __forceinline__ void count_rows(const HuffmanMeasureLaneParams& params,
                                           uint32_t row_tile, Shared& shared) {
  const uint32_t lane = threadIdx.x % 32;
  const bool is_vector = has_vectors(params.weights, params.weights_stride);
  const uint32_t n_eights = is_vector ? params.n_columns / 8 : 0;
#pragma unroll 1
  for (uint32_t i = threadIdx.x / 32; i < kTileRows; i += kWarps) {
    const uint32_t row = row_tile * kTileRows + i;
    if (row >= params.n_rows) return;
    const uint16_t* weights = params.weights + row * params.weights_stride;
#pragma unroll 4
    for (uint32_t at = lane; at < n_eights; at += 32) {
      // Inner loop: 8 elements a load.
      const uint4 eight = *reinterpret_cast<const uint4*>(weights + uint64_t{at} * 8);
      const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
      for (uint32_t word : words) {
        add_one(shared, value_of(word, 0));
        add_one(shared, value_of(word, 1));
      }
    }
    for (uint64_t at = uint64_t{n_eights} * 8 + lane; at < params.n_columns; at += 32) {
      add_one(shared, value_of(weights[at], 0));
    }
  }
}

// The eight most frequent values, of equal ones the lower, ascending.
__device__ __forceinline__ void choose_palette(uint8_t* palette, Shared& shared) {
  const uint32_t value = threadIdx.x;
  uint32_t total = 0;
  if (value < kValues) {
    for (uint32_t i = 0; i < 32; ++i) total += shared.counts[value][(value + i) % 32];
    shared.totals[value] = total;
  }
  __syncthreads();
  bool is_listed = false;
  if (value < kValues) {
    uint32_t rank = 0;
    for (uint32_t other = 0; other < kValues; ++other) {
      const uint32_t n_other = shared.totals[other];
      rank += n_other > total || (n_other == total && other < value) ? 1 : 0;
    }
    is_listed = total != 0 && rank < kPaletteLen;
    shared.is_listed[value] = is_listed ? 1 : 0;
    const uint32_t listed = __ballot_sync(kAll, is_listed);
    if (value % 32 == 0) shared.listed[value / 32] = listed;
  }
  __syncthreads();
  if (!is_listed) return;
  uint32_t slot = 0;
  uint32_t n_listed = 0;
#pragma unroll
  for (uint32_t i = 0; i < kValues / 32; ++i) {
    const uint32_t listed = shared.listed[i];
    n_listed += __popc(listed);
    const uint32_t before = i < value / 32 ? kAll : i == value / 32 ? (1u << value % 32) - 1 : 0;
    slot += __popc(listed & before);
  }
  const uint32_t end = slot + 1 == n_listed ? kPaletteLen : slot + 1;
  for (; slot < end; ++slot) palette[slot] = static_cast<uint8_t>(value);
}

// A tile's header but for its first escape, the same in all lanes of a warp.
__device__ __forceinline__ uint64_t measure_tile(const HuffmanMeasureLaneParams& params,
                                                 uint32_t row_tile, uint32_t column_tile,
                                                 const Shared& shared) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t first_row = row_tile * kTileRows;
  const uint32_t column = column_tile * kTileColumns + lane % 16 * 8;
  const bool is_vector = has_vectors(params.weights, params.weights_stride);
  const uint32_t n_columns = column < params.n_columns ? min(params.n_columns - column, 8u) : 0;
  const uint32_t n_rows = min(params.n_rows - first_row, kTileRows);
  // Of two steps.
  uint32_t n_escapes[2] = {};
#pragma unroll 4
  for (uint32_t row = lane / 16; row < n_rows; row += 2) {
    const uint16_t* weights = params.weights + (first_row + row) * params.weights_stride;
    const uint4 eight = load_eight(weights, column, params.n_columns, is_vector, 0);
    const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t is_listed = shared.is_listed[value_of(words[i / 2], i % 2)];
      n_escapes[i / 4] += i < n_columns ? 1 - is_listed : 0;
    }
  }
  const uint32_t own = (n_escapes[0] != 0 ? 1u : 0) | (n_escapes[1] != 0 ? 2u : 0);
  const uint32_t steps = __reduce_or_sync(kAll, own << lane % 16 / 4 * 2);
  const uint32_t n = __reduce_add_sync(kAll, n_escapes[0] + n_escapes[1]);
  return uint64_t{n} << 32 | uint64_t{steps} << 48;
}

// The sum of a number of each warp before this one, from `sum` on, to which all are added. Called
// by all threads.
__device__ __forceinline__ uint32_t add_warps(uint32_t own, uint32_t& sum,
                                              uint32_t (&sums)[kWarps]) {
  const uint32_t warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 31) sums[warp] = own;
  __syncthreads();
  uint32_t before = sum;
#pragma unroll
  for (uint32_t i = 0; i < kWarps; ++i) {
    before += i < warp ? sums[i] : 0;
    sum += sums[i];
  }
  return before;
}

}  // namespace

LACUNA_ENTRY(measure_lane, HuffmanMeasureLaneParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  const uint32_t row_tile = blockIdx.x;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  for (uint32_t i = warp; i < kValues; i += kWarps) shared.counts[i][lane] = 0;
  __syncthreads();
  count_rows(params, row_tile, shared);
  __syncthreads();
  choose_palette(params.palettes + uint64_t{row_tile} * kPaletteLen, shared);
  uint32_t n_escapes = 0;
  uint64_t* headers = params.headers + uint64_t{row_tile} * params.tiles_per_row;
  for (uint32_t first = 0, turn = 0; first < params.tiles_per_row; first += kWarps, turn ^= 1) {
    const uint32_t tile = first + warp;
    const bool is_tile = tile < params.tiles_per_row;
    const uint64_t header = is_tile ? measure_tile(params, row_tile, tile, shared) : 0;
    const uint32_t n_own = static_cast<uint32_t>(header >> 32) & 0xFFFF;
    const uint32_t before = add_warps(n_own, n_escapes, shared.warp_sums[turn]);
    if (is_tile && lane == 0) headers[tile] = header | before;
  }
  if (threadIdx.x == 0) params.firsts[row_tile] = n_escapes;
  if (!is_last_block(params.ticket, gridDim.x, shared.is_last)) return;
  n_escapes = 0;
  for (uint32_t first = 0, turn = 0; first < gridDim.x; first += kThreads, turn ^= 1) {
    const uint32_t at = first + threadIdx.x;
    const uint32_t n_own = at < gridDim.x ? static_cast<uint32_t>(params.firsts[at]) : 0;
    const uint32_t inclusive = scan_warp(n_own);
    const uint32_t before = add_warps(inclusive, n_escapes, shared.warp_sums[turn]);
    if (at < gridDim.x) params.firsts[at] = before + inclusive - n_own;
  }
  if (threadIdx.x == 0) *params.n_escapes = n_escapes;
}
