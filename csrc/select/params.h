// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef LACUNA_SELECT_PARAMS_H_
#define LACUNA_SELECT_PARAMS_H_

#include "../device_ptr.h"

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

#endif  // LACUNA_SELECT_PARAMS_H_
