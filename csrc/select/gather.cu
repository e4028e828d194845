// SPDX-License-Identifier: MIT OR Apache-2.0
// Rows by lists of indices, out of tables and out of a paged cache. src/select/rows/reference.rs is
// the specification.

#include "rows.cuh"

LACUNA_ENTRY(gather_rows, SelectGatherParams, kRowThreads) {
  const SelectRows& rows = params.rows;
  const Team team = find_team(rows.lane_bits);
  if (team.row >= rows.n_lists * rows.n_indices) return;
  const Entry entry = locate_entry(rows, team.row);
  uint8_t* target = params.gathered + entry.row_offset;
  if (entry.table_offset != kNoOffset) {
    const uint8_t* source = params.table + entry.table_offset;
    copy_row(target, source, rows.row_bytes, rows.unit_bytes, team);
  } else if (params.fills_zeros != 0) {
    clear_row(target, rows.row_bytes, rows.unit_bytes, team);
  }
}

LACUNA_ENTRY(gather_kv, SelectGatherKvParams, kRowThreads) {
  const SelectKvRows& rows = params.rows;
  const Team team = find_team(rows.lane_bits);
  if (team.row >= rows.kv.batch * rows.kv.n_heads * rows.n_indices) return;
  const uint64_t from = locate_kv_row(rows, team.row);
  const uint64_t to = uint64_t{team.row} * rows.row_bytes;
  if (from != kNoOffset) {
    copy_row(params.keys + to, rows.kv.keys + from, rows.row_bytes, rows.unit_bytes, team);
    if (rows.kv.values == nullptr) return;
    copy_row(params.values + to, rows.kv.values + from, rows.row_bytes, rows.unit_bytes, team);
  } else if (params.fills_zeros != 0) {
    clear_row(params.keys + to, rows.row_bytes, rows.unit_bytes, team);
    if (rows.kv.values == nullptr) return;
    clear_row(params.values + to, rows.row_bytes, rows.unit_bytes, team);
  }
}
