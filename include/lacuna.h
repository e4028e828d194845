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

// Whose lists of rows of a cache there are.
typedef enum lacuna_kv_lists {
  // One of each request and head: `[batch, n_heads, n_indices]`.
  LACUNA_KV_PER_HEAD = 0,
  // One of each request, for all its heads: `[batch, n_indices]`.
  LACUNA_KV_PER_REQUEST = 1,
} lacuna_kv_lists;

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

// A plan of `lacuna_copy_pages` and `lacuna_copy_pages_within`: for any device, and any number of launches at once, each with a workspace
// of its own.
typedef struct lacuna_copy_pages_plan lacuna_copy_pages_plan;

// A CUDA device in its primary context, which the CUDA runtime and every engine share, and the kernels that are loaded into it.
typedef struct lacuna_device lacuna_device;

// DF11 groups in device memory, ready to be expanded by one launch.
typedef struct lacuna_df11_weights lacuna_df11_weights;

// A plan of `lacuna_merge_partials` and `lacuna_merge_partials_in_place`: for any device, and any number of launches at once.
typedef struct lacuna_merge_partials_plan lacuna_merge_partials_plan;

// Pools of pages, and a table of their addresses in device memory. Used by one call at a time.
typedef struct lacuna_pools lacuna_pools;

// Where functions launch kernels: a stream of the caller's.
typedef struct lacuna_queue lacuna_queue;

// A plan of `lacuna_tier_resolve`: for any device, and any number of launches at once, each with a state of its own.
typedef struct lacuna_tier_resolve_plan lacuna_tier_resolve_plan;

// A plan of `lacuna_topk_rows`: for any device, and any number of launches at once.
typedef struct lacuna_topk_rows_plan lacuna_topk_rows_plan;

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

// What `lacuna_df11_decode` uses and writes.
typedef struct lacuna_df11_decode_args {
  struct lacuna_header header;
  // u64: zeros before the first launch, and used by one launch at a time.
  struct lacuna_view_mut workspace;
  // bf16: every group's weights, one group after the other, in file order.
  struct lacuna_view_mut output;
} lacuna_df11_decode_args;

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
  // i32 `[n_rows, k]`: indices into the row, in the order of the shape, then -1.
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

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LACUNA_H */
