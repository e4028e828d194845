// SPDX-License-Identifier: MIT OR Apache-2.0
// Rows by lists of indices, into tables and into a paged cache. Where indices repeat, a first
// launch marks the last row of each, so that which one stays does not depend on the order of
// blocks. src/select/rows/reference.rs is the specification.

#include "rows.cuh"

LACUNA_ENTRY(mark_rows, SelectMarkParams, kRowThreads) {
  const SelectRows& rows = params.rows;
  const uint32_t row = blockIdx.x * kRowThreads + threadIdx.x;
  if (row >= rows.n_lists * rows.n_indices) return;
  const Entry entry = locate_entry(rows, row);
  if (entry.table_offset == kNoOffset) return;
  const uint64_t table_row = uint64_t{entry.list} * rows.n_table_rows + entry.table_row;
  atomicMax(params.last + table_row, entry.place + 1);
}

LACUNA_ENTRY(scatter_rows, SelectScatterParams, kRowThreads) {
  const SelectRows& rows = params.rows;
  const Team team = find_team(rows.lane_bits);
  const bool is_row = team.row < rows.n_lists * rows.n_indices;
  // All lanes of a warp meet in the shuffle.
  Entry entry = {0, 0, 0, 0, kNoOffset};
  if (is_row) entry = locate_entry(rows, team.row);
  uint32_t is_taken = entry.table_offset != kNoOffset ? 1 : 0;
  if (params.last != nullptr) {
    if (is_taken != 0 && team.lane == 0) {
      uint32_t* last = params.last + (uint64_t{entry.list} * rows.n_table_rows + entry.table_row);
      // The last row finds itself and leaves 0; whatever others find is not theirs.
      is_taken = atomicCAS(last, entry.place + 1, 0u) == entry.place + 1 ? 1 : 0;
    }
    is_taken = __shfl_sync(0xFFFFFFFFu, is_taken, 0, static_cast<int>(team.n_lanes));
  }
  if (is_taken == 0) return;
  copy_row(params.table + entry.table_offset, params.source + entry.row_offset, rows.row_bytes,
           rows.unit_bytes, team);
}

LACUNA_ENTRY(scatter_kv, SelectScatterKvParams, kRowThreads) {
  const SelectKvRows& rows = params.rows;
  const Team team = find_team(rows.lane_bits);
  if (team.row >= rows.kv.batch * rows.kv.n_heads * rows.n_indices) return;
  const uint64_t to = locate_kv_row(rows, team.row);
  if (to == kNoOffset) return;
  const uint64_t from = uint64_t{team.row} * rows.row_bytes;
  // The view says `const` for all kernels that only read.
  uint8_t* keys = const_cast<uint8_t*>(rows.kv.keys);
  copy_row(keys + to, params.keys + from, rows.row_bytes, rows.unit_bytes, team);
  if (rows.kv.values == nullptr) return;
  uint8_t* values = const_cast<uint8_t*>(rows.kv.values);
  copy_row(values + to, params.values + from, rows.row_bytes, rows.unit_bytes, team);
}
