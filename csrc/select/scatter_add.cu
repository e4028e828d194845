// SPDX-License-Identifier: MIT OR Apache-2.0
// Rows added to rows of tables: a block has 32 rows of a table, finds the list's rows that go
// there, in the order of the list, and each warp sums those of one table row at a time. No atomics
// and no workspace; every block reads the whole list. src/select/rows/reference.rs is the
// specification.

#include "../common/number.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 512;
constexpr uint32_t kWarps = kThreads / 32;
// Rows of a table that a block has.
constexpr uint32_t kTile = 32;
// Rows of a list that a block remembers; of more, each warp looks through the list again.
constexpr uint32_t kFound = 4096;
constexpr uint32_t kAllLanes = 0xFFFFFFFF;
constexpr uint32_t kNone = 0xFFFFFFFF;

struct Shared {
  // Of the list's rows that go to this tile: place, and which of the tile's.
  uint32_t places[kFound];
  uint8_t tile_rows[kFound];
  uint32_t n_found[kWarps];
};

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

// Which row of the tile the list's row at `place` goes to; of none a number that no row has.
__device__ uint32_t find_tile_row(const SelectRows& rows, const Tile& tile, uint32_t place) {
  if (place >= rows.n_indices) return kNone;
  return static_cast<uint32_t>(tile.indices[place]) - tile.first;
}

// How many of the list's rows go to this tile; the first `kFound` are remembered, in their order.
__device__ uint32_t find_rows(const SelectRows& rows, const Tile& tile, Shared& shared) {
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lanes_before = (1u << threadIdx.x % 32) - 1;
  uint32_t n_found = 0;
  for (uint32_t base = 0; base < rows.n_indices; base += kThreads) {
    const uint32_t place = base + threadIdx.x;
    const uint32_t tile_row = find_tile_row(rows, tile, place);
    const uint32_t found = __ballot_sync(kAllLanes, tile_row < kTile);
    if (threadIdx.x % 32 == 0) shared.n_found[warp] = static_cast<uint32_t>(__popc(found));
    __syncthreads();
    uint32_t at = n_found + static_cast<uint32_t>(__popc(found & lanes_before));
    for (uint32_t other = 0; other < kWarps; ++other) {
      const uint32_t n = shared.n_found[other];
      n_found += n;
      if (other < warp) at += n;
    }
    if (tile_row < kTile && at < kFound) {
      shared.places[at] = place;
      shared.tile_rows[at] = static_cast<uint8_t>(tile_row);
    }
    __syncthreads();
  }
  return n_found;
}

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

__device__ uint32_t to_half(float value, uint32_t element) {
  return element == kFloatBf16 ? to_bf16(value) : to_f16(value);
}

__device__ float settle_nan(float value) {
  const bool is_nan = (__float_as_uint(value) & 0x7FFFFFFF) > 0x7F800000;
  return is_nan ? __uint_as_float(0x7FFFFFFF) : value;
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
        settle_nan(values[0]), settle_nan(values[1]), settle_nan(values[2]), settle_nan(values[3]));
  } else {
    store_float(row, column, element, settle_nan(values[0]));
  }
}

// By a warp: the rows of the list that go to one row of the table, added to it in their order.
template <uint32_t kWidth>
__device__ void add_rows(const SelectScatterAddParams& params, const Tile& tile, uint32_t tile_row,
                         uint32_t n_found, const Shared& shared) {
  const SelectRows& rows = params.rows;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t n_columns = rows.row_bytes / float_bytes(params.element);
  const bool is_remembered = n_found <= kFound;
  const uint32_t n_looked_at = is_remembered ? n_found : rows.n_indices;
  uint8_t* target = tile.table + (tile.first + tile_row) * rows.table_stride;
  for (uint32_t base = 0; base < n_columns; base += 32 * kWidth) {
    const uint32_t column = base + lane * kWidth;
    const bool is_column = column < n_columns;
    float sums[kWidth] = {};
    bool is_begun = false;
    for (uint32_t first = 0; first < n_looked_at; first += 32) {
      uint32_t place = first + lane;
      uint32_t goes_to = kNone;
      if (!is_remembered) {
        goes_to = find_tile_row(rows, tile, place);
      } else if (place < n_found) {
        goes_to = shared.tile_rows[place];
        place = shared.places[place];
      }
      uint32_t found = __ballot_sync(kAllLanes, goes_to == tile_row);
      if (found != 0 && !is_begun) {
        if (is_column) load_elements(sums, target, column, params.element);
        is_begun = true;
      }
      while (found != 0) {
        const int next = __ffs(found) - 1;
        found &= found - 1;
        const uint32_t from = __shfl_sync(kAllLanes, place, next);
        if (!is_column) continue;
        float values[kWidth];
        load_elements(values, tile.source + from * rows.row_stride, column, params.element);
        const float weight = tile.weights != nullptr ? tile.weights[from] : 1.0f;
#pragma unroll
        for (uint32_t i = 0; i < kWidth; ++i) sums[i] = __fmaf_rn(weight, values[i], sums[i]);
      }
    }
    // A row that none goes to is left alone.
    if (is_begun && is_column) store_elements(sums, target, column, params.element);
  }
}

}  // namespace

LACUNA_ENTRY(scatter_add_rows, SelectScatterAddParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  const Tile tile = locate_tile(params);
  if (tile.list >= params.rows.n_lists) return;
  const uint32_t n_found = find_rows(params.rows, tile, shared);
  const uint32_t n_left = params.rows.n_table_rows - tile.first;
  const uint32_t n_tile_rows = n_left < kTile ? n_left : kTile;
  for (uint32_t row = threadIdx.x / 32; row < n_tile_rows; row += kWarps) {
    if (params.rows.unit_bytes != 16) {
      add_rows<1>(params, tile, row, n_found, shared);
    } else if (params.element == kFloatF32) {
      add_rows<4>(params, tile, row, n_found, shared);
    } else {
      add_rows<8>(params, tile, row, n_found, shared);
    }
  }
}
