// SPDX-License-Identifier: MIT OR Apache-2.0
// lacuna: CUDA kernels for dynamic inference of language models, bit-exact against CPU references.
//
// Made of src/capi by `cargo xtask generate`; not edited by hand.
//
// What holds for every function:
// - It answers a status: LACUNA_OK, or what was wrong, of which `lacuna_error_message` says what, where, why and what to do. Nothing that
//   a pointer names is written unless the answer is LACUNA_OK, but by kernels that were launched; where nothing is said of a launch, nothing was launched.
// - A null pointer where one is needed is LACUNA_NULL, one that is not aligned, or a length that no memory has, LACUNA_RANGE; a view's `reserved`
//   that is neither 0 nor of a growing cache LACUNA_ABI; beyond that, pointers are what they are said to be. No panic and no exception leaves
//   a function.
// - A plan is made of a shape by arithmetic alone, knows no device, and serves any number of launches, from any thread. Handles are ended once, by the
//   function ..._free, which takes null; no other call uses them meanwhile.
// - Texts that are given are UTF-8, end with a zero byte, and are there as long as the handle that they were asked of.
// - Launches go to the caller's stream, in order with what else is there: no allocation, copy, event or wait unless a function says so, once
//   the device is warmed up (`lacuna_device_warm_up`), so that they can be captured in a graph. Memory that a launch uses stays what it is until the
//   launch has ended. The calling thread's current context is the same afterwards.
// - Outputs and workspaces are the caller's; ..._sizes says how many elements each view must have. A workspace is zeroed once, and every launch
//   leaves it ready for the next of the same plan.
// - A kernel trusts nothing that it reads from device memory: bad indices, pages, lengths and codes make defined outputs, never a fault.
//   Each element of an output is what the function says, or stays what it was: what no list, length or mask reaches, what is skipped, what
//   lies between rows that are further apart than they are long, and room past what is needed. What was there has no other part in it.
// - Structs that begin with a `lacuna_header` may grow; a field that is 0 has the meaning that its comment gives, or is nothing.
//
// With `#define LACUNA_SIMT` there are functions of a library that was built with the feature `simt`.

#ifndef LACUNA_H
#define LACUNA_H

#include <stdint.h>

#define LACUNA_VERSION "0.1.0"
#define LACUNA_VERSION_MAJOR 0
#define LACUNA_VERSION_MINOR 1
#define LACUNA_VERSION_PATCH 0

// What a struct that has a `header` begins with: `lacuna_topk_rows_shape shape = {LACUNA_HEADER(lacuna_topk_rows_shape)};`
// and all fields that are not named are zeros.
#define LACUNA_HEADER(type) {sizeof(type), LACUNA_ABI_VERSION}


// The revision of this interface. A struct of a later revision may have more fields at its end, and zeros there are
// what callers of an earlier one get.
#define LACUNA_ABI_VERSION 1

// Bytes of a code table.
#define LACUNA_CODE_TABLE_BYTES 16640

// Bytes of a matrix's header in a file.
#define LACUNA_LANE_HEADER_BYTES 32

// Matrices of one `lacuna_multiply_lane` at most.
#define LACUNA_MOST_FACTORS 4

// Inputs of one `lacuna_multiply_lane` at most. For more, `lacuna_unpack_lane`, and a library multiplies.
#define LACUNA_MOST_INPUTS 64

// The number of no page in an entry, of whatever tier: such entries are meant to be of none, and are not reported.
#define LACUNA_NO_PAGE 1073741823

// Tokens of a page.
#define LACUNA_PAGE_TOKENS 64

// What a function answers. A new release may have more numbers.
typedef enum lacuna_status {
  // It did what it is for.
  LACUNA_OK = 0,
  // A pointer that must not be null is.
  LACUNA_NULL = 1,
  // A struct's `header` is not what `LACUNA_HEADER` makes, or asks for what this library does not know.
  LACUNA_ABI = 2,
  // A view's `dtype` is not one that the function takes.
  LACUNA_DTYPE = 3,
  // Two lengths or shapes that must agree do not.
  LACUNA_SHAPE = 4,
  // A value outside what is supported.
  LACUNA_RANGE = 5,
  // Memory of another device than the queue's, or of a growing cache where all of it must be there.
  LACUNA_WRONG_QUEUE = 6,
  // No CUDA driver library could be loaded.
  LACUNA_NO_DRIVER = 7,
  // A library with the driver's name that is not the driver.
  LACUNA_STUB_DRIVER = 8,
  // The driver is older than this library's images and calls need.
  LACUNA_DRIVER_TOO_OLD = 9,
  // The driver has no such device.
  LACUNA_NO_DEVICE = 10,
  // The device is older than any image of this library.
  LACUNA_UNSUPPORTED_DEVICE = 11,
  // A driver call failed: `lacuna_error_driver_code` has its code.
  LACUNA_DRIVER = 12,
  // No image of the kernel loads on the device.
  LACUNA_IMAGE = 13,
  // A tensor or a file is not what its format allows.
  LACUNA_MALFORMED = 14,
  // A decoder found its input corrupt.
  LACUNA_CORRUPT = 15,
  // A file could not be read or written.
  LACUNA_IO = 16,
  // Memory for a growing cache is short.
  LACUNA_OUT_OF_MEMORY = 17,
  // The SIMT executor stopped a kernel.
  LACUNA_SIMT_FAULT = 18,
  // A defect of this library: it panicked, and the panic went no further.
  LACUNA_PANIC = 19,
  // What a newer release of the Rust library says that this interface has no number for.
  LACUNA_OTHER = 20,
} lacuna_status;

// The type of a view's elements. 0 is none.
typedef enum lacuna_dtype {
  LACUNA_BF16 = 1,
  LACUNA_F16 = 2,
  LACUNA_F32 = 3,
  // OCP E4M3: 4 bits of exponent, no infinities.
  LACUNA_E4M3 = 4,
  // OCP E5M2.
  LACUNA_E5M2 = 5,
  LACUNA_U8 = 6,
  LACUNA_U16 = 7,
  LACUNA_U32 = 8,
  LACUNA_U64 = 9,
  LACUNA_I8 = 10,
  LACUNA_I32 = 11,
  LACUNA_I64 = 12,
} lacuna_dtype;

// Where the rows of a page are.
typedef enum lacuna_kv_order {
  // Where the shape's strides say.
  LACUNA_KV_STRIDES = 0,
  // Pages are `[page_size, n_heads, row_len]`.
  LACUNA_KV_NHD = 1,
  // Pages are `[n_heads, page_size, row_len]`.
  LACUNA_KV_HND = 2,
} lacuna_kv_order;

// Whose lists of rows of a cache there are.
typedef enum lacuna_kv_lists {
  // One of each request and head: `[batch, n_heads, n_indices]`.
  LACUNA_KV_PER_HEAD = 0,
  // One of each request, for all its heads: `[batch, n_indices]`.
  LACUNA_KV_PER_REQUEST = 1,
} lacuna_kv_lists;

// Which candidates of a row are picked: forced ones first, then larger scores, then lower indices.
typedef enum lacuna_rule {
  // As many as there are places.
  LACUNA_RULE_LARGEST = 0,
  // The fewest whose mass is `amount` of the row's, 0 to 1 (ZipVL).
  LACUNA_RULE_MASS = 1,
  // All scores that are at least `amount`.
  LACUNA_RULE_AT_LEAST = 2,
  // All that are not among the lowest `amount` percent, 0 to 100 (LazyLLM).
  LACUNA_RULE_PERCENTILE = 3,
} lacuna_rule;

// The order of a row's picks.
typedef enum lacuna_order {
  // Ascending indices.
  LACUNA_ORDER_INDEX = 0,
  // Forced ones by their indices, then descending scores, of equal ones lower indices first.
  LACUNA_ORDER_SCORE = 1,
} lacuna_order;

// Which elements of a row are listed.
typedef enum lacuna_listed {
  // Those that the mask keeps.
  LACUNA_LISTED_KEPT = 0,
  // Those that it does not: what is evicted.
  LACUNA_LISTED_DROPPED = 1,
} lacuna_listed;

// How a kept row and those merged into it are weighted.
typedef enum lacuna_merge_weights {
  // The paper's: exp(similarity) of each, the kept row's similarity being 1, over their sum.
  LACUNA_MERGE_SOFTMAX = 0,
  // The released code's: rows times their similarity, the kept row as it is, over how many there are.
  LACUNA_MERGE_RELEASED = 1,
} lacuna_merge_weights;

// Where rows, tables and lists are.
typedef enum lacuna_rows_order {
  // One after the other; the shape's strides are not looked at.
  LACUNA_ROWS_DENSE = 0,
  // Where the shape's strides say.
  LACUNA_ROWS_STRIDES = 1,
} lacuna_rows_order;

// What becomes of a gathered row whose index is of no row.
typedef enum lacuna_absent {
  // Zeros.
  LACUNA_ABSENT_ZEROS = 0,
  // It is left alone.
  LACUNA_ABSENT_KEPT = 1,
} lacuna_absent;

// Bits that an element of a page has, numbered as pools are, and as the upper two bits of a page's entry say: `tier << 30 | number`.
typedef enum lacuna_tier {
  // 16: the numbers themselves, bf16 or f16.
  LACUNA_TIER_16 = 0,
  // 8.
  LACUNA_TIER_8 = 1,
  // 4.
  LACUNA_TIER_4 = 2,
  // 2.
  LACUNA_TIER_2 = 3,
} lacuna_tier;

// What a page is of.
typedef enum lacuna_part {
  // Keys: products with queries are sums over channels.
  LACUNA_PART_KEYS = 0,
  // Values: products with weights are sums over tokens.
  LACUNA_PART_VALUES = 1,
} lacuna_part;

// What a page of codes ends with, of each token: all pages of a set of pools have the same.
typedef enum lacuna_tail {
  // A step, bf16, and a zero point, in sixteenths of a step: 256 bytes. What `lacuna_quantize_pages` writes.
  LACUNA_TAIL_ZERO_POINTS = 0,
  // A step and a minimum, f32: 512 bytes.
  LACUNA_TAIL_MINIMUMS = 1,
} lacuna_tail;

// A norm of a row.
typedef enum lacuna_norm {
  // The sum of magnitudes (CriticalKV).
  LACUNA_NORM_L1 = 0,
  // The root of the sum of squares.
  LACUNA_NORM_L2 = 1,
} lacuna_norm;

// What a query is scored against.
typedef enum lacuna_score_kind {
  // The inner product with a row: a key, a mean, a centroid.
  LACUNA_SCORE_DOT = 0,
  // The greatest inner product with anything in the box of a row, of which the first half is the minimum and the second the maximum of
  // each channel (Quest).
  LACUNA_SCORE_BOX = 1,
} lacuna_score_kind;

// What becomes of the scores of the query heads that share a head of keys.
typedef enum lacuna_group_reduction {
  // One row of scores for each query head.
  LACUNA_GROUP_NONE = 0,
  // Their maximum; NaN counts for nothing.
  LACUNA_GROUP_MAX = 1,
  // Their sum, of ascending heads.
  LACUNA_GROUP_SUM = 2,
  // Their sum times one over their number.
  LACUNA_GROUP_MEAN = 3,
} lacuna_group_reduction;

// What a row says of the keys that it stands for.
typedef enum lacuna_summary {
  // The least number of each channel, then the greatest (Quest, LeoAM): rows of twice the keys' elements.
  LACUNA_SUMMARY_BOX = 0,
  // The mean of each channel.
  LACUNA_SUMMARY_MEAN = 1,
  // The mean, and how far the keys point away from it (ShadowKV).
  LACUNA_SUMMARY_MEAN_AND_OUTLIER = 2,
  // The box around boxes: a second level, whose keys are rows of `LACUNA_SUMMARY_BOX`.
  LACUNA_SUMMARY_BOX_OF_BOXES = 3,
} lacuna_summary;

// Which query heads vote together.
typedef enum lacuna_together {
  // Each by itself: the softmax.
  LACUNA_TOGETHER_QUERY_HEAD = 0,
  // Those that share a head of keys (ShadowKV, RetroInfer).
  LACUNA_TOGETHER_GROUP = 1,
  // All (TokenSelect).
  LACUNA_TOGETHER_ALL = 2,
} lacuna_together;

// What becomes of their softmaxes.
typedef enum lacuna_vote_reduction {
  // The sum, of ascending heads.
  LACUNA_VOTE_SUM = 0,
  // The maximum.
  LACUNA_VOTE_MAX = 1,
} lacuna_vote_reduction;

// What one chunk of physical memory holds of a slot.
typedef enum lacuna_packing {
  // Keys and values of all layers, so that a slot grows by one chunk at a time.
  LACUNA_PACKING_LAYERS_TOGETHER = 0,
  // Keys or values of one layer, so that one layer's pages follow each other, and a slot's least is `2 * n_layers` chunks.
  LACUNA_PACKING_LAYERS_APART = 1,
} lacuna_packing;

// Which rows of each request a segment has.
typedef enum lacuna_tokens {
  // All.
  LACUNA_TOKENS_ALL = 0,
  // Those from `first` on and before `end`, of the last `last`; as far as there are so many.
  LACUNA_TOKENS_RANGE = 1,
  // `n_blocks` blocks of `block_size` rows, by numbers on the device; what a number past the request's rows names is absent.
  LACUNA_TOKENS_BLOCKS = 2,
} lacuna_tokens;

// In which order log-sum-exps lie.
typedef enum lacuna_log_sum_order {
  // `[tokens, heads]`, as FlashInfer has them.
  LACUNA_LOG_SUMS_TOKENS_HEADS = 0,
  // `[heads, tokens]`, as FlashAttention's calls for requests of various lengths and vLLM have them.
  LACUNA_LOG_SUMS_HEADS_TOKENS = 1,
  // `[batch, heads, n_queries]`, as FlashAttention's calls for as many queries of each request have them.
  LACUNA_LOG_SUMS_BATCH_HEADS_QUERIES = 2,
} lacuna_log_sum_order;

// The base of log-sum-exps.
typedef enum lacuna_log_base {
  // e, as FlashAttention and FlashMLA have it.
  LACUNA_LOG_BASE_E = 0,
  // 2, as FlashInfer has it.
  LACUNA_LOG_BASE_TWO = 1,
} lacuna_log_base;

// Which rows a query sees.
typedef enum lacuna_mask {
  // What is usual: of a segment all, of prefill those up to its own.
  LACUNA_MASK_USUAL = 0,
  // All.
  LACUNA_MASK_NONE = 1,
  // Those up to its own; a request's last rows are those of its queries, unless positions are given.
  LACUNA_MASK_CAUSAL = 2,
  // And of those the last `window`, its own among them.
  LACUNA_MASK_WINDOW = 3,
} lacuna_mask;

// How a key is turned by its position (RoPE).
typedef enum lacuna_turn {
  // Channel `c` with the one half a head further (GPT-NeoX, Llama).
  LACUNA_TURN_HALVES = 0,
  // Each even channel with the next (GPT-J).
  LACUNA_TURN_PAIRS = 1,
  // Not at all.
  LACUNA_TURN_NONE = 2,
} lacuna_turn;

// What positions queries and rows of a cache have, which masks go by.
typedef enum lacuna_positions {
  // A row has its number, and a request's queries are its last rows.
  LACUNA_POSITIONS_ROWS = 0,
  // What the launch is given: of tokens that were kept, those that they had in the prompt.
  LACUNA_POSITIONS_GIVEN = 1,
} lacuna_positions;

// How the weights of a group are kept in a file.
typedef enum lacuna_format {
  // DFloat11, which other readers know: about 10.9 bits a weight, decoded to bf16.
  LACUNA_FORMAT_DF11 = 0,
  // About 10.8 bits a weight, decoded to bf16 by their own index.
  LACUNA_FORMAT_COMPACT = 1,
  // One matrix of about 12.04 bits a weight, multiplied as they lie.
  LACUNA_FORMAT_LANE = 2,
} lacuna_format;

// A way from a matrix and inputs to outputs.
typedef enum lacuna_way {
  // `lacuna_multiply_lane`: 12 bits a weight are read.
  LACUNA_WAY_LANE = 0,
  // The matrix is kept as bf16, and a library multiplies.
  LACUNA_WAY_BF16 = 1,
  // `lacuna_unpack_lane` into a scratch buffer, and a library multiplies that.
  LACUNA_WAY_UNPACKED = 2,
} lacuna_way;

// A plan of `lacuna_append_kv`: for any device, and any number of launches at once.
typedef struct lacuna_append_kv_plan lacuna_append_kv_plan;

// Keys and values of all layers, of several requests, each of which grows without moving. Used by one call at a time.
typedef struct lacuna_arena lacuna_arena;

// A plan of `lacuna_attend_low_rank`: for any device, and any number of launches at once, each with a workspace of its own.
typedef struct lacuna_attend_low_rank_plan lacuna_attend_low_rank_plan;

// A plan of `lacuna_attend`: for any device, and any number of launches at once, each with a workspace of its own.
typedef struct lacuna_attend_plan lacuna_attend_plan;

// A plan of `lacuna_attend_prefill`: for any device, and any number of launches at once.
typedef struct lacuna_attend_prefill_plan lacuna_attend_prefill_plan;

// A plan of `lacuna_attend_tiered`: for any device, and any number of launches at once, each with a workspace of its own.
typedef struct lacuna_attend_tiered_plan lacuna_attend_tiered_plan;

// A checkpoint of compressed weights, mapped into memory. Groups and plain tensors borrow its files: who truncates a file that is
// mapped ends the process.
typedef struct lacuna_checkpoint lacuna_checkpoint;

// A plan of `lacuna_column_mass`: for any device, and any number of launches at once.
typedef struct lacuna_column_mass_plan lacuna_column_mass_plan;

// Encodes compact groups of one size in device memory, with a workspace of its own: `lacuna_compact_encoder_measure`, then memory for what it
// says, and `lacuna_compact_encoder_pack`. One thread uses it at a time.
typedef struct lacuna_compact_encoder lacuna_compact_encoder;

// A plan of `lacuna_compact_rows`: for any device, and any number of launches at once.
typedef struct lacuna_compact_rows_plan lacuna_compact_rows_plan;

// A plan of `lacuna_copy_pages` and `lacuna_copy_pages_within`: for any device, and any number of launches at once, each with a workspace
// of its own.
typedef struct lacuna_copy_pages_plan lacuna_copy_pages_plan;

// A plan of `lacuna_decode_rows`: for any device, and any number of launches at once.
typedef struct lacuna_decode_rows_plan lacuna_decode_rows_plan;

// A CUDA device in its primary context, which the CUDA runtime and every engine share, and the kernels that are loaded into it.
typedef struct lacuna_device lacuna_device;

// A matrix in device memory, in planes that this handle owns.
typedef struct lacuna_device_lane lacuna_device_lane;

// Encodes DF11 groups of one size in device memory, with a workspace of its own: `lacuna_df11_encoder_measure`, then memory for what it
// says, `lacuna_df11_encoder_pack`, and `lacuna_df11_encoder_lengthen`. One thread uses it at a time.
typedef struct lacuna_df11_encoder lacuna_df11_encoder;

// A plan of `lacuna_gate_selection`: for any device, and any number of launches at once.
typedef struct lacuna_gate_selection_plan lacuna_gate_selection_plan;

// A plan of `lacuna_gather_kv` and `lacuna_scatter_kv`: for any device, and any number of launches at once.
typedef struct lacuna_kv_rows_plan lacuna_kv_rows_plan;

// A plan of `lacuna_measure_norms`: for any device, and any number of launches at once.
typedef struct lacuna_measure_norms_plan lacuna_measure_norms_plan;

// A plan of `lacuna_merge_partials` and `lacuna_merge_partials_in_place`: for any device, and any number of launches at once.
typedef struct lacuna_merge_partials_plan lacuna_merge_partials_plan;

// A plan of `lacuna_merge_rows`: for any device, and any number of launches at once.
typedef struct lacuna_merge_rows_plan lacuna_merge_rows_plan;

// A plan of `lacuna_multiply_lane`: for any device, and any number of launches at once.
typedef struct lacuna_multiply_lane_plan lacuna_multiply_lane_plan;

// A plan of `lacuna_measure_lane` and `lacuna_pack_lane`: for any device, and any number of launches at once.
typedef struct lacuna_pack_lane_plan lacuna_pack_lane_plan;

// A plan of `lacuna_quantize_pages`, `lacuna_dequantize_pages` and `lacuna_measure_channels`: for any device, and any number of launches at
// once.
typedef struct lacuna_pages_plan lacuna_pages_plan;

// Pools of pages, and a table of their addresses in device memory. Used by one call at a time.
typedef struct lacuna_pools lacuna_pools;

// Where functions launch kernels: a stream of the caller's.
typedef struct lacuna_queue lacuna_queue;

// A plan of `lacuna_retier_pages`: for any device, and any number of launches at once.
typedef struct lacuna_retier_pages_plan lacuna_retier_pages_plan;

// A plan of `lacuna_gather_rows`, `lacuna_scatter_rows` and `lacuna_scatter_add_rows`: for any device, and any number of launches at once.
typedef struct lacuna_rows_plan lacuna_rows_plan;

// A plan of `lacuna_begin_saliency`, `lacuna_add_saliency` and `lacuna_weigh_saliency`: for any device, and any number of launches at
// once.
typedef struct lacuna_saliency_plan lacuna_saliency_plan;

// A plan of `lacuna_score_rows`: for any device, and any number of launches at once.
typedef struct lacuna_score_rows_plan lacuna_score_rows_plan;

// A group of a checkpoint, checked once. It may be freed after the checkpoint.
typedef struct lacuna_stored lacuna_stored;

// A plan of `lacuna_summarize`: for any device, and any number of launches at once.
typedef struct lacuna_summarize_plan lacuna_summarize_plan;

// A plan of `lacuna_tier_resolve`: for any device, and any number of launches at once, each with a state of its own.
typedef struct lacuna_tier_resolve_plan lacuna_tier_resolve_plan;

// A plan of `lacuna_topk_rows`: for any device, and any number of launches at once.
typedef struct lacuna_topk_rows_plan lacuna_topk_rows_plan;

// A plan of `lacuna_unpack_lane`: for any device, and any number of launches at once.
typedef struct lacuna_unpack_lane_plan lacuna_unpack_lane_plan;

// A plan of `lacuna_vote_rows` and `lacuna_score_votes`: for any device, and any number of launches at once.
typedef struct lacuna_vote_rows_plan lacuna_vote_rows_plan;

// Groups in device memory, ready to be expanded by one launch: by an index of their streams, or without one, as DF11 files have them; by two where there are both.
typedef struct lacuna_weights lacuna_weights;

// What structs begin with that may grow: `LACUNA_HEADER(lacuna_topk_rows_shape)` makes it.
typedef struct lacuna_header {
  // `sizeof` the struct, as its caller was compiled.
  uint32_t size;
  // `LACUNA_ABI_VERSION`, as its caller was compiled.
  uint32_t version;
} lacuna_header;

// Sizes and strides of a paged cache. Row `t` of request `b` and head `h` begins at element
// `page_table[b, t / page_size] * page_stride + t % page_size * token_stride + h * head_stride`.
typedef struct lacuna_kv_shape {
  struct lacuna_header header;
  // Requests.
  uint64_t batch;
  // Heads of keys and values.
  uint64_t n_heads;
  // Elements of a row: the head's dimension; of boxes (`lacuna_summarize`) twice that.
  uint64_t row_len;
  // Pages of a pool.
  uint64_t n_pages;
  // Rows of a page, 1 to 256.
  uint64_t page_size;
  // Entries of the page table from request to request.
  uint64_t table_stride;
  // Tokens that a row stands for; 0 is 1, as of keys and values.
  uint64_t tokens_per_row;
  // Elements from page to page, where `order` does not say it; so the next two.
  uint64_t page_stride;
  // Elements from row to row in a page.
  uint64_t token_stride;
  // Elements from head to head.
  uint64_t head_stride;
  // The type of keys and values: bf16, f16, e4m3 or e5m2.
  uint32_t dtype;
  // A `lacuna_kv_order`.
  uint32_t order;
  // With an order: 1 where a page of keys and then one of values are together, `[n_pages, 2, ...]`, so that values begin
  // `page_stride / 2` after keys; else 0.
  uint32_t is_fused;
  // 0.
  uint32_t reserved;
} lacuna_kv_shape;

// Elements of each view of a `lacuna_kv` or `lacuna_kv_mut`, by the same names.
typedef struct lacuna_kv_sizes {
  struct lacuna_header header;
  uint64_t keys;
  uint64_t values;
  uint64_t page_table;
  uint64_t lengths;
} lacuna_kv_sizes;

// Sizes of an arena.
typedef struct lacuna_arena_shape {
  struct lacuna_header header;
  // Requests that have a place at once: the batch of every cache of the arena.
  uint64_t n_slots;
  // The most tokens of a slot.
  uint64_t max_tokens;
  // Layers of the model; 0 is 1.
  uint64_t n_layers;
  // Heads of keys and values.
  uint64_t n_heads;
  // Elements of a row: the head's dimension.
  uint64_t row_len;
  // Tokens of a page, 1 to 256; 0 is 16.
  uint64_t page_size;
  // Bytes of physical memory that come and go together, rounded up to the device's granularity; 0 is that.
  uint64_t chunk_bytes;
  // The most bytes of physical memory that the arena ever has; 0 is what the device has.
  uint64_t limit_bytes;
  // The type of keys and values: bf16, f16, e4m3 or e5m2.
  uint32_t dtype;
  // `LACUNA_KV_NHD` or `LACUNA_KV_HND`; 0 is the first.
  uint32_t order;
  // A `lacuna_packing`.
  uint32_t packing;
  // 0.
  uint32_t reserved;
} lacuna_arena_shape;

// Device memory that a function reads: `len` elements from `data` on, aligned to an element. All zeros is no view, which
// optional fields may be. This struct never changes.
typedef struct lacuna_view {
  // A `CUdeviceptr`, or what `cudaMalloc` gave.
  const void *data;
  // Elements, of which functions know how many there must be.
  uint64_t len;
  // A `lacuna_dtype`.
  uint32_t dtype;
  // 0; of a growing cache's memory what `lacuna_arena_kv` sets, by which functions that need all of it refuse it.
  uint32_t reserved;
} lacuna_view;

// A cache that a function reads. This struct never changes.
typedef struct lacuna_kv {
  // The pool of keys, of the shape's dtype, from a multiple of 8 elements on.
  struct lacuna_view keys;
  // The pool of values, the same; none where no kernel asks for them.
  struct lacuna_view values;
  // i32 `[batch, table_stride]`: the page of each `page_size` rows. Numbers of no page make rows that are absent.
  struct lacuna_view page_table;
  // u32 `[batch]`: tokens of each request, read on the device.
  struct lacuna_view lengths;
  // What products with keys are multiplied by, the scale of fp8; 0 is 1.
  float key_scale;
  // What values are multiplied by; 0 is 1.
  float value_scale;
} lacuna_kv;

// Device memory that a function writes, and perhaps reads; else as `lacuna_view`. No other memory of the same call
// overlaps it.
typedef struct lacuna_view_mut {
  // A `CUdeviceptr`, or what `cudaMalloc` gave.
  void *data;
  // Elements, of which functions know how many there must be.
  uint64_t len;
  // A `lacuna_dtype`.
  uint32_t dtype;
  // 0; of a growing cache's memory what `lacuna_arena_kv` sets, by which functions that need all of it refuse it.
  uint32_t reserved;
} lacuna_view_mut;

// A cache whose keys and values a function writes; else as `lacuna_kv`. This struct never changes.
typedef struct lacuna_kv_mut {
  struct lacuna_view_mut keys;
  struct lacuna_view_mut values;
  struct lacuna_view page_table;
  struct lacuna_view lengths;
} lacuna_kv_mut;

// Bytes of an arena.
typedef struct lacuna_arena_stats {
  struct lacuna_header header;
  // Addresses, with or without memory.
  uint64_t reserved_bytes;
  // Memory of slots as far as they have grown.
  uint64_t live_bytes;
  // Memory that is mapped beyond: ahead, or let go and not yet taken away.
  uint64_t spare_bytes;
  // Memory that is mapped nowhere.
  uint64_t idle_bytes;
  // Asked for ahead, and not yet mapped.
  uint64_t awaited_bytes;
  // How often growing ahead found no memory, or a driver's error. `lacuna_arena_grow` tries again, and says why.
  uint64_t n_failed_ahead;
  // Bytes of physical memory that come and go together.
  uint64_t chunk_bytes;
  // Bytes by which a slot grows.
  uint64_t step_bytes;
} lacuna_arena_stats;

// Rows of a paged cache, one after the other, that queries attend to.
typedef struct lacuna_segment_shape {
  struct lacuna_header header;
  // The cache, of bf16 or f16: all segments' have as many requests and heads, rows of a head's dimension, and the same dtype.
  const struct lacuna_kv_shape *cache;
  // Of a range, the first row,
  uint64_t first;
  // the row after the last, `UINT64_MAX` where there is none,
  uint64_t end;
  // and so many of a request's last rows, `UINT64_MAX` for all.
  uint64_t last;
  // Of blocks, numbers of a list,
  uint64_t n_blocks;
  // and rows of a block, 1 to 128; 0 is 1.
  uint64_t block_size;
  // With `LACUNA_MASK_WINDOW`, so many rows.
  uint64_t window;
  // A `lacuna_tokens`.
  uint32_t tokens;
  // A `lacuna_kv_lists`: whose lists of blocks there are, and whose biases.
  uint32_t lists;
  // A `lacuna_mask`; 0 is none.
  uint32_t mask;
  // 0.
  uint32_t reserved;
} lacuna_segment_shape;

// Sizes of `lacuna_attend`, and how products become logits.
typedef struct lacuna_attend_shape {
  struct lacuna_header header;
  // 1 to 4 segments, whose rows stand one after the other.
  const struct lacuna_segment_shape *segments;
  uint64_t n_segments;
  // Queries of a request, one token after the other: 1 to 8; 0 is 1.
  uint64_t n_queries;
  // Query heads: 1 to 16 times the heads of keys.
  uint64_t n_q_heads;
  // Elements from query to query, a multiple of 8 and at least all heads'; 0 is all heads'.
  uint64_t query_stride;
  // The same of outputs.
  uint64_t output_stride;
  // What products are multiplied by; 0 is one over the root of the head's dimension.
  float scale;
  // Logits become `soft_cap * tanh(logit / soft_cap)`, before biases are added: 0.001 to 10,000; 0 is none.
  float soft_cap;
  // A `lacuna_log_base`.
  uint32_t log_base;
  // A `lacuna_log_sum_order`.
  uint32_t log_sum_order;
  // The type of outputs: bf16, f16 or f32; 0 is that of keys.
  uint32_t output_dtype;
  // 0.
  uint32_t reserved;
} lacuna_attend_shape;

// Elements of each view of `lacuna_attend_args`, by the same names.
typedef struct lacuna_attend_sizes {
  struct lacuna_header header;
  uint64_t queries;
  uint64_t sinks;
  uint64_t skips;
  uint64_t outputs;
  uint64_t log_sums;
  uint64_t workspace;
} lacuna_attend_sizes;

// Elements of each view of a `lacuna_segment`, by the same names; the cache's are `lacuna_kv_shape_sizes`.
typedef struct lacuna_segment_sizes {
  struct lacuna_header header;
  uint64_t indices;
  uint64_t counts;
  uint64_t biases;
} lacuna_segment_sizes;

// Rows of a paged cache that queries attend to.
typedef struct lacuna_segment {
  struct lacuna_header header;
  // The cache, with values; of scales of 1.
  struct lacuna_kv cache;
  // Of blocks alone, i32 `[batch, n_lists, n_blocks]`: numbers, of which those that name no row are passed over, and one that is there
  // twice counts twice. `n_lists` is the heads of keys, or 1 where lists are a request's.
  struct lacuna_view indices;
  // Optional, of blocks alone, u32 `[batch, n_lists]`: how many of each list's numbers count; else all.
  struct lacuna_view counts;
  // Optional, f32: what is added to logits, in units of the base e: `[batch, n_lists, n_blocks]` of each block, or else
  // `[batch, n_lists, table_stride * page_size]` of each row by its number.
  struct lacuna_view biases;
} lacuna_segment;

// What `lacuna_attend` reads and writes.
typedef struct lacuna_attend_args {
  struct lacuna_header header;
  // `[batch, n_queries, n_q_heads, head_dim]` of the keys' dtype, queries `query_stride` elements apart, from a multiple of 16 bytes on.
  struct lacuna_view queries;
  // As many as the shape has, in its order.
  const struct lacuna_segment *segments;
  uint64_t n_segments;
  // Optional, f32 `[n_q_heads]`: a logit that each softmax has besides, of no value (attention sinks of GPT-OSS). Of parts that
  // are merged later, one alone may have it.
  struct lacuna_view sinks;
  // Optional, u32 `[batch]`: requests where it is not 0 are left alone, their outputs too.
  struct lacuna_view skips;
  // `[batch, n_queries, n_q_heads, head_dim]` of the shape's output dtype, queries `output_stride` elements apart, from a multiple
  // of 16 bytes on.
  struct lacuna_view_mut outputs;
  // Optional, f32 `[batch * n_queries, n_q_heads]`, or in the shape's order: the logarithm of the sum of `exp(logit)`, sinks among them.
  struct lacuna_view_mut log_sums;
  // u32, from a multiple of 16 bytes on: zeros before the first launch.
  struct lacuna_view_mut workspace;
} lacuna_attend_args;

// The pages of one pool.
typedef struct lacuna_pool_shape {
  struct lacuna_header header;
  // Bytes of a page: a multiple of 4.
  uint64_t page_bytes;
  // Bytes from page to page, no less; a multiple of 4. 0 is those of a page.
  uint64_t stride_bytes;
} lacuna_pool_shape;

// Pools whose pages bear the same numbers: of each layer one where keys and values are fused, else two.
typedef struct lacuna_pools_shape {
  struct lacuna_header header;
  // 1 to 65,535.
  const struct lacuna_pool_shape *pools;
  uint64_t n_pools;
  // Pages of each pool.
  uint64_t n_pages;
  // 0: each pool is a view of its own. 1: they are in one view, of each page what all pools have of it, in their order and without
  // gaps, which is what is sent elsewhere; the pools' strides do not matter.
  uint32_t is_packed;
  // 0.
  uint32_t reserved;
} lacuna_pools_shape;

// Sizes of `lacuna_copy_pages` and `lacuna_copy_pages_within`.
typedef struct lacuna_copy_pages_shape {
  struct lacuna_header header;
  // Where pages are read.
  const struct lacuna_pools_shape *sources;
  // Where they are written: as many pools, of as many bytes a page; null for the same pools.
  const struct lacuna_pools_shape *targets;
  // Lists of pairs,
  uint64_t n_lists;
  // and pairs of a list.
  uint64_t n_pairs;
  // Blocks of 128 threads, at most; 0 is as many as there is work for. A copy over the bus needs few, and leaves the multiprocessors to attention
  // that runs beside it.
  uint64_t most_blocks;
} lacuna_copy_pages_shape;

// Elements of each view of `lacuna_copy_pages_args`, by the same names.
typedef struct lacuna_copy_pages_sizes {
  struct lacuna_header header;
  uint64_t pairs;
  uint64_t counts;
  uint64_t expected;
  uint64_t checksums;
  uint64_t status;
  uint64_t workspace;
} lacuna_copy_pages_sizes;

// What `lacuna_copy_pages` and `lacuna_copy_pages_within` read, write and check besides pages.
typedef struct lacuna_copy_pages_args {
  struct lacuna_header header;
  // i32 `[n_lists, n_pairs, 2]`: the number of the page that is read, then of the one that is written. A pair with a number of no page,
  // -1 above all, is passed over.
  struct lacuna_view pairs;
  // Optional, u32 `[n_lists]`: how many of each list's pairs count; else all.
  struct lacuna_view counts;
  // Optional, together with `status`, u64 `[n_lists, n_pairs]`: what the sender's launch wrote as `checksums`. Pages are written all the same.
  struct lacuna_view expected;
  // Optional, u64 `[n_lists, n_pairs]`: the sum of each page as it was read; 0 of pairs that are passed over.
  struct lacuna_view_mut checksums;
  // u64 `[1]`: raised where a page differs from what is expected, which `lacuna_copy_pages_check_status` tells; never cleared.
  struct lacuna_view_mut status;
  // u64, where sums are asked for: zeros before the first launch.
  struct lacuna_view_mut workspace;
} lacuna_copy_pages_args;

// Sizes of `lacuna_attend_low_rank`: which keys are made, and of what.
typedef struct lacuna_attend_low_rank_shape {
  struct lacuna_header header;
  // All the rest, with heads of up to 128 elements.
  const struct lacuna_attend_shape *attend;
  // The segment whose keys are made: one of blocks.
  uint64_t segment;
  // Elements of a row of factors: a multiple of 16, up to 256 (ShadowKV: 160).
  uint64_t rank;
  // Rows of factors of a request: tokens past them are absent.
  uint64_t n_factors;
  // A `lacuna_turn`.
  uint32_t turn;
  // 0.
  uint32_t reserved;
} lacuna_attend_low_rank_shape;

// Elements of each view of `lacuna_attend_low_rank_args`, by the same names; those of `attend` are `lacuna_attend_plan_sizes` of
// `lacuna_attend_low_rank_plan_attend`.
typedef struct lacuna_attend_low_rank_sizes {
  struct lacuna_header header;
  uint64_t factors;
  uint64_t basis;
  uint64_t cos_sin;
  uint64_t value_indices;
} lacuna_attend_low_rank_sizes;

// What `lacuna_attend_low_rank` reads and writes.
typedef struct lacuna_attend_low_rank_args {
  struct lacuna_header header;
  // All the rest. The cache of the segment has values where the lists say, and keys that nothing reads (its values' view will do); its
  // lengths say how many tokens a request has, with `value_indices` also more than it has rows.
  const struct lacuna_attend_args *attend;
  // `[batch, n_factors, rank]` of the keys' dtype, from a multiple of 16 bytes on: a row for each token, before it is turned.
  struct lacuna_view factors;
  // `[batch, n_heads, head_dim, rank]`, the same.
  struct lacuna_view basis;
  // f32 `[n_factors, head_dim]`, from a multiple of 8 bytes on: cosines of each position's angles, and then their sines; none
  // where keys are not turned.
  struct lacuna_view cos_sin;
  // Optional, i32: of each of the segment's blocks, the block of its cache where its values are, as `lacuna_tier_resolve` gives
  // slots; else the same block.
  struct lacuna_view value_indices;
} lacuna_attend_low_rank_args;

// How a part lies.
typedef struct lacuna_partial_shape {
  struct lacuna_header header;
  // Elements from token to token of its outputs, at least all heads'; 0 is all heads'.
  uint64_t stride;
  // A `lacuna_log_sum_order`, whatever that of the others is.
  uint32_t log_sum_order;
  // 0.
  uint32_t reserved;
} lacuna_partial_shape;

// Sizes of `lacuna_merge_partials` and `lacuna_merge_partials_in_place`.
typedef struct lacuna_merge_partials_shape {
  struct lacuna_header header;
  // 1 to 8 parts; in place the 1 to 7 beside the target.
  const struct lacuna_partial_shape *parts;
  uint64_t n_parts;
  // Tokens that attended: of all requests, and queries of each.
  uint64_t n_tokens;
  // Queries of each request, for `LACUNA_LOG_SUMS_BATCH_HEADS_QUERIES` alone; 0 is 1.
  uint64_t n_queries;
  // Query heads.
  uint64_t n_heads;
  // Elements of a head: a multiple of 8, up to 1,024.
  uint64_t head_dim;
  // Elements from token to token of the outputs, at least all heads'; 0 is all heads'.
  uint64_t output_stride;
  // A `lacuna_log_sum_order`: of the outputs; in place, of the target.
  uint32_t log_sum_order;
  // A `lacuna_log_base`: of all log-sum-exps, the parts' and the outputs'.
  uint32_t log_base;
  // The type of the parts' outputs: bf16, f16 or f32.
  uint32_t dtype;
  // The type of outputs, the same; 0 is that of the parts, which it is in place.
  uint32_t output_dtype;
} lacuna_merge_partials_shape;

// Elements of each view of `lacuna_merge_partials_args` and `lacuna_merge_partials_in_place_args`, by the same names.
typedef struct lacuna_merge_partials_sizes {
  struct lacuna_header header;
  uint64_t outputs;
  uint64_t log_sums;
  // In place alone.
  uint64_t mask;
} lacuna_merge_partials_sizes;

// Elements of each view of a `lacuna_partial`, by the same names.
typedef struct lacuna_partial_sizes {
  struct lacuna_header header;
  uint64_t outputs;
  uint64_t log_sums;
  uint64_t mask;
} lacuna_partial_sizes;

// A partial result of attention: over tokens that no other part has.
typedef struct lacuna_partial {
  struct lacuna_header header;
  // `[n_tokens, n_heads, head_dim]` of the shape's dtype, tokens the part's stride apart.
  struct lacuna_view outputs;
  // f32 `[n_tokens, n_heads]`, or in the part's order; infinite where there is nothing.
  struct lacuna_view log_sums;
  // Optional, u32 `[n_tokens]`: where it is 0 the part has nothing for a token, and nothing of it is read.
  struct lacuna_view mask;
} lacuna_partial;

// What `lacuna_merge_partials` reads and writes.
typedef struct lacuna_merge_partials_args {
  struct lacuna_header header;
  // As many as the shape has, in its order.
  const struct lacuna_partial *parts;
  uint64_t n_parts;
  // `[n_tokens, n_heads, head_dim]` of the shape's output dtype, tokens `output_stride` elements apart.
  struct lacuna_view_mut outputs;
  // Optional, f32 `[n_tokens, n_heads]`, or in the shape's order: the log-sum-exp over all parts.
  struct lacuna_view_mut log_sums;
} lacuna_merge_partials_args;

// What `lacuna_merge_partials_in_place` reads and writes.
typedef struct lacuna_merge_partials_in_place_args {
  struct lacuna_header header;
  // The parts beside the target: as many as the shape has, in its order.
  const struct lacuna_partial *parts;
  uint64_t n_parts;
  // Optional, u32 `[n_tokens]`: where it is 0 the target has nothing yet.
  struct lacuna_view mask;
  // The target, the first part before and the result after: `[n_tokens, n_heads, head_dim]` of the shape's dtype, tokens `output_stride`
  // elements apart.
  struct lacuna_view_mut outputs;
  // f32 `[n_tokens, n_heads]`, or in the shape's order, before as after.
  struct lacuna_view_mut log_sums;
} lacuna_merge_partials_in_place_args;

// Sizes of `lacuna_attend_prefill`, and how products become logits.
typedef struct lacuna_attend_prefill_shape {
  struct lacuna_header header;
  // The cache, of bf16 or f16: rows of a head's dimension, a multiple of 16 up to 256.
  const struct lacuna_kv_shape *cache;
  // Query heads: 1 to 16 times the heads of keys.
  uint64_t n_q_heads;
  // Tokens of queries, of all requests one after the other.
  uint64_t n_tokens;
  // Elements from token to token, a multiple of 8 and at least all heads'; 0 is all heads'.
  uint64_t query_stride;
  // The same of outputs.
  uint64_t output_stride;
  // With `LACUNA_MASK_WINDOW`, so many positions.
  uint64_t window;
  // A `lacuna_mask`, by positions; 0 is causal.
  uint32_t mask;
  // A `lacuna_positions`.
  uint32_t positions;
  // What products are multiplied by; 0 is one over the root of the head's dimension.
  float scale;
  // Logits become `soft_cap * tanh(logit / soft_cap)`: 0.001 to 10,000; 0 is none.
  float soft_cap;
  // A `lacuna_log_base`.
  uint32_t log_base;
  // A `lacuna_log_sum_order`: by tokens or by heads, since requests have queries of any number.
  uint32_t log_sum_order;
  // The type of outputs: bf16, f16 or f32; 0 is that of keys.
  uint32_t output_dtype;
  // 0.
  uint32_t reserved;
} lacuna_attend_prefill_shape;

// Elements of each view of `lacuna_attend_prefill_args`, by the same names; the cache's are `lacuna_kv_shape_sizes`.
typedef struct lacuna_attend_prefill_sizes {
  struct lacuna_header header;
  uint64_t queries;
  uint64_t query_starts;
  uint64_t query_positions;
  uint64_t key_positions;
  uint64_t sinks;
  uint64_t skips;
  uint64_t outputs;
  uint64_t log_sums;
} lacuna_attend_prefill_sizes;

// What `lacuna_attend_prefill` reads and writes.
typedef struct lacuna_attend_prefill_args {
  struct lacuna_header header;
  // `[n_tokens, n_q_heads, head_dim]` of the keys' dtype, tokens `query_stride` elements apart, from a multiple of 16 bytes on.
  struct lacuna_view queries;
  // u32 `[batch + 1]`: where each request's queries begin, and the last one's end (FlashAttention's `cu_seqlens_q`). One that is
  // less than another before it counts as that, and one past the tokens as their number.
  struct lacuna_view query_starts;
  // i32 `[n_tokens]`: the position of each query; with `LACUNA_POSITIONS_GIVEN`, and else none.
  struct lacuna_view query_positions;
  // i32 `[batch, table_stride * page_size]`: the position of each row of the cache; as above.
  struct lacuna_view key_positions;
  // The rows that were kept, those of the queries among them; with values, of scales of 1.
  struct lacuna_kv cache;
  // Optional, f32 `[n_q_heads]`: a logit that each softmax has besides, of no value.
  struct lacuna_view sinks;
  // Optional, u32 `[batch]`: requests where it is not 0 are left alone, their outputs too.
  struct lacuna_view skips;
  // `[n_tokens, n_q_heads, head_dim]` of the shape's output dtype, tokens `output_stride` elements apart, from a multiple of 16 bytes on.
  // Tokens of no request stay what they were.
  struct lacuna_view_mut outputs;
  // Optional, f32 `[n_tokens, n_q_heads]`, or in the shape's order: the logarithm of the sum of `exp(logit)`, sinks among them.
  struct lacuna_view_mut log_sums;
} lacuna_attend_prefill_args;

// Sizes of `lacuna_tier_resolve`.
typedef struct lacuna_tier_resolve_shape {
  struct lacuna_header header;
  // Requests.
  uint64_t batch;
  // Lists of a request: 1, or one for each head of keys. Each has slots of its own.
  uint64_t lists_per_request;
  // Entries of a list, at most 8,192.
  uint64_t n;
  // Logical numbers of a request: its tokens, or its pages.
  uint64_t n_logical;
  // Slots of a list, 1 to 32,768. With at least `n`, each entry gets one.
  uint64_t n_slots;
  // Pages of the large tier.
  uint64_t n_source_pages;
} lacuna_tier_resolve_shape;

// Elements of each view of `lacuna_tier_resolve_args`, by the same names.
typedef struct lacuna_tier_resolve_sizes {
  struct lacuna_header header;
  uint64_t indices;
  uint64_t counts;
  uint64_t source_table;
  uint64_t slot_of;
  uint64_t logical_of;
  uint64_t referenced;
  uint64_t hands;
  uint64_t slots;
  uint64_t misses;
  uint64_t miss_counts;
  uint64_t hits;
  uint64_t hit_counts;
  uint64_t fetched;
  uint64_t fetched_counts;
  uint64_t overflows;
} lacuna_tier_resolve_sizes;

// What `lacuna_tier_resolve` reads, keeps from step to step, and writes. There are `batch * lists_per_request` lists.
typedef struct lacuna_tier_resolve_args {
  struct lacuna_header header;
  // i32 `[lists, n]`: what each list asks for, by logical numbers, as `lacuna_topk_rows` leaves them. -1 and other numbers of nothing
  // are passed over; one that stands there twice is copied once.
  struct lacuna_view indices;
  // Optional, u32 `[lists]`: how many of each list's entries count; else all.
  struct lacuna_view counts;
  // Optional, i32 `[batch, n_logical]`: the page `p` that each logical number has in the large tier, in which the lists of a request
  // have pages `p * lists_per_request` and on. Without it list `l` of all has pages `l * n_logical` and on.
  struct lacuna_view source_table;
  // i32 `[lists, n_logical]`: the slot of each logical number, or -1. A number is in a slot where both maps say so.
  struct lacuna_view_mut slot_of;
  // i32 `[lists, n_slots]`: the logical number in each slot, or -1; filled with -1 to begin with, and where a request ends.
  struct lacuna_view_mut logical_of;
  // u32 `[lists, n_slots / 32, rounded up]`: bits of slots asked for; zeros to begin with.
  struct lacuna_view_mut referenced;
  // u32 `[lists]`: the slot that is looked at next; zeros to begin with.
  struct lacuna_view_mut hands;
  // i32 `[lists, n]`: the slot of each entry, in `0..n_slots`; -1 where it has none.
  struct lacuna_view_mut slots;
  // i32 `[lists, n, 2]`, from a multiple of 8 bytes on: pages of the large tier and where they go, page `l * n_slots + slot` of the
  // small tier, `l` being the list; then -1. The pairs of `lacuna_copy_pages`,
  struct lacuna_view_mut misses;
  // u32 `[lists]`: and their counts.
  struct lacuna_view_mut miss_counts;
  // Optional, the next four together: `slots` in two parts, each in the order of the list, then -1, which are lists of blocks that
  // `lacuna_attend` takes. i32 `[lists, n]`: the slots of entries that were there.
  struct lacuna_view_mut hits;
  // u32 `[lists]`: how many.
  struct lacuna_view_mut hit_counts;
  // i32 `[lists, n]`: the slots of entries that are copied.
  struct lacuna_view_mut fetched;
  // u32 `[lists]`: how many.
  struct lacuna_view_mut fetched_counts;
  // Optional, u32 `[lists]`: logical numbers that no slot was left for.
  struct lacuna_view_mut overflows;
} lacuna_tier_resolve_args;

// Sizes of `lacuna_attend_tiered`: the tiered pages before the segments.
typedef struct lacuna_attend_tiered_shape {
  struct lacuna_header header;
  // Queries, outputs and the segments after the pages, of which there is at least one, if of no rows; heads of 64, 128 or 256 elements.
  const struct lacuna_attend_shape *attend;
  // Pages of a list, of keys and of values: 64 slots each.
  uint64_t n_pages;
  // Pages of a list that have the same scales and offsets of channels; 0 is all of them.
  uint64_t span_pages;
  // Pages of each tier's pool, of 16, 8, 4 and 2 bits; 0 where there is no pool.
  uint64_t n_pool_pages[4];
  // A `lacuna_kv_lists`: whose `counts` of slots there are.
  uint32_t lists;
  // A `lacuna_tail`, of all pools.
  uint32_t tail;
  // 1: room on chip for three pieces of pages of each warp in place of two. Bits do not depend on it.
  uint32_t has_three_stages;
  // 0.
  uint32_t reserved;
} lacuna_attend_tiered_shape;

// Elements of each view of `lacuna_attend_tiered_args`, by the same names; those of `attend` are `lacuna_attend_plan_sizes` of
// `lacuna_attend_tiered_plan_attend`, its workspace that of this launch.
typedef struct lacuna_attend_tiered_sizes {
  struct lacuna_header header;
  uint64_t pools[4];
  uint64_t status;
  uint64_t key_entries;
  uint64_t value_entries;
  uint64_t counts;
  uint64_t key_scales;
  uint64_t key_offsets;
  uint64_t value_scales;
  uint64_t value_offsets;
  uint64_t logits;
} lacuna_attend_tiered_sizes;

// What `lacuna_attend_tiered` reads and writes.
typedef struct lacuna_attend_tiered_args {
  struct lacuna_header header;
  // All the rest. Pages are seen by all queries: what may be masked is in segments.
  const struct lacuna_attend_args *attend;
  // u8, of 16, 8, 4 and 2 bits, from a multiple of 16 bytes on: the tiers' pools; none of a tier without pages.
  struct lacuna_view pools[4];
  // u32 `[batch, n_heads, n_pages]`: the page of keys of each 64 tokens, `tier << 30 | number`, tiers by their place in `pools`;
  // number 0x3FFFFFFF is of none, and its tokens are absent.
  struct lacuna_view key_entries;
  // The same of values.
  struct lacuna_view value_entries;
  // Optional, u32 `[batch, n_lists]`: how many slots of each list's pages hold tokens, from the first on; else all.
  struct lacuna_view counts;
  // Optional, f32 `[batch, n_heads, n_pages / span_pages, rounded up; head_dim]`: what keys were divided by; else 1.
  struct lacuna_view key_scales;
  // Optional, the same: what was taken from them before; else 0.
  struct lacuna_view key_offsets;
  // Optional, as those of keys.
  struct lacuna_view value_scales;
  // Optional, as those of keys.
  struct lacuna_view value_offsets;
  // Optional, u64 `[1]`: raised where an entry names a page that its pool does not have, which `lacuna_pages_check_status` tells; never cleared.
  struct lacuna_view_mut status;
  // Optional, f32 `[batch, n_queries, n_q_heads, 64 * n_pages + rows of the segments]`: what each weight is 2 to the power of, before
  // all are divided by their sum; -inf of what is absent or not seen.
  struct lacuna_view_mut logits;
} lacuna_attend_tiered_args;

// What `lacuna_decode_weights` uses and writes.
typedef struct lacuna_decode_weights_args {
  struct lacuna_header header;
  // u64: zeros before the first launch, and used by one launch at a time.
  struct lacuna_view_mut workspace;
  // bf16: every group's weights, one group after the other, in file order.
  struct lacuna_view_mut output;
} lacuna_decode_weights_args;

// Elements of each view of `lacuna_df11_encoder_pack_args`, by the same names.
typedef struct lacuna_df11_encoder_sizes {
  struct lacuna_header header;
  uint64_t weights;
  uint64_t encoded_exponent;
  uint64_t sign_mantissa;
  uint64_t gaps;
  uint64_t output_positions;
  // Bytes of the tensor `luts`, which `lacuna_df11_encoder_luts` gives.
  uint64_t luts;
} lacuna_df11_encoder_sizes;

// What `lacuna_df11_encoder_pack` reads and writes.
typedef struct lacuna_df11_encoder_pack_args {
  struct lacuna_header header;
  // bf16, as they were measured.
  struct lacuna_view weights;
  // u8, aligned to 16 bytes.
  struct lacuna_view_mut encoded_exponent;
  // u8, aligned to 16 bytes.
  struct lacuna_view_mut sign_mantissa;
  // u8.
  struct lacuna_view_mut gaps;
  // u8, aligned to 4 bytes.
  struct lacuna_view_mut output_positions;
} lacuna_df11_encoder_pack_args;

// Elements of each view of `lacuna_compact_encoder_pack_args`, by the same names.
typedef struct lacuna_compact_encoder_sizes {
  struct lacuna_header header;
  uint64_t weights;
  uint64_t codes;
  uint64_t sign_mantissa;
  uint64_t tile_bytes;
  uint64_t granule_bits;
  // Bytes of the tensor `lengths`, and of the code table, which `lacuna_compact_encoder_code` gives.
  uint64_t lengths;
  uint64_t table;
} lacuna_compact_encoder_sizes;

// What `lacuna_compact_encoder_pack` reads and writes.
typedef struct lacuna_compact_encoder_pack_args {
  struct lacuna_header header;
  // bf16, as they were measured.
  struct lacuna_view weights;
  // u8, aligned to 16 bytes.
  struct lacuna_view_mut codes;
  // u8, aligned to 16 bytes.
  struct lacuna_view_mut sign_mantissa;
  // u32.
  struct lacuna_view_mut tile_bytes;
  // u16.
  struct lacuna_view_mut granule_bits;
} lacuna_compact_encoder_pack_args;

// What a checkpoint holds. Texts are there until the checkpoint is freed.
typedef struct lacuna_checkpoint_facts {
  struct lacuna_header header;
  // Groups of compressed weights.
  uint64_t n_groups;
  // Tensors that belong to no group.
  uint64_t n_plain;
  // The model's `config.json`, UTF-8; null where there is none.
  const char *config;
} lacuna_checkpoint_facts;

// A group of a checkpoint, of which only the file's header was read.
typedef struct lacuna_checkpoint_entry {
  struct lacuna_header header;
  // Its module path, UTF-8, there until the checkpoint is freed.
  const char *name;
  // A `lacuna_format`.
  uint32_t format;
  // 1 where the file carries a checksum of the decoded weights, as files of other encoders do not; else 0.
  uint32_t has_checksum;
} lacuna_checkpoint_entry;

// A tensor that belongs to no group. What is named here is there until the checkpoint is freed.
typedef struct lacuna_plain_tensor {
  struct lacuna_header header;
  // UTF-8.
  const char *name;
  // Its type, as safetensors calls it: `BF16`, `F8_E4M3`.
  const char *dtype_name;
  // Its dimensions, the slowest first.
  const uint64_t *shape;
  uint64_t n_dimensions;
  // Its elements in the file that is mapped, little-endian, in any alignment.
  const void *data;
  uint64_t n_bytes;
  // The same type as a `lacuna_dtype`; 0 where there is none.
  uint32_t dtype;
  // 0.
  uint32_t reserved;
} lacuna_plain_tensor;

// How far a conversion is.
typedef struct lacuna_progress {
  struct lacuna_header header;
  // The group just finished, UTF-8, there until the function returns.
  const char *group;
  // Bytes of bf16 done,
  uint64_t done_bytes;
  // and in all.
  uint64_t total_bytes;
  // Bytes that the done ones are compressed.
  uint64_t compressed_bytes;
} lacuna_progress;

// How files are converted. No options are zeros.
typedef struct lacuna_conversion {
  struct lacuna_header header;
  // Of `lacuna_compress` alone: rules that make groups, each `REGEX=module,module,...`, or `REGEX` for a module that is a group itself; none are those of
  // common models.
  const char *const *patterns;
  uint64_t n_patterns;
  // Optional: called after each group, on the thread of the call, with `context`. It throws nothing.
  void (*progress)(void *context, const struct lacuna_progress *progress);
  void *context;
  // The `lacuna_format` to write; of `lacuna_decompress` 0.
  uint32_t format;
  // 0.
  uint32_t reserved;
} lacuna_conversion;

// What a conversion did.
typedef struct lacuna_converted {
  struct lacuna_header header;
  // Groups converted,
  uint64_t n_groups;
  // their bytes in bf16,
  uint64_t bf16_bytes;
  // and compressed.
  uint64_t compressed_bytes;
  // Tensors copied as they are,
  uint64_t n_plain;
  // and their bytes.
  uint64_t plain_bytes;
} lacuna_converted;

// A group whose tensors were found sound. Texts are there until the group is freed.
typedef struct lacuna_stored_facts {
  struct lacuna_header header;
  // Its module path, UTF-8.
  const char *name;
  // What is sound here and would trouble another reader, a line each, UTF-8; empty where there is nothing.
  const char *warnings;
  // Weights.
  uint64_t n_elements;
  uint64_t n_matrices;
  // Bytes of all its tensors.
  uint64_t n_bytes;
  // A `lacuna_format`.
  uint32_t format;
  // 1 where the file carries a checksum of the decoded weights; else 0.
  uint32_t has_checksum;
} lacuna_stored_facts;

// A matrix of a group. What is named here is there until the group is freed.
typedef struct lacuna_matrix {
  struct lacuna_header header;
  // Its tensor's name in the uncompressed model, UTF-8; where the files name none, the group's and a number.
  const char *name;
  // Its weights, as a range of the decoded group.
  uint64_t start;
  uint64_t end;
  // Its dimensions, the slowest first; null where the files do not say them.
  const uint64_t *shape;
  uint64_t n_dimensions;
} lacuna_matrix;

// Host memory that a function reads before it returns: `n_bytes` from `data` on. All zeros is no bytes. This struct never changes.
typedef struct lacuna_bytes {
  const void *data;
  uint64_t n_bytes;
} lacuna_bytes;

// The tensors of a DF11 group in host memory, as a checkpoint has them.
typedef struct lacuna_df11_group {
  struct lacuna_header header;
  // Optional: the group's name in messages, UTF-8.
  struct lacuna_bytes name;
  // `[n_code_bytes]`: the exponents, prefix-coded.
  struct lacuna_bytes encoded_exponent;
  // `[n_elements]`.
  struct lacuna_bytes sign_mantissa;
  // `[n_lut_rows + 1, 256]`.
  struct lacuna_bytes luts;
  // `[320 * n_blocks]`.
  struct lacuna_bytes gaps;
  // `[4 * (n_blocks + 1)]`.
  struct lacuna_bytes output_positions;
  // `[8 * (n_matrices - 1)]`; none where the group is one matrix.
  struct lacuna_bytes split_positions;
} lacuna_df11_group;

// The tensors of a compact group in host memory, as a checkpoint has them.
typedef struct lacuna_compact_group {
  struct lacuna_header header;
  // Optional: the group's name in messages, UTF-8.
  struct lacuna_bytes name;
  // `[n_code_bytes]`: the exponents, prefix-coded.
  struct lacuna_bytes codes;
  // `[n_elements]`.
  struct lacuna_bytes sign_mantissa;
  // `[128]`.
  struct lacuna_bytes lengths;
  // `[4 * (n_granules / 32 + 1)]`, `n_granules` being the weights over 128, rounded up.
  struct lacuna_bytes tile_bytes;
  // `[2 * (n_granules + 1)]`.
  struct lacuna_bytes granule_bits;
  // `[8 * (n_matrices - 1)]`; none where the group is one matrix.
  struct lacuna_bytes split_positions;
} lacuna_compact_group;

// The tensors of a matrix in host memory, as a checkpoint has them, in any alignment.
typedef struct lacuna_lane_tensors {
  struct lacuna_header header;
  // Optional: the matrix's name in messages, UTF-8.
  struct lacuna_bytes name;
  // `[LACUNA_LANE_HEADER_BYTES]`: what `lacuna_lane_header` gives.
  struct lacuna_bytes lane_header;
  // `[n_row_tiles, 8]`.
  struct lacuna_bytes palettes;
  // `[n_tiles, 2048]`.
  struct lacuna_bytes low;
  // `[4 * n_tiles * 256]`: little-endian u32.
  struct lacuna_bytes high;
  // `[8 * n_tiles]`: little-endian u64.
  struct lacuna_bytes headers;
  // `[4 * n_escapes]`: little-endian u32.
  struct lacuna_bytes escapes;
} lacuna_lane_tensors;

// Entries of an index's two arrays.
typedef struct lacuna_index_sizes {
  struct lacuna_header header;
  uint64_t tile_bytes;
  uint64_t granule_bits;
} lacuna_index_sizes;

// Rows and columns of a matrix: output features and input features of a linear layer.
typedef struct lacuna_lane_shape {
  struct lacuna_header header;
  uint64_t n_rows;
  uint64_t n_columns;
} lacuna_lane_shape;

// Elements of a matrix's planes, by the same names as in `lacuna_lane_views`; of escapes there are as many as the weights ask for.
typedef struct lacuna_lane_sizes {
  struct lacuna_header header;
  uint64_t palettes;
  uint64_t low;
  uint64_t high;
  uint64_t headers;
  // Weights.
  uint64_t n_weights;
  // Bytes of all planes beside escapes, each of which has 4 more.
  uint64_t n_bytes;
} lacuna_lane_sizes;

// The two launches that pack a matrix.
typedef struct lacuna_pack_lane_shape {
  struct lacuna_header header;
  uint64_t n_rows;
  uint64_t n_columns;
  // Elements between the starts of two rows of the weights; 0 is `n_columns`. A multiple of 8 is faster.
  uint64_t weights_stride;
} lacuna_pack_lane_shape;

// The planes of a matrix in device memory, of which nothing is trusted: of `lacuna_device_lane_views`, or an engine's own.
typedef struct lacuna_lane_views {
  struct lacuna_header header;
  uint64_t n_rows;
  uint64_t n_columns;
  // u8 `[n_row_tiles, 8]`, aligned to 8 bytes.
  struct lacuna_view palettes;
  // u8 `[n_tiles, 2048]`, aligned to 16 bytes.
  struct lacuna_view low;
  // u32 `[n_tiles, 256]`, aligned to 16 bytes.
  struct lacuna_view high;
  // u64 `[n_tiles]`.
  struct lacuna_view headers;
  // Optional, u32 `[n_escapes]`.
  struct lacuna_view escapes;
} lacuna_lane_views;

// A launch that unpacks a matrix.
typedef struct lacuna_unpack_lane_shape {
  struct lacuna_header header;
  uint64_t n_rows;
  uint64_t n_columns;
  // Elements between the starts of two rows of the output; 0 is `n_columns`. A multiple of 8 is faster.
  uint64_t output_stride;
} lacuna_unpack_lane_shape;

// Elements of the view of `lacuna_unpack_lane_args`; planes are as `lacuna_lane_shape_sizes` says.
typedef struct lacuna_unpack_lane_sizes {
  struct lacuna_header header;
  uint64_t output;
} lacuna_unpack_lane_sizes;

// What `lacuna_unpack_lane` reads and writes.
typedef struct lacuna_unpack_lane_args {
  struct lacuna_header header;
  const struct lacuna_lane_views *planes;
  // bf16 `[n_rows, n_columns]`, rows `output_stride` elements apart.
  struct lacuna_view_mut output;
} lacuna_unpack_lane_args;

// Elements of the views of `lacuna_measure_lane_args` and `lacuna_pack_lane_args`, by the same names.
typedef struct lacuna_pack_lane_sizes {
  struct lacuna_header header;
  uint64_t weights;
  uint64_t workspace;
  uint64_t palettes;
  uint64_t n_escapes;
  uint64_t low;
  uint64_t high;
  uint64_t headers;
} lacuna_pack_lane_sizes;

// What `lacuna_measure_lane` reads and writes.
typedef struct lacuna_measure_lane_args {
  struct lacuna_header header;
  // bf16 `[n_rows, n_columns]`, rows `weights_stride` elements apart.
  struct lacuna_view weights;
  // u8 `[n_row_tiles, 8]`.
  struct lacuna_view_mut palettes;
  // u64 `[1]`: how many escapes the matrix has.
  struct lacuna_view_mut n_escapes;
  // u64, zeroed once.
  struct lacuna_view_mut workspace;
} lacuna_measure_lane_args;

// What `lacuna_pack_lane` reads and writes.
typedef struct lacuna_pack_lane_args {
  struct lacuna_header header;
  // As it was measured.
  struct lacuna_view weights;
  // u8: what `lacuna_measure_lane` wrote, aligned to 8 bytes.
  struct lacuna_view palettes;
  // u8, aligned to 16 bytes.
  struct lacuna_view_mut low;
  // u32, aligned to 16 bytes.
  struct lacuna_view_mut high;
  // u64.
  struct lacuna_view_mut headers;
  // Optional, u32: room for as many escapes as were counted; those past it are not written, and room past them stays what it was.
  struct lacuna_view_mut escapes;
  // u64: what `lacuna_measure_lane` left there.
  struct lacuna_view workspace;
} lacuna_pack_lane_args;

// One matrix of a product.
typedef struct lacuna_factor_shape {
  struct lacuna_header header;
  uint64_t n_rows;
  // A multiple of 8, the same for all.
  uint64_t n_columns;
  // Elements between the starts of two rows of its output; 0 is `n_rows`.
  uint64_t output_stride;
  // Elements between the starts of two rows of its residual; 0 is `n_rows`.
  uint64_t residual_stride;
} lacuna_factor_shape;

// Sizes of `lacuna_multiply_lane`.
typedef struct lacuna_multiply_lane_shape {
  struct lacuna_header header;
  // 1 to `LACUNA_MOST_FACTORS` matrices, which are multiplied by the same inputs.
  const struct lacuna_factor_shape *factors;
  uint64_t n_factors;
  // 1 to `LACUNA_MOST_INPUTS`.
  uint64_t n_inputs;
  // Elements between the starts of two inputs, a multiple of 8; 0 is the columns.
  uint64_t x_stride;
  // Rows of a block: 0 is what suits the shapes. No result depends on it.
  uint64_t block_rows;
  // The type of outputs, biases and residuals: bf16, f16 or f32.
  uint32_t dtype;
  // 1: of two matrices of one shape, `silu` of the first's product times the second's; else 0.
  uint32_t is_gated;
} lacuna_multiply_lane_shape;

// Elements of each view of `lacuna_multiply_lane_args` and of its factors, by the same names.
typedef struct lacuna_multiply_lane_sizes {
  struct lacuna_header header;
  uint64_t x;
  uint64_t bias[4];
  // Of what is gated the first alone.
  uint64_t output[4];
  uint64_t residual[4];
} lacuna_multiply_lane_sizes;

// One matrix, what is added to its sums, and where they go.
typedef struct lacuna_factor {
  struct lacuna_header header;
  const struct lacuna_lane_views *planes;
  // Optional, `[n_rows]` of the shape's dtype: added to the outputs of every input.
  struct lacuna_view bias;
  // Optional, `[n_inputs, n_rows]` of the shape's dtype: added last. None of a gated product's second matrix.
  struct lacuna_view residual;
  // `[n_inputs, n_rows]` of the shape's dtype. None of a gated product's second matrix.
  struct lacuna_view_mut output;
  // 1: what is in the output is added last, and there is no `residual`; else 0.
  uint32_t is_added_to_output;
  // 0.
  uint32_t reserved;
} lacuna_factor;

// What `lacuna_multiply_lane` reads and writes.
typedef struct lacuna_multiply_lane_args {
  struct lacuna_header header;
  // bf16 `[n_inputs, n_columns]`, inputs `x_stride` elements apart, aligned to 16 bytes.
  struct lacuna_view x;
  // As many as the shape's, in its order.
  const struct lacuna_factor *factors;
  uint64_t n_factors;
} lacuna_multiply_lane_args;

// What an estimate asks of a device.
typedef struct lacuna_device_rates {
  struct lacuna_header header;
  // Between memory and chip.
  double bytes_per_second;
  uint64_t n_multiprocessors;
} lacuna_device_rates;

// How long each way takes, by arithmetic alone. No GPU has confirmed it yet.
typedef struct lacuna_multiply_lane_estimate {
  struct lacuna_header header;
  // Seconds by `LACUNA_WAY_LANE`; negative for more inputs than a launch takes.
  double lane;
  double bf16;
  double unpacked;
  // The fastest `lacuna_way` where the matrix may be kept as bf16 too,
  uint32_t fastest;
  // and where it is kept as lanes alone.
  uint32_t fastest_of_lanes;
} lacuna_multiply_lane_estimate;

// Rows of a matrix that lies in a group, an embedding's for instance.
typedef struct lacuna_decode_rows_shape {
  struct lacuna_header header;
  // Weights of the group.
  uint64_t n_elements;
  // Where in it the matrix begins, in elements.
  uint64_t first_element;
  // Rows of the matrix.
  uint64_t n_matrix_rows;
  // Elements of a row.
  uint64_t row_len;
  // Rows that are asked for.
  uint64_t n_rows;
  // Elements from row to row of the output; 0 is `row_len`.
  uint64_t output_stride;
} lacuna_decode_rows_shape;

// Elements of each view of `lacuna_decode_rows_args`, by the same names; `workspace` is as `lacuna_weights_sizes` says.
typedef struct lacuna_decode_rows_sizes {
  struct lacuna_header header;
  uint64_t rows;
  uint64_t output;
} lacuna_decode_rows_sizes;

// What `lacuna_decode_rows` reads and writes.
typedef struct lacuna_decode_rows_args {
  struct lacuna_header header;
  // The group's number among the weights.
  uint64_t group;
  // A `lacuna_absent`, for rows whose number is none: 0 makes zeros of them, 1 leaves them alone.
  uint32_t absent;
  // 0.
  uint32_t reserved;
  // u32 `[n_rows]`, any numbers.
  struct lacuna_view rows;
  // u64: as of `lacuna_decode_weights`.
  struct lacuna_view_mut workspace;
  // bf16 `[n_rows, row_len]`, rows `output_stride` elements apart.
  struct lacuna_view_mut output;
} lacuna_decode_rows_args;

// A group and its index in host memory: DF11 with an index that `lacuna_weights_download_index` gave.
typedef struct lacuna_indexed_group {
  struct lacuna_header header;
  // `[n_code_bytes]`: of DF11 the tensor `encoded_exponent`.
  struct lacuna_bytes codes;
  // `[n_elements]`.
  struct lacuna_bytes sign_mantissa;
  // `[4 * (n_granules / 32 + 1)]`.
  struct lacuna_bytes tile_bytes;
  // `[2 * (n_granules + 1)]`.
  struct lacuna_bytes granule_bits;
  // `[LACUNA_CODE_TABLE_BYTES]`: of `lacuna_df11_code_table` or `lacuna_compact_code_table`.
  struct lacuna_bytes table;
  // `[n_lut_rows + 1, 256]`: DF11's tables, where codes may be longer than 12 bits; else none.
  struct lacuna_bytes luts;
} lacuna_indexed_group;

// The tensors of a DF11 group in device memory: u8 views.
typedef struct lacuna_df11_views {
  struct lacuna_header header;
  // `[n_code_bytes]`: the tensor `encoded_exponent`.
  struct lacuna_view encoded_exponent;
  // `[n_elements]`.
  struct lacuna_view sign_mantissa;
  // `[n_lut_rows + 1, 256]`.
  struct lacuna_view luts;
  // `[320 * n_blocks]`.
  struct lacuna_view gaps;
  // `[4 * n_positions]`.
  struct lacuna_view output_positions;
} lacuna_df11_views;

// The tensors of a group with an index in device memory.
typedef struct lacuna_indexed_views {
  struct lacuna_header header;
  // u8 `[n_code_bytes]`, aligned to 16 bytes.
  struct lacuna_view codes;
  // u8 `[n_elements]`, aligned to 16 bytes.
  struct lacuna_view sign_mantissa;
  // u32 `[n_granules / 32 + 1]`.
  struct lacuna_view tile_bytes;
  // u16 `[n_granules + 1]`.
  struct lacuna_view granule_bits;
  // u8 `[LACUNA_CODE_TABLE_BYTES]`, aligned to 16 bytes.
  struct lacuna_view table;
  // Optional, u8 `[n_lut_rows + 1, 256]`: DF11's tables, where codes may be longer than 12 bits.
  struct lacuna_view luts;
} lacuna_indexed_views;

// Elements of each view of `lacuna_decode_weights_args`, by the same names, and what else is known of weights.
typedef struct lacuna_decode_weights_sizes {
  struct lacuna_header header;
  uint64_t workspace;
  uint64_t output;
  // Bytes of device memory that the weights own.
  uint64_t owned_bytes;
  // Groups.
  uint64_t n_groups;
  // Those of them that have no index.
  uint64_t n_plain_groups;
} lacuna_decode_weights_sizes;

// Sizes of `lacuna_append_kv`, and how keys are turned.
typedef struct lacuna_append_kv_shape {
  struct lacuna_header header;
  // The cache: bf16 or f16, with values.
  const struct lacuna_kv_shape *kv;
  // Tokens of a request, at most.
  uint64_t n_tokens;
  // Elements from one token's keys to the next one's, a multiple of 8; 0 is those of its heads.
  uint64_t key_stride;
  // The same of values.
  uint64_t value_stride;
  // The first so many elements of a key are turned, a multiple of 16; 0: keys stay as they are.
  uint64_t rotary_dim;
  // Positions that have angles: positions outside count as the nearest.
  uint64_t n_positions;
  // Tokens of a block, a power of two up to 128, which changes no bit; 0 leaves it to the library.
  uint64_t block_tokens;
  // A `lacuna_turn`.
  uint32_t turn;
  // 0.
  uint32_t reserved;
} lacuna_append_kv_shape;

// Elements of each view of `lacuna_append_kv_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
typedef struct lacuna_append_kv_sizes {
  struct lacuna_header header;
  uint64_t keys;
  uint64_t values;
  uint64_t counts;
  uint64_t keeps;
  uint64_t positions;
  uint64_t cos_sin;
  uint64_t new_lengths;
  uint64_t dropped;
  uint64_t workspace;
} lacuna_append_kv_sizes;

// What `lacuna_append_kv` reads and writes.
typedef struct lacuna_append_kv_args {
  struct lacuna_header header;
  // `[batch, n_tokens, n_heads, head_dim]` of the cache's dtype, tokens `key_stride` elements apart, from a multiple of 16 bytes on.
  struct lacuna_view keys;
  // The same, `value_stride` elements apart.
  struct lacuna_view values;
  // Optional, u32 `[batch]`: how many of a request's tokens there are, the first ones; else all.
  struct lacuna_view counts;
  // Optional, u32 `[batch, n_tokens]`: not 0 where a token is kept; else all are.
  struct lacuna_view keeps;
  // Optional, i32 `[batch, n_tokens]`: the position of each token; else the request's length and its place among the new tokens, of
  // which those that are not kept count too.
  struct lacuna_view positions;
  // Where keys are turned, f32 `[n_positions, rotary_dim]`, from a multiple of 16 bytes on: cosines of each position's angles, and
  // then their sines.
  struct lacuna_view cos_sin;
  // The cache; its `lengths` are those before.
  struct lacuna_kv_mut cache;
  // u32 `[batch]`: how many rows each request then has. Not the lengths before: an engine has two buffers by turns.
  struct lacuna_view_mut new_lengths;
  // Optional, u32 `[batch]`: how many of the kept tokens found no room.
  struct lacuna_view_mut dropped;
  // u32, of any content; of no elements where a request has up to 1,024 tokens.
  struct lacuna_view_mut workspace;
} lacuna_append_kv_args;

// Sizes of `lacuna_measure_norms`.
typedef struct lacuna_measure_norms_shape {
  struct lacuna_header header;
  // The cache, with values; a row for each token.
  const struct lacuna_kv_shape *kv;
  // Norms of each request and head, up to 2^26; 0 is all rows that the page table holds.
  uint64_t n_tokens;
  // Rows of a request and head that the grid is for; a launch measures what there are more too, at a slower pace. 0 is all.
  uint64_t max_new;
  // A `lacuna_norm`.
  uint32_t norm;
  // 0.
  uint32_t reserved;
} lacuna_measure_norms_shape;

// Elements of each view of `lacuna_measure_norms_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
typedef struct lacuna_measure_norms_sizes {
  struct lacuna_header header;
  uint64_t firsts;
  uint64_t norms;
} lacuna_measure_norms_sizes;

// What `lacuna_measure_norms` reads and writes.
typedef struct lacuna_measure_norms_args {
  struct lacuna_header header;
  // The cache, with values.
  struct lacuna_kv cache;
  // Optional, u32 `[batch]`: the first row of each request that is measured; else 0.
  struct lacuna_view firsts;
  // f32 `[batch, n_heads, n_tokens]`; what lies before the first row or past the length stays what it was.
  struct lacuna_view_mut norms;
} lacuna_measure_norms_args;

// Pages of one head: `LACUNA_PAGE_TOKENS` tokens each.
typedef struct lacuna_page_shape {
  struct lacuna_header header;
  // Channels: a multiple of 32 up to 256.
  uint64_t head_dim;
  // A `lacuna_part`.
  uint32_t part;
  // A `lacuna_tail`.
  uint32_t tail;
} lacuna_page_shape;

// How large a page is.
typedef struct lacuna_page_sizes {
  struct lacuna_header header;
  // Bytes of a page: a multiple of 256.
  uint64_t page_bytes;
  // Of those, bytes of its elements, which come first.
  uint64_t code_bytes;
} lacuna_page_sizes;

// Where in a page an element is, and what its token has beside it.
typedef struct lacuna_page_place {
  struct lacuna_header header;
  // Its byte; of 16 bits the first.
  uint64_t byte;
  // Its lowest bit in that byte.
  uint64_t shift;
  // The first byte of the token's step: bf16, with minimums f32; of 16 bits, which have none, `code_bytes`.
  uint64_t scale_byte;
  // The first byte of its zero point, i16, or of its minimum, f32; the same.
  uint64_t zero_byte;
} lacuna_page_place;

// Sizes of `lacuna_quantize_pages`, `lacuna_dequantize_pages` and `lacuna_measure_channels`.
typedef struct lacuna_pages_shape {
  struct lacuna_header header;
  // The cache of numbers: bf16 or f16, keys and values, rows of a multiple of 32 elements, up to 256.
  const struct lacuna_kv_shape *kv;
  // Pages that a list makes, of keys and of values, at most: 64 indices each.
  uint64_t n_pages;
  // Pages of a list that have the same scales and offsets of channels; 0 is all of them.
  uint64_t span_pages;
  // Pages of each tier's pool, by `lacuna_tier`: of 16, 8, 4 and 2 bits; 0 where there is no pool. Channels are measured without them.
  uint64_t n_pool_pages[4];
  // A `lacuna_kv_lists`.
  uint32_t lists;
  // A `lacuna_tail`, of all pools.
  uint32_t tail;
} lacuna_pages_shape;

// Elements of each view of `lacuna_quantize_pages_args`, `lacuna_dequantize_pages_args` and `lacuna_measure_channels_args`, by the same
// names; of the cache, `lacuna_kv_shape_sizes`.
typedef struct lacuna_pages_sizes {
  struct lacuna_header header;
  uint64_t indices;
  uint64_t counts;
  uint64_t key_entries;
  uint64_t value_entries;
  uint64_t key_scales;
  uint64_t key_offsets;
  uint64_t value_scales;
  uint64_t value_offsets;
  uint64_t pools[4];
  uint64_t status;
  // Of `lacuna_measure_channels`.
  uint64_t workspace;
} lacuna_pages_sizes;

// What `lacuna_quantize_pages` reads and writes.
typedef struct lacuna_quantize_pages_args {
  struct lacuna_header header;
  // The cache of numbers.
  struct lacuna_kv cache;
  // i32 `[batch, n_lists, n_pages, 64]`, of a request one list or one for each head: numbers of a request's rows. One that is of no row, as
  // -1, is a slot of nothing.
  struct lacuna_view indices;
  // Optional, u32 `[batch, n_lists]`: how many of each list's indices count; else all.
  struct lacuna_view counts;
  // u32 `[batch, n_heads, n_pages]`: the page of keys of each 64, `tier << 30 | number`, tiers by `lacuna_tier`. One of no page
  // (`LACUNA_NO_PAGE`) is passed over. No page may stand there twice.
  struct lacuna_view key_entries;
  // The same of values.
  struct lacuna_view value_entries;
  // Optional, f32 `[batch, n_heads, n_pages / span_pages, rounded up; head_dim]`: what keys are divided by; else 1.
  struct lacuna_view key_scales;
  // Optional, the same: what is taken from them before; else 0.
  struct lacuna_view key_offsets;
  // Optional, as those of keys.
  struct lacuna_view value_scales;
  // Optional, as those of keys.
  struct lacuna_view value_offsets;
  // u8, by `lacuna_tier`, from a multiple of 16 bytes on: the tiers' pools; none of a tier without pages. One that is left out has none,
  // whatever the plan says.
  struct lacuna_view_mut pools[4];
  // Optional, u64 `[1]`: raised where an entry names a page that its pool does not have (`lacuna_pages_check_status`); never cleared.
  struct lacuna_view_mut status;
} lacuna_quantize_pages_args;

// What `lacuna_dequantize_pages` reads and writes.
typedef struct lacuna_dequantize_pages_args {
  struct lacuna_header header;
  // As of `lacuna_quantize_pages_args`.
  struct lacuna_view pools[4];
  // Optional, the same.
  struct lacuna_view_mut status;
  // The same: which rows the pages' slots go to.
  struct lacuna_view indices;
  // Optional, the same.
  struct lacuna_view counts;
  // The same.
  struct lacuna_view key_entries;
  // The same.
  struct lacuna_view value_entries;
  // Optional, the same.
  struct lacuna_view key_scales;
  // Optional, the same.
  struct lacuna_view key_offsets;
  // Optional, the same.
  struct lacuna_view value_scales;
  // Optional, the same.
  struct lacuna_view value_offsets;
  // Whose rows are written; those that no list names are left alone.
  struct lacuna_kv_mut cache;
} lacuna_dequantize_pages_args;

// What `lacuna_measure_channels` reads and writes.
typedef struct lacuna_measure_channels_args {
  struct lacuna_header header;
  // The cache of numbers.
  struct lacuna_kv cache;
  // As of `lacuna_quantize_pages_args`: which rows are measured.
  struct lacuna_view indices;
  // Optional, the same.
  struct lacuna_view counts;
  // Optional, f32 `[batch, n_heads, n_pages / span_pages, rounded up; head_dim]`: root mean squares of what is left of keys when offsets are
  // taken away, those that are asked for.
  struct lacuna_view_mut key_scales;
  // Optional, the same: means.
  struct lacuna_view_mut key_offsets;
  // Optional, as those of keys.
  struct lacuna_view_mut value_scales;
  // Optional, as those of keys.
  struct lacuna_view_mut value_offsets;
  // u32: zeros before the first launch, and used by one launch at a time; every launch leaves it ready. Of no elements where a span
  // has up to 8 pages.
  struct lacuna_view_mut workspace;
} lacuna_measure_channels_args;

// Sizes of `lacuna_retier_pages`.
typedef struct lacuna_retier_pages_shape {
  struct lacuna_header header;
  // Cache, pools, whose lists there are, and pages of a run. All pages of a list have the same channels: one span.
  const struct lacuna_pages_shape *pages;
  // Runs of a list, 1 to 16: each makes pages that follow each other in the new table; 0 is 1.
  uint64_t n_runs;
  // Pages of an old table; 0 is those of a run.
  uint64_t n_old_pages;
  // Pages of a new one; 0 is those of a run.
  uint64_t n_new_pages;
  // Positions of a request that slots are known of; 0 is the rows that the cache holds.
  uint64_t n_positions;
} lacuna_retier_pages_shape;

// Elements of each view of `lacuna_retier_pages_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
typedef struct lacuna_retier_pages_sizes {
  struct lacuna_header header;
  uint64_t slot_of;
  uint64_t old_key_entries;
  uint64_t old_value_entries;
  uint64_t indices;
  uint64_t counts;
  uint64_t first_pages;
  uint64_t key_entries;
  uint64_t value_entries;
  uint64_t key_scales;
  uint64_t key_offsets;
  uint64_t value_scales;
  uint64_t value_offsets;
  uint64_t pools[4];
  uint64_t status;
  uint64_t new_slots;
} lacuna_retier_pages_sizes;

// What `lacuna_retier_pages` reads and writes.
typedef struct lacuna_retier_pages_args {
  struct lacuna_header header;
  // Optional: where tokens that are in no page wait, by their positions.
  struct lacuna_kv cache;
  // i32 `[batch, n_heads, n_positions]`: where a token is, `64 * page + token` of the old tables; negative where it waits.
  struct lacuna_view slot_of;
  // u32 `[batch, n_heads, n_old_pages]`: `tier << 30 | number` of each old page of keys.
  struct lacuna_view old_key_entries;
  // The same of values.
  struct lacuna_view old_value_entries;
  // i32 `[batch, n_lists, n_runs, n_pages, 64]`: positions of tokens, in the order in which they shall stand. One of no token, as -1, is a slot
  // of nothing.
  struct lacuna_view indices;
  // Optional, u32 `[batch, n_lists, n_runs]`: how many of each run's indices count; else all.
  struct lacuna_view counts;
  // Optional, the same: where in the new tables a run's first page is; else `n_pages` times the run's number.
  struct lacuna_view first_pages;
  // u32 `[batch, n_heads, n_new_pages]`: the page of keys of each 64 tokens. No page may stand there twice, and none that is an old one may be
  // made.
  struct lacuna_view key_entries;
  // The same of values, which may be of other tiers.
  struct lacuna_view value_entries;
  // Optional, f32 `[batch, n_heads, head_dim]`, of old pages and new ones: what keys are divided by; else 1.
  struct lacuna_view key_scales;
  // Optional, the same: what is taken from them before; else 0.
  struct lacuna_view key_offsets;
  // Optional, as those of keys.
  struct lacuna_view value_scales;
  // Optional, as those of keys.
  struct lacuna_view value_offsets;
  // As of `lacuna_quantize_pages_args`: old pages and new ones.
  struct lacuna_view_mut pools[4];
  // Optional, the same.
  struct lacuna_view_mut status;
  // i32 `[batch, n_heads, n_positions]`: where each token that a list names is in the new tables. Others' are left alone.
  struct lacuna_view_mut new_slots;
} lacuna_retier_pages_args;

// Sizes of `lacuna_begin_saliency`, `lacuna_add_saliency` and `lacuna_weigh_saliency`: how running saliency is kept, and what becomes of it.
typedef struct lacuna_saliency_shape {
  struct lacuna_header header;
  // Requests.
  uint64_t batch;
  // Query heads: 1 to 16 for each head of keys.
  uint64_t n_q_heads;
  // Heads of keys.
  uint64_t n_heads;
  // Tokens that a request may have, up to 2^26.
  uint64_t n_tokens;
  // Queries of each request in a step, 1 to 8; 0 is 1.
  uint64_t n_queries;
  // Positions that a step's logits are of; 0 is `n_tokens`.
  uint64_t n_positions;
  // A `lacuna_log_sum_order`: that of a step's log-sum-exps.
  uint32_t log_sum_order;
  // A `lacuna_log_base`: theirs.
  uint32_t log_base;
  // A `lacuna_kv_lists`: whose scores there are, of each head of keys, or of each request, the sum over its heads.
  uint32_t lists;
  // 0: sums over the number of probes (rows of queries) that saw the token, as ZipCache has them; 1: sums, as H2O has them.
  uint32_t is_sum;
  // What a token's sum and count are multiplied by when a step adds to them, up to 1; 0 is 1: nothing is forgotten.
  float decay;
  // What is added to each head's saliency before norms: 1e-4 in CriticalKV.
  float floor;
  // The score of a token that some head's probes never saw; 0 is infinity, so that none is demoted for lack of probes.
  float fresh;
  // 0.
  uint32_t reserved;
} lacuna_saliency_shape;

// Elements of each view of `lacuna_begin_saliency_args`, `lacuna_add_saliency_args` and `lacuna_weigh_saliency_args`, by the same names;
// `masses` and `n_visible` are `lacuna_column_mass_plan_sizes`' to say.
typedef struct lacuna_saliency_sizes {
  struct lacuna_header header;
  uint64_t lengths;
  uint64_t skips;
  uint64_t sums;
  uint64_t counts;
  uint64_t logits;
  uint64_t log_sums;
  uint64_t tokens;
  uint64_t norms;
  uint64_t scores;
} lacuna_saliency_sizes;

// What `lacuna_begin_saliency` reads and writes.
typedef struct lacuna_begin_saliency_args {
  struct lacuna_header header;
  // f32, as `lacuna_column_mass` leaves them, by a plan with `is_per_head` and `is_sum`.
  struct lacuna_view masses;
  // u32 `[batch, n_probes]`: tokens that a probe sees, as `lacuna_column_mass` had them.
  struct lacuna_view n_visible;
  // u32 `[batch]`: tokens of each request.
  struct lacuna_view lengths;
  // Optional, u32 `[batch]`: requests where it is not 0 are left alone, as those that have begun before.
  struct lacuna_view skips;
  // f32 `[batch, n_heads, n_tokens]`: sums of the weights that probes gave each token.
  struct lacuna_view_mut sums;
  // The same: how many probes, rows of queries, saw it. Exact up to 2^24.
  struct lacuna_view_mut counts;
} lacuna_begin_saliency_args;

// What `lacuna_add_saliency` reads and writes.
typedef struct lacuna_add_saliency_args {
  struct lacuna_header header;
  // f32 `[batch, n_queries, n_q_heads, n_positions]`, as attention writes them: to base 2; -inf where nothing stands or the query does not
  // see it.
  struct lacuna_view logits;
  // f32, one for each query and query head, in the shape's order and base: of the logits, and of whatever else attention had in its
  // softmax.
  struct lacuna_view log_sums;
  // Optional, i32 `[batch, n_heads, n_positions]`: the token at each position; others than `0..n_tokens` are none. Else positions are tokens. No
  // token may stand at two positions of a head.
  struct lacuna_view tokens;
  // Optional, u32 `[batch]`: requests where it is not 0 are left alone, as in steps that are no probes of theirs.
  struct lacuna_view skips;
  // f32 `[batch, n_heads, n_tokens]`, read and written.
  struct lacuna_view_mut sums;
  // The same.
  struct lacuna_view_mut counts;
} lacuna_add_saliency_args;

// What `lacuna_weigh_saliency` reads and writes.
typedef struct lacuna_weigh_saliency_args {
  struct lacuna_header header;
  // f32 `[batch, n_heads, n_tokens]`.
  struct lacuna_view sums;
  // The same.
  struct lacuna_view counts;
  // Optional, the same: what each token's saliency is multiplied by, as `lacuna_measure_norms` leaves it.
  struct lacuna_view norms;
  // Optional, u32 `[batch]`: tokens of each request; else all.
  struct lacuna_view lengths;
  // Optional, u32 `[batch]`: requests where it is not 0 are left alone.
  struct lacuna_view skips;
  // f32 `[batch, n_heads or 1, n_tokens]`; what a request has no tokens for stays what it was.
  struct lacuna_view_mut scores;
} lacuna_weigh_saliency_args;

// Sizes of `lacuna_compact_rows`, and what it lists.
typedef struct lacuna_compact_rows_shape {
  struct lacuna_header header;
  // Rows of the mask, below 2^31.
  uint64_t n_rows;
  // Elements of a row, at most 2^26.
  uint64_t n;
  // Elements between the starts of two rows, at least `n`; 0 is `n`.
  uint64_t row_stride;
  // Places for indices in a row.
  uint64_t capacity;
  // Rows that share a length, one after the other: a request's heads; 0 is 1.
  uint64_t rows_per_request;
  // A `lacuna_listed`.
  uint32_t listed;
  // 0.
  uint32_t reserved;
} lacuna_compact_rows_shape;

// Elements of each view of `lacuna_compact_rows_args`, by the same names.
typedef struct lacuna_compact_rows_sizes {
  struct lacuna_header header;
  uint64_t kept;
  uint64_t lengths;
  uint64_t skips;
  uint64_t indices;
  uint64_t counts;
  uint64_t offsets;
  uint64_t row_starts;
  uint64_t workspace;
} lacuna_compact_rows_sizes;

// What `lacuna_compact_rows` reads and writes.
typedef struct lacuna_compact_rows_args {
  struct lacuna_header header;
  // u8 `[n_rows, n]`: not 0 where an element is kept; rows `row_stride` elements apart.
  struct lacuna_view kept;
  // Optional, u32 `[n_rows / rows_per_request, rounded up]`: elements of each request's rows; else `n`.
  struct lacuna_view lengths;
  // Optional, u32 `[n_rows]`: rows where it is not 0 are left alone, their outputs too.
  struct lacuna_view skips;
  // i32 `[n_rows, capacity]`: the listed elements of each row, ascending, then -1; none where `capacity` is 0.
  struct lacuna_view_mut indices;
  // u32 `[n_rows]`: how many are listed, also where `capacity` is less.
  struct lacuna_view_mut counts;
  // Optional, i32 `[n_rows, n]`: the place of each element among those listed, also past `capacity`; or -1.
  struct lacuna_view_mut offsets;
  // Optional, u32 `[n_rows + 1]`: where each row begins in a list of all rows' indices, `capacity` of each at most, and the list's end.
  struct lacuna_view_mut row_starts;
  // u32: zeros before the first launch, and used by one launch at a time; every launch leaves it ready.
  struct lacuna_view_mut workspace;
} lacuna_compact_rows_args;

// Sizes of `lacuna_gate_selection`.
typedef struct lacuna_gate_selection_shape {
  struct lacuna_header header;
  // Requests, below 2^31.
  uint64_t batch;
  // Elements of a query, all its heads': a multiple of 8, 64 KiB at most.
  uint64_t n;
  // Elements between the starts of two queries, a multiple of 8 and at least `n`; 0 is `n`.
  uint64_t query_stride;
  // The same of the cached queries.
  uint64_t cached_stride;
  // Rows of a request, each with a word of `skips`: 1, or its heads of keys; 0 is 1.
  uint64_t rows_per_request;
  // The type of queries: bf16, f16 or f32.
  uint32_t dtype;
  // 0.
  uint32_t reserved;
} lacuna_gate_selection_shape;

// Elements of each view of `lacuna_gate_selection_args`, by the same names.
typedef struct lacuna_gate_selection_sizes {
  struct lacuna_header header;
  uint64_t queries;
  uint64_t forced;
  uint64_t thetas;
  uint64_t cached;
  uint64_t states;
  uint64_t skips;
  uint64_t cosines;
} lacuna_gate_selection_sizes;

// What `lacuna_gate_selection` reads and writes.
typedef struct lacuna_gate_selection_args {
  struct lacuna_header header;
  // `[batch, n]` of the shape's dtype, rows `query_stride` elements apart, from a multiple of 16 bytes on.
  struct lacuna_view queries;
  // Optional, u32 `[batch]`: requests where it is not 0 select again, whatever is cached: a new request in its place, say.
  struct lacuna_view forced;
  // Optional, f32 `[batch]`: the least cosine of each request; else `theta`.
  struct lacuna_view thetas;
  // The least cosine with which a cached selection is used again. Infinity, and NaN: never. TokenSelect's is 0.9.
  float theta;
  // 0.
  uint32_t reserved;
  // `[batch, n]` of the shape's dtype, read and written, rows `cached_stride` elements apart, from a multiple of 16 bytes on: the queries that
  // made the cached selections. Anything where `states` is 0.
  struct lacuna_view_mut cached;
  // u32 `[batch]`, read and written: 0 where there is no cached selection yet. Zeros before the first launch; ones after.
  struct lacuna_view_mut states;
  // u32 `[batch, rows_per_request]`: 1 where the cached selection may be used, 0 where it must be made.
  struct lacuna_view_mut skips;
  // Optional, f32 `[batch]`: the cosines; NaN where there is none.
  struct lacuna_view_mut cosines;
} lacuna_gate_selection_args;

// Sizes of `lacuna_gather_kv` and `lacuna_scatter_kv`.
typedef struct lacuna_kv_rows_shape {
  struct lacuna_header header;
  // The cache.
  const struct lacuna_kv_shape *kv;
  // Rows of a list.
  uint64_t n_indices;
  // A `lacuna_kv_lists`.
  uint32_t lists;
  // 0.
  uint32_t reserved;
} lacuna_kv_rows_shape;

// Elements of each view of `lacuna_gather_kv_args` and `lacuna_scatter_kv_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
typedef struct lacuna_kv_rows_sizes {
  struct lacuna_header header;
  uint64_t indices;
  uint64_t keys;
  uint64_t values;
} lacuna_kv_rows_sizes;

// What `lacuna_gather_kv` reads and writes.
typedef struct lacuna_gather_kv_args {
  struct lacuna_header header;
  // The cache, with values or without.
  struct lacuna_kv cache;
  // i32 `[batch, n_heads, n_indices]` or `[batch, n_indices]`: a negative one, one past the request's tokens, and one whose page is none, is of
  // no row.
  struct lacuna_view indices;
  // A `lacuna_absent`.
  uint32_t absent;
  // 0.
  uint32_t reserved;
  // `[batch, n_heads, n_indices, row_len]` of the cache's dtype, from a multiple of 8 bytes on.
  struct lacuna_view_mut keys;
  // The same of values, where the cache has them.
  struct lacuna_view_mut values;
} lacuna_gather_kv_args;

// What `lacuna_scatter_kv` reads and writes.
typedef struct lacuna_scatter_kv_args {
  struct lacuna_header header;
  // `[batch, n_heads, n_indices, row_len]` of the cache's dtype, from a multiple of 8 bytes on.
  struct lacuna_view keys;
  // The same of values, where the cache has them.
  struct lacuna_view values;
  // As of `lacuna_gather_kv_args`: what is of no row goes nowhere. No two rows may go to one place.
  struct lacuna_view indices;
  // The cache, with values or without.
  struct lacuna_kv_mut cache;
} lacuna_scatter_kv_args;

// Sizes of `lacuna_column_mass`, and what it sums.
typedef struct lacuna_column_mass_shape {
  struct lacuna_header header;
  // The cache of keys; rows of 512 elements at most.
  const struct lacuna_kv_shape *kv;
  // Query heads: 1 to 16 for each head of keys.
  uint64_t n_q_heads;
  // Probes of a request, the queries whose attention is summed: at most 4,096.
  uint64_t n_probes;
  // Elements from one request's probes to the next's; 0 is `n_probes * probe_stride`.
  uint64_t request_stride;
  // Elements from one probe to the next; 0 is those of its heads.
  uint64_t probe_stride;
  // Tokens of a request whose mass is wanted, at most, below 2^24; 0 is all that the page table holds.
  uint64_t n;
  // Elements from one row of masses to the next, at least `n`; 0 is `n`.
  uint64_t mass_stride;
  // The type of probes: bf16, f16 or f32.
  uint32_t probe_dtype;
  // 1: a row of masses for each head of keys; 0: one for all.
  uint32_t is_per_head;
  // 1: the sum over the heads that are added; 0: their mean.
  uint32_t is_sum;
  // 1: divided by the number of probes that see the token; else 0.
  uint32_t is_per_probe;
  // What scores are multiplied by in softmaxes; 0 is one over the root of the head's dimension.
  float softmax_scale;
  // 0.
  uint32_t reserved;
} lacuna_column_mass_shape;

// Elements of each view of `lacuna_column_mass_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
typedef struct lacuna_column_mass_sizes {
  struct lacuna_header header;
  uint64_t probes;
  uint64_t n_visible;
  uint64_t skips;
  uint64_t masses;
  uint64_t softmaxes;
  uint64_t workspace;
} lacuna_column_mass_sizes;

// What `lacuna_column_mass` reads and writes.
typedef struct lacuna_column_mass_args {
  struct lacuna_header header;
  // `[batch, n_probes, n_q_heads, head_dim]` of the shape's dtype, with its strides.
  struct lacuna_view probes;
  // u32 `[batch, n_probes]`: tokens that a probe sees, from the first on: its position and one more.
  struct lacuna_view n_visible;
  // The cache of keys; values are not read.
  struct lacuna_kv cache;
  // Optional, u32 `[batch]`: requests where it is not 0 are left alone, their outputs too.
  struct lacuna_view skips;
  // f32 `[batch, n_heads or 1, n]`, rows `mass_stride` elements apart. What a request has no tokens for stays what it was.
  struct lacuna_view_mut masses;
  // u64 `[batch, n_heads, n_probes, n_q_heads / n_heads]`: the greatest logit of each softmax and one over its sum, as bits.
  struct lacuna_view_mut softmaxes;
  // u64, from a multiple of 16 bytes on: zeros before the first launch, and used by one launch at a time; every launch leaves it
  // ready.
  struct lacuna_view_mut workspace;
} lacuna_column_mass_args;

// Sizes of `lacuna_merge_rows`.
typedef struct lacuna_merge_rows_shape {
  struct lacuna_header header;
  // The cache: bf16 or f16, rows of 256 elements at most.
  const struct lacuna_kv_shape *kv;
  // Tokens of a list of those evicted.
  uint64_t n_evicted;
  // Tokens of a list of those kept.
  uint64_t n_kept;
} lacuna_merge_rows_shape;

// Elements of each view of `lacuna_merge_rows_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
typedef struct lacuna_merge_rows_sizes {
  struct lacuna_header header;
  uint64_t evicted;
  uint64_t kept;
  uint64_t nearest;
  uint64_t similarities;
  uint64_t thresholds;
} lacuna_merge_rows_sizes;

// What `lacuna_merge_rows` reads and writes.
typedef struct lacuna_merge_rows_args {
  struct lacuna_header header;
  // i32 `[batch, n_heads, n_evicted]`: tokens to be merged; numbers of no token are skipped.
  struct lacuna_view evicted;
  // i32 `[batch, n_heads, n_kept]`: tokens that stay. None may be evicted too, nor may heads share a row.
  struct lacuna_view kept;
  // What an old threshold is multiplied by, 0 to 1; the released code's is 0.5.
  float decay;
  // A `lacuna_merge_weights`.
  uint32_t weights;
  // Whose kept rows are written; with values, which are merged as keys are, or without.
  struct lacuna_kv_mut cache;
  // i32 `[batch, n_heads, n_evicted]`: the place in `kept` of each evicted token's nearest, or -1.
  struct lacuna_view_mut nearest;
  // f32 `[batch, n_heads, n_evicted]`: how near it is, from -1 to 1.
  struct lacuna_view_mut similarities;
  // f32 `[batch, n_heads]`, read and written: how near a token must be to be merged. NaN before a request's first step.
  struct lacuna_view_mut thresholds;
} lacuna_merge_rows_args;

// Sizes of `lacuna_gather_rows`, `lacuna_scatter_rows` and `lacuna_scatter_add_rows`.
typedef struct lacuna_rows_shape {
  struct lacuna_header header;
  // Lists of indices.
  uint64_t n_lists;
  // Indices of a list, and its rows.
  uint64_t n_indices;
  // Rows of a table.
  uint64_t n_table_rows;
  // Elements of a row.
  uint64_t row_len;
  // The type of elements: any; to be added, bf16, f16 or f32.
  uint32_t dtype;
  // A `lacuna_rows_order`; strides are in elements.
  uint32_t order;
  // From one list of indices to the next; 0: all lists are one.
  uint64_t index_stride;
  // From one list's table to the next's; 0: all lists share one table.
  uint64_t table_stride;
  // From row to row of a table.
  uint64_t table_row_stride;
  // From one list's rows to the next's.
  uint64_t list_stride;
  // From row to row of a list.
  uint64_t list_row_stride;
} lacuna_rows_shape;

// Elements of each view of `lacuna_gather_rows_args`, `lacuna_scatter_rows_args` and `lacuna_scatter_add_rows_args`, by the same names.
typedef struct lacuna_rows_sizes {
  struct lacuna_header header;
  uint64_t table;
  uint64_t indices;
  uint64_t gathered;
  uint64_t source;
  uint64_t weights;
  uint64_t last;
} lacuna_rows_sizes;

// What `lacuna_gather_rows` reads and writes.
typedef struct lacuna_gather_rows_args {
  struct lacuna_header header;
  // `[n_lists, n_table_rows, row_len]` of the shape's dtype.
  struct lacuna_view table;
  // i32 `[n_lists, n_indices]`: a negative one, and one past the table, is of no row.
  struct lacuna_view indices;
  // A `lacuna_absent`.
  uint32_t absent;
  // 0.
  uint32_t reserved;
  // `[n_lists, n_indices, row_len]` of the shape's dtype.
  struct lacuna_view_mut gathered;
} lacuna_gather_rows_args;

// What `lacuna_scatter_rows` reads and writes.
typedef struct lacuna_scatter_rows_args {
  struct lacuna_header header;
  // `[n_lists, n_indices, row_len]` of the shape's dtype.
  struct lacuna_view source;
  // i32 `[n_lists, n_indices]`: a row whose index is negative or past the table goes nowhere.
  struct lacuna_view indices;
  // Optional, u32 `[n_lists, n_table_rows]`: where a list may name a row twice, of which the last one wins. Zeros before the first launch,
  // and used by one launch at a time; every launch leaves it ready. Without it no list may, and a row that one does name twice holds
  // bytes of either.
  struct lacuna_view_mut last;
  // `[n_lists, n_table_rows, row_len]` of the shape's dtype; rows that no list names are left alone.
  struct lacuna_view_mut table;
} lacuna_scatter_rows_args;

// What `lacuna_scatter_add_rows` reads and writes.
typedef struct lacuna_scatter_add_rows_args {
  struct lacuna_header header;
  // `[n_lists, n_indices, row_len]` of the shape's dtype.
  struct lacuna_view source;
  // i32 `[n_lists, n_indices]`: a row whose index is negative or past the table goes nowhere; any may be named any number of times.
  struct lacuna_view indices;
  // Optional, f32 `[n_lists, n_indices]`: what each row is multiplied by; else 1.
  struct lacuna_view weights;
  // `[n_lists, n_table_rows, row_len]` of the shape's dtype, read and written.
  struct lacuna_view_mut table;
} lacuna_scatter_add_rows_args;

// Sizes of `lacuna_score_rows`.
typedef struct lacuna_score_rows_shape {
  struct lacuna_header header;
  // The cache of keys, or of summaries; rows of 512 elements at most.
  const struct lacuna_kv_shape *kv;
  // Query heads: 1 to 16 for each head of keys.
  uint64_t n_q_heads;
  // Elements from one request's queries to the next's; 0 is those of its heads.
  uint64_t query_stride;
  // Rows of a request that are scored, at most, below 2^24; 0 is all that the page table holds.
  uint64_t n;
  // Elements from one row of scores to the next, at least `n`; 0 is `n`.
  uint64_t score_stride;
  // A `lacuna_score_kind`.
  uint32_t kind;
  // A `lacuna_group_reduction`.
  uint32_t reduction;
  // The type of queries: bf16, f16 or f32.
  uint32_t query_dtype;
  // The type of scores, the same.
  uint32_t score_dtype;
  // What scores are multiplied by in softmaxes; 0 is one over the root of the head's dimension.
  float softmax_scale;
  // 0.
  uint32_t reserved;
} lacuna_score_rows_shape;

// Elements of each view of `lacuna_score_rows_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
typedef struct lacuna_score_rows_sizes {
  struct lacuna_header header;
  uint64_t queries;
  uint64_t skips;
  uint64_t scores;
  uint64_t softmaxes;
  uint64_t workspace;
} lacuna_score_rows_sizes;

// What `lacuna_score_rows` reads and writes.
typedef struct lacuna_score_rows_args {
  struct lacuna_header header;
  // `[batch, n_q_heads, head_dim]` of the shape's type, requests `query_stride` elements apart.
  struct lacuna_view queries;
  // The cache of keys, or of what stands for several; values are not read.
  struct lacuna_kv cache;
  // Optional, u32 `[batch]`: requests where it is not 0 are left alone, their outputs too.
  struct lacuna_view skips;
  // `[batch, n_q_heads, n]` of the shape's type, of reduced groups `[batch, n_heads, n]`, rows `score_stride` elements apart. What a request
  // has no rows for stays what it was.
  struct lacuna_view_mut scores;
  // Optional, u64 `[batch, n_q_heads]`: softmaxes over the scores as they are stored, for `lacuna_vote_rows`.
  struct lacuna_view_mut softmaxes;
  // With `softmaxes` alone, u64, from a multiple of 16 bytes on: zeros before the first launch, and used by one launch at a time;
  // every launch leaves it ready.
  struct lacuna_view_mut workspace;
} lacuna_score_rows_args;

// Sizes of `lacuna_summarize`.
typedef struct lacuna_summarize_shape {
  struct lacuna_header header;
  // The keys; of boxes of boxes the boxes.
  const struct lacuna_kv_shape *keys;
  // The summaries: of the same requests and heads, `tokens_per_row` a multiple of that of the keys, and the keys' dtype; of fp8
  // keys bf16 or f16.
  const struct lacuna_kv_shape *summaries;
  // The most new tokens of a request, for the size of the grid alone: more are summarised too, only not as fast. 0 is 1.
  uint64_t max_new;
  // Of outliers, scores from head to head, at least the rows of a request; 0 is those.
  uint64_t outlier_stride;
  // A `lacuna_summary`.
  uint32_t summary;
  // 0.
  uint32_t reserved;
} lacuna_summarize_shape;

// Elements of each view of `lacuna_summarize_args`, by the same names; of the keys, `lacuna_kv_shape_sizes`.
typedef struct lacuna_summarize_sizes {
  struct lacuna_header header;
  uint64_t summary_table;
  uint64_t first_new;
  uint64_t rows;
  uint64_t outliers;
} lacuna_summarize_sizes;

// What `lacuna_summarize` reads and writes.
typedef struct lacuna_summarize_args {
  struct lacuna_header header;
  // The keys, of boxes of boxes the boxes; values are not read.
  struct lacuna_kv keys;
  // i32 `[batch, table_stride]`: the page of each `page_size` summaries. Those of no page are left out.
  struct lacuna_view summary_table;
  // Optional, u32 `[batch]`: tokens that are summarised already; else 0, and all are summarised.
  struct lacuna_view first_new;
  // The pool of summaries, of their dtype, from a multiple of 16 bytes on. Rows without new tokens stay what they were.
  struct lacuna_view_mut rows;
  // Of means and outliers alone, f32 `[batch, n_heads, outlier_stride]`. Those of rows without new tokens stay what they were.
  struct lacuna_view_mut outliers;
} lacuna_summarize_args;

// Sizes of `lacuna_topk_rows`, and what it picks.
typedef struct lacuna_topk_rows_shape {
  struct lacuna_header header;
  // Rows of scores, below 2^31.
  uint64_t n_rows;
  // Scores of a row: below 2^31, with pages at most 2^26, by mass at most 2^24.
  uint64_t n;
  // Elements between the starts of two rows, at least `n`; 0 is `n`.
  uint64_t row_stride;
  // Places for picks in a row, at most 8,192; none where only a mask or a number is asked for.
  uint64_t k;
  // So many of a row's first candidates come before all others (attention sinks),
  uint64_t n_first;
  // and so many of its last (the local window).
  uint64_t n_last;
  // Rows that share a request's length and its entries of the page table, one after the other; 0 is 1.
  uint64_t rows_per_request;
  // Tokens that a score stands for, in which lengths are; 0 is 1.
  uint64_t tokens_per_score;
  // The type of scores: bf16, f16 or f32.
  uint32_t dtype;
  // A `lacuna_rule`,
  uint32_t rule;
  // and its number.
  float amount;
  // A `lacuna_order`.
  uint32_t order;
  // Pages of the pool that indices are translated to slots of,
  uint64_t n_pages;
  // indices of a page, 1 to 256, or 0: there are no pages,
  uint64_t page_size;
  // and entries of the page table from request to request.
  uint64_t table_stride;
} lacuna_topk_rows_shape;

// Elements of each view of `lacuna_topk_rows_args`, by the same names.
typedef struct lacuna_topk_rows_sizes {
  struct lacuna_header header;
  uint64_t scores;
  uint64_t starts;
  uint64_t lengths;
  uint64_t counts_asked;
  uint64_t skips;
  uint64_t amounts;
  uint64_t page_table;
  uint64_t indices;
  uint64_t counts;
  uint64_t values;
  uint64_t slots;
  uint64_t wanted;
  uint64_t kept;
} lacuna_topk_rows_sizes;

// What `lacuna_topk_rows` reads and writes.
typedef struct lacuna_topk_rows_args {
  struct lacuna_header header;
  // `[n_rows, n]` of the shape's dtype, rows `row_stride` elements apart.
  struct lacuna_view scores;
  // Optional, u32 `[n_rows]`: the first candidate of each row; else 0.
  struct lacuna_view starts;
  // Optional, u32 `[n_rows / rows_per_request, rounded up]`: tokens of each request; else all from the first on.
  struct lacuna_view lengths;
  // Optional, u32 `[n_rows]`: how many to pick and to mark at most; else `k`.
  struct lacuna_view counts_asked;
  // Optional, u32 `[n_rows]`: rows where it is not 0 are left alone, their outputs too.
  struct lacuna_view skips;
  // Optional, f32 `[n_rows]`: the number of each row's rule; else the shape's.
  struct lacuna_view amounts;
  // With pages alone, i32 `[n_rows / rows_per_request, rounded up; table_stride]`: the page of each `page_size` indices.
  struct lacuna_view page_table;
  // i32 `[n_rows, k]`: indices into the row, in the order of the shape, then -1; none where `k` is 0.
  struct lacuna_view_mut indices;
  // u32 `[n_rows]`: how many were picked.
  struct lacuna_view_mut counts;
  // Optional, `[n_rows, k]` of the shape's dtype: the scores at `indices`, then zeros.
  struct lacuna_view_mut values;
  // Optional, with pages alone, i32 `[n_rows, k]`: where `indices` are in the pool of pages; -1 where the page is none.
  struct lacuna_view_mut slots;
  // Optional, u32 `[n_rows]`: how many the rule wanted.
  struct lacuna_view_mut wanted;
  // Optional, u8 `[n_rows, n]`: 1 at each that the rule wants and `counts_asked` allows, else 0. Not bounded by `k`.
  struct lacuna_view_mut kept;
} lacuna_topk_rows_args;

// How heads vote.
typedef struct lacuna_vote_rows_shape {
  struct lacuna_header header;
  // Elements from one row of votes to the next, at least the rows that are scored; 0 is those.
  uint64_t stride;
  // A `lacuna_together`.
  uint32_t together;
  // A `lacuna_vote_reduction`.
  uint32_t reduction;
  // The type of votes: bf16, f16 or f32.
  uint32_t vote_dtype;
  // 0.
  uint32_t reserved;
} lacuna_vote_rows_shape;

// Elements of each view of `lacuna_vote_rows_args` and `lacuna_score_votes_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
typedef struct lacuna_vote_rows_sizes {
  struct lacuna_header header;
  uint64_t queries;
  uint64_t scores;
  uint64_t softmaxes;
  uint64_t lengths;
  uint64_t skips;
  uint64_t votes;
  // 1 where `lacuna_score_votes` takes the plan: the scores of the heads that vote together fit on chip, and a vote is not of single
  // query heads; else 0.
  uint64_t fits_on_chip;
} lacuna_vote_rows_sizes;

// What `lacuna_vote_rows` reads and writes.
typedef struct lacuna_vote_rows_args {
  struct lacuna_header header;
  // `[batch, n_q_heads, n]`, as `lacuna_score_rows` leaves them.
  struct lacuna_view scores;
  // u64 `[batch, n_q_heads]`, the same.
  struct lacuna_view softmaxes;
  // u32 `[batch]`: tokens of each request.
  struct lacuna_view lengths;
  // Optional, u32 `[batch]`: requests where it is not 0 are left alone, their outputs too.
  struct lacuna_view skips;
  // `[batch, n_q_heads or n_heads or 1, n]` of the shape's type, rows `stride` elements apart. What a request has no rows for stays what it was.
  struct lacuna_view_mut votes;
} lacuna_vote_rows_args;

// What `lacuna_score_votes` reads and writes.
typedef struct lacuna_score_votes_args {
  struct lacuna_header header;
  // `[batch, n_q_heads, head_dim]`, as of `lacuna_score_rows_args`.
  struct lacuna_view queries;
  // The cache of keys, or of what stands for several; values are not read.
  struct lacuna_kv cache;
  // Optional, u32 `[batch]`: requests where it is not 0 are left alone, their outputs too.
  struct lacuna_view skips;
  // As of `lacuna_vote_rows_args`.
  struct lacuna_view_mut votes;
  // Optional, as of `lacuna_score_rows_args`.
  struct lacuna_view_mut scores;
} lacuna_score_votes_args;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What the last function that failed on this thread said of it: what, where, why, and what to do. Valid until the next failure
// on this thread; never null, and empty where nothing failed.
const char *lacuna_error_message(void);

// The `CUresult` of the last function that failed on this thread, where that was `LACUNA_DRIVER`; else 0.
uint32_t lacuna_error_driver_code(void);

// The name of a status, as the header has it. Any number may be asked for.
const char *lacuna_status_name(uint32_t status);

// The version of this library, as `LACUNA_VERSION` has that of the header.
const char *lacuna_version(void);

// The revision of the interface that this library has, as `LACUNA_ABI_VERSION` is that of the header. A library takes
// callers of its own revision and of earlier ones.
uint32_t lacuna_abi_version(void);

// Opens a device by the driver's number. Another call for the same device gives the same kernels. No context is current afterwards
// that was not before.
//
// Errors: `LACUNA_NO_DRIVER`, `LACUNA_STUB_DRIVER`, `LACUNA_DRIVER_TOO_OLD`, `LACUNA_NO_DEVICE`, `LACUNA_UNSUPPORTED_DEVICE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_device_open(uint32_t ordinal,
                                      struct lacuna_device **device);

// Ends a device that was opened, after its queues; null is nothing.
void lacuna_device_free(struct lacuna_device *device);

// Loads every kernel that the device can run, so that no later call loads one: needed once before launches are
// captured in a graph, and what makes the first launch as quick as the next.
//
// Errors: `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_device_warm_up(const struct lacuna_device *device);

// The device's name, which is there until the device is freed.
//
// Errors: `LACUNA_NULL`.
enum lacuna_status lacuna_device_name(const struct lacuna_device *device, const char **name);

// A queue on a stream of the device's primary context: a `CUstream` or a `cudaStream_t`, which are the same. Null, 1 and 2
// are the driver's default streams. No driver call; the stream must outlive the queue, which never destroys it.
//
// Errors: `LACUNA_NULL`.
enum lacuna_status lacuna_queue_on_stream(const struct lacuna_device *device,
                                          void *stream,
                                          struct lacuna_queue **queue);

#if defined(LACUNA_SIMT)
// A queue that runs kernels on the CPU, in host memory, with every access checked: how a program is tested on a machine without
// a GPU. Calls return when the kernel has ended.
enum lacuna_status lacuna_queue_simt(struct lacuna_queue **queue);
#endif

// Ends a queue; null is nothing. What was launched on its stream goes on.
void lacuna_queue_free(struct lacuna_queue *queue);

// How long a cache's views must be: arithmetic alone.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_kv_shape_sizes(const struct lacuna_kv_shape *shape, struct lacuna_kv_sizes *sizes);

// Reserves addresses on a queue's device for every slot's most tokens; no memory, but for two page tables of 4 bytes a page. To kernels
// the arena is a paged cache whose addresses, shape and page table's place never change, so that graphs which were captured once stay right
// while it grows: rows past what a slot has are absent, whatever lengths say.
//
// A thread of its own maps memory. Not for a captured stream. What rows hold before they are written is unspecified: it may be what
// another slot let go. All work with the arena is in the order of the queue's stream, which must outlive the arena; the queue need not.
// `lacuna::kv::KvArena` says all of it.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_RANGE`; `LACUNA_DRIVER`, also where the device has no virtual memory
// management.
enum lacuna_status lacuna_arena_reserve(const struct lacuna_queue *queue,
                                        const struct lacuna_arena_shape *shape,
                                        struct lacuna_arena **arena);

// Ends an arena: waits for its stream's work, and gives all memory back; null is nothing. Where that wait fails, as while the stream is
// being captured, the memory is kept for good.
void lacuna_arena_free(struct lacuna_arena *arena);

// The shape of every layer's cache, for plans: requests are slots.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_arena_kv_shape(const struct lacuna_arena *arena, struct lacuna_kv_shape *shape);

// A layer's cache, for reading: sets `keys`, `values` and `page_table`, and leaves lengths and scales alone. The addresses are the same for as
// long as the arena lives.
//
// Parts of the memory are not there, so that its views are marked: they go with this page table into functions that take a cache, of
// plans of the shape that `lacuna_arena_kv_shape` gives, and are LACUNA_WRONG_QUEUE elsewhere.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a layer that there is not.
enum lacuna_status lacuna_arena_kv(const struct lacuna_arena *arena,
                                   uint64_t layer,
                                   struct lacuna_kv *cache);

// The same for writing.
//
// Errors: those of `lacuna_arena_kv`.
enum lacuna_status lacuna_arena_kv_mut(struct lacuna_arena *arena, uint64_t layer, struct lacuna_kv_mut *cache);

// Makes room for a slot's first `n_tokens` tokens; what it has beyond stays. Work queued after it finds them. Where the memory is mapped, nobody waits;
// else it is mapped now.
//
// One small copy where the page table changes; refused while the stream is being captured.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for no slot or too many tokens; `LACUNA_OUT_OF_MEMORY`, `LACUNA_DRIVER`: the slot is then what it
// was, and another try goes on where this one failed.
enum lacuna_status lacuna_arena_grow(struct lacuna_arena *arena,
                                     uint64_t slot,
                                     uint64_t n_tokens);

// Lets memory for a slot's first `n_tokens` tokens be mapped meanwhile, and waits for nothing. The slot does not grow by it:
// `lacuna_arena_grow` does.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for no slot or too many tokens.
enum lacuna_status lacuna_arena_grow_ahead(struct lacuna_arena *arena,
                                           uint64_t slot,
                                           uint64_t n_tokens);

// Lets go what a slot has beyond its first `n_tokens` tokens: 0 where its request ends, so that another may have the slot. Its memory stays
// mapped for whoever grows next, and goes elsewhere at the earliest when the work queued before has ended.
//
// One small fill where the page table changes; refused while the stream is being captured.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for no slot or too many tokens; `LACUNA_DRIVER`: memory is then not let go, and another try does
// it.
enum lacuna_status lacuna_arena_shrink(struct lacuna_arena *arena,
                                       uint64_t slot,
                                       uint64_t n_tokens);

// Lets go all that a slot has, so that another request may have it: `lacuna_arena_shrink` to no tokens.
//
// Errors: those of `lacuna_arena_shrink`.
enum lacuna_status lacuna_arena_release(struct lacuna_arena *arena, uint64_t slot);

// Tokens that a slot has room for now; 0 of no slot.
//
// Errors: `LACUNA_NULL`.
enum lacuna_status lacuna_arena_capacity(const struct lacuna_arena *arena, uint64_t slot, uint64_t *n_tokens);

// Whether memory for a slot's first `n_tokens` tokens is mapped, so that `lacuna_arena_grow` would wait for nothing: 1, else 0.
//
// Errors: `LACUNA_NULL`.
enum lacuna_status lacuna_arena_is_ready(const struct lacuna_arena *arena,
                                         uint64_t slot,
                                         uint64_t n_tokens,
                                         uint32_t *is_ready);

// Makes memory, so that at least `n_bytes` are idle: growing then only maps.
//
// Errors: `LACUNA_NULL`, `LACUNA_OUT_OF_MEMORY`, `LACUNA_DRIVER`. What was made stays idle.
enum lacuna_status lacuna_arena_stock(struct lacuna_arena *arena, uint64_t n_bytes);

// Gives memory back to the device: all that slots let go, after a wait for the work that used it, and all that is idle but for `n_bytes`. What is
// ahead stays. `n_freed`, where it is not null, is set to how many bytes went.
//
// Errors: `LACUNA_NULL`, `LACUNA_DRIVER`. What did not go is still there.
enum lacuna_status lacuna_arena_trim(struct lacuna_arena *arena,
                                     uint64_t n_bytes,
                                     uint64_t *n_freed);

// What there is now; the arena's thread may have more a moment later.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_arena_read_stats(const struct lacuna_arena *arena, struct lacuna_arena_stats *stats);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_SHAPE` where segments differ; `LACUNA_RANGE`, whose message says what is
// supported.
enum lacuna_status lacuna_attend_plan_new(const struct lacuna_attend_shape *shape,
                                          struct lacuna_attend_plan **plan);

// Ends a plan; null is nothing.
void lacuna_attend_plan_free(struct lacuna_attend_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_attend_plan_sizes(const struct lacuna_attend_plan *plan, struct lacuna_attend_sizes *sizes);

// How long the views of a segment must be, by its place in the shape.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE` for a segment that there is not.
enum lacuna_status lacuna_attend_plan_segment_sizes(const struct lacuna_attend_plan *plan,
                                                    uint64_t segment,
                                                    struct lacuna_segment_sizes *sizes);

// Attention of a request's queries over the rows of its segments: `sum of exp(logit) * value / sum of exp(logit)`, of the rows that a query
// sees, with sinks in the denominator. Dense paged decoding is one segment of all tokens; a selection is sinks, blocks and a window.
// `lacuna::attention::attend` says all of it.
//
// One launch; lengths, page tables, lists and counts are read on the device, so that a captured graph serves requests that grow.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_attend(const struct lacuna_queue *queue,
                                 const struct lacuna_attend_plan *plan,
                                 const struct lacuna_attend_args *args);

// How many views pools are, and how many bytes each of them has: into an array of `n_lens`, as many as fit.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_pools_shape_lens(const struct lacuna_pools_shape *shape,
                                           uint64_t *lens,
                                           uint64_t n_lens,
                                           uint64_t *n_views);

// Uses memory as pools, without a copy, until they are freed: u8 views as `lacuna_pools_shape_lens` says, from a multiple of 4 bytes on, of
// device memory, or of pinned host memory that the device reads and writes in place.
//
// One allocation and one copy, for the table of addresses; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_pools_borrow(const struct lacuna_queue *queue,
                                       const struct lacuna_pools_shape *shape,
                                       const struct lacuna_view_mut *views,
                                       uint64_t n_views,
                                       struct lacuna_pools **pools);

// Ends pools, and frees their table after the work that was queued before; null is nothing.
void lacuna_pools_free(struct lacuna_pools *pools);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_SHAPE` where pools do not match; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_copy_pages_plan_new(const struct lacuna_copy_pages_shape *shape,
                                              struct lacuna_copy_pages_plan **plan);

// Ends a plan; null is nothing.
void lacuna_copy_pages_plan_free(struct lacuna_copy_pages_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_copy_pages_plan_sizes(const struct lacuna_copy_pages_plan *plan,
                                                struct lacuna_copy_pages_sizes *sizes);

// Copies pages of all pools, for each pair of page numbers: `targets[pool][pairs[i][1]] = sources[pool][pairs[i][0]]`. For migration,
// which packs scattered pages into one buffer and unpacks them elsewhere, and for offloading to pinned memory and back what a
// selection misses. `lacuna::attention::copy_pages` says all of it.
//
// One launch; pairs and counts are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`; `LACUNA_RANGE` where both pools are the same handle: before anything is
// launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_copy_pages(const struct lacuna_queue *queue,
                                     const struct lacuna_copy_pages_plan *plan,
                                     const struct lacuna_pools *sources,
                                     struct lacuna_pools *targets,
                                     const struct lacuna_copy_pages_args *args);

// The same within pools: a sequence's pages for another that goes its own way from there. Where one pair writes what another reads, either
// may be first.
//
// One launch; pairs and counts are read on the device.
//
// Errors: those of `lacuna_copy_pages`.
enum lacuna_status lacuna_copy_pages_within(const struct lacuna_queue *queue,
                                            const struct lacuna_copy_pages_plan *plan,
                                            struct lacuna_pools *pools,
                                            const struct lacuna_copy_pages_args *args);

// What a `status` of `lacuna_copy_pages` says, which the caller has copied to the host.
//
// Errors: `LACUNA_CORRUPT`, whose message has the first pair whose page differs.
enum lacuna_status lacuna_copy_pages_check_status(uint64_t status);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: those of `lacuna_attend_plan_new`.
enum lacuna_status lacuna_attend_low_rank_plan_new(const struct lacuna_attend_low_rank_shape *shape,
                                                   struct lacuna_attend_low_rank_plan **plan);

// Ends a plan; null is nothing.
void lacuna_attend_low_rank_plan_free(struct lacuna_attend_low_rank_plan *plan);

// What says all but how keys are made, for `lacuna_attend_plan_sizes`: a part of the plan, which ends with it. Null of null.
const struct lacuna_attend_plan *lacuna_attend_low_rank_plan_attend(const struct lacuna_attend_low_rank_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_attend_low_rank_plan_sizes(const struct lacuna_attend_low_rank_plan *plan,
                                                     struct lacuna_attend_low_rank_sizes *sizes);

// As `lacuna_attend`, but that the keys of one segment of blocks are not stored: they are made on chip of factors of low rank, turned
// by their positions, and never written (ShadowKV). `lacuna::attention::attend_low_rank` says all of it.
//
// One launch.
//
// Errors: those of `lacuna_attend`.
enum lacuna_status lacuna_attend_low_rank(const struct lacuna_queue *queue,
                                          const struct lacuna_attend_low_rank_plan *plan,
                                          const struct lacuna_attend_low_rank_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_merge_partials_plan_new(const struct lacuna_merge_partials_shape *shape,
                                                  struct lacuna_merge_partials_plan **plan);

// Ends a plan; null is nothing.
void lacuna_merge_partials_plan_free(struct lacuna_merge_partials_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_merge_partials_plan_sizes(const struct lacuna_merge_partials_plan *plan,
                                                    struct lacuna_merge_partials_sizes *sizes);

// How long the views of a part must be, by its place in the shape.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE` for a part that there is not.
enum lacuna_status lacuna_merge_partials_plan_partial_sizes(const struct lacuna_merge_partials_plan *plan,
                                                            uint64_t part,
                                                            struct lacuna_partial_sizes *sizes);

// Partial results of attention, each over tokens of its own, as one: of a shared prefix and what follows it, of ranks that have a part of the
// context each, of hits in a cache and of misses that came later. `lacuna::attention::merge_partials` says all of it.
//
// One launch; masks are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_merge_partials(const struct lacuna_queue *queue,
                                         const struct lacuna_merge_partials_plan *plan,
                                         const struct lacuna_merge_partials_args *args);

// The same into the first of the parts, which is the target and not in the plan, as FlashInfer's `merge_state_in_place`. Rows to which
// no other part adds anything are left alone. A launch that is replayed merges again.
//
// One launch; masks are read on the device.
//
// Errors: those of `lacuna_merge_partials`; `LACUNA_DTYPE` too of a plan whose outputs are not of the parts' dtype, and `LACUNA_RANGE` of one of 8
// parts.
enum lacuna_status lacuna_merge_partials_in_place(const struct lacuna_queue *queue,
                                                  const struct lacuna_merge_partials_plan *plan,
                                                  const struct lacuna_merge_partials_in_place_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_attend_prefill_plan_new(const struct lacuna_attend_prefill_shape *shape,
                                                  struct lacuna_attend_prefill_plan **plan);

// Ends a plan; null is nothing.
void lacuna_attend_prefill_plan_free(struct lacuna_attend_prefill_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_attend_prefill_plan_sizes(const struct lacuna_attend_prefill_plan *plan,
                                                    struct lacuna_attend_prefill_sizes *sizes);

// Attention of chunks of prompts over the rows of a paged cache that were kept (ZipVL, LazyLLM), by the positions that queries and rows had
// in their prompt; over all rows it is chunked prefill. `lacuna::attention::attend_prefill` says all of it.
//
// One launch; starts, lengths, page tables, positions and skips are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_attend_prefill(const struct lacuna_queue *queue,
                                         const struct lacuna_attend_prefill_plan *plan,
                                         const struct lacuna_attend_prefill_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_tier_resolve_plan_new(const struct lacuna_tier_resolve_shape *shape,
                                                struct lacuna_tier_resolve_plan **plan);

// Ends a plan; null is nothing.
void lacuna_tier_resolve_plan_free(struct lacuna_tier_resolve_plan *plan);

// How long views must be. The small tier's pool has as many pages as `logical_of` has elements.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_tier_resolve_plan_sizes(const struct lacuna_tier_resolve_plan *plan,
                                                  struct lacuna_tier_resolve_sizes *sizes);

// Finds what lists ask for in the slots of a small fast tier, and slots for what is not there: hits, misses and the copies to make
// (after ShadowKV and RetroInfer). Slots that a list asks for are never given up to it; where it asks for more than there are, the numbers
// that come last get -1. `lacuna::attention::tier_resolve` says all of it.
//
// One launch; lists and counts are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_tier_resolve(const struct lacuna_queue *queue,
                                       const struct lacuna_tier_resolve_plan *plan,
                                       const struct lacuna_tier_resolve_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: those of `lacuna_attend_plan_new`.
enum lacuna_status lacuna_attend_tiered_plan_new(const struct lacuna_attend_tiered_shape *shape,
                                                 struct lacuna_attend_tiered_plan **plan);

// Ends a plan; null is nothing.
void lacuna_attend_tiered_plan_free(struct lacuna_attend_tiered_plan *plan);

// What says all but which pages there are, for `lacuna_attend_plan_sizes`: a part of the plan, which ends with it. Null of null.
const struct lacuna_attend_plan *lacuna_attend_tiered_plan_attend(const struct lacuna_attend_tiered_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_attend_tiered_plan_sizes(const struct lacuna_attend_tiered_plan *plan,
                                                   struct lacuna_attend_tiered_sizes *sizes);

// As `lacuna_attend`, over tokens of which those that matter less have fewer bits: first all tokens of tiered pages, then the rows of
// segments. Codes are multiplied as they lie in pages. `lacuna::attention::attend_tiered` says all of it.
//
// One launch; entries, counts and channels are read on the device.
//
// Errors: those of `lacuna_attend`.
enum lacuna_status lacuna_attend_tiered(const struct lacuna_queue *queue,
                                        const struct lacuna_attend_tiered_plan *plan,
                                        const struct lacuna_attend_tiered_args *args);

// Expands every group: bit for bit the weights that were encoded. A corrupt tile of 4,096 weights is quiet NaNs (0x7FC0), of a group
// without an index all of it, which `lacuna_weights_check` reports. Where `output` is aligned to 16 bytes, stores are so wide.
//
// One launch, and another where some groups have an index and others none.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE` before anything is launched;
// `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_decode_weights(const struct lacuna_queue *queue,
                                         const struct lacuna_weights *weights,
                                         const struct lacuna_decode_weights_args *args);

// Waits for the queue's stream, and reports the lowest corrupt tile that any launch with this workspace has met since it was last
// zeroed; where there is none, the lowest corrupt block of groups without an index. Who synchronises anyway looks at the first two words himself: 0 is sound.
//
// Errors: `LACUNA_CORRUPT`, whose message says where and what; `LACUNA_NULL`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_weights_check(const struct lacuna_queue *queue,
                                        const struct lacuna_weights *weights,
                                        const struct lacuna_view *workspace);

// What the first two words of a workspace say, which the caller has copied to the host.
//
// Errors: `LACUNA_CORRUPT`, whose message says where and what.
enum lacuna_status lacuna_weights_check_status(uint64_t tile_status, uint64_t block_status);

// The group in which what these status words report is, as `lacuna_weights_check_status` takes them.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for words that report nothing of these weights.
enum lacuna_status lacuna_weights_locate(const struct lacuna_weights *weights,
                                         uint64_t tile_status,
                                         uint64_t block_status,
                                         uint64_t *group);

// Makes an encoder for groups of `n_elements` weights.
//
// Two allocations, whose memory is zeroed; not for a captured stream.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for no weights, or 2^32 of them; `LACUNA_DRIVER`.
enum lacuna_status lacuna_df11_encoder_new(const struct lacuna_queue *queue,
                                           uint64_t n_elements,
                                           struct lacuna_df11_encoder **encoder);

// Ends an encoder, and frees its workspace after the work that was queued before; null is nothing.
void lacuna_df11_encoder_free(struct lacuna_df11_encoder *encoder);

// Counts a group's exponents, and makes its smallest code: how much memory the group's tensors take. `weights` is bf16, of
// `n_elements`, aligned to 16 bytes; matrices of a group follow one another.
//
// One launch, a copy of 2 KiB that the host waits for, and one of 2 KiB; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`; `LACUNA_RANGE` where codes have 2^31 bytes; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_df11_encoder_measure(const struct lacuna_queue *queue,
                                               struct lacuna_df11_encoder *encoder,
                                               const struct lacuna_view *weights,
                                               struct lacuna_df11_encoder_sizes *sizes);

// Encodes the group that was measured last, by the code that was made last: bit for bit what the encoder on the CPU gives, once
// `lacuna_df11_encoder_lengthen` has no other code.
//
// Two launches.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`; `LACUNA_RANGE` where nothing was measured; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_df11_encoder_pack(const struct lacuna_queue *queue,
                                            struct lacuna_df11_encoder *encoder,
                                            const struct lacuna_df11_encoder_pack_args *args);

// Sets `is_longer` to 1 where the group must be packed again, by another code and into memory of other `sizes`, since one of its blocks has
// more weights than published decoders hold; else to 0, and `sizes` are what they were.
//
// Mostly nothing; else a copy of the positions that the host waits for, and one of 2 KiB; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`; `LACUNA_RANGE` where nothing was measured; `LACUNA_DRIVER`.
enum lacuna_status lacuna_df11_encoder_lengthen(const struct lacuna_queue *queue,
                                                struct lacuna_df11_encoder *encoder,
                                                const struct lacuna_view *output_positions,
                                                struct lacuna_df11_encoder_sizes *sizes,
                                                uint32_t *is_longer);

// The tensor `luts` of the code that was made last, into host memory: `n_bytes` as `lacuna_df11_encoder_sizes` says.
//
// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_RANGE` where nothing was measured.
enum lacuna_status lacuna_df11_encoder_luts(const struct lacuna_df11_encoder *encoder, uint8_t *luts, uint64_t n_bytes);

// Makes an encoder for groups of `n_elements` weights.
//
// Two allocations, whose memory is zeroed; not for a captured stream.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for no weights, or 2^32 of them; `LACUNA_DRIVER`.
enum lacuna_status lacuna_compact_encoder_new(const struct lacuna_queue *queue,
                                              uint64_t n_elements,
                                              struct lacuna_compact_encoder **encoder);

// Ends an encoder, and frees its workspace after the work that was queued before; null is nothing.
void lacuna_compact_encoder_free(struct lacuna_compact_encoder *encoder);

// Counts a group's exponents, and makes its code: how much memory the group's tensors take. `weights` is bf16, of `n_elements`, aligned
// to 16 bytes; matrices of a group follow one another.
//
// One launch, a copy of 2 KiB that the host waits for, and one of 1 KiB; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`; `LACUNA_RANGE` where codes have 2^32 bytes; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_compact_encoder_measure(const struct lacuna_queue *queue,
                                                  struct lacuna_compact_encoder *encoder,
                                                  const struct lacuna_view *weights,
                                                  struct lacuna_compact_encoder_sizes *sizes);

// Encodes the group that was measured last: bit for bit what the encoder on the CPU gives.
//
// Two launches.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`; `LACUNA_RANGE` where nothing was measured; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_compact_encoder_pack(const struct lacuna_queue *queue,
                                               struct lacuna_compact_encoder *encoder,
                                               const struct lacuna_compact_encoder_pack_args *args);

// The code of the group that was measured last, into host memory: its tensor `lengths`, and its table, as `lacuna_indexed_views`
// takes it. Either may be null.
//
// Errors: `LACUNA_NULL` for no encoder, `LACUNA_SHAPE`; `LACUNA_RANGE` where nothing was measured.
enum lacuna_status lacuna_compact_encoder_code(const struct lacuna_compact_encoder *encoder,
                                               uint8_t *lengths,
                                               uint64_t n_lengths,
                                               uint8_t *table,
                                               uint64_t n_table_bytes);

// Opens a directory of safetensors, with or without `config.json`, or one file of them, and reads headers only.
//
// Errors: `LACUNA_NULL`; `LACUNA_IO`; `LACUNA_MALFORMED` where the files are not what a checkpoint is, and hold no group at all.
enum lacuna_status lacuna_checkpoint_open(const char *path,
                                          struct lacuna_checkpoint **checkpoint);

// Ends a checkpoint; null is nothing.
void lacuna_checkpoint_free(struct lacuna_checkpoint *checkpoint);

// What a checkpoint holds.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_checkpoint_describe(const struct lacuna_checkpoint *checkpoint,
                                              struct lacuna_checkpoint_facts *facts);

// What the files say of a group, by the order of names.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE` for a group that there is not.
enum lacuna_status lacuna_checkpoint_group(const struct lacuna_checkpoint *checkpoint,
                                           uint64_t group,
                                           struct lacuna_checkpoint_entry *entry);

// A tensor that belongs to no group, by its number.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE` for a tensor that there is not.
enum lacuna_status lacuna_checkpoint_plain(const struct lacuna_checkpoint *checkpoint,
                                           uint64_t idx,
                                           struct lacuna_plain_tensor *tensor);

// Compresses a model on the CPU, on all threads: `inputs` are its safetensors files, or directories of them. `output` is one file if it ends in
// `.safetensors`, else a new directory; it appears whole or not at all. `options` and `summary` may be null. `lacuna::huffman::compress` says all of
// it.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_IO`; `LACUNA_MALFORMED` for inputs that are not sound, are compressed already, or hold nothing to
// compress, and for patterns that are none.
enum lacuna_status lacuna_compress(const char *const *inputs,
                                   uint64_t n_inputs,
                                   const char *output,
                                   const struct lacuna_conversion *options,
                                   struct lacuna_converted *summary);

// Writes a checkpoint in another format, on the CPU, without the model between; not to DF11, whose groups must be what patterns say. `options` and
// `summary` may be null.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_IO`, `LACUNA_CORRUPT`; `LACUNA_MALFORMED` for DF11, and for lanes of a matrix whose shape the checkpoint
// does not say.
enum lacuna_status lacuna_transcode(const struct lacuna_checkpoint *checkpoint,
                                    const char *output,
                                    const struct lacuna_conversion *options,
                                    struct lacuna_converted *summary);

// Decompresses a checkpoint on the CPU to one bf16 safetensors file. `options` and `summary` may be null.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_IO`, `LACUNA_CORRUPT`, `LACUNA_MALFORMED`.
enum lacuna_status lacuna_decompress(const struct lacuna_checkpoint *checkpoint,
                                     const char *output,
                                     const struct lacuna_conversion *options,
                                     struct lacuna_converted *summary);

// Checks a group's tensors, and where the file carries a checksum of them, that too, for which all of them are read.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not; `LACUNA_MALFORMED` where a tensor is not what the format allows, or is damaged.
enum lacuna_status lacuna_checkpoint_stored(const struct lacuna_checkpoint *checkpoint,
                                            uint64_t group,
                                            struct lacuna_stored **stored);

// Ends a group; null is nothing.
void lacuna_stored_free(struct lacuna_stored *stored);

// What a group is.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_stored_describe(const struct lacuna_stored *stored, struct lacuna_stored_facts *facts);

// A matrix of a group, by its place.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE` for a matrix that there is not.
enum lacuna_status lacuna_stored_matrix(const struct lacuna_stored *stored,
                                        uint64_t place,
                                        struct lacuna_matrix *matrix);

// The tensors of a group of DF11, in the file that is mapped: for `lacuna_weights_upload_df11`, or for an engine's own copies. They
// are there until the group is freed.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_MALFORMED` for a group in another format.
enum lacuna_status lacuna_stored_df11(const struct lacuna_stored *stored,
                                      struct lacuna_df11_group *group);

// The tensors of a compact group, in the file that is mapped: for `lacuna_weights_upload_compact`, or for an engine's own copies. They
// are there until the group is freed.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_MALFORMED` for a group in another format.
enum lacuna_status lacuna_stored_compact(const struct lacuna_stored *stored,
                                         struct lacuna_compact_group *group);

// Copies groups of a checkpoint, DF11 and compact ones in any order, to the memory of the queue's device. The groups may be freed afterwards.
//
// An allocation and six copies for each compact group, two and five for each of DF11, and one of each for their table; not for a captured stream.
//
// Errors: `LACUNA_NULL`; `LACUNA_MALFORMED` for a matrix of lanes, which `lacuna_device_lane_upload` takes; `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_weights_upload_stored(const struct lacuna_queue *queue,
                                                const struct lacuna_stored *const *groups,
                                                uint64_t n_groups,
                                                struct lacuna_weights **weights);

// The tensors of a matrix of lanes, in the file that is mapped: for `lacuna_device_lane_upload`, or for an engine's own copies. They
// are there until the group is freed.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_MALFORMED` for a group in another format.
enum lacuna_status lacuna_stored_lane(const struct lacuna_stored *stored,
                                      struct lacuna_lane_tensors *tensors);

// Expands a group on the CPU, on all threads: `output` is of its `n_elements`. `is_verified`, where it is not null, is set to 1 where they
// have the checksum that the file carries, and to 0 where it carries none. Of `LACUNA_CORRUPT` and a wrong checksum `output` is written too, and means
// nothing.
//
// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_CORRUPT`, whose message says where and what; `LACUNA_MALFORMED` for another checksum than the file's.
enum lacuna_status lacuna_stored_decode(const struct lacuna_stored *stored,
                                        uint16_t *output,
                                        uint64_t n_elements,
                                        uint32_t *is_verified);

// Holds the decoded weights of a group, from whatever decoder and in host memory, against the checksum that the file carries.
// `is_verified` is as of `lacuna_stored_decode`.
//
// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_MALFORMED` for another checksum than the file's.
enum lacuna_status lacuna_stored_verify(const struct lacuna_stored *stored,
                                        const uint16_t *weights,
                                        uint64_t n_elements,
                                        uint32_t *is_verified);

// How many entries the index of so many weights has.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_index_len(uint64_t n_elements, struct lacuna_index_sizes *sizes);

// The code table of DF11's `luts`, `[n_lut_rows + 1, 256]` in host memory, into `n_bytes` of host memory: `LACUNA_CODE_TABLE_BYTES`.
//
// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`.
enum lacuna_status lacuna_df11_code_table(struct lacuna_bytes luts,
                                          uint8_t *table,
                                          uint64_t n_bytes);

// The code table of a compact group's `lengths`, 128 bytes in host memory, into `n_bytes` of host memory: `LACUNA_CODE_TABLE_BYTES`.
//
// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_MALFORMED` for lengths that are those of no code.
enum lacuna_status lacuna_compact_code_table(struct lacuna_bytes lengths,
                                             uint8_t *table,
                                             uint64_t n_bytes);

// Expands a DF11 group in host memory on the CPU, on all threads: `output` is of the group's `n_elements`. A corrupt
// group is quiet NaNs.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_MALFORMED`, `LACUNA_SHAPE`; `LACUNA_CORRUPT`, whose message says where and what.
enum lacuna_status lacuna_df11_group_decode(const struct lacuna_df11_group *group,
                                            uint16_t *output,
                                            uint64_t n_elements);

// Expands a compact group in host memory on the CPU, on all threads: `output` is of the group's `n_elements`. A corrupt tile is quiet NaNs.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_MALFORMED`, `LACUNA_SHAPE`; `LACUNA_CORRUPT`, whose message says where and what.
enum lacuna_status lacuna_compact_group_decode(const struct lacuna_compact_group *group,
                                               uint16_t *output,
                                               uint64_t n_elements);

// How many elements the planes of a matrix have.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE` for no weights, or 2^32 of them.
enum lacuna_status lacuna_lane_shape_sizes(const struct lacuna_lane_shape *shape, struct lacuna_lane_sizes *sizes);

// What stands before a matrix's planes in a file, into `n_bytes` of host memory: `LACUNA_LANE_HEADER_BYTES`.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_SHAPE`.
enum lacuna_status lacuna_lane_header(const struct lacuna_lane_shape *shape, uint8_t *header, uint64_t n_bytes);

// What a header in a file says of its matrix.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_SHAPE`; `LACUNA_RANGE` for another magic, version or element.
enum lacuna_status lacuna_lane_shape_of_header(struct lacuna_bytes header, struct lacuna_lane_shape *shape);

// Checks a matrix's tensors, and copies its planes to the memory of the queue's device.
//
// An allocation and a copy for each plane; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_MALFORMED` where a tensor is not what the format allows; `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_device_lane_upload(const struct lacuna_queue *queue,
                                             const struct lacuna_lane_tensors *tensors,
                                             struct lacuna_device_lane **lane);

// Packs a matrix that is in device memory: `weights` as `lacuna_measure_lane_args` has it.
//
// Two launches, and between them a wait for the stream; allocations for the planes, and for a workspace that is freed; not for a captured
// stream. Who must not wait brings his own memory to `lacuna_measure_lane` and `lacuna_pack_lane`.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_device_lane_pack(const struct lacuna_queue *queue,
                                           const struct lacuna_pack_lane_shape *shape,
                                           const struct lacuna_view *weights,
                                           struct lacuna_device_lane **lane);

// Ends a matrix, and frees its planes after the work that was queued before; null is nothing.
void lacuna_device_lane_free(struct lacuna_device_lane *lane);

// The planes of a matrix, for launches on the stream that they were made on, and for those that the caller orders after it. They are
// there until the matrix is freed.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_device_lane_views(const struct lacuna_device_lane *lane,
                                            struct lacuna_lane_views *views);

// Expands a matrix in host memory on the CPU, on all threads: `output` is `[n_rows, n_columns]`, of `n_elements`.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_MALFORMED`, `LACUNA_SHAPE`.
enum lacuna_status lacuna_lane_tensors_unpack(const struct lacuna_lane_tensors *tensors,
                                              uint16_t *output,
                                              uint64_t n_elements);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_unpack_lane_plan_new(const struct lacuna_unpack_lane_shape *shape,
                                               struct lacuna_unpack_lane_plan **plan);

// Ends a plan; null is nothing.
void lacuna_unpack_lane_plan_free(struct lacuna_unpack_lane_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_unpack_lane_plan_sizes(const struct lacuna_unpack_lane_plan *plan,
                                                 struct lacuna_unpack_lane_sizes *sizes);

// The rows of a matrix, from its planes, whatever bytes they hold. What is between rows is left as it is.
// `lacuna::huffman::lane::unpack_lane` says all of it.
//
// One launch.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_unpack_lane(const struct lacuna_queue *queue,
                                      const struct lacuna_unpack_lane_plan *plan,
                                      const struct lacuna_unpack_lane_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_pack_lane_plan_new(const struct lacuna_pack_lane_shape *shape,
                                             struct lacuna_pack_lane_plan **plan);

// Ends a plan; null is nothing.
void lacuna_pack_lane_plan_free(struct lacuna_pack_lane_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_pack_lane_plan_sizes(const struct lacuna_pack_lane_plan *plan,
                                               struct lacuna_pack_lane_sizes *sizes);

// Chooses the palettes of a matrix, and counts what they lack: the first of two launches that pack it.
//
// One launch.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_measure_lane(const struct lacuna_queue *queue,
                                       const struct lacuna_pack_lane_plan *plan,
                                       const struct lacuna_measure_lane_args *args);

// Packs a matrix that `lacuna_measure_lane` measured: the second of two launches. `lacuna::huffman::lane::pack_lane` says all of it.
//
// One launch.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_pack_lane(const struct lacuna_queue *queue,
                                    const struct lacuna_pack_lane_plan *plan,
                                    const struct lacuna_pack_lane_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_multiply_lane_plan_new(const struct lacuna_multiply_lane_shape *shape,
                                                 struct lacuna_multiply_lane_plan **plan);

// Ends a plan; null is nothing.
void lacuna_multiply_lane_plan_free(struct lacuna_multiply_lane_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_multiply_lane_plan_sizes(const struct lacuna_multiply_lane_plan *plan,
                                                   struct lacuna_multiply_lane_sizes *sizes);

// A few inputs times matrices of lanes, which are never expanded in memory: `output[c][r] = weight[r] . x[c] + bias[r] + residual[c][r]`, and
// of a gated product `silu(gate[r] . x[c] + bias[r]) * (up[r] . x[c] + bias[r]) + residual[c][r]`. `lacuna::huffman::lane::multiply_lane` says all of it.
//
// One launch.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_multiply_lane(const struct lacuna_queue *queue,
                                        const struct lacuna_multiply_lane_plan *plan,
                                        const struct lacuna_multiply_lane_args *args);

// What a device says of itself.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_OTHER` where its driver does not say how fast its memory is.
enum lacuna_status lacuna_device_rates_of(const struct lacuna_device *device, struct lacuna_device_rates *rates);

// How long each way of multiplying these matrices takes, and which is the fastest. `lacuna::huffman::lane::Estimate` says all of it.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_SHAPE`, `LACUNA_RANGE`.
enum lacuna_status lacuna_multiply_lane_estimate_of(const struct lacuna_multiply_lane_shape *shape,
                                                    const struct lacuna_device_rates *rates,
                                                    struct lacuna_multiply_lane_estimate *estimate);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_decode_rows_plan_new(const struct lacuna_decode_rows_shape *shape,
                                               struct lacuna_decode_rows_plan **plan);

// Ends a plan; null is nothing.
void lacuna_decode_rows_plan_free(struct lacuna_decode_rows_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_decode_rows_plan_sizes(const struct lacuna_decode_rows_plan *plan,
                                                 struct lacuna_decode_rows_sizes *sizes);

// Expands rows of a matrix that lies in a group which has an index; nothing else of the group is read:
// `output[i, j] = weight first_element + rows[i] * row_len + j`. Weights of a corrupt span of 32 granules are quiet NaNs (0x7FC0), which
// `lacuna_weights_check` reports.
//
// One launch; row numbers are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`, and `LACUNA_RANGE` for a group that has no index, before
// anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_decode_rows(const struct lacuna_queue *queue,
                                      const struct lacuna_weights *weights,
                                      const struct lacuna_decode_rows_plan *plan,
                                      const struct lacuna_decode_rows_args *args);

// Checks DF11 groups, and copies their tensors to the memory of the queue's device.
//
// Two allocations and five copies a group, and one of each for their table; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_MALFORMED` where a tensor is not what the format allows; `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_weights_upload_df11(const struct lacuna_queue *queue,
                                              const struct lacuna_df11_group *groups,
                                              uint64_t n_groups,
                                              struct lacuna_weights **weights);

// Checks compact groups, and copies them to the memory of the queue's device.
//
// An allocation and six copies a group, and one of each for their table; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_MALFORMED` where a tensor is not what the format allows; `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_weights_upload_compact(const struct lacuna_queue *queue,
                                                 const struct lacuna_compact_group *groups,
                                                 uint64_t n_groups,
                                                 struct lacuna_weights **weights);

// Copies groups and their indices to the memory of the queue's device. Nothing in them is trusted, now or later.
//
// An allocation and six copies a group, and one of each for their table; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_weights_upload_indexed(const struct lacuna_queue *queue,
                                                 const struct lacuna_indexed_group *groups,
                                                 uint64_t n_groups,
                                                 struct lacuna_weights **weights);

// Uses DF11 groups that are in device memory already, without a copy, until the weights are freed. Kernels trust
// nothing in them.
//
// One allocation and one copy, for the table of groups; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_weights_borrow_df11(const struct lacuna_queue *queue,
                                              const struct lacuna_df11_views *groups,
                                              uint64_t n_groups,
                                              struct lacuna_weights **weights);

// Uses groups with an index that are in device memory already, without a copy, until the weights are freed. Kernels trust
// nothing in them.
//
// One allocation and one copy, for the table of groups; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_weights_borrow_indexed(const struct lacuna_queue *queue,
                                                 const struct lacuna_indexed_views *groups,
                                                 uint64_t n_groups,
                                                 struct lacuna_weights **weights);

// Verifies the groups that have no index, DF11 ones, and indexes them: from now on each of their codes is decoded once, and not twice. What was
// uploaded of a group and no longer serves is freed. A group that no index holds, or whose views are not aligned to 16 bytes, is decoded as before. Sizes
// change: ask for them again.
//
// Two launches, allocations and copies, for which it waits; not for a captured stream. Where all groups have an index, nothing.
//
// Errors, after which the weights are what they were: `LACUNA_NULL`; `LACUNA_CORRUPT`, whose message names the lowest corrupt
// block; `LACUNA_WRONG_QUEUE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_weights_index(const struct lacuna_queue *queue,
                                        struct lacuna_weights *weights);

// Ends weights, and frees what they own after the work that was queued before; null is nothing.
void lacuna_weights_free(struct lacuna_weights *weights);

// How long views must be, at least.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_weights_sizes(const struct lacuna_weights *weights,
                                        struct lacuna_decode_weights_sizes *sizes);

// Where in `output` a group's weights are: `start` and the `end` after them, in elements.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not.
enum lacuna_status lacuna_weights_range(const struct lacuna_weights *weights,
                                        uint64_t group,
                                        uint64_t *start,
                                        uint64_t *end);

// Sets `is_indexed` to 1 where a group has an index, and to 0 where it has none.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not.
enum lacuna_status lacuna_weights_is_indexed(const struct lacuna_weights *weights,
                                             uint64_t group,
                                             uint32_t *is_indexed);

// Copies a group's index to host memory, so that it need not be made again: as many entries as `lacuna_index_len` says.
//
// Two copies, for which it waits.
//
// Errors: `LACUNA_NULL`; `LACUNA_SHAPE` for arrays of another length; `LACUNA_RANGE` for a group that there is not, or that has no index;
// `LACUNA_WRONG_QUEUE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_weights_download_index(const struct lacuna_queue *queue,
                                                 const struct lacuna_weights *weights,
                                                 uint64_t group,
                                                 uint32_t *tile_bytes,
                                                 uint64_t n_tile_bytes,
                                                 uint16_t *granule_bits,
                                                 uint64_t n_granule_bits);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_append_kv_plan_new(const struct lacuna_append_kv_shape *shape,
                                             struct lacuna_append_kv_plan **plan);

// Ends a plan; null is nothing.
void lacuna_append_kv_plan_free(struct lacuna_append_kv_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_append_kv_plan_sizes(const struct lacuna_append_kv_plan *plan,
                                               struct lacuna_append_kv_sizes *sizes);

// New tokens into a paged cache, those of them that are kept, and keys turned by their positions on the way.
// `lacuna::quant::append_kv` says all of it.
//
// One launch, two where a request has more than 1,024 tokens; lengths, counts, masks, positions and page tables are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_append_kv(const struct lacuna_queue *queue,
                                    const struct lacuna_append_kv_plan *plan,
                                    const struct lacuna_append_kv_args *args);

// What the status word of tiers' pools says, which the caller has copied to the host: `LACUNA_OK` where each page that was looked for was
// there. `entry`, where it is not null, is set to the place in its table of the first entry that was not: `(b * n_heads + h) * n_pages + p`.
//
// Errors: `LACUNA_RANGE`, whose message says which table and entry.
enum lacuna_status lacuna_pages_check_status(uint64_t status,
                                             uint32_t *entry);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_measure_norms_plan_new(const struct lacuna_measure_norms_shape *shape,
                                                 struct lacuna_measure_norms_plan **plan);

// Ends a plan; null is nothing.
void lacuna_measure_norms_plan_free(struct lacuna_measure_norms_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_measure_norms_plan_sizes(const struct lacuna_measure_norms_plan *plan,
                                                   struct lacuna_measure_norms_sizes *sizes);

// Norms of the values of a paged cache, of rows that came since: what CriticalKV multiplies attention by, of values as they are in the cache.
// `lacuna::quant::measure_norms` says all of it.
//
// One launch; lengths, page tables and `firsts` are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_measure_norms(const struct lacuna_queue *queue,
                                        const struct lacuna_measure_norms_plan *plan,
                                        const struct lacuna_measure_norms_args *args);

// How large a page of a `lacuna_tier` is: arithmetic alone.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_page_shape_sizes(const struct lacuna_page_shape *shape,
                                           uint32_t tier,
                                           struct lacuna_page_sizes *sizes);

// Where in a page of a `lacuna_tier` the element of a token's channel is: arithmetic alone.
//
// Errors: those of `lacuna_page_shape_sizes`; `LACUNA_RANGE` for a token or a channel that there is not.
enum lacuna_status lacuna_page_shape_place(const struct lacuna_page_shape *shape,
                                           uint32_t tier,
                                           uint64_t token,
                                           uint64_t channel,
                                           struct lacuna_page_place *place);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_pages_plan_new(const struct lacuna_pages_shape *shape, struct lacuna_pages_plan **plan);

// Ends a plan; null is nothing.
void lacuna_pages_plan_free(struct lacuna_pages_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_pages_plan_sizes(const struct lacuna_pages_plan *plan, struct lacuna_pages_sizes *sizes);

// Rows of a paged cache as tiered pages: keys and values in one launch, each page in the tier that its entry names.
// `lacuna::quant::quantize_pages` says all of it. The plan's `tail` is `LACUNA_TAIL_ZERO_POINTS`.
//
// One launch; lengths, page tables, lists and entries are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_quantize_pages(const struct lacuna_queue *queue,
                                         const struct lacuna_pages_plan *plan,
                                         const struct lacuna_quantize_pages_args *args);

// Tiered pages as rows of a paged cache: what `lacuna_quantize_pages` took, as far as its bits tell.
// `lacuna::quant::dequantize_pages` says all of it.
//
// One launch; lengths, page tables, lists and entries are read on the device.
//
// Errors: those of `lacuna_quantize_pages`.
enum lacuna_status lacuna_dequantize_pages(const struct lacuna_queue *queue,
                                           const struct lacuna_pages_plan *plan,
                                           const struct lacuna_dequantize_pages_args *args);

// What the channels of keys and of values are relative to, of each span of pages: means as offsets, and root mean squares around them as
// scales. `lacuna::quant::measure_channels` says all of it.
//
// One launch; lengths, page tables and lists are read on the device.
//
// Errors: those of `lacuna_quantize_pages`.
enum lacuna_status lacuna_measure_channels(const struct lacuna_queue *queue,
                                           const struct lacuna_pages_plan *plan,
                                           const struct lacuna_measure_channels_args *args);

// Rows of a prompt that are its probes, ascending, in host memory: the last `n_recent`, and `n_random` of those before; of a shorter prompt, all.
// What is chosen depends on the arguments alone, on every machine. `lacuna::quant::choose_probes` says all of it.
//
// `probes` is an array of `n_places`; `n_probes` is set to how many there are, at most `n_recent + n_random` and at most `n_rows`.
//
// Errors: `LACUNA_NULL`; `LACUNA_SHAPE` where there are fewer places than probes: then `n_probes` is set, and `probes` is left alone.
enum lacuna_status lacuna_choose_probes(uint64_t seed,
                                        uint32_t n_rows,
                                        uint32_t n_recent,
                                        uint32_t n_random,
                                        uint32_t *probes,
                                        uint64_t n_places,
                                        uint64_t *n_probes);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_retier_pages_plan_new(const struct lacuna_retier_pages_shape *shape,
                                                struct lacuna_retier_pages_plan **plan);

// Ends a plan; null is nothing.
void lacuna_retier_pages_plan_free(struct lacuna_retier_pages_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_retier_pages_plan_sizes(const struct lacuna_retier_pages_plan *plan,
                                                  struct lacuna_retier_pages_sizes *sizes);

// Gathers tokens into new pages of any tiers, from pages of any tiers and from the cache in which they wait: what makes 8 bits 4 and 4 bits
// 2 as tokens matter less, and closes the gaps that they leave. Old pages stay what they are. `lacuna::quant::retier_pages` says all of it.
//
// One launch; lists, slots, entries and lengths are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_retier_pages(const struct lacuna_queue *queue,
                                       const struct lacuna_retier_pages_plan *plan,
                                       const struct lacuna_retier_pages_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_saliency_plan_new(const struct lacuna_saliency_shape *shape,
                                            struct lacuna_saliency_plan **plan);

// Ends a plan; null is nothing.
void lacuna_saliency_plan_free(struct lacuna_saliency_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_saliency_plan_sizes(const struct lacuna_saliency_plan *plan,
                                              struct lacuna_saliency_sizes *sizes);

// Begins running saliency with the masses that a prompt's probes left: a new request's, or, by zeros where there is no length, that of one
// without probes. `mass_plan` is that of the masses. `lacuna::quant::begin_saliency` says all of it.
//
// One launch; lengths, skips and what probes see are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`; `LACUNA_RANGE` for masses that are no sums of each head; all before
// anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_begin_saliency(const struct lacuna_queue *queue,
                                         const struct lacuna_saliency_plan *plan,
                                         const struct lacuna_column_mass_plan *mass_plan,
                                         const struct lacuna_begin_saliency_args *args);

// Adds a step's attention to running saliency, from the logits that attention itself wrote: no key is read again.
// `lacuna::quant::add_saliency` says all of it.
//
// One launch; tokens and skips are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_add_saliency(const struct lacuna_queue *queue,
                                       const struct lacuna_saliency_plan *plan,
                                       const struct lacuna_add_saliency_args *args);

// Scores of tokens, which `lacuna_topk_rows` ranks, from running saliency: that of ZipCache or of H2O, or with norms that of CriticalKV.
// `lacuna::quant::weigh_saliency` says all of it.
//
// One launch; lengths and skips are read on the device.
//
// Errors: those of `lacuna_add_saliency`.
enum lacuna_status lacuna_weigh_saliency(const struct lacuna_queue *queue,
                                         const struct lacuna_saliency_plan *plan,
                                         const struct lacuna_weigh_saliency_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_compact_rows_plan_new(const struct lacuna_compact_rows_shape *shape,
                                                struct lacuna_compact_rows_plan **plan);

// Ends a plan; null is nothing.
void lacuna_compact_rows_plan_free(struct lacuna_compact_rows_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_compact_rows_plan_sizes(const struct lacuna_compact_rows_plan *plan,
                                                  struct lacuna_compact_rows_sizes *sizes);

// Writes the kept elements of each row, or those that are not kept, in its order, and its inverse: lists of any length of the masks of
// `lacuna_topk_rows`. `lacuna::select::compact_rows` says all of it.
//
// One launch, two where a row may have more than 16,369 elements; lengths and skips are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_compact_rows(const struct lacuna_queue *queue,
                                       const struct lacuna_compact_rows_plan *plan,
                                       const struct lacuna_compact_rows_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_gate_selection_plan_new(const struct lacuna_gate_selection_shape *shape,
                                                  struct lacuna_gate_selection_plan **plan);

// Ends a plan; null is nothing.
void lacuna_gate_selection_plan_free(struct lacuna_gate_selection_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_gate_selection_plan_sizes(const struct lacuna_gate_selection_plan *plan,
                                                    struct lacuna_gate_selection_sizes *sizes);

// Says which requests may use the selection that they have, and caches the queries of the others: those whose query is like the one that made the
// selection (TokenSelect). `lacuna::select::gate_selection` says all of it. What selects takes `skips`.
//
// One launch; thresholds, states and what is forced are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_gate_selection(const struct lacuna_queue *queue,
                                         const struct lacuna_gate_selection_plan *plan,
                                         const struct lacuna_gate_selection_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_kv_rows_plan_new(const struct lacuna_kv_rows_shape *shape, struct lacuna_kv_rows_plan **plan);

// Ends a plan; null is nothing.
void lacuna_kv_rows_plan_free(struct lacuna_kv_rows_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_kv_rows_plan_sizes(const struct lacuna_kv_rows_plan *plan,
                                             struct lacuna_kv_rows_sizes *sizes);

// Copies rows of keys and values out of a paged cache. `lacuna::select::gather_kv` says all of it.
//
// One launch for keys and values; lists, lengths and page tables are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_gather_kv(const struct lacuna_queue *queue,
                                    const struct lacuna_kv_rows_plan *plan,
                                    const struct lacuna_gather_kv_args *args);

// Copies rows of keys and values into a paged cache. `lacuna::select::scatter_kv` says all of it.
//
// One launch for keys and values; lists, lengths and page tables are read on the device.
//
// Errors: those of `lacuna_gather_kv`.
enum lacuna_status lacuna_scatter_kv(const struct lacuna_queue *queue,
                                     const struct lacuna_kv_rows_plan *plan,
                                     const struct lacuna_scatter_kv_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_column_mass_plan_new(const struct lacuna_column_mass_shape *shape,
                                               struct lacuna_column_mass_plan **plan);

// Ends a plan; null is nothing.
void lacuna_column_mass_plan_free(struct lacuna_column_mass_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_column_mass_plan_sizes(const struct lacuna_column_mass_plan *plan,
                                                 struct lacuna_column_mass_sizes *sizes);

// Each token's attention mass: its weight in the softmaxes of some queries, the probes, summed over them and over heads (LazyLLM, ZipVL,
// D2O). `lacuna::select::column_mass` says all of it.
//
// Two launches; lengths, page tables, what probes see and skips are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_column_mass(const struct lacuna_queue *queue,
                                      const struct lacuna_column_mass_plan *plan,
                                      const struct lacuna_column_mass_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_merge_rows_plan_new(const struct lacuna_merge_rows_shape *shape,
                                              struct lacuna_merge_rows_plan **plan);

// Ends a plan; null is nothing.
void lacuna_merge_rows_plan_free(struct lacuna_merge_rows_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_merge_rows_plan_sizes(const struct lacuna_merge_rows_plan *plan,
                                                struct lacuna_merge_rows_sizes *sizes);

// Merges evicted tokens into the kept ones that their keys are nearest to (D2O). `lacuna::select::merge_rows` says all of it.
//
// Three launches; lists, lengths and page tables are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_merge_rows(const struct lacuna_queue *queue,
                                     const struct lacuna_merge_rows_plan *plan,
                                     const struct lacuna_merge_rows_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_rows_plan_new(const struct lacuna_rows_shape *shape, struct lacuna_rows_plan **plan);

// Ends a plan; null is nothing.
void lacuna_rows_plan_free(struct lacuna_rows_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_rows_plan_sizes(const struct lacuna_rows_plan *plan, struct lacuna_rows_sizes *sizes);

// Copies rows out of tables: `gathered[l, i] = table[l, indices[l, i]]`. `lacuna::select::gather_rows` says all of it.
//
// One launch; indices are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`; `LACUNA_RANGE` where rows that are written overlap; all before
// anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_gather_rows(const struct lacuna_queue *queue,
                                      const struct lacuna_rows_plan *plan,
                                      const struct lacuna_gather_rows_args *args);

// Copies rows into tables: `table[l, indices[l, i]] = source[l, i]`. `lacuna::select::scatter_rows` says all of it.
//
// One launch, two with `last`; indices are read on the device.
//
// Errors: those of `lacuna_gather_rows`.
enum lacuna_status lacuna_scatter_rows(const struct lacuna_queue *queue,
                                       const struct lacuna_rows_plan *plan,
                                       const struct lacuna_scatter_rows_args *args);

// Adds rows to rows of tables, in the order of the list: `table[l, indices[l, i]] += weights[l, i] * source[l, i]`, summed in f32 and
// rounded once. `lacuna::select::scatter_add_rows` says all of it.
//
// One launch, without a workspace; indices and weights are read on the device.
//
// Errors: those of `lacuna_gather_rows`.
enum lacuna_status lacuna_scatter_add_rows(const struct lacuna_queue *queue,
                                           const struct lacuna_rows_plan *plan,
                                           const struct lacuna_scatter_add_rows_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_score_rows_plan_new(const struct lacuna_score_rows_shape *shape,
                                              struct lacuna_score_rows_plan **plan);

// Ends a plan; null is nothing.
void lacuna_score_rows_plan_free(struct lacuna_score_rows_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_score_rows_plan_sizes(const struct lacuna_score_rows_plan *plan,
                                                struct lacuna_score_rows_sizes *sizes);

// Scores a query's heads against the rows of a paged cache: keys, or what stands for several. `lacuna::select::score_rows` says all of it.
//
// One launch; lengths, page tables and skips are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_score_rows(const struct lacuna_queue *queue,
                                     const struct lacuna_score_rows_plan *plan,
                                     const struct lacuna_score_rows_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_summarize_plan_new(const struct lacuna_summarize_shape *shape,
                                             struct lacuna_summarize_plan **plan);

// Ends a plan; null is nothing.
void lacuna_summarize_plan_free(struct lacuna_summarize_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_summarize_plan_sizes(const struct lacuna_summarize_plan *plan,
                                               struct lacuna_summarize_sizes *sizes);

// Makes and keeps up to date the rows that stand for several keys each, so that a query scores those in place of all keys.
// `lacuna::select::summarize` says all of it. Summaries are rows of a paged cache themselves: with their shape, their page table and the keys' lengths
// every function takes them as it takes keys.
//
// One launch; lengths, page tables and `first_new` are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_summarize(const struct lacuna_queue *queue,
                                    const struct lacuna_summarize_plan *plan,
                                    const struct lacuna_summarize_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_topk_rows_plan_new(const struct lacuna_topk_rows_shape *shape,
                                             struct lacuna_topk_rows_plan **plan);

// Ends a plan; null is nothing.
void lacuna_topk_rows_plan_free(struct lacuna_topk_rows_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_topk_rows_plan_sizes(const struct lacuna_topk_rows_plan *plan,
                                               struct lacuna_topk_rows_sizes *sizes);

// Picks the first scores of each row, exactly: the largest, the fewest that have a share of the row's mass, those above a
// threshold or a percentile. Ties go to the lower index, NaN comes last; `lacuna::select::topk_rows` says all of it.
//
// One launch; starts, lengths, counts, amounts and pages are read on the device, and what lies past a row counts for nothing.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
// `LACUNA_DRIVER`.
enum lacuna_status lacuna_topk_rows(const struct lacuna_queue *queue,
                                    const struct lacuna_topk_rows_plan *plan,
                                    const struct lacuna_topk_rows_args *args);

// Makes a plan for what a plan of `lacuna_score_rows` scores, which may be freed before it: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE` for scores of reduced groups, and for what is too large.
enum lacuna_status lacuna_vote_rows_plan_new(const struct lacuna_score_rows_plan *scores,
                                             const struct lacuna_vote_rows_shape *shape,
                                             struct lacuna_vote_rows_plan **plan);

// Ends a plan; null is nothing.
void lacuna_vote_rows_plan_free(struct lacuna_vote_rows_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_vote_rows_plan_sizes(const struct lacuna_vote_rows_plan *plan,
                                               struct lacuna_vote_rows_sizes *sizes);

// Each token's weight in the softmaxes over the context of some query heads: their sum or maximum (TokenSelect, ShadowKV).
// `lacuna::select::vote_rows` says all of it.
//
// One launch; lengths and skips are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_vote_rows(const struct lacuna_queue *queue,
                                    const struct lacuna_vote_rows_plan *plan,
                                    const struct lacuna_vote_rows_args *args);

// `lacuna_score_rows` and then `lacuna_vote_rows`, the scores on chip between them: the same bits. Of plans whose sizes say `fits_on_chip`, and
// for as many votes as fill a device. `lacuna::select::score_votes` says all of it.
//
// One launch; lengths, page tables and skips are read on the device.
//
// Errors: those of `lacuna_score_rows`; `LACUNA_RANGE` for what does not fit on chip.
enum lacuna_status lacuna_score_votes(const struct lacuna_queue *queue,
                                      const struct lacuna_vote_rows_plan *plan,
                                      const struct lacuna_score_votes_args *args);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LACUNA_H */
