// SPDX-License-Identifier: MIT OR Apache-2.0
// Matrices of lanes: tiles of 16 rows and 128 columns, of which a lane has eight weights in each of
// eight steps, as operand A of mma.m16n8k16 has them; those of two steps are eight neighbours of
// two rows. src/huffman/lane/format.md is the format.
#ifndef LACUNA_HUFFMAN_LANE_CUH_
#define LACUNA_HUFFMAN_LANE_CUH_

#include "../common/kernel.cuh"

constexpr uint32_t kTileRows = 16;
constexpr uint32_t kTileColumns = 128;
constexpr uint32_t kTileWeights = kTileRows * kTileColumns;
constexpr uint32_t kTileSteps = 8;
constexpr uint32_t kPaletteLen = 8;
// Of four high bytes of weights what is no sign, and what is; of a word the slots.
constexpr uint32_t kValueBits = 0x7F7F7F7F;
constexpr uint32_t kSignBits = 0x80808080;
constexpr uint32_t kSlotBits = 0x77777777;

// Where a tile is.
struct TilePlace {
  uint32_t row_tile;
  uint32_t first_row;
  uint32_t first_column;
};

__device__ __forceinline__ TilePlace locate_tile(uint32_t tile, uint32_t tiles_per_row) {
  const uint32_t row_tile = tile / tiles_per_row;
  return {row_tile, row_tile * kTileRows, (tile - row_tile * tiles_per_row) * kTileColumns};
}

// Where a lane's weights of steps 2 `pair` and 2 `pair` + 1 begin: of registers 0 and 2, and eight
// rows below of 1 and 3.
__device__ __forceinline__ uint32_t row_of_lane(uint32_t lane) { return lane / 4; }
__device__ __forceinline__ uint32_t column_of_lane(uint32_t lane, uint32_t pair) {
  return 32 * pair + 8 * (lane % 4);
}

// A step's fragment, of a lane's word of codes and signs and its eight low bytes.
__device__ __forceinline__ void expand_step(uint32_t (&a)[4], uint2 palette, uint32_t word,
                                            uint2 low) {
  const uint32_t slots = word & kSlotBits;
  const uint32_t first = __byte_perm(palette.x, palette.y, slots) | (word & kSignBits);
  const uint32_t second = __byte_perm(palette.x, palette.y, slots >> 16) | (word << 4 & kSignBits);
  a[0] = __byte_perm(low.x, first, 0x5140);
  a[1] = __byte_perm(low.x, first, 0x7362);
  a[2] = __byte_perm(low.y, second, 0x5140);
  a[3] = __byte_perm(low.y, second, 0x7362);
}

__device__ __forceinline__ uint2 read_palette(const uint8_t* palettes, uint32_t row_tile) {
  const uint2 palette =
      *reinterpret_cast<const uint2*>(palettes + uint64_t{row_tile} * kPaletteLen);
  return make_uint2(palette.x & kValueBits, palette.y & kValueBits);
}

// Whether eight neighbours are one access.
__device__ __forceinline__ bool has_vectors(const uint16_t* rows, uint64_t stride) {
  return reinterpret_cast<uint64_t>(rows) % 16 == 0 && stride % 8 == 0;
}

// Eight weights of a row from `column` on; past its end `padding`, which is two.
__device__ __forceinline__ uint4 load_eight(const uint16_t* row, uint32_t column,
                                            uint32_t n_columns, bool is_vector, uint32_t padding) {
  const uint32_t n = column < n_columns ? n_columns - column : 0;
  if (is_vector && n >= 8) return *reinterpret_cast<const uint4*>(row + column);
  uint32_t words[4];
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    uint32_t word = padding;
    if (2 * i < n) word = (word & 0xFFFF0000) | row[column + 2 * i];
    if (2 * i + 1 < n) word = (word & 0xFFFF) | uint32_t{row[column + 2 * i + 1]} << 16;
    words[i] = word;
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

#endif  // LACUNA_HUFFMAN_LANE_CUH_
