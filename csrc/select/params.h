// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef LACUNA_SELECT_PARAMS_H_
#define LACUNA_SELECT_PARAMS_H_

#include "../device_ptr.h"
#include "../kv.h"

/// The first scores of each row, by one of four rules. A row's candidates are `length` scores from
/// `start` on, what lies past the row's `n` left out. Forced candidates come first, then larger
/// scores, then lower indices; zeros of both signs are equal, and NaN comes after everything.
typedef struct SelectTopkParams {
  /// `[n_rows, n]` scores of type `element`, rows `row_stride` elements apart.
  DEVICE_PTR(const uint8_t) scores;
  /// `[n_rows]`, or null: the first candidate of each row; else 0.
  DEVICE_PTR(const uint32_t) starts;
  /// `[n_rows / rows_per_request, rounded up]`, or null: tokens of a request, of whose rows each
  /// has a candidate for every `tokens_per_score`, rounded up; else all from the first on.
  DEVICE_PTR(const uint32_t) lengths;
  /// `[n_rows]`, or null: how many to pick and to mark of each row at most; else `k` picks, and
  /// marks of all that the rule wants.
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
  /// `[n_rows, n]`, or null, out: 1 at each of the first candidates that the rule wants and
  /// `counts_asked` allows, whatever `k` is; 0 at all else of the row.
  DEVICE_PTR(uint8_t) kept;
  /// Elements between the starts of two rows.
  uint64_t row_stride;
  /// Entries of the page table from request to request.
  uint64_t table_stride;
  /// `i / page_size` is `i * page_multiplier >> 34`, of indices below 2^26.
  uint64_t page_multiplier;
  /// Rows; one thread block each, or one cluster, whose blocks have slices of it.
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
  /// Rows that share a request's length and its entries of the page table, at least 1.
  uint32_t rows_per_request;
  /// Tokens that a score stands for, at least 1.
  uint32_t tokens_per_score;
  /// Dynamic shared memory: so many bytes, a multiple of 16, hold 16 bytes a thread, in clusters
  /// 32, and the picks: 4 bytes for each of a slice, in order 1 8 bytes each of the next power of
  /// two;
  uint32_t n_work_bytes;
  /// and after them so many vectors of 16 bytes hold keys of a slice's first candidates.
  uint32_t n_staged;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectTopkParams;

/// A softmax over a head's scores: the weight of score `s` is
/// `exp2(s * softmax_scale - greatest) * reciprocal`.
typedef struct SelectSoftmax {
  /// The least integer not below any `s * softmax_scale`, which count as 2^22 beyond it; of no
  /// scores, -2^30.
  int32_t greatest;
  /// One over the sum of `exp2(s * softmax_scale - greatest)`; 0 where that is 0.
  float reciprocal;
} SelectSoftmax;

/// What 256 scores of a head, from a multiple of 256 on, come to.
typedef struct SelectPartialSoftmax {
  /// The sum of `exp2(s * softmax_scale - greatest)`, in units of 2^-40.
  uint64_t sum;
  /// As `SelectSoftmax::greatest`, of these.
  int32_t greatest;
  uint32_t reserved;
} SelectPartialSoftmax;

/// Scores of a query's heads against the rows of a paged cache: keys, or summaries of several.
/// Request `b` has `ceil(lengths[b] / tokens_per_row)` rows, `n` at most. Query head `q` reads the
/// rows of head `q / group`. `n` is below 2^24, `row_len` 512 at most; 256 threads, blocks and
/// dynamic shared memory as `ScorePlan::grid` and `voting_grid` say.
typedef struct SelectScoreParams {
  LacunaKvView kv;
  /// `[batch, n_heads * group, d]` of type `query_element`, requests `query_stride` elements apart;
  /// `d` is `row_len`, of boxes half of it.
  DEVICE_PTR(const uint8_t) queries;
  /// `[batch]`, or null: requests where it is not 0 are left alone, their outputs too.
  DEVICE_PTR(const uint32_t) skips;
  /// `[batch, n_out, n]` of type `score_element`, rows `score_stride` elements apart, out, or with
  /// `votes` null; `n_out` is `n_heads * group`, reduced `n_heads`. What a request has no rows for
  /// stays what it was; absent rows score -inf.
  DEVICE_PTR(uint8_t) scores;
  /// `[batch, n_heads * group]`, or null, out.
  DEVICE_PTR(SelectSoftmax) softmaxes;
  /// `[batch, n_heads * group, n_tiles]`, workspace of `softmaxes` where `votes` is null.
  DEVICE_PTR(SelectPartialSoftmax) partial_softmaxes;
  /// `[batch, n_heads]`, zeros before and after: blocks that are done.
  DEVICE_PTR(uint32_t) tickets;
  /// `[batch, n_votes, n]` of type `vote_element`, rows `vote_stride` elements apart, or null, out:
  /// as of `SelectVoteParams`. A block then has all tiles of its heads, and the scores on chip.
  DEVICE_PTR(uint8_t) votes;
  uint64_t query_stride;
  uint64_t score_stride;
  uint64_t vote_stride;
  /// What a score is multiplied by before `exp2`: log2(e) over the root of the head's dimension.
  float softmax_scale;
  /// What the sum over a group is multiplied by.
  float mean_scale;
  uint32_t n;
  uint32_t n_tiles;
  /// Query heads of a head of keys, 1 to 16.
  uint32_t group;
  /// 0 the inner product with a row; 1 the greatest with any key in the box of a row, its minimum
  /// and then its maximum.
  uint32_t kind;
  /// Over a group: 0 none, 1 maximum, 2 sum or mean.
  uint32_t reduction;
  /// 0 bf16, 1 f16, 2 f32.
  uint32_t query_element;
  uint32_t score_element;
  uint32_t vote_element;
  /// Heads of keys in a block: 1, or with `votes` those that vote together.
  uint32_t n_heads_together;
  /// As of `SelectVoteParams`.
  uint32_t vote_reduction;
  /// Without `votes`: tiles that a block scores one after the other.
  uint32_t n_tiles_together;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectScoreParams;

/// Weights of softmaxes over each head's scores, summed over heads or their maximum. 256 threads,
/// and blocks as `VotePlan::grid` says.
typedef struct SelectVoteParams {
  /// `[batch, n_q_heads, n]` of type `score_element`, rows `score_stride` elements apart.
  DEVICE_PTR(const uint8_t) scores;
  /// `[batch, n_q_heads]`.
  DEVICE_PTR(const SelectSoftmax) softmaxes;
  /// `[batch]`: tokens of each request.
  DEVICE_PTR(const uint32_t) lengths;
  /// `[batch]`, or null: requests where it is not 0 are left alone, their outputs too.
  DEVICE_PTR(const uint32_t) skips;
  /// `[batch, n_q_heads / n_together, n]` of type `vote_element`, rows `vote_stride` elements
  /// apart, out. What a request has no rows for stays what it was.
  DEVICE_PTR(uint8_t) votes;
  uint64_t score_stride;
  uint64_t vote_stride;
  /// As of `SelectScoreParams`.
  float softmax_scale;
  uint32_t n;
  uint32_t n_q_heads;
  /// Query heads that vote together.
  uint32_t n_together;
  /// Tokens that a row stands for, and the most rows of a request.
  uint32_t tokens_per_row;
  uint32_t n_rows;
  /// 0 the sum over heads, ascending; 1 the maximum.
  uint32_t vote_reduction;
  /// 0 bf16, 1 f16, 2 f32.
  uint32_t score_element;
  uint32_t vote_element;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectVoteParams;

/// What probes' queries attend to: each token's weight in the softmaxes of all probes and heads
/// that see it. Two launches with the same parameters: `probe_rows` makes the softmaxes,
/// `column_mass` the masses. `n` is below 2^24, `row_len` 512 at most; 256 threads, blocks and
/// dynamic shared memory as `MassPlan::probe_grid` and `mass_grid` say.
typedef struct SelectMassParams {
  LacunaKvView kv;
  /// `[batch, n_probes, n_heads * group, head_dim]` of type `query_element`.
  DEVICE_PTR(const uint8_t) probes;
  /// `[batch, n_probes]`: tokens that a probe sees, from the first on.
  DEVICE_PTR(const uint32_t) n_visible;
  /// `[batch]`, or null: requests where it is not 0 are left alone, their outputs too.
  DEVICE_PTR(const uint32_t) skips;
  /// `[batch, n_heads, n_probes * group]`, out of the first launch, input of the second.
  DEVICE_PTR(SelectSoftmax) softmaxes;
  /// `[batch, n_heads, n_probes * group, n_tiles]`, workspace of the first launch.
  DEVICE_PTR(SelectPartialSoftmax) partial_softmaxes;
  /// `[batch, n_heads]`, zeros before and after: blocks of the first launch that are done.
  DEVICE_PTR(uint32_t) tickets;
  /// `[batch, n_heads / n_heads_together, n]`, rows `mass_stride` elements apart, out of the second
  /// launch. What a request has no rows for stays what it was.
  DEVICE_PTR(float) masses;
  /// Elements from one request's probes to the next's, and from one probe to the next.
  uint64_t request_stride;
  uint64_t probe_stride;
  uint64_t mass_stride;
  /// As of `SelectScoreParams`.
  float softmax_scale;
  /// What a mass is multiplied by.
  float mass_scale;
  uint32_t n;
  uint32_t n_tiles;
  uint32_t n_probes;
  uint32_t group;
  uint32_t n_heads_together;
  /// 1: a mass is divided by the number of probes that see the token.
  uint32_t is_per_probe;
  /// 0 bf16, 1 f16, 2 f32.
  uint32_t query_element;
  /// Rows of a tile: 256, of a head's dimension above 128 half of it, above 256 a quarter.
  uint32_t tile;
} SelectMassParams;
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
/// Which elements of each row are listed: those that are kept, or the others, which are then the
/// kept ones of what follows.
typedef struct SelectMask {
  /// `[n_rows, n]`: not 0 where an element is kept; rows `row_stride` elements apart.
  DEVICE_PTR(const uint8_t) kept;
  /// `[n_rows / rows_per_request, rounded up]`, or null: elements of a request's rows; else `n`.
  /// What lies past them is not listed.
  DEVICE_PTR(const uint32_t) lengths;
  /// `[n_rows]`, or null: rows where it is not 0 are left alone, their outputs too.
  DEVICE_PTR(const uint32_t) skips;
  /// Elements between the starts of two rows.
  uint64_t row_stride;
  uint32_t n_rows;
  /// Elements of a row, 2^26 at most.
  uint32_t n;
  /// Chunks of a row, of 16,384 elements from a multiple of 16 bytes on; one thread block each.
  uint32_t n_chunks;
  /// Rows that share a length, at least 1.
  uint32_t rows_per_request;
  /// 1: elements that are 0 are listed, in place of the others.
  uint32_t lists_dropped;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectMask;

/// The first of two launches that compact rows of several chunks: each mask as bits.
typedef struct SelectCountKeptParams {
  SelectMask mask;
  /// `[n_rows, n_chunks, 512]`, out: a bit for each element of a chunk.
  DEVICE_PTR(uint32_t) words;
  /// `[n_rows, n_chunks]`, out: kept elements of each chunk.
  DEVICE_PTR(uint32_t) chunk_counts;
} SelectCountKeptParams;

/// The kept elements of each row, or the others, in its order.
typedef struct SelectCompactParams {
  SelectMask mask;
  /// What `SelectCountKeptParams` says, or null where a row is one chunk.
  DEVICE_PTR(const uint32_t) words;
  DEVICE_PTR(const uint32_t) chunk_counts;
  /// `[n_rows, capacity]`, out: the kept elements, ascending, then -1.
  DEVICE_PTR(int32_t) indices;
  /// `[n_rows]`, out: how many are kept, also where `capacity` is less.
  DEVICE_PTR(uint32_t) counts;
  /// `[n_rows, n]`, or null, out: the place of each element among those kept, or -1.
  DEVICE_PTR(int32_t) offsets;
  /// `[n_rows + 1]`, or null, out: the sum of the indices of the rows before.
  DEVICE_PTR(uint32_t) row_starts;
  /// Rows that are done: 0 before the launch and after it.
  DEVICE_PTR(uint32_t) n_done;
  /// Places for indices in a row.
  uint32_t capacity;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectCompactParams;

/// Lists of rows of tables: row `i` of list `l` stands for row `indices[l * index_stride + i]` of
/// table `l`; an index of no row for none. Strides are in bytes, from list to list and from row to
/// row.
typedef struct SelectRows {
  /// `[n_lists, n_indices]`.
  DEVICE_PTR(const int32_t) indices;
  /// Entries between the starts of two lists.
  uint64_t index_stride;
  /// Of the tables' rows.
  uint64_t table_list_stride;
  uint64_t table_stride;
  /// Of the lists' rows.
  uint64_t list_stride;
  uint64_t row_stride;
  uint32_t n_lists;
  /// Rows of a list.
  uint32_t n_indices;
  /// Rows of a table.
  uint32_t n_table_rows;
  uint32_t row_bytes;
  /// Bytes that move at once, 16, 8, 4, 2 or 1: every stride and address is a multiple of it.
  uint32_t unit_bytes;
  /// 2^lane_bits lanes have a row.
  uint32_t lane_bits;
} SelectRows;

/// Rows out of tables.
typedef struct SelectGatherParams {
  SelectRows rows;
  /// `[n_lists, n_table_rows, row_bytes]`.
  DEVICE_PTR(const uint8_t) table;
  /// `[n_lists, n_indices, row_bytes]`, out.
  DEVICE_PTR(uint8_t) gathered;
  /// Not 0: rows of no index become zeros; else they are left alone.
  uint32_t fills_zeros;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectGatherParams;

/// The first of two launches that scatter rows where indices repeat: which row of a list is the
/// last one of its index.
typedef struct SelectMarkParams {
  SelectRows rows;
  /// `[n_lists, n_table_rows]`: 0 before; one more than that row's place after.
  DEVICE_PTR(uint32_t) last;
} SelectMarkParams;

/// Rows into tables.
typedef struct SelectScatterParams {
  SelectRows rows;
  /// `[n_lists, n_indices, row_bytes]`.
  DEVICE_PTR(const uint8_t) source;
  /// `[n_lists, n_table_rows, row_bytes]`, in and out.
  DEVICE_PTR(uint8_t) table;
  /// `[n_lists, n_table_rows]`, or null where no index repeats: what `SelectMarkParams` says, 0
  /// again after.
  DEVICE_PTR(uint32_t) last;
} SelectScatterParams;

/// Rows added to rows of tables, in the order of the list.
typedef struct SelectScatterAddParams {
  /// `unit_bytes` is 16 or that of an element.
  SelectRows rows;
  /// `[n_lists, n_indices]` rows of type `element`.
  DEVICE_PTR(const uint8_t) source;
  /// `[n_lists, n_indices]`, or null: what each row is multiplied by.
  DEVICE_PTR(const float) weights;
  /// `[n_lists, n_table_rows]` rows of type `element`, in and out.
  DEVICE_PTR(uint8_t) table;
  /// 0 bf16, 1 f16, 2 f32.
  uint32_t element;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectScatterAddParams;

/// Lists of rows of a paged cache, one for each request and head.
typedef struct SelectKvRows {
  LacunaKvView kv;
  /// Row `i` of request `b` and head `h` is `indices[b * request_stride + h * head_stride + i]`.
  DEVICE_PTR(const int32_t) indices;
  uint64_t request_stride;
  /// 0 where the heads of a request share a list.
  uint64_t head_stride;
  /// Rows of a list.
  uint32_t n_indices;
  uint32_t row_bytes;
  /// 16 or 8: every stride and address is a multiple of it.
  uint32_t unit_bytes;
  /// 2^lane_bits lanes have a row.
  uint32_t lane_bits;
} SelectKvRows;

/// Keys and values out of a paged cache.
typedef struct SelectGatherKvParams {
  SelectKvRows rows;
  /// `[batch, n_heads, n_indices, row_len]`, out.
  DEVICE_PTR(uint8_t) keys;
  /// The same, or null where the cache has no values.
  DEVICE_PTR(uint8_t) values;
  /// Not 0: rows that are absent become zeros; else they are left alone.
  uint32_t fills_zeros;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectGatherKvParams;

/// Keys and values into a paged cache.
typedef struct SelectScatterKvParams {
  /// Its pools are in and out.
  SelectKvRows rows;
  /// `[batch, n_heads, n_indices, row_len]`.
  DEVICE_PTR(const uint8_t) keys;
  /// The same, or null where the cache has no values.
  DEVICE_PTR(const uint8_t) values;
} SelectScatterKvParams;

/// Lists of tokens of a paged cache, of each request and head: those that are evicted, and those
/// that are kept.
typedef struct SelectEviction {
  /// Of rows of up to 256 elements, bf16 or f16.
  LacunaKvView kv;
  /// `[batch, n_heads, n_evicted]`: tokens; numbers of no token are skipped.
  DEVICE_PTR(const int32_t) evicted;
  /// `[batch, n_heads, n_kept]`: the same.
  DEVICE_PTR(const int32_t) kept;
  uint32_t n_evicted;
  uint32_t n_kept;
} SelectEviction;

/// The first of three launches that merge evicted tokens: the nearest kept key of each.
typedef struct SelectNearestParams {
  SelectEviction lists;
  /// `[batch, n_heads, n_evicted]`, out: its place in the list of those kept, or -1.
  DEVICE_PTR(int32_t) nearest;
  /// `[batch, n_heads, n_evicted]`, out: the cosine, from -1 to 1.
  DEVICE_PTR(float) similarities;
} SelectNearestParams;

/// The second: how near a token must be to be merged, a moving average of how near they were.
typedef struct SelectThresholdParams {
  /// What the first launch wrote.
  DEVICE_PTR(const int32_t) nearest;
  DEVICE_PTR(const float) similarities;
  /// `[batch, n_heads]`, in and out: NaN before the first step.
  DEVICE_PTR(float) thresholds;
  /// Requests times heads.
  uint32_t n_lists;
  uint32_t n_evicted;
  /// What an old threshold is multiplied by, and the mean of the new similarities.
  float decay;
  float rest;
} SelectThresholdParams;

/// The third: the means of kept rows and those merged into them, in place.
typedef struct SelectMergeParams {
  /// Its pools are in and out.
  SelectEviction lists;
  /// What the launches before wrote.
  DEVICE_PTR(const int32_t) nearest;
  DEVICE_PTR(const float) similarities;
  DEVICE_PTR(const float) thresholds;
  /// 0: weights exp(similarity), the kept row's e. 1: rows times their similarity, divided by how
  /// many there are.
  uint32_t weights;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} SelectMergeParams;

#endif  // LACUNA_SELECT_PARAMS_H_
