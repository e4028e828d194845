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

/// Whether each request's last selection may be used again: where the cosine of its query with the
/// one that made that selection is `theta` or more. Elsewhere the query becomes the cached one.
typedef struct SelectGateParams {
  /// `[batch, n]` queries of type `element`, rows `query_stride` elements apart; multiples of 16
  /// bytes.
  DEVICE_PTR(const uint8_t) queries;
  /// `[batch, n]` of type `element`, in and out: the queries that made the cached selections, rows
  /// `cached_stride` elements apart; multiples of 16 bytes. Read only where `states` is not 0.
  DEVICE_PTR(uint8_t) cached;
  /// `[batch]`, in and out: 0 where there is no cached selection; 1 where there will be one.
  DEVICE_PTR(uint32_t) states;
  /// `[batch]`, or null: requests where it is not 0 select again.
  DEVICE_PTR(const uint32_t) forced;
  /// `[batch]`, or null: the least cosine of each request; else `theta`.
  DEVICE_PTR(const float) thetas;
  /// `[batch, rows_per_request]`, out: 1 where the cached selection may be used, else 0.
  DEVICE_PTR(uint32_t) skips;
  /// `[batch]`, or null, out: the cosines; 0x7FFFFFFF where there is none.
  DEVICE_PTR(float) cosines;
  /// Elements between the starts of two rows, multiples of 8.
  uint64_t query_stride;
  uint64_t cached_stride;
  /// Requests; one thread block each.
  uint32_t batch;
  /// Elements of a query, all heads': a multiple of 8. The dynamic shared memory holds one.
  uint32_t n;
  /// Words of `skips` for each request, all the same.
  uint32_t rows_per_request;
  /// 0 bf16, 1 f16, 2 f32.
  uint32_t element;
  float theta;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectGateParams;

/// Rows that each stand for several rows of a cache: row `t` of `summaries` for those that hold its
/// tokens. Rows from that of the first new token on are computed, each from all that is in it; any
/// number of blocks in x up to 2^20 does it, and as many in y as requests.
typedef struct SelectSummarizeParams {
  /// Keys; where `mode` is 3, boxes.
  LacunaKvView keys;
  /// Where the summaries are, of bf16 or f16, and of the same tokens: `tokens_per_row` is a
  /// multiple of that of `keys`. Its `keys` and `values` are null.
  LacunaKvView summaries;
  /// The summaries' pool, in and out: multiples of 16 bytes.
  DEVICE_PTR(uint8_t) rows;
  /// `[batch]`, or null: tokens whose summaries are there already; else 0.
  DEVICE_PTR(const uint32_t) first_new;
  /// `[batch, n_heads, outlier_stride]`, in and out: less the least cosine of a mean and its keys.
  /// Null where `mode` is not 2.
  DEVICE_PTR(float) outliers;
  /// Elements from head to head, the rows of a request at least.
  uint64_t outlier_stride;
  /// 0 least and greatest numbers, 1 means, 2 means and outliers, 3 boxes of boxes.
  uint32_t mode;
  /// Where `mode` is 2: rows of keys, an even number, that each warp holds in dynamic shared
  /// memory.
  uint32_t n_staged;
} SelectSummarizeParams;

#endif  // LACUNA_SELECT_PARAMS_H_
