// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef LACUNA_QUANT_PARAMS_H_
#define LACUNA_QUANT_PARAMS_H_

#include "../device_ptr.h"
#include "../kv.h"

/// Pools of pages as src/quant/format.md specifies them, one for each tier: of 16, 8, 4 and 2 bits.
typedef struct QuantPools {
  /// `[n_pages]` pages of `8 * head_dim * bits` bytes, and `256 << tail` more of codes; multiples
  /// of 16 bytes. Null where there is none.
  DEVICE_PTR(uint8_t) pages[4];
  uint32_t n_pages[4];
  /// What pages of codes end with: 0 for steps and zero points, 1 for steps and minimums.
  uint32_t tail;
  uint32_t reserved;
} QuantPools;

/// What the channels of keys, or of values, are relative to, for each span of pages of a list.
typedef struct QuantChannels {
  /// `[batch, n_heads, n_spans, head_dim]`, or null: what numbers are divided by.
  DEVICE_PTR(const float) scales;
  /// The same, or null: what is taken from them before.
  DEVICE_PTR(const float) offsets;
} QuantChannels;

/// Rows of a paged cache as tiered pages, or back. A block of 128 threads has a page of keys, or of
/// values, of 64 rows that a list names.
typedef struct QuantPagesParams {
  /// With keys and values, bf16 or f16; rows of up to 256 elements, a multiple of 32.
  LacunaKvView kv;
  QuantPools pools;
  /// Of keys, and of values.
  QuantChannels channels[2];
  /// `[batch, n_heads, n_pages]` each, of keys and of values: a tag of two bits, 0 to 3 for 16, 8,
  /// 4 and 2 bits, above the number of a page of that pool. Where there is no such page, nothing is
  /// read or written.
  DEVICE_PTR(const uint32_t) entries[2];
  /// `[batch, n_lists, n_pages, 64]`: numbers of a request's rows. Others are of no row: zeros
  /// become pages of them, and no row is written.
  DEVICE_PTR(const int32_t) indices;
  /// `[batch, n_lists]`, or null: how many of each list's indices count; else all.
  DEVICE_PTR(const uint32_t) counts;
  /// Pages of a list.
  uint32_t n_pages;
  /// Lists of a request: 1, or one for each head.
  uint32_t n_lists;
  /// Pages of a span, at least 1, and spans of a list.
  uint32_t span_pages;
  uint32_t n_spans;
} QuantPagesParams;

#endif  // LACUNA_QUANT_PARAMS_H_
