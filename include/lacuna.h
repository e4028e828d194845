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
  // Memory of another device than the queue's.
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

// A CUDA device in its primary context, which the CUDA runtime and every engine share, and the kernels that are loaded into it.
typedef struct lacuna_device lacuna_device;

// DF11 groups in device memory, ready to be expanded by one launch.
typedef struct lacuna_df11_weights lacuna_df11_weights;

// Where functions launch kernels: a stream of the caller's.
typedef struct lacuna_queue lacuna_queue;

// A plan of `lacuna_topk_rows`: for any device, and any number of launches at once.
typedef struct lacuna_topk_rows_plan lacuna_topk_rows_plan;

// What structs begin with that may grow: `LACUNA_HEADER(lacuna_topk_rows_shape)` makes it.
typedef struct lacuna_header {
  // `sizeof` the struct, as its caller was compiled.
  uint32_t size;
  // `LACUNA_ABI_VERSION`, as its caller was compiled.
  uint32_t version;
} lacuna_header;

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
