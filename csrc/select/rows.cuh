// SPDX-License-Identifier: MIT OR Apache-2.0
// Rows that move whole, each by a team of neighbouring lanes.
#ifndef LACUNA_SELECT_ROWS_CUH_
#define LACUNA_SELECT_ROWS_CUH_

#include "../common/kv.cuh"
#include "params.h"

constexpr uint32_t kRowThreads = 128;
constexpr uint64_t kNoOffset = ~uint64_t{0};

// A team: the row that it has, and how its lanes share it.
struct Team {
  uint32_t row;
  uint32_t lane;
  uint32_t n_lanes;
};

__device__ __forceinline__ Team find_team(uint32_t lane_bits) {
  Team team;
  // Threads of a grid may be more than 2^32, rows are fewer than 2^31.
  team.row = blockIdx.x * (kRowThreads >> lane_bits) + (threadIdx.x >> lane_bits);
  team.n_lanes = 1u << lane_bits;
  team.lane = threadIdx.x & (team.n_lanes - 1);
  return team;
}

template <typename Unit>
__device__ __forceinline__ void copy_units(uint8_t* target, const uint8_t* source, uint32_t n_bytes,
                                           const Team& team) {
  Unit* to = reinterpret_cast<Unit*>(target);
  const Unit* from = reinterpret_cast<const Unit*>(source);
  const uint32_t n_units = n_bytes / sizeof(Unit);
  const uint32_t step = team.n_lanes;
  uint32_t i = team.lane;
  for (; i + 3 * step < n_units; i += 4 * step) {
    const Unit first = from[i];
    const Unit second = from[i + step];
    const Unit third = from[i + 2 * step];
    const Unit fourth = from[i + 3 * step];
    to[i] = first;
    to[i + step] = second;
    to[i + 2 * step] = third;
    to[i + 3 * step] = fourth;
  }
  for (; i < n_units; i += step) to[i] = from[i];
}

__device__ __forceinline__ void copy_row(uint8_t* target, const uint8_t* source, uint32_t n_bytes,
                                         uint32_t unit_bytes, const Team& team) {
  if (unit_bytes == 16) {
    copy_units<uint4>(target, source, n_bytes, team);
  } else if (unit_bytes == 8) {
    copy_units<uint2>(target, source, n_bytes, team);
  } else if (unit_bytes == 4) {
    copy_units<uint32_t>(target, source, n_bytes, team);
  } else if (unit_bytes == 2) {
    copy_units<uint16_t>(target, source, n_bytes, team);
  } else {
    copy_units<uint8_t>(target, source, n_bytes, team);
  }
}

template <typename Unit>
__device__ __forceinline__ void clear_units(uint8_t* target, Unit zero, uint32_t n_bytes,
                                            const Team& team) {
  Unit* to = reinterpret_cast<Unit*>(target);
  for (uint32_t i = team.lane; i < n_bytes / sizeof(Unit); i += team.n_lanes) to[i] = zero;
}

__device__ __forceinline__ void clear_row(uint8_t* target, uint32_t n_bytes, uint32_t unit_bytes,
                                          const Team& team) {
  if (unit_bytes == 16) {
    clear_units(target, make_uint4(0, 0, 0, 0), n_bytes, team);
  } else if (unit_bytes == 8) {
    clear_units(target, make_uint2(0, 0), n_bytes, team);
  } else if (unit_bytes == 4) {
    clear_units(target, uint32_t{0}, n_bytes, team);
  } else if (unit_bytes == 2) {
    clear_units(target, uint16_t{0}, n_bytes, team);
  } else {
    clear_units(target, uint8_t{0}, n_bytes, team);
  }
}

// Where a list's row is, and where the row of a table that it stands for.
struct Entry {
  uint32_t list;
  uint32_t place;
  uint32_t table_row;
  uint64_t row_offset;
  // `kNoOffset` where its index is of no row.
  uint64_t table_offset;
};

// `row` counts the rows of all lists.
__device__ __forceinline__ Entry locate_entry(const SelectRows& rows, uint32_t row) {
  Entry entry;
  entry.list = row / rows.n_indices;
  entry.place = row - entry.list * rows.n_indices;
  entry.table_row =
      static_cast<uint32_t>(rows.indices[entry.list * rows.index_stride + entry.place]);
  entry.row_offset = entry.list * rows.list_stride + entry.place * rows.row_stride;
  // A negative index is large.
  entry.table_offset = entry.table_row < rows.n_table_rows ? entry.list * rows.table_list_stride +
                                                                 entry.table_row * rows.table_stride
                                                           : kNoOffset;
  return entry;
}

// The byte at which the row of a cache begins that a list's row stands for; `kNoOffset` where there
// is none.
__device__ __forceinline__ uint64_t locate_kv_row(const SelectKvRows& rows, uint32_t row) {
  const LacunaKvView& kv = rows.kv;
  const uint32_t list = row / rows.n_indices;
  const uint32_t place = row - list * rows.n_indices;
  const uint32_t b = list / kv.n_heads;
  const uint32_t h = list - b * kv.n_heads;
  const uint32_t t =
      static_cast<uint32_t>(rows.indices[b * rows.request_stride + h * rows.head_stride + place]);
  if (t >= count_rows(kv, b)) return kNoOffset;
  const uint64_t element = locate_kv(kv, b, t, h);
  return element == kNoRow ? kNoOffset : element * float_bytes(kv.element);
}

#endif  // LACUNA_SELECT_ROWS_CUH_
