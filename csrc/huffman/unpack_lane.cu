// SPDX-License-Identifier: MIT OR Apache-2.0
// Matrices of lanes to rows of bf16: a warp a tile, whose lanes have eight neighbours of a row
// each. Nothing in the planes is trusted; src/huffman/lane/reference.rs is the specification.

#include "lane.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kAll = 0xFFFFFFFF;

// A tile's part of the output.
struct Target {
  uint16_t* output;
  uint64_t stride;
  // Inside the matrix, up to those of a tile.
  uint32_t n_rows;
  uint32_t n_columns;
  bool is_vector;
};

__device__ __forceinline__ Target locate_target(const HuffmanUnpackLaneParams& params,
                                                const TilePlace& place) {
  const uint64_t stride = params.output_stride;
  return {params.output + (place.first_row * stride + place.first_column), stride,
          min(params.planes.n_rows - place.first_row, kTileRows),
          min(params.planes.n_columns - place.first_column, kTileColumns),
          has_vectors(params.output, stride)};
}

__device__ __forceinline__ void write_eight(const Target& target, uint32_t row, uint32_t column,
                                            const uint4& eight) {
  if (row >= target.n_rows || column >= target.n_columns) return;
  uint16_t* output = target.output + (row * target.stride + column);
  const uint32_t n = target.n_columns - column;
  if (target.is_vector && n >= 8) {
    *reinterpret_cast<uint4*>(output) = eight;
    return;
  }
  const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) {
    if (i < n) output[i] = static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)));
  }
}

__device__ __forceinline__ void expand_tile(const HuffmanLane& planes, uint32_t tile,
                                            uint32_t row_tile, const Target& target) {
  const uint32_t lane = threadIdx.x % 32;
  const uint4* low = reinterpret_cast<const uint4*>(planes.low) + uint64_t{tile} * 128 + lane;
  const uint4* high = reinterpret_cast<const uint4*>(planes.high) + uint64_t{tile} * 64 + lane;
  uint4 lows[4];
  uint4 highs[2];
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) lows[i] = low[32 * i];
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) highs[i] = high[32 * i];
  const uint2 palette = read_palette(planes.palettes, row_tile);
  const uint32_t row = row_of_lane(lane);
#pragma unroll
  for (uint32_t pair = 0; pair < kTileSteps / 2; ++pair) {
    const uint4& words = highs[pair / 2];
    uint32_t a[4];
    uint32_t b[4];
    expand_step(a, palette, pair % 2 == 0 ? words.x : words.z,
                make_uint2(lows[pair].x, lows[pair].y));
    expand_step(b, palette, pair % 2 == 0 ? words.y : words.w,
                make_uint2(lows[pair].z, lows[pair].w));
    const uint32_t column = column_of_lane(lane, pair);
    write_eight(target, row, column, make_uint4(a[0], a[2], b[0], b[2]));
    write_eight(target, row + 8, column, make_uint4(a[1], a[3], b[1], b[3]));
  }
}

// Of several escapes of one place the last one counts.
__device__ __forceinline__ void apply_escapes(const HuffmanLane& planes, uint64_t header,
                                              const Target& target) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t first = static_cast<uint32_t>(header);
  const uint32_t steps = static_cast<uint32_t>(header >> 48);
  uint32_t n = min(static_cast<uint32_t>(header >> 32) & 0xFFFF, kTileWeights);
  n = first < planes.n_escapes ? min(n, planes.n_escapes - first) : 0;
  for (uint32_t at = 0; at < n; at += 32) {
    // What was written before, by other lanes, is replaced.
    __syncwarp();
    bool counts = at + lane < n;
    const uint32_t escape = counts ? planes.escapes[first + at + lane] : 0;
    const uint32_t step = escape >> 24 & 7;
    counts = counts && (steps >> step & 1) != 0;
    const uint32_t place = counts ? escape >> 16 & (kTileWeights - 1) : kTileWeights + lane;
    const bool is_last = __match_any_sync(kAll, place) >> lane == 1;
    const uint32_t u = place % 8;
    const uint32_t owner = place / 8 % 32;
    const uint32_t row = row_of_lane(owner) + 8 * (u / 2 % 2);
    const uint32_t column = column_of_lane(owner, step / 2) + 4 * (step % 2) + 2 * (u / 4) + u % 2;
    if (counts && is_last && row < target.n_rows && column < target.n_columns) {
      target.output[row * target.stride + column] = static_cast<uint16_t>(escape);
    }
  }
}

}  // namespace

LACUNA_ENTRY(unpack_lane, HuffmanUnpackLaneParams, kThreads) {
  const HuffmanLane& planes = params.planes;
  const uint32_t tile = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  const TilePlace place = locate_tile(tile, planes.tiles_per_row);
  if (place.row_tile > (planes.n_rows - 1) / kTileRows) return;
  const uint64_t header = planes.headers[tile];
  const Target target = locate_target(params, place);
  expand_tile(planes, tile, place.row_tile, target);
  apply_escapes(planes, header, target);
}
