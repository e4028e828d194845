// SPDX-License-Identifier: MIT OR Apache-2.0
// Rows added to rows of tables: a block has 32 rows of a table, finds the list's rows that go
// there, in the order of the list, and each warp sums those of one table row at a time. No atomics
// and no workspace; every block reads the whole list. src/select/rows/reference.rs is the
// specification.

#include "../common/number.cuh"
#include "params.h"
#include "tiles.cuh"

namespace {

struct Tile {
  const int32_t* indices;
  const uint8_t* source;
  const float* weights;
  uint8_t* table;
  uint32_t list;
  uint32_t first;
};

__device__ Tile locate_tile(const SelectScatterAddParams& params) {
  const SelectRows& rows = params.rows;
  const uint32_t n_tiles = rows.n_table_rows / kTile + (rows.n_table_rows % kTile != 0);
  const uint32_t list = blockIdx.x / n_tiles;
  Tile tile;
  tile.list = list;
  tile.indices = rows.indices + list * rows.index_stride;
  tile.source = params.source + list * rows.list_stride;
  tile.weights =
      params.weights != nullptr ? params.weights + uint64_t{list} * rows.n_indices : nullptr;
  tile.table = params.table + list * rows.table_list_stride;
  tile.first = (blockIdx.x - list * n_tiles) * kTile;
  return tile;
}

// Which row of the tile the list's row at a place goes to; of none a number that no row has.
struct FindRow {
  const int32_t* indices;
  uint32_t n_indices;
  uint32_t first;

  __device__ uint32_t operator()(uint32_t place) const {
    return place < n_indices ? static_cast<uint32_t>(indices[place]) - first : kNone;
  }
};

// Neighbouring elements of a row that one lane sums: 16 bytes, or one.
template <uint32_t kWidth>
__device__ void load_elements(float (&values)[kWidth], const uint8_t* row, uint32_t column,
                              uint32_t element) {
  if constexpr (kWidth == 8) {
    const uint4 words = *reinterpret_cast<const uint4*>(row + 2 * column);
    const uint32_t each[4] = {words.x, words.y, words.z, words.w};
    expand_floats(values, each, element);
  } else if constexpr (kWidth == 4) {
    const float4 four = *reinterpret_cast<const float4*>(row + 4 * column);
    values[0] = four.x;
    values[1] = four.y;
    values[2] = four.z;
    values[3] = four.w;
  } else {
    values[0] = load_float(row, column, element);
  }
}

template <uint32_t kWidth>
__device__ void store_elements(const float (&values)[kWidth], uint8_t* row, uint32_t column,
                               uint32_t element) {
  if constexpr (kWidth == 8) {
    uint32_t words[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      words[i] = to_half(values[2 * i], element) | to_half(values[2 * i + 1], element) << 16;
    }
    *reinterpret_cast<uint4*>(row + 2 * column) =
        make_uint4(words[0], words[1], words[2], words[3]);
  } else if constexpr (kWidth == 4) {
    *reinterpret_cast<float4*>(row + 4 * column) = make_float4(
        canonical(values[0]), canonical(values[1]), canonical(values[2]), canonical(values[3]));
  } else {
    store_float(row, column, element, values[0]);
  }
}

// By a warp: the rows of the list that go to one row of the table, added to it in their order.
template <uint32_t kWidth>
__device__ void add_rows(const SelectScatterAddParams& params, const Tile& tile, uint32_t tile_row,
                         uint32_t n_found, const FindRow& find, const TileFinds& finds) {
  const SelectRows& rows = params.rows;
  const uint32_t n_columns = rows.row_bytes / float_bytes(params.element);
  uint8_t* target = tile.table + (tile.first + tile_row) * rows.table_stride;
  for (uint32_t base = 0; base < n_columns; base += 32 * kWidth) {
    const uint32_t column = base + threadIdx.x % 32 * kWidth;
    const bool is_column = column < n_columns;
    float sums[kWidth] = {};
    bool is_begun = false;
    visit_places(rows.n_indices, n_found, tile_row, find, finds, [&](uint32_t from) {
      if (!is_column) return;
      if (!is_begun) load_elements(sums, target, column, params.element);
      is_begun = true;
      float values[kWidth];
      load_elements(values, tile.source + from * rows.row_stride, column, params.element);
      const float weight = tile.weights != nullptr ? tile.weights[from] : 1.0f;
#pragma unroll
      for (uint32_t i = 0; i < kWidth; ++i) sums[i] = __fmaf_rn(weight, values[i], sums[i]);
    });
    // A row that none goes to is left alone.
    if (is_begun) store_elements(sums, target, column, params.element);
  }
}

}  // namespace

LACUNA_ENTRY(scatter_add_rows, SelectScatterAddParams, kTileThreads) {
  LACUNA_SHARED(TileFinds, finds);
  const Tile tile = locate_tile(params);
  if (tile.list >= params.rows.n_lists) return;
  const FindRow find = {tile.indices, params.rows.n_indices, tile.first};
  const uint32_t n_found = find_places(params.rows.n_indices, find, finds);
  const uint32_t n_left = params.rows.n_table_rows - tile.first;
  for (uint32_t row = threadIdx.x / 32; row < kTile && row < n_left; row += kTileWarps) {
    if (params.rows.unit_bytes != 16) {
      add_rows<1>(params, tile, row, n_found, find, finds);
    } else if (params.element == kFloatF32) {
      add_rows<4>(params, tile, row, n_found, find, finds);
    } else {
      add_rows<8>(params, tile, row, n_found, find, finds);
    }
  }
}
