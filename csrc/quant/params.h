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

/// New tokens into a paged cache. A block of 128 threads has `block_tokens` of a request's tokens;
/// of more than 1,024 of them, a first launch counts each 1,024.
typedef struct QuantAppendParams {
  /// With keys and values, bf16 or f16; `lengths` are those before.
  LacunaKvView kv;
  /// `[batch, n_tokens, n_heads, row_len]` of the cache's type, tokens `key_stride` elements apart:
  /// a multiple of 8, as the address is of 16 bytes.
  DEVICE_PTR(const uint8_t) keys;
  /// The same, `value_stride` elements apart.
  DEVICE_PTR(const uint8_t) values;
  /// `[batch]`, or null: how many of a request's tokens there are; else all.
  DEVICE_PTR(const uint32_t) counts;
  /// `[batch, n_tokens]`, or null: not 0 where a token is kept; else all are.
  DEVICE_PTR(const uint32_t) keeps;
  /// `[batch, n_tokens]`, or null: the position of each token; else those from the length on.
  DEVICE_PTR(const int32_t) positions;
  /// `[n_positions, rotary_dim]`, from a multiple of 16 bytes on: cosines of each position's
  /// angles, and then their sines. Null where `turn` is 0.
  DEVICE_PTR(const float) cos_sin;
  /// `[batch]`, out: how many rows each request then has.
  DEVICE_PTR(uint32_t) new_lengths;
  /// `[batch]`, or null, out: how many kept tokens found no room.
  DEVICE_PTR(uint32_t) dropped;
  /// `[batch, n_tiles, 2]`, or null where `n_tiles` is 1: kept tokens of each 1,024, and the least
  /// of these whose row is of no page, were all tokens kept; or 2^32 - 1.
  DEVICE_PTR(uint32_t) tiles;
  uint64_t key_stride;
  uint64_t value_stride;
  uint32_t n_tokens;
  uint32_t n_tiles;
  /// A power of two up to 128.
  uint32_t block_tokens;
  /// At least 1. Positions outside count as the nearest.
  uint32_t n_positions;
  /// The first so many elements of a key are turned: a multiple of 16.
  uint32_t rotary_dim;
  /// As `Turn` in common/turn.cuh.
  uint32_t turn;
} QuantAppendParams;

/// What is found of the channels of keys, or of values.
typedef struct QuantMeasured {
  /// `[batch, n_heads, n_spans, head_dim]`, or null, out: root mean squares of what is left when
  /// offsets are taken away.
  DEVICE_PTR(float) scales;
  /// The same, or null, out: means.
  DEVICE_PTR(float) offsets;
} QuantMeasured;

/// Statistics of the channels of rows that lists name. A block of `row_len` threads has 8 pages of
/// a span of keys, or of values.
typedef struct QuantMeasureParams {
  /// With keys and values, bf16 or f16; rows of up to 256 elements, a multiple of 32.
  LacunaKvView kv;
  /// Of keys, and of values.
  QuantMeasured measured[2];
  /// As in `QuantPagesParams`.
  DEVICE_PTR(const int32_t) indices;
  DEVICE_PTR(const uint32_t) counts;
  /// `[batch, n_heads, 2, n_spans]`, or null where `n_pieces` is 1: zeros, before and afterwards.
  DEVICE_PTR(uint32_t) tickets;
  /// `[batch, n_heads, 2, n_spans, n_pieces, 3, row_len]`, or null the same: of each channel how
  /// many, and as bits of f32 their mean and the sum of squares around it.
  DEVICE_PTR(uint32_t) pieces;
  uint32_t n_pages;
  uint32_t n_lists;
  uint32_t span_pages;
  uint32_t n_spans;
  /// Of 8 pages, of a span.
  uint32_t n_pieces;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} QuantMeasureParams;

#endif  // LACUNA_QUANT_PARAMS_H_
