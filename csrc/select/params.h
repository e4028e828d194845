// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef LACUNA_SELECT_PARAMS_H_
#define LACUNA_SELECT_PARAMS_H_

#include "../device_ptr.h"

/// The first scores of each row, by one of four rules. A row's candidates are `length` scores from
/// `start` on, what lies past the row's `n` left out. Forced candidates come first, then larger
/// scores, then lower indices; zeros of both signs are equal, and NaN comes after everything.
typedef struct SelectTopkParams {
  /// `[n_rows, n]` scores of type `element`, rows `row_stride` elements apart.
  DEVICE_PTR(const uint8_t) scores;
  /// `[n_rows]`, or null: the first candidate of each row; else 0.
  DEVICE_PTR(const uint32_t) starts;
  /// `[n_rows]`, or null: the candidates of each row; else all from the first on.
  DEVICE_PTR(const uint32_t) lengths;
  /// `[n_rows]`, or null: how many to pick of each row at most; else `k`.
  DEVICE_PTR(const uint32_t) counts_asked;
  /// `[n_rows]`, or null: rows where it is not 0 are left alone, their outputs too.
  DEVICE_PTR(const uint32_t) skips;
  /// `[n_rows]`, or null: `amount` of each row.
  DEVICE_PTR(const float) amounts;
  /// `[n_rows / rows_per_request, rounded up; table_stride]`, or null: the page of each `page_size`
  /// indices of a request's rows.
  DEVICE_PTR(const int32_t) page_table;
  /// `[n_rows, k]`, out: indices into the row, in the order of `order`, then -1.
  DEVICE_PTR(int32_t) indices;
  /// `[n_rows, k]` of type `element`, or null, out: the scores at `indices`, then zeros.
  DEVICE_PTR(uint8_t) values;
  /// `[n_rows, k]`, or null, out: `page * page_size + index % page_size` of each index; -1 where
  /// the page is none, and after the last.
  DEVICE_PTR(int32_t) slots;
  /// `[n_rows]`, out: how many were picked.
  DEVICE_PTR(uint32_t) counts;
  /// `[n_rows]`, or null, out: how many the rule wanted, more than were picked where `k` or
  /// `counts_asked` did not allow them.
  DEVICE_PTR(uint32_t) wanted;
  /// Elements between the starts of two rows.
  uint64_t row_stride;
  /// Entries of the page table from request to request.
  uint64_t table_stride;
  /// `i / page_size` is `i * page_multiplier >> 34`, of indices below 2^26.
  uint64_t page_multiplier;
  /// Rows; one thread block each.
  uint32_t n_rows;
  /// Scores of a row: below 2^31, with a page table below 2^26, by mass 2^24 at most.
  uint32_t n;
  /// Places for picks in a row, 8,192 at most.
  uint32_t k;
  /// 0 bf16, 1 f16, 2 f32.
  uint32_t element;
  /// The first and the last candidates of a row, so many of each, that come before all others:
  /// sinks and a local window.
  uint32_t n_first;
  uint32_t n_last;
  /// 0: as many as there are places. 1: the fewest whose mass is `amount` of the row's, in 0 to 1.
  /// 2: those of `amount` and more. 3: those not in the lowest `amount` percent.
  uint32_t rule;
  float amount;
  /// 0 by index, ascending; 1 as they come.
  uint32_t order;
  /// Pages there are; a number outside is that of no page.
  uint32_t n_pages;
  /// Indices of a page, 1 to 256.
  uint32_t page_size;
  /// Rows that share a request's entries of the page table, at least 1.
  uint32_t rows_per_request;
  /// Dynamic shared memory: so many bytes, a multiple of 16, hold 16 bytes a thread, and the picks:
  /// 4 bytes each, in order 1 8 bytes each of the next power of two;
  uint32_t n_work_bytes;
  /// and after them so many vectors of 16 bytes hold keys of a row's first candidates.
  uint32_t n_staged;
} SelectTopkParams;

#endif  // LACUNA_SELECT_PARAMS_H_
