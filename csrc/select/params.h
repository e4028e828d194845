// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef LACUNA_SELECT_PARAMS_H_
#define LACUNA_SELECT_PARAMS_H_

#include "../device_ptr.h"
#include "../kv.h"

/// The k largest scores of each row. A row's candidates are `length` scores from `start` on, what
/// lies past the row's `n` left out. Larger scores come first, then lower indices; zeros of both
/// signs are equal, and NaN comes after everything.
typedef struct SelectTopkParams {
  /// `[n_rows, n]` scores of type `element`, rows `row_stride` elements apart.
  DEVICE_PTR(const uint8_t) scores;
  /// `[n_rows]`, or null: the first candidate of each row; else 0.
  DEVICE_PTR(const uint32_t) starts;
  /// `[n_rows]`, or null: the candidates of each row; else all from the first on.
  DEVICE_PTR(const uint32_t) lengths;
  /// `[n_rows]`, or null: how many to pick of each row, `k` at most; else `k`.
  DEVICE_PTR(const uint32_t) counts_asked;
  /// `[n_rows]`, or null: rows where it is not 0 are left alone, their outputs too.
  DEVICE_PTR(const uint32_t) skips;
  /// `[n_rows, k]`, out: indices into the row, ascending, then -1.
  DEVICE_PTR(int32_t) indices;
  /// `[n_rows, k]` of type `element`, or null, out: the scores at `indices`, then zeros.
  DEVICE_PTR(uint8_t) values;
  /// `[n_rows]`, out: how many were picked.
  DEVICE_PTR(uint32_t) counts;
  /// Elements between the starts of two rows.
  uint64_t row_stride;
  /// Rows; one thread block each.
  uint32_t n_rows;
  /// Scores of a row, below 2^31.
  uint32_t n;
  /// Places for picks in a row.
  uint32_t k;
  /// 0 bf16, 1 f16, 2 f32.
  uint32_t element;
  /// The first and the last candidates of a row, so many of each, that come before all others:
  /// sinks and a local window.
  uint32_t n_first;
  uint32_t n_last;
  /// Candidates whose keys the dynamic shared memory holds, 2 bytes each, of f32 4, after `k`
  /// words.
  uint32_t n_staged;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectTopkParams;

/// Which elements of each row are kept.
typedef struct SelectMask {
  /// `[n_rows, n]`: not 0 where an element is kept; rows `row_stride` elements apart.
  DEVICE_PTR(const uint8_t) kept;
  /// `[n_rows]`, or null: elements of each row; else `n`. What lies past them is not kept.
  DEVICE_PTR(const uint32_t) lengths;
  /// `[n_rows]`, or null: rows where it is not 0 are left alone, their outputs too.
  DEVICE_PTR(const uint32_t) skips;
  /// Elements between the starts of two rows.
  uint64_t row_stride;
  uint32_t n_rows;
  /// Elements of a row, 2^26 at most.
  uint32_t n;
  /// Chunks of a row, of 16,384 elements from a multiple of 16 bytes on; one thread block each.
  uint32_t n_chunks;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectMask;

/// The first of two launches that compact rows of several chunks: each mask as bits.
typedef struct SelectCountKeptParams {
  SelectMask mask;
  /// `[n_rows, n_chunks, 512]`, out: a bit for each element of a chunk.
  DEVICE_PTR(uint32_t) words;
  /// `[n_rows, n_chunks]`, out: kept elements of each chunk.
  DEVICE_PTR(uint32_t) chunk_counts;
} SelectCountKeptParams;

/// The kept elements of each row, in its order.
typedef struct SelectCompactParams {
  SelectMask mask;
  /// What `SelectCountKeptParams` says, or null where a row is one chunk.
  DEVICE_PTR(const uint32_t) words;
  DEVICE_PTR(const uint32_t) chunk_counts;
  /// `[n_rows, capacity]`, out: the kept elements, ascending, then -1.
  DEVICE_PTR(int32_t) indices;
  /// `[n_rows]`, out: how many are kept, also where `capacity` is less.
  DEVICE_PTR(uint32_t) counts;
  /// `[n_rows, n]`, or null, out: the place of each element among those kept, or -1.
  DEVICE_PTR(int32_t) offsets;
  /// `[n_rows + 1]`, or null, out: the sum of the indices of the rows before.
  DEVICE_PTR(uint32_t) row_starts;
  /// Rows that are done: 0 before the launch and after it.
  DEVICE_PTR(uint32_t) n_done;
  /// Places for indices in a row.
  uint32_t capacity;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectCompactParams;

/// Lists of rows of tables: row `i` of list `l` stands for row `indices[l * index_stride + i]` of
/// table `l`; an index of no row for none. Strides are in bytes, from list to list and from row to
/// row.
typedef struct SelectRows {
  /// `[n_lists, n_indices]`.
  DEVICE_PTR(const int32_t) indices;
  /// Entries between the starts of two lists.
  uint64_t index_stride;
  /// Of the tables' rows.
  uint64_t table_list_stride;
  uint64_t table_stride;
  /// Of the lists' rows.
  uint64_t list_stride;
  uint64_t row_stride;
  uint32_t n_lists;
  /// Rows of a list.
  uint32_t n_indices;
  /// Rows of a table.
  uint32_t n_table_rows;
  uint32_t row_bytes;
  /// Bytes that move at once, 16, 4, 2 or 1: every stride and address is a multiple of it.
  uint32_t unit_bytes;
  /// 2^lane_bits lanes have a row.
  uint32_t lane_bits;
} SelectRows;

/// Rows out of tables.
typedef struct SelectGatherParams {
  SelectRows rows;
  /// `[n_lists, n_table_rows, row_bytes]`.
  DEVICE_PTR(const uint8_t) table;
  /// `[n_lists, n_indices, row_bytes]`, out.
  DEVICE_PTR(uint8_t) gathered;
  /// Not 0: rows of no index become zeros; else they are left alone.
  uint32_t fills_zeros;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectGatherParams;

/// The first of two launches that scatter rows where indices repeat: which row of a list is the
/// last one of its index.
typedef struct SelectMarkParams {
  SelectRows rows;
  /// `[n_lists, n_table_rows]`: 0 before; one more than that row's place after.
  DEVICE_PTR(uint32_t) last;
} SelectMarkParams;

/// Rows into tables.
typedef struct SelectScatterParams {
  SelectRows rows;
  /// `[n_lists, n_indices, row_bytes]`.
  DEVICE_PTR(const uint8_t) source;
  /// `[n_lists, n_table_rows, row_bytes]`, in and out.
  DEVICE_PTR(uint8_t) table;
  /// `[n_lists, n_table_rows]`, or null where no index repeats: what `SelectMarkParams` says, 0
  /// again after.
  DEVICE_PTR(uint32_t) last;
} SelectScatterParams;

/// Rows added to rows of tables, in the order of the list.
typedef struct SelectScatterAddParams {
  /// `unit_bytes` is 16 or that of an element.
  SelectRows rows;
  /// `[n_lists, n_indices]` rows of type `element`.
  DEVICE_PTR(const uint8_t) source;
  /// `[n_lists, n_indices]`, or null: what each row is multiplied by.
  DEVICE_PTR(const float) weights;
  /// `[n_lists, n_table_rows]` rows of type `element`, in and out.
  DEVICE_PTR(uint8_t) table;
  /// 0 bf16, 1 f16, 2 f32.
  uint32_t element;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectScatterAddParams;

/// Lists of rows of a paged cache, one for each request and head.
typedef struct SelectKvRows {
  LacunaKvView kv;
  /// Row `i` of request `b` and head `h` is `indices[b * request_stride + h * head_stride + i]`.
  DEVICE_PTR(const int32_t) indices;
  uint64_t request_stride;
  /// 0 where the heads of a request share a list.
  uint64_t head_stride;
  /// Rows of a list.
  uint32_t n_indices;
  uint32_t row_bytes;
  /// 16 or 8: every stride and address is a multiple of it.
  uint32_t unit_bytes;
  /// 2^lane_bits lanes have a row.
  uint32_t lane_bits;
} SelectKvRows;

/// Keys and values out of a paged cache.
typedef struct SelectGatherKvParams {
  SelectKvRows rows;
  /// `[batch, n_heads, n_indices, row_len]`, out.
  DEVICE_PTR(uint8_t) keys;
  /// The same, or null where the cache has no values.
  DEVICE_PTR(uint8_t) values;
  /// Not 0: rows that are absent become zeros; else they are left alone.
  uint32_t fills_zeros;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectGatherKvParams;

/// Keys and values into a paged cache.
typedef struct SelectScatterKvParams {
  /// Its pools are in and out.
  SelectKvRows rows;
  /// `[batch, n_heads, n_indices, row_len]`.
  DEVICE_PTR(const uint8_t) keys;
  /// The same, or null where the cache has no values.
  DEVICE_PTR(const uint8_t) values;
} SelectScatterKvParams;

/// Lists of tokens of a paged cache, of each request and head: those that are evicted, and those
/// that are kept.
typedef struct SelectEviction {
  /// Of rows of up to 256 elements, bf16 or f16.
  LacunaKvView kv;
  /// `[batch, n_heads, n_evicted]`: tokens; numbers of no token are skipped.
  DEVICE_PTR(const int32_t) evicted;
  /// `[batch, n_heads, n_kept]`: the same.
  DEVICE_PTR(const int32_t) kept;
  uint32_t n_evicted;
  uint32_t n_kept;
} SelectEviction;

/// The first of three launches that merge evicted tokens: the nearest kept key of each.
typedef struct SelectNearestParams {
  SelectEviction lists;
  /// `[batch, n_heads, n_evicted]`, out: its place in the list of those kept, or -1.
  DEVICE_PTR(int32_t) nearest;
  /// `[batch, n_heads, n_evicted]`, out: the cosine, from -1 to 1.
  DEVICE_PTR(float) similarities;
} SelectNearestParams;

/// The second: how near a token must be to be merged, a moving average of how near they were.
typedef struct SelectThresholdParams {
  /// What the first launch wrote.
  DEVICE_PTR(const int32_t) nearest;
  DEVICE_PTR(const float) similarities;
  /// `[batch, n_heads]`, in and out: NaN before the first step.
  DEVICE_PTR(float) thresholds;
  /// Requests times heads.
  uint32_t n_lists;
  uint32_t n_evicted;
  /// What an old threshold is multiplied by, and the mean of the new similarities.
  float decay;
  float rest;
} SelectThresholdParams;

/// The third: the means of kept rows and those merged into them, in place.
typedef struct SelectMergeParams {
  /// Its pools are in and out.
  SelectEviction lists;
  /// What the launches before wrote.
  DEVICE_PTR(const int32_t) nearest;
  DEVICE_PTR(const float) similarities;
  DEVICE_PTR(const float) thresholds;
  /// 0: weights exp(similarity), the kept row's e. 1: rows times their similarity, divided by how
  /// many there are.
  uint32_t weights;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectMergeParams;

#endif  // LACUNA_SELECT_PARAMS_H_
