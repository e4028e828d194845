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
  /// `[1]`, or null: raised to `(2^32 - 1 - i) << 32 | reason` by entry `i` of a table whose page
  /// is not there and whose number is not 2^30 - 1; never cleared. 1 of keys, 2 of values; 3 and 4
  /// of the old ones.
  DEVICE_PTR(uint64_t) status;
  uint32_t n_pages[4];
  /// What pages of codes end with: 0 for steps and zero points, 1 for steps and minimums.
  uint32_t tail;
  /// Zero; keeps the size a multiple of the alignment on both sides.
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

/// Running saliency of tokens, as a prompt's probes leave it. 256 threads a block, of eight tokens
/// of a head of keys each; blocks for tokens, heads and requests.
typedef struct QuantBeginSaliencyParams {
  /// `[batch, n_heads, mass_stride]`: sums of weights, as column_mass leaves them.
  DEVICE_PTR(const float) masses;
  /// `[batch, n_probes]`: tokens that a probe sees, from the first on.
  DEVICE_PTR(const uint32_t) n_visible;
  /// `[batch]`: tokens of each request.
  DEVICE_PTR(const uint32_t) lengths;
  /// `[batch]`, or null: requests where it is not 0 are left alone.
  DEVICE_PTR(const uint32_t) skips;
  /// `[batch, n_heads, n_tokens]`, out; zeros past what a request has.
  DEVICE_PTR(float) sums;
  /// The same, out: rows of queries that saw a token.
  DEVICE_PTR(float) counts;
  uint64_t mass_stride;
  uint32_t n_probes;
  /// Tokens that have a mass, at most.
  uint32_t n_massed;
  uint32_t n_tokens;
  /// Query heads of a head of keys.
  uint32_t group;
} QuantBeginSaliencyParams;

/// What a step's rows of queries add. A thread has a position of a head of keys; 256 threads a
/// block, blocks for positions, heads and requests.
typedef struct QuantAddSaliencyParams {
  /// `[batch, n_queries, n_heads * group, n_positions]`: logits to base 2; -inf where a query sees
  /// nothing.
  DEVICE_PTR(const float) logits;
  /// One for each query and query head: the logarithms of the sums of their exponentials.
  DEVICE_PTR(const float) log_sums;
  /// `[batch, n_heads, n_positions]`, or null where positions are tokens: the token at each; others
  /// than `0..n_tokens` are none.
  DEVICE_PTR(const int32_t) tokens;
  /// `[batch]`, or null: requests where it is not 0 are left alone.
  DEVICE_PTR(const uint32_t) skips;
  /// `[batch, n_heads, n_tokens]`, in and out.
  DEVICE_PTR(float) sums;
  DEVICE_PTR(float) counts;
  /// Elements between the log-sums of requests, of a request's queries, and of query heads.
  uint64_t request_stride;
  uint64_t query_stride;
  uint64_t head_stride;
  /// What log-sums are multiplied by to be of base 2.
  float log2_scale;
  /// What was there before is multiplied by.
  float decay;
  uint32_t n_positions;
  uint32_t n_tokens;
  /// 1 to 8, and 1 to 16.
  uint32_t n_queries;
  uint32_t group;
} QuantAddSaliencyParams;

/// Scores of running saliency. A thread has a token; 256 threads a block, blocks for tokens, rows
/// of scores and requests.
typedef struct QuantWeighSaliencyParams {
  /// `[batch, n_heads, n_tokens]`.
  DEVICE_PTR(const float) sums;
  DEVICE_PTR(const float) counts;
  /// The same, or null: what each token's saliency is multiplied by.
  DEVICE_PTR(const float) norms;
  /// `[batch]`, or null: tokens of each request; else `n_tokens`.
  DEVICE_PTR(const uint32_t) lengths;
  /// `[batch]`, or null: requests where it is not 0 are left alone.
  DEVICE_PTR(const uint32_t) skips;
  /// `[batch, n_heads / n_heads_together, n_tokens]`, out. What a request has no tokens for stays
  /// what it was.
  DEVICE_PTR(float) scores;
  uint32_t n_tokens;
  /// Heads of keys that are added: 1, or all.
  uint32_t n_heads_together;
  /// 1: sums are divided by counts.
  uint32_t is_per_row;
  /// What is added to each saliency before norms.
  float floor;
  /// The score of a token that no row saw.
  float fresh;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} QuantWeighSaliencyParams;

/// Norms of rows of values. Eight lanes have a row at a time; 128 threads a block, any number of
/// blocks in x up to 2^19, blocks for heads and requests.
typedef struct QuantNormsParams {
  /// With values.
  LacunaKvView kv;
  /// `[batch]`, or null: each request's first row whose norm is wanted; else 0.
  DEVICE_PTR(const uint32_t) firsts;
  /// `[batch, n_heads, n_tokens]`, out, of rows from the first up to the request's length; 0 of
  /// one without a page.
  DEVICE_PTR(float) norms;
  uint32_t n_tokens;
  /// 1 sums of magnitudes, 2 roots of sums of squares.
  uint32_t power;
} QuantNormsParams;

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
