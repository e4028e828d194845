// SPDX-License-Identifier: MIT OR Apache-2.0
// A paged cache, as every room sees one: of keys and values, or of what stands for several keys.
#ifndef LACUNA_KV_H_
#define LACUNA_KV_H_

#include "device_ptr.h"

/// Rows of `row_len` elements in pages. Row `t` of request `b` and head `h` begins at element
/// `page_table[b * table_stride + t / page_size] * page_stride + t % page_size * token_stride +
/// h * head_stride`: token by token within a page (NHD), head by head (HND), keys and values in one
/// pool or in two. A page number outside `0..n_pages` is that of no page, and its rows are absent.
typedef struct LacunaKvView {
  /// The pool of keys, of type `element`; multiples of 8 elements.
  DEVICE_PTR(const uint8_t) keys;
  /// The pool of values, of the same type and strides, or null.
  DEVICE_PTR(const uint8_t) values;
  /// `[batch, table_stride]`: the page of each `page_size` rows.
  DEVICE_PTR(const int32_t) page_table;
  /// `[batch]`: tokens of each request.
  DEVICE_PTR(const uint32_t) lengths;
  /// Elements from page to page, row to row and head to head, all multiples of 8.
  uint64_t page_stride;
  uint64_t token_stride;
  uint64_t head_stride;
  /// Entries from request to request.
  uint64_t table_stride;
  /// `t / page_size` is `t * page_multiplier >> 34`, of row numbers below 2^26.
  uint64_t page_multiplier;
  /// Pages of a pool.
  uint32_t n_pages;
  /// Rows of a page, 1 to 256.
  uint32_t page_size;
  /// Rows that a request's entries of the table hold: `table_stride * page_size` at most.
  uint32_t n_rows;
  /// Tokens that a row stands for: 1 for keys, more for summaries.
  uint32_t tokens_per_row;
  uint32_t batch;
  uint32_t n_heads;
  /// Elements of a row, a multiple of 8.
  uint32_t row_len;
  /// The number of `Float` in common/number.cuh: all but f32.
  uint32_t element;
  /// What products with keys, and what values, are multiplied by.
  float key_scale;
  float value_scale;
} LacunaKvView;

#endif  // LACUNA_KV_H_
