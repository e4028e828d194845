// SPDX-License-Identifier: MIT OR Apache-2.0
// Rows of bf16 to the planes of lanes, as measured before: a warp a tile, whose lanes have eight
// neighbours of a row each. src/huffman/lane/pack.rs is the specification.

#include "../common/scan.cuh"
#include "lane.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kAll = 0xFFFFFFFF;
constexpr uint32_t kValues = 128;
// The code of what the palette lacks: no slot, and the bit that slots leave free.
constexpr uint32_t kEscape = 8;

struct Shared {
  // Of each value.
  alignas(4) uint8_t codes[kWarps][kValues];
};

// Where a tile's escapes go.
struct Escapes {
  uint32_t* entries;
  uint64_t first;
  // Of `entries`, and of the tile.
  uint32_t capacity;
  uint32_t count;
  // Those of steps before.
  uint32_t n_before;
};

// A value has the lowest of its slots.
__device__ __forceinline__ void list_codes(uint2 palette, uint8_t (&codes)[kValues]) {
  const uint32_t lane = threadIdx.x % 32;
  reinterpret_cast<uint32_t*>(codes)[lane] = kEscape * 0x01010101;
  __syncwarp();
  if (lane == 0) {
#pragma unroll
    for (uint32_t slot = kPaletteLen; slot-- > 0;) {
      const uint32_t four = slot < 4 ? palette.x : palette.y;
      codes[four >> (8 * (slot % 4)) & 0xFF] = static_cast<uint8_t>(slot);
    }
  }
  __syncwarp();
}

// The codes of four weights, by their high bytes.
__device__ __forceinline__ uint32_t code_four(uint32_t high, const uint8_t (&codes)[kValues]) {
  const uint32_t values = high & kValueBits;
  return uint32_t{codes[values & 0xFF]} | uint32_t{codes[values >> 8 & 0xFF]} << 4 |
         uint32_t{codes[values >> 16 & 0xFF]} << 8 | uint32_t{codes[values >> 24]} << 12;
}

// A lane's escapes of a step, of which `is_escape` has a bit in each four. What they leave is 0.
__device__ __forceinline__ void write_escapes(Escapes& escapes, const uint32_t (&a)[4],
                                              uint32_t step, uint32_t is_escape, uint32_t& word,
                                              uint2& low) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t n_own = __popc(is_escape);
  const uint32_t inclusive = scan_warp(n_own);
  uint32_t at = escapes.n_before + inclusive - n_own;
  escapes.n_before += __shfl_sync(kAll, inclusive, 31);
#pragma unroll
  for (uint32_t u = 0; u < 8; ++u) {
    if ((is_escape >> (4 * u + 3) & 1) == 0) continue;
    const uint32_t weight = u % 2 == 0 ? a[u / 2] & 0xFFFF : a[u / 2] >> 16;
    if (at < escapes.count && escapes.first + at < escapes.capacity) {
      escapes.entries[escapes.first + at] = weight | u << 16 | lane << 19 | step << 24;
    }
    ++at;
    word &= ~(u < 4 ? 0x80u << (8 * u) : 0x08u << (8 * (u - 4)));
    const uint32_t others = ~(0xFFu << (8 * (u % 4)));
    if (u < 4) {
      low.x &= others;
    } else {
      low.y &= others;
    }
  }
}

// A step's word of codes and signs, and its low bytes, from its fragment.
__device__ __forceinline__ uint32_t pack_step(const uint32_t (&a)[4],
                                              const uint8_t (&codes)[kValues], uint32_t step,
                                              Escapes& escapes, uint2& low) {
  const uint32_t high = __byte_perm(a[0], a[1], 0x7531);
  const uint32_t high_after = __byte_perm(a[2], a[3], 0x7531);
  const uint32_t slots = code_four(high, codes) | code_four(high_after, codes) << 16;
  uint32_t word = (slots & kSlotBits) | (high & kSignBits) | (high_after & kSignBits) >> 4;
  low = make_uint2(__byte_perm(a[0], a[1], 0x6420), __byte_perm(a[2], a[3], 0x6420));
  const uint32_t is_escape = slots & ~kSlotBits;
  if (__any_sync(kAll, is_escape != 0)) {
    // Inner loop: not this way.
    write_escapes(escapes, a, step, is_escape, word, low);
  }
  return word;
}

}  // namespace

LACUNA_ENTRY(pack_lane, HuffmanPackLaneParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  const HuffmanLane& planes = params.planes;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t tile = blockIdx.x * kWarps + warp;
  const TilePlace place = locate_tile(tile, planes.tiles_per_row);
  if (place.row_tile > (planes.n_rows - 1) / kTileRows) return;
  const uint2 palette = read_palette(planes.palettes, place.row_tile);
  list_codes(palette, shared.codes[warp]);
  const uint64_t header = params.headers[tile];
  const uint64_t first = params.firsts[place.row_tile] + static_cast<uint32_t>(header);
  if (lane == 0) planes.headers[tile] = header >> 32 << 32 | static_cast<uint32_t>(first);
  Escapes escapes = {planes.escapes, first, planes.n_escapes,
                     static_cast<uint32_t>(header >> 32) & 0xFFFF, 0};

  // What is outside the matrix has slot 0, no sign and a low byte of 0.
  const uint32_t padding = (palette.x & 0xFF) * 0x01000100;
  const bool is_vector = has_vectors(params.weights, params.weights_stride);
  const uint32_t row = row_of_lane(lane);
  const uint32_t n_rows = planes.n_rows - place.first_row;
  const uint16_t* weights = params.weights + (place.first_row + row) * params.weights_stride;
  uint4* low = reinterpret_cast<uint4*>(planes.low) + uint64_t{tile} * 128 + lane;
  uint4* high = reinterpret_cast<uint4*>(planes.high) + uint64_t{tile} * 64 + lane;
#pragma unroll 1
  for (uint32_t pair = 0; pair < kTileSteps / 2; pair += 2, high += 32) {
    uint4 rows[2][2];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t column = place.first_column + column_of_lane(lane, pair + i);
#pragma unroll
      for (uint32_t below = 0; below < 2; ++below) {
        const uint32_t n_columns = row + 8 * below < n_rows ? planes.n_columns : 0;
        rows[i][below] = load_eight(weights + 8 * below * params.weights_stride, column, n_columns,
                                    is_vector, padding);
      }
    }
    uint32_t words[4];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i, low += 32) {
      const uint4& up = rows[i][0];
      const uint4& down = rows[i][1];
      const uint32_t a[4] = {up.x, down.x, up.y, down.y};
      const uint32_t b[4] = {up.z, down.z, up.w, down.w};
      const uint32_t step = 2 * (pair + i);
      uint2 lows[2];
      words[2 * i] = pack_step(a, shared.codes[warp], step, escapes, lows[0]);
      words[2 * i + 1] = pack_step(b, shared.codes[warp], step + 1, escapes, lows[1]);
      *low = make_uint4(lows[0].x, lows[0].y, lows[1].x, lows[1].y);
    }
    // Inner loop: 32 elements a store.
    *high = make_uint4(words[0], words[1], words[2], words[3]);
  }
}
