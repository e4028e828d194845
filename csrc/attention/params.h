// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef LACUNA_ATTENTION_PARAMS_H_
#define LACUNA_ATTENTION_PARAMS_H_

#include "../device_ptr.h"
#include "../kv.h"
#include "../quant/params.h"

/// Rows of a paged cache, one after the other, that queries attend to: a range of them, or blocks
/// by their numbers.
typedef struct AttentionSegment {
  /// With values; rows of `head_dim` elements of the queries' type.
  LacunaKvView kv;
  /// `[batch, n_lists, n_indices]`, or null where the rows are a range: numbers of blocks of
  /// `block_size` rows. Rows past the request's, and of blocks that are none, are absent.
  DEVICE_PTR(const int32_t) indices;
  /// `[batch, n_lists]`, or null: how many of each list's indices count; else all.
  DEVICE_PTR(const uint32_t) counts;
  /// `[batch, n_lists, bias_stride]`, or null: what is added to the logits of each block of a list,
  /// or of each row of a range by its number.
  DEVICE_PTR(const float) biases;
  uint64_t bias_stride;
  uint32_t n_indices;
  /// 1 to 128.
  uint32_t block_size;
  /// Lists of a request: 1, or one for each head.
  uint32_t n_lists;
  /// A range begins at the later of `first_row` and the request's last `n_last`, and ends before
  /// `end_row` or where the request does.
  uint32_t first_row;
  uint32_t end_row;
  uint32_t n_last;
  /// Not 0: the request's last rows are those of the queries, and each sees those up to its own.
  uint32_t is_causal;
  /// Not 0: and of those the last so many.
  uint32_t window;
} AttentionSegment;

/// How many elements apart the log-sums of requests, of a request's queries, and of query heads
/// are.
typedef struct AttentionLogSumStrides {
  uint64_t request;
  uint64_t query;
  uint64_t head;
} AttentionLogSumStrides;

/// How products become logits, and what is made of them.
typedef struct AttentionLogits {
  /// What a product is multiplied by: log2(e) times the softmax's scale.
  float log2_scale;
  /// Not 0: the product times this becomes `cap_log2 * tanh` of half of it, in place of the above.
  float cap_scale;
  /// log2(e) times the cap.
  float cap_log2;
  /// What log-sums, to base 2, are multiplied by.
  float log_unit;
  /// Of queries, keys and values: 0 bf16, 1 f16.
  uint32_t element;
  /// 0 bf16, 1 f16, 2 f32.
  uint32_t output_element;
} AttentionLogits;

/// Attention of `n_queries` queries for each request over the rows of its segments, one after the
/// other. `16 * n_sets` of a head's rows of queries have a block of as many sets of warps, of each
/// split of positions; `AttendPlan::grid` says all of it.
typedef struct AttentionAttendParams {
  AttentionSegment segments[4];
  /// `[batch, n_queries, n_heads * group, head_dim]` of type `logits.element`, queries
  /// `query_stride` elements apart: a multiple of 8, as the address is of 16 bytes.
  DEVICE_PTR(const uint8_t) queries;
  /// `[n_heads * group]`, or null: a logit that each softmax has besides, of no value.
  DEVICE_PTR(const float) sinks;
  /// `[batch]`, or null: requests where it is not 0 are left alone, their outputs too.
  DEVICE_PTR(const uint32_t) skips;
  /// `[batch, n_queries, n_heads * group, head_dim]` of type `logits.output_element`,
  /// queries `output_stride` elements apart: a multiple of 8, as the address is of 16 bytes; out.
  DEVICE_PTR(uint8_t) outputs;
  /// One for each query and query head, by `log_sum_strides`, or null, out: the logarithm of the
  /// sum of `exp(logit)`.
  DEVICE_PTR(float) log_sums;
  /// `[batch, n_heads, n_splits, n_queries * group, head_dim + 4]`, from a multiple of 16 bytes on,
  /// workspace: of each split the sums of weights times values, the sum of weights as they were
  /// rounded, the integer that all are relative to, the sum of weights before, and 0.
  DEVICE_PTR(uint32_t) partials;
  /// `[batch, n_heads, n_tiles]`, zeros before and after: blocks that are done.
  DEVICE_PTR(uint32_t) tickets;
  uint64_t query_stride;
  uint64_t output_stride;
  AttentionLogSumStrides log_sum_strides;
  AttentionLogits logits;
  uint32_t n_segments;
  uint32_t n_queries;
  /// Heads of keys.
  uint32_t n_heads;
  /// Query heads of a head of keys, 1 to 16.
  uint32_t group;
  /// A multiple of 16, up to 256.
  uint32_t head_dim;
  /// Blocks of 16 of a head's `n_queries * group` rows of queries.
  uint32_t n_tiles;
  /// Splits that the grid has.
  uint32_t n_splits;
  /// Sets of warps of a block, each of which has 16 rows of queries: 1 or 2.
  uint32_t n_sets;
} AttentionAttendParams;

/// Tiered pages (src/quant/format.md) whose tokens all queries see, before the rows of segments.
typedef struct AttentionTiers {
  QuantPools pools;
  /// Of keys, and of values.
  QuantChannels channels[2];
  /// `[batch, n_heads, n_pages]` each, of keys and of values: as `QuantPagesParams` has them.
  /// Tokens of which either page is none are absent.
  DEVICE_PTR(const uint32_t) entries[2];
  /// `[batch, n_lists]`, or null: how many slots of each list's pages hold tokens; else all.
  DEVICE_PTR(const uint32_t) counts;
  /// `[batch, n_queries, n_heads * group, n_positions]`, or null, out: what each weight is 2 to the
  /// power of; -inf of what is absent, or not seen.
  DEVICE_PTR(float) logits;
  /// `64 * n_pages`, and then those of segments, at most.
  uint64_t n_positions;
  /// Pages of a list.
  uint32_t n_pages;
  /// Lists of a request: 1, or one for each head.
  uint32_t n_lists;
  /// Pages of a span, at least 1, and spans of a list.
  uint32_t span_pages;
  uint32_t n_spans;
  /// Pieces of pages that a warp has on chip: 2 or 3.
  uint32_t n_stages;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} AttentionTiers;

/// Attention over tiered pages and segments: 8 of a head's rows of queries have a block, or all
/// where there are up to 4, of each split of positions; `TieredPlan::grid` says all of it.
typedef struct AttentionTieredParams {
  /// Of one set, with as many tiles and splits as `TieredPlan` says.
  AttentionAttendParams attend;
  AttentionTiers tiers;
} AttentionTieredParams;

/// Keys of one segment, of lists of blocks, that are made of factors: row `t` of head `h` is
/// `factors[t] * basis[h]`, each channel's product rounded to f32, turned by position `t`, and
/// rounded to the queries' type.
typedef struct AttentionLowRank {
  /// `[batch, n_factors, rank]`, from a multiple of 16 bytes on.
  DEVICE_PTR(const uint8_t) factors;
  /// `[batch, n_heads, head_dim, rank]`, the same.
  DEVICE_PTR(const uint8_t) basis;
  /// `[n_factors, head_dim]`, from a multiple of 8 bytes on: cosines of each position's angles, and
  /// then their sines. Null where `turn` is 0.
  DEVICE_PTR(const float) cos_sin;
  /// `[batch, n_lists, n_indices]`, or null: of each of the segment's blocks, the block where its
  /// values are; else its own.
  DEVICE_PTR(const int32_t) value_indices;
  uint32_t n_factors;
  /// A multiple of 16.
  uint32_t rank;
  uint32_t head_dim;
  /// Which segment it is.
  uint32_t segment;
  /// 0 not at all; 1 channel `c` with the one half a head further; 2 with the next.
  uint32_t turn;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} AttentionLowRank;

/// As `AttentionAttendParams`, with keys that are made on chip; 64 threads.
typedef struct AttentionLowRankParams {
  AttentionAttendParams attend;
  AttentionLowRank low_rank;
} AttentionLowRankParams;

/// Attention of chunks of prompts over the rows of a paged cache, by positions. 64 rows of a head's
/// queries have a block of 128 threads, of head dimensions above 128 half as many of both, as
/// `PrefillPlan::grid` says.
typedef struct AttentionPrefillParams {
  /// With values; rows of up to 256 elements, a multiple of 16, of the queries' type.
  LacunaKvView kv;
  /// `[n_tokens, n_heads * group, row_len]` of type `logits.element`, tokens `query_stride`
  /// elements apart: a multiple of 8, as the address is of 16 bytes.
  DEVICE_PTR(const uint8_t) queries;
  /// `[batch + 1]`: where each request's queries begin, and the last one's end. One that is less
  /// than another before it counts as that, and one past `n_tokens` as that.
  DEVICE_PTR(const uint32_t) query_starts;
  /// `[n_tokens]`, or null: the position of each query; else the request's last rows are those of
  /// its queries.
  DEVICE_PTR(const int32_t) query_positions;
  /// `[batch, position_stride]`, or null: the position of each row; else its number.
  DEVICE_PTR(const int32_t) key_positions;
  /// `[n_heads * group]`, or null: a logit that each softmax has besides, of no value.
  DEVICE_PTR(const float) sinks;
  /// `[batch]`, or null: requests where it is not 0 are left alone, their outputs too.
  DEVICE_PTR(const uint32_t) skips;
  /// `[n_tokens, n_heads * group, row_len]` of type `logits.output_element`, tokens `output_stride`
  /// elements apart: a multiple of 8, as the address is of 16 bytes; out. Tokens of no request stay
  /// what they were.
  DEVICE_PTR(uint8_t) outputs;
  /// One for each token and query head, `log_sum_token_stride` and `log_sum_head_stride` elements
  /// apart, or null, out: the logarithm of the sum of `exp(logit)`.
  DEVICE_PTR(float) log_sums;
  uint64_t query_stride;
  uint64_t output_stride;
  uint64_t log_sum_token_stride;
  uint64_t log_sum_head_stride;
  uint64_t position_stride;
  AttentionLogits logits;
  uint32_t n_tokens;
  /// Query heads of a head of keys, 1 to 16.
  uint32_t group;
  /// Not 0: a query sees the rows at positions up to its own.
  uint32_t is_causal;
  /// Not 0: and of those the ones less than so many before it.
  uint32_t window;
} AttentionPrefillParams;

/// A partial result of attention: over tokens that no other part has.
typedef struct AttentionPartial {
  /// `[n_tokens, n_heads, head_dim]` of type `element`, tokens `stride` elements apart.
  DEVICE_PTR(const uint8_t) outputs;
  /// One for each token and head, by `log_sum_strides`; infinite where there is nothing.
  DEVICE_PTR(const float) log_sums;
  /// `[n_tokens]`, or null: where it is 0 there is nothing, and nothing is read.
  DEVICE_PTR(const uint32_t) mask;
  uint64_t stride;
  AttentionLogSumStrides log_sum_strides;
} AttentionPartial;

/// Partial results as one. A warp of a block of 128 threads has four rows.
typedef struct AttentionMergeParams {
  /// `n_parts` of them.
  AttentionPartial parts[8];
  /// `[n_tokens, n_heads, head_dim]` of type `output_element`, tokens `output_stride` elements
  /// apart, out.
  DEVICE_PTR(uint8_t) outputs;
  /// One for each token and head, by `log_sum_strides`, or null, out.
  DEVICE_PTR(float) log_sums;
  uint64_t output_stride;
  AttentionLogSumStrides log_sum_strides;
  /// What a difference of log-sums is multiplied by to be one to base 2: log2(e), or 1.
  float log2_scale;
  /// What a logarithm to base 2 is multiplied by to be added to a log-sum: ln(2), or 1.
  float log_unit;
  /// Tokens times heads.
  uint32_t n_rows;
  uint32_t n_heads;
  /// Tokens that are one request, to strides of log-sums.
  uint32_t n_queries;
  /// A multiple of 8, up to 1024.
  uint32_t head_dim;
  /// 1 to 8.
  uint32_t n_parts;
  /// Of the parts: 0 bf16, 1 f16, 2 f32.
  uint32_t element;
  uint32_t output_element;
  /// Elements that move at once, of which addresses and strides are multiples: 8 where both types
  /// are of 16 bits, else 4; or 1.
  uint32_t width;
  /// Not 0: outputs and log-sums are those of the first part.
  uint32_t is_in_place;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} AttentionMergeParams;

/// A pool of pages, in a table on the device that one launch copies pages of all pools by.
typedef struct AttentionPool {
  /// The first page: a multiple of 4 bytes.
  DEVICE_PTR(uint8_t) pages;
  /// Bytes from page to page, a multiple of 4.
  uint64_t page_stride;
  /// Bytes of a page, a multiple of 4.
  uint32_t page_bytes;
  /// Words of 4 bytes that the page has in the pools before.
  uint32_t first_word;
} AttentionPool;

/// Pages copied from pools to pools: for each pair of page numbers the page of every pool. Teams of
/// `2^lane_bits` threads, in blocks of 128, have a chunk of `256 << lane_bits` bytes of a page
/// each. A block has tiles of teams, as many tiles apart as there are blocks: first those of pairs,
/// then those of the next pool, then of the next chunk.
typedef struct AttentionCopyPagesParams {
  /// `[n_pools]` each; where both are one table, pages are copied within it.
  DEVICE_PTR(const AttentionPool) sources;
  DEVICE_PTR(const AttentionPool) targets;
  /// `[n_lists, n_pairs, 2]`: the page that is read, and the page that is written. Where either is
  /// a number of no page, nothing is copied.
  DEVICE_PTR(const int32_t) pairs;
  /// `[n_lists]`, or null: how many of each list's pairs count; else all.
  DEVICE_PTR(const uint32_t) counts;
  /// `[n_lists, n_pairs]`, or null, out: the sum of each page that was read; 0 where none was.
  DEVICE_PTR(uint64_t) checksums;
  /// `[n_lists, n_pairs]`, or null: what the sums must be.
  DEVICE_PTR(const uint64_t) expected;
  /// `[1]`, or null, in and out: `(2^32 - 1 - i) << 32 | 1`, of the first pair `i` of whose page
  /// the sum differs.
  DEVICE_PTR(uint64_t) status;
  /// `[n_lists, n_pairs, 2]`, or null where nothing is summed; zeros before and after: sums, and
  /// chunks that are done.
  DEVICE_PTR(uint64_t) sums;
  uint32_t n_lists;
  uint32_t n_pairs;
  uint32_t n_pools;
  /// Chunks of the longest page.
  uint32_t n_chunks;
  uint32_t n_source_pages;
  uint32_t n_target_pages;
  uint32_t lane_bits;
  /// Tiles that all pairs are; `n_pools * n_chunks` times as many are below 2^31.
  uint32_t n_pair_tiles;
} AttentionCopyPagesParams;

/// Which of the pages that lists ask for are in the slots of a small fast buffer, and which slots
/// the others go to. Each list has slots of its own, and a block of 512 threads.
typedef struct AttentionTierParams {
  /// `[n_lists, n]`: what each list asks for, by logical numbers; others than `0..n_logical` are
  /// passed over.
  DEVICE_PTR(const int32_t) indices;
  /// `[n_lists]`, or null: how many of each list's entries count; else all.
  DEVICE_PTR(const uint32_t) counts;
  /// `[n_lists / lists_per_request, n_logical]`, or null: the page `p` that each logical number has
  /// in the large tier, where list `h` of a request has page `p * lists_per_request + h`; numbers
  /// outside `0..n_source_pages` are of no page. Else list `l` has pages `l * n_logical` and on.
  DEVICE_PTR(const int32_t) source_table;
  /// `[n_lists, n_logical]`, in and out: the slot of each logical number, or -1.
  DEVICE_PTR(int32_t) slot_of;
  /// `[n_lists, n_slots]`, in and out: the logical number in each slot, or -1.
  DEVICE_PTR(int32_t) logical_of;
  /// `[n_lists, n_slots / 32, rounded up]`, in and out: a bit of each slot that was asked for since
  /// the hand passed it.
  DEVICE_PTR(uint32_t) referenced;
  /// `[n_lists]`, in and out: the slot that is looked at next.
  DEVICE_PTR(uint32_t) hands;
  /// `[n_lists, n]`, out: the slot of each entry; -1 of those that have none.
  DEVICE_PTR(int32_t) slots;
  /// `[n_lists, n, 2]`, 8-byte aligned, out: what is to be copied: a page of the large tier, and
  /// the page `l * n_slots + slot` of the small one; then -1.
  DEVICE_PTR(int32_t) misses;
  /// `[n_lists]`, out: how many.
  DEVICE_PTR(uint32_t) miss_counts;
  /// `[n_lists, n]`, or null, out: the slots of entries that were there, then -1.
  DEVICE_PTR(int32_t) hits;
  /// `[n_lists]`, null where `hits` is, out: how many.
  DEVICE_PTR(uint32_t) hit_counts;
  /// `[n_lists, n]`, null where `hits` is, out: the slots of entries that are copied, then -1.
  DEVICE_PTR(int32_t) fetched;
  /// `[n_lists]`, null where `hits` is, out: how many.
  DEVICE_PTR(uint32_t) fetched_counts;
  /// `[n_lists]`, or null, out: the logical numbers that no slot was left for.
  DEVICE_PTR(uint32_t) overflows;
  uint32_t lists_per_request;
  /// At most 8,192.
  uint32_t n;
  uint32_t n_logical;
  /// 1 to 32,768.
  uint32_t n_slots;
  uint32_t n_source_pages;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} AttentionTierParams;

#endif  // LACUNA_ATTENTION_PARAMS_H_
