// SPDX-License-Identifier: MIT OR Apache-2.0
// lacuna: CUDA kernels for dynamic inference of language models, bit-exact against CPU references.
//
// Made of src/capi by `cargo xtask generate`; not edited by hand.
//
// What holds for every function:
// - It answers a status: LACUNA_OK, or what was wrong, of which `lacuna_error_message` says what, where, why and what to do. Nothing that
//   a pointer names is written unless the answer is LACUNA_OK, but by kernels that were launched; where nothing is said of a launch, nothing was launched.
// - A null pointer where one is needed is LACUNA_NULL; beyond that, pointers are what they are said to be. No panic and no exception
//   leaves a function.
// - A plan is made of a shape by arithmetic alone, knows no device, and serves any number of launches, from any thread. Handles are ended once, by the
//   function ..._free, which takes null; no other call uses them meanwhile.
// - Launches go to the caller's stream, in order with what else is there: no allocation, copy, event or wait unless a function says so, once
//   the device is warmed up (`lacuna_device_warm_up`), so that they can be captured in a graph. Memory that a launch uses stays what it is until the
//   launch has ended. The calling thread's current context is the same afterwards.
// - Outputs and workspaces are the caller's; ..._sizes says how many elements each view must have. A workspace is zeroed once, and every launch
//   leaves it ready for the next of the same plan.
// - A kernel trusts nothing that it reads from device memory: bad indices, pages, lengths and codes make defined outputs, never a fault.
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
  LACUNA_FORMAT = 14,
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

// A plan of `lacuna_append_kv`: for any device, and any number of launches at once.
typedef struct lacuna_append_kv_plan lacuna_append_kv_plan;

// A plan of `lacuna_column_mass`: for any device, and any number of launches at once.
typedef struct lacuna_column_mass_plan lacuna_column_mass_plan;

// A plan of `lacuna_compact_rows`: for any device, and any number of launches at once.
typedef struct lacuna_compact_rows_plan lacuna_compact_rows_plan;

// A CUDA device in its primary context, which the CUDA runtime and every engine share, and the kernels that are loaded into it.
typedef struct lacuna_device lacuna_device;

// DF11 groups in device memory, ready to be expanded by one launch.
typedef struct lacuna_df11_weights lacuna_df11_weights;

// A plan of `lacuna_gate_selection`: for any device, and any number of launches at once.
typedef struct lacuna_gate_selection_plan lacuna_gate_selection_plan;

// A plan of `lacuna_gather_kv` and `lacuna_scatter_kv`: for any device, and any number of launches at once.
typedef struct lacuna_kv_rows_plan lacuna_kv_rows_plan;

// A plan of `lacuna_measure_norms`: for any device, and any number of launches at once.
typedef struct lacuna_measure_norms_plan lacuna_measure_norms_plan;

// A plan of `lacuna_merge_rows`: for any device, and any number of launches at once.
typedef struct lacuna_merge_rows_plan lacuna_merge_rows_plan;

// A plan of `lacuna_quantize_pages`, `lacuna_dequantize_pages` and `lacuna_measure_channels`: for any device, and any number of launches at
// once.
typedef struct lacuna_pages_plan lacuna_pages_plan;

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

// A plan of `lacuna_summarize`: for any device, and any number of launches at once.
typedef struct lacuna_summarize_plan lacuna_summarize_plan;

// A plan of `lacuna_topk_rows`: for any device, and any number of launches at once.
typedef struct lacuna_topk_rows_plan lacuna_topk_rows_plan;

// A plan of `lacuna_vote_rows` and `lacuna_score_votes`: for any device, and any number of launches at once.
typedef struct lacuna_vote_rows_plan lacuna_vote_rows_plan;

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

// Device memory that a function reads: `len` elements from `data` on, aligned to an element. All zeros is no view, which
// optional fields may be. This struct never changes.
typedef struct lacuna_view {
  // A `CUdeviceptr`, or what `cudaMalloc` gave.
  const void *data;
  // Elements, of which functions know how many there must be.
  uint64_t len;
  // A `lacuna_dtype`.
  uint32_t dtype;
  // 0.
  uint32_t reserved;
} lacuna_view;

// The same in device memory: u8 views.
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

// Elements of each view of `lacuna_df11_decode_args`, by the same names.
typedef struct lacuna_df11_sizes {
  struct lacuna_header header;
  uint64_t workspace;
  uint64_t output;
  // Bytes of device memory that the weights own.
  uint64_t owned_bytes;
  // Groups.
  uint64_t n_groups;
} lacuna_df11_sizes;

// Device memory that a function writes, and perhaps reads; else as `lacuna_view`. No other memory of the same call
// overlaps it.
typedef struct lacuna_view_mut {
  // A `CUdeviceptr`, or what `cudaMalloc` gave.
  void *data;
  // Elements, of which functions know how many there must be.
  uint64_t len;
  // A `lacuna_dtype`.
  uint32_t dtype;
  // 0.
  uint32_t reserved;
} lacuna_view_mut;

// What `lacuna_df11_decode` uses and writes.
typedef struct lacuna_df11_decode_args {
  struct lacuna_header header;
  // u64: zeros before the first launch, and used by one launch at a time.
  struct lacuna_view_mut workspace;
  // bf16: every group's weights, one group after the other, in file order.
  struct lacuna_view_mut output;
} lacuna_df11_decode_args;

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

// A cache whose keys and values a function writes; else as `lacuna_kv`. This struct never changes.
typedef struct lacuna_kv_mut {
  struct lacuna_view_mut keys;
  struct lacuna_view_mut values;
  struct lacuna_view page_table;
  struct lacuna_view lengths;
} lacuna_kv_mut;

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
  // u64 `[batch, n_heads, n_probes, n_q_heads / n_heads]`: what each softmax is divided by, as other functions take it.
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
  // Of means and outliers alone, f32 `[batch, n_heads, outlier_stride]`.
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

// The device's name, into an array of `n_bytes`: as much as fits, and a zero byte. `len`, where it is not null, is set to
// the name's bytes.
//
// Errors: `LACUNA_NULL`.
enum lacuna_status lacuna_device_name(const struct lacuna_device *device,
                                      char *name,
                                      uint64_t n_bytes,
                                      uint64_t *len);

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

// Checks groups, and copies their tensors to the memory of the queue's device.
//
// Two allocations and five copies a group, and one of each for their table; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_FORMAT` where a tensor is not what the format allows; `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_df11_weights_upload(const struct lacuna_queue *queue,
                                              const struct lacuna_df11_group *groups,
                                              uint64_t n_groups,
                                              struct lacuna_df11_weights **weights);

// Uses tensors that are in device memory already, without a copy, until the weights are freed. Kernels trust
// nothing in them.
//
// One allocation and one copy, for the table of groups; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_df11_weights_borrow(const struct lacuna_queue *queue,
                                              const struct lacuna_df11_views *groups,
                                              uint64_t n_groups,
                                              struct lacuna_df11_weights **weights);

// Ends weights, and frees what they own after the work that was queued before; null is nothing.
void lacuna_df11_weights_free(struct lacuna_df11_weights *weights);

// How long views must be, at least.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_df11_weights_sizes(const struct lacuna_df11_weights *weights,
                                             struct lacuna_df11_sizes *sizes);

// Where in `output` a group's weights are: `start` and the `end` after them, in elements.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not.
enum lacuna_status lacuna_df11_weights_range(const struct lacuna_df11_weights *weights,
                                             uint64_t group,
                                             uint64_t *start,
                                             uint64_t *end);

// Expands every group: bit for bit the weights that were encoded. A corrupt group's whole range is quiet NaNs (0x7FC0), which
// `lacuna_df11_check` reports.
//
// One launch.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE` before anything is launched;
// `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_df11_decode(const struct lacuna_queue *queue,
                                      const struct lacuna_df11_weights *weights,
                                      const struct lacuna_df11_decode_args *args);

// Waits for the queue's stream, and reports the lowest corrupt block that any launch with this workspace has met since it was last zeroed.
// Who synchronises anyway looks at the first word himself: 0 is sound.
//
// Errors: `LACUNA_CORRUPT`, whose message says where and what; `LACUNA_NULL`, `LACUNA_DTYPE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_df11_check(const struct lacuna_queue *queue,
                                     const struct lacuna_df11_weights *weights,
                                     const struct lacuna_view *workspace);

// What the first word of a workspace says, which the caller has copied to the host.
//
// Errors: `LACUNA_CORRUPT`, whose message says where and what.
enum lacuna_status lacuna_df11_check_status(uint64_t status);

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
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
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
