// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef LACUNA_QUANT_PARAMS_H_
#define LACUNA_QUANT_PARAMS_H_

#include "../device_ptr.h"
#include "../kv.h"

/// Pools of pages as src/quant/format.md specifies them, one for each tier: of 16, 8, 4 and 2 bits.
typedef struct QuantPools {
  /// `[n_pages]` pages of `8 * head_dim * bits` bytes, and 256 more of codes; multiples of 16
  /// bytes. Null where there is none.
  DEVICE_PTR(uint8_t) pages[4];
  uint32_t n_pages[4];
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

/// Tokens of tiered pages, and of a paged cache, as new pages. A block of 128 threads has a page of
/// keys, or of values, of 64 tokens that a list names by their positions.
typedef struct QuantRetierParams {
  /// As in `QuantPagesParams`; or of no addresses: then no token is in it.
  LacunaKvView kv;
  /// Of old pages and of new ones, none of which is an old one.
  QuantPools pools;
  /// Of keys, and of values; one span.
  QuantChannels channels[2];
  /// `[batch, n_heads, n_old_pages]` each, of keys and of values, as in `QuantPagesParams`.
  DEVICE_PTR(const uint32_t) old_entries[2];
  /// `[batch, n_heads, n_new_pages]` each.
  DEVICE_PTR(const uint32_t) new_entries[2];
  /// `[batch, n_heads, n_positions]`: `64 * page + token` of the old entries. Of a negative one the
  /// token is row `position` of the cache.
  DEVICE_PTR(const int32_t) slot_of;
  /// `[batch, n_heads, n_positions]`: the same of the new entries, where a list names a position.
  DEVICE_PTR(int32_t) new_slots;
  /// `[batch, n_lists, n_runs, n_pages, 64]`: positions. Others are of no token, and zeros become
  /// pages of them.
  DEVICE_PTR(const int32_t) indices;
  /// `[batch, n_lists, n_runs]`, or null: how many of each run's indices count; else all.
  DEVICE_PTR(const uint32_t) counts;
  /// The same, or null: which page of the new entries a run's first is; else `n_pages` times its
  /// number. Past the entries nothing is written.
  DEVICE_PTR(const uint32_t) first_pages;
  /// Pages of a run, and runs of a list.
  uint32_t n_pages;
  uint32_t n_runs;
  /// Lists of a request: 1, or one for each head.
  uint32_t n_lists;
  uint32_t n_old_pages;
  uint32_t n_new_pages;
  uint32_t n_positions;
} QuantRetierParams;

#endif  // LACUNA_QUANT_PARAMS_H_
