// SPDX-License-Identifier: MIT OR Apache-2.0
// Which rows of a cache a summary stands for, and where it goes.
#ifndef LACUNA_SELECT_SUMMARY_CUH_
#define LACUNA_SELECT_SUMMARY_CUH_

#include "../common/kv.cuh"
#include "params.h"

namespace {

// The summaries of a request that the launch makes, and the rows that one stands for.
struct Span {
  uint32_t first;
  uint32_t n;
  uint32_t n_keys;
  uint32_t fan;
};

__device__ Span find_span(const SelectSummarizeParams& params, uint32_t b) {
  const uint32_t n_tokens = params.keys.lengths[b];
  const uint32_t first_new = params.first_new != nullptr ? params.first_new[b] : 0;
  const uint32_t end = count_rows_of(params.summaries, n_tokens);
  Span span;
  span.first = first_new / params.summaries.tokens_per_row;
  span.n = first_new < n_tokens && span.first < end ? end - span.first : 0;
  span.n_keys = count_rows_of(params.keys, n_tokens);
  span.fan = params.summaries.tokens_per_row / params.keys.tokens_per_row;
  return span;
}

// One summary: rows `first..end` of the request's head, and the element where it goes.
struct Task {
  uint32_t b;
  uint32_t h;
  uint32_t first;
  uint32_t end;
  uint64_t at;
};

__device__ Task find_task(const SelectSummarizeParams& params, const Span& span, uint32_t b,
                          uint32_t h, uint32_t t) {
  Task task;
  task.b = b;
  task.h = h;
  // Past the keys' pages there is none.
  const uint64_t first = uint64_t{t} * span.fan;
  task.first = first < span.n_keys ? static_cast<uint32_t>(first) : span.n_keys;
  task.end = span.n_keys - task.first < span.fan ? span.n_keys : task.first + span.fan;
  task.at = locate_kv(params.summaries, b, t, h);
  return task;
}

// Items of a launch, `n_columns` to a summary: the `first`, and from there every `stride`th.
struct Cursor {
  uint32_t n_columns;
  uint32_t idx;
  uint32_t column;
  uint32_t n_rows_further;
  uint32_t n_columns_further;

  __device__ Cursor(uint32_t n_columns_, uint32_t first, uint32_t stride)
      : n_columns(n_columns_),
        idx(first / n_columns_),
        column(first % n_columns_),
        n_rows_further(stride / n_columns_),
        n_columns_further(stride % n_columns_) {}

  __device__ void advance() {
    idx += n_rows_further;
    column += n_columns_further;
    if (column < n_columns) return;
    column -= n_columns;
    idx += 1;
  }
};

__device__ void store_row(uint8_t* rows, uint64_t element, const uint32_t (&bits)[8]) {
  *reinterpret_cast<uint4*>(rows + 2 * element) =
      make_uint4(bits[0] | bits[1] << 16, bits[2] | bits[3] << 16, bits[4] | bits[5] << 16,
                 bits[6] | bits[7] << 16);
}

}  // namespace

#endif  // LACUNA_SELECT_SUMMARY_CUH_
