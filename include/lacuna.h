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
// - Texts that are given are UTF-8, end with a zero byte, and are there as long as the handle that they were asked of.
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

// Bytes of a code table.
#define LACUNA_CODE_TABLE_BYTES 16640

// Bytes of a matrix's header in a file.
#define LACUNA_LANE_HEADER_BYTES 32

// Matrices of one `lacuna_multiply_lane` at most.
#define LACUNA_MOST_FACTORS 4

// Inputs of one `lacuna_multiply_lane` at most. For more, `lacuna_unpack_lane`, and a library multiplies.
#define LACUNA_MOST_INPUTS 64

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

// A checkpoint of compressed weights, mapped into memory. Groups and plain tensors borrow its files: who truncates a file that is
// mapped ends the process.
typedef struct lacuna_checkpoint lacuna_checkpoint;

// Encodes compact groups of one size in device memory, with a workspace of its own: `lacuna_compact_encoder_measure`, then memory for what it
// says, and `lacuna_compact_encoder_pack`. One thread uses it at a time.
typedef struct lacuna_compact_encoder lacuna_compact_encoder;

// A CUDA device in its primary context, which the CUDA runtime and every engine share, and the kernels that are loaded into it.
typedef struct lacuna_device lacuna_device;

// A matrix in device memory, in planes that this handle owns.
typedef struct lacuna_device_lane lacuna_device_lane;

// Encodes DF11 groups of one size in device memory, with a workspace of its own: `lacuna_df11_encoder_measure`, then memory for what it
// says, `lacuna_df11_encoder_pack`, and `lacuna_df11_encoder_lengthen`. One thread uses it at a time.
typedef struct lacuna_df11_encoder lacuna_df11_encoder;

// DF11 groups in device memory, ready to be expanded by one launch.
typedef struct lacuna_df11_weights lacuna_df11_weights;

// A plan of `lacuna_indexed_decode_rows`: for any device, and any number of launches at once.
typedef struct lacuna_indexed_decode_rows_plan lacuna_indexed_decode_rows_plan;

// Groups with an index of their streams in device memory, ready to be expanded by one launch; and by another those that no
// index holds.
typedef struct lacuna_indexed_weights lacuna_indexed_weights;

// A plan of `lacuna_multiply_lane`: for any device, and any number of launches at once.
typedef struct lacuna_multiply_lane_plan lacuna_multiply_lane_plan;

// A plan of `lacuna_measure_lane` and `lacuna_pack_lane`: for any device, and any number of launches at once.
typedef struct lacuna_pack_lane_plan lacuna_pack_lane_plan;

// Where functions launch kernels: a stream of the caller's.
typedef struct lacuna_queue lacuna_queue;

// A group of a checkpoint, checked once. It may be freed after the checkpoint.
typedef struct lacuna_stored lacuna_stored;

// A plan of `lacuna_topk_rows`: for any device, and any number of launches at once.
typedef struct lacuna_topk_rows_plan lacuna_topk_rows_plan;

// A plan of `lacuna_unpack_lane`: for any device, and any number of launches at once.
typedef struct lacuna_unpack_lane_plan lacuna_unpack_lane_plan;

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

// What structs begin with that may grow: `LACUNA_HEADER(lacuna_topk_rows_shape)` makes it.
typedef struct lacuna_header {
  // `sizeof` the struct, as its caller was compiled.
  uint32_t size;
  // `LACUNA_ABI_VERSION`, as its caller was compiled.
  uint32_t version;
} lacuna_header;

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
typedef struct lacuna_summary {
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
} lacuna_summary;

// A group and its index in host memory: DF11 with an index that `lacuna_indexed_weights_download_index` gave.
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

// The same in device memory.
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

// Elements of each view of `lacuna_indexed_decode_args`, by the same names.
typedef struct lacuna_indexed_sizes {
  struct lacuna_header header;
  uint64_t workspace;
  uint64_t output;
  // Bytes of device memory that the weights own.
  uint64_t owned_bytes;
  // Groups.
  uint64_t n_groups;
  // Those of them that no index holds: a second launch decodes them.
  uint64_t n_plain_groups;
} lacuna_indexed_sizes;

// Entries of an index's two arrays.
typedef struct lacuna_index_sizes {
  struct lacuna_header header;
  uint64_t tile_bytes;
  uint64_t granule_bits;
} lacuna_index_sizes;

// What `lacuna_indexed_decode` uses and writes.
typedef struct lacuna_indexed_decode_args {
  struct lacuna_header header;
  // u64: zeros before the first launch, and used by one launch at a time.
  struct lacuna_view_mut workspace;
  // bf16: every group's weights, one group after the other, in file order.
  struct lacuna_view_mut output;
} lacuna_indexed_decode_args;

// Rows of a matrix that lies in a group, an embedding's for instance.
typedef struct lacuna_indexed_decode_rows_shape {
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
} lacuna_indexed_decode_rows_shape;

// Elements of each view of `lacuna_indexed_decode_rows_args`, by the same names; `workspace` is as `lacuna_indexed_weights_sizes` says.
typedef struct lacuna_indexed_decode_rows_sizes {
  struct lacuna_header header;
  uint64_t rows;
  uint64_t output;
} lacuna_indexed_decode_rows_sizes;

// What `lacuna_indexed_decode_rows` reads and writes.
typedef struct lacuna_indexed_decode_rows_args {
  struct lacuna_header header;
  // The group's number among the weights.
  uint64_t group;
  // A `lacuna_absent`, for rows whose number is none: 0 makes zeros of them, 1 leaves them alone.
  uint32_t absent;
  // 0.
  uint32_t reserved;
  // u32 `[n_rows]`, any numbers.
  struct lacuna_view rows;
  // u64: as of `lacuna_indexed_decode`.
  struct lacuna_view_mut workspace;
  // bf16 `[n_rows, row_len]`, rows `output_stride` elements apart.
  struct lacuna_view_mut output;
} lacuna_indexed_decode_rows_args;

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
  // Optional, u32: room for as many escapes as were counted; those past it are not written.
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
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_WRONG_QUEUE`; `LACUNA_RANGE` where nothing was measured; `LACUNA_DRIVER`.
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
// Errors: `LACUNA_NULL`; `LACUNA_IO`; `LACUNA_FORMAT` where the files are not what a checkpoint is, and hold no group at all.
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

// Checks a group's tensors, and where the file carries a checksum of them, that too, for which all of them are read.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not; `LACUNA_FORMAT` where a tensor is not what the format allows, or is damaged.
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

// The tensors of a group of DF11, in the file that is mapped: for `lacuna_df11_weights_upload`, or for an engine's own copies. They
// are there until the group is freed.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_FORMAT` for a group in another format.
enum lacuna_status lacuna_stored_df11(const struct lacuna_stored *stored,
                                      struct lacuna_df11_group *group);

// The tensors of a compact group, in the file that is mapped: for `lacuna_indexed_weights_upload_compact`, or for an engine's own copies. They
// are there until the group is freed.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_FORMAT` for a group in another format.
enum lacuna_status lacuna_stored_compact(const struct lacuna_stored *stored,
                                         struct lacuna_compact_group *group);

// The tensors of a matrix of lanes, in the file that is mapped: for `lacuna_device_lane_upload`, or for an engine's own copies. They
// are there until the group is freed.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_FORMAT` for a group in another format.
enum lacuna_status lacuna_stored_lane(const struct lacuna_stored *stored,
                                      struct lacuna_lane_tensors *tensors);

// Expands a group on the CPU, on all threads: `output` is of its `n_elements`. `is_verified`, where it is not null, is set to 1 where they
// have the checksum that the file carries, and to 0 where it carries none. Of `LACUNA_CORRUPT` and a wrong checksum `output` is written too, and means
// nothing.
//
// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_CORRUPT`, whose message says where and what; `LACUNA_FORMAT` for another checksum than the file's.
enum lacuna_status lacuna_stored_decode(const struct lacuna_stored *stored,
                                        uint16_t *output,
                                        uint64_t n_elements,
                                        uint32_t *is_verified);

// Holds the decoded weights of a group, from whatever decoder and in host memory, against the checksum that the file carries.
// `is_verified` is as of `lacuna_stored_decode`.
//
// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_FORMAT` for another checksum than the file's.
enum lacuna_status lacuna_stored_verify(const struct lacuna_stored *stored,
                                        const uint16_t *weights,
                                        uint64_t n_elements,
                                        uint32_t *is_verified);

// Compresses a model on the CPU, on all threads: `inputs` are its safetensors files, or directories of them. `output` is one file if it ends in
// `.safetensors`, else a new directory; it appears whole or not at all. `options` and `summary` may be null. `lacuna::huffman::compress` says all of
// it.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_IO`; `LACUNA_FORMAT` for inputs that are not sound, are compressed already, or hold nothing to
// compress, and for patterns that are none.
enum lacuna_status lacuna_compress(const char *const *inputs,
                                   uint64_t n_inputs,
                                   const char *output,
                                   const struct lacuna_conversion *options,
                                   struct lacuna_summary *summary);

// Writes a checkpoint in another format, on the CPU, without the model between; not to DF11, whose groups must be what patterns say. `options` and
// `summary` may be null.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_IO`, `LACUNA_CORRUPT`; `LACUNA_FORMAT` for DF11, and for lanes of a matrix whose shape the checkpoint
// does not say.
enum lacuna_status lacuna_transcode(const struct lacuna_checkpoint *checkpoint,
                                    const char *output,
                                    const struct lacuna_conversion *options,
                                    struct lacuna_summary *summary);

// Decompresses a checkpoint on the CPU to one bf16 safetensors file. `options` and `summary` may be null.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_RANGE`, `LACUNA_IO`, `LACUNA_CORRUPT`, `LACUNA_FORMAT`.
enum lacuna_status lacuna_decompress(const struct lacuna_checkpoint *checkpoint,
                                     const char *output,
                                     const struct lacuna_conversion *options,
                                     struct lacuna_summary *summary);

// Verifies DF11 groups in device memory, and indexes them: from now on each code is decoded once, and not twice. What was
// uploaded of a group and no longer serves is freed. A group that no index holds is decoded as before.
//
// Takes `*df11` over: whatever the answer, it is null afterwards, and its groups are freed where the answer is not
// `LACUNA_OK`. That of null handles is `LACUNA_NULL`, and nothing is taken.
//
// Two launches, allocations and copies, for which it waits; not for a captured stream.
//
// Errors: `LACUNA_NULL`; `LACUNA_CORRUPT`, whose message names the lowest corrupt block; `LACUNA_WRONG_QUEUE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_indexed_weights_index(const struct lacuna_queue *queue,
                                                struct lacuna_df11_weights **df11,
                                                struct lacuna_indexed_weights **weights);

// Checks compact groups, and copies them to the memory of the queue's device.
//
// An allocation and six copies a group, and one of each for their table; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_FORMAT` where a tensor is not what the format allows; `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_indexed_weights_upload_compact(const struct lacuna_queue *queue,
                                                         const struct lacuna_compact_group *groups,
                                                         uint64_t n_groups,
                                                         struct lacuna_indexed_weights **weights);

// Copies groups and their indices to the memory of the queue's device. Nothing in them is trusted, now or later.
//
// An allocation and six copies a group, and one of each for their table; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_indexed_weights_upload(const struct lacuna_queue *queue,
                                                 const struct lacuna_indexed_group *groups,
                                                 uint64_t n_groups,
                                                 struct lacuna_indexed_weights **weights);

// Uses groups that are in device memory already, without a copy, until the weights are freed. Kernels trust
// nothing in them.
//
// One allocation and one copy, for the table of groups; not for a captured stream.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_indexed_weights_borrow(const struct lacuna_queue *queue,
                                                 const struct lacuna_indexed_views *groups,
                                                 uint64_t n_groups,
                                                 struct lacuna_indexed_weights **weights);

// Ends weights, and frees what they own after the work that was queued before; null is nothing.
void lacuna_indexed_weights_free(struct lacuna_indexed_weights *weights);

// How long views must be, at least.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_indexed_weights_sizes(const struct lacuna_indexed_weights *weights,
                                                struct lacuna_indexed_sizes *sizes);

// Where in `output` a group's weights are: `start` and the `end` after them, in elements.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not.
enum lacuna_status lacuna_indexed_weights_range(const struct lacuna_indexed_weights *weights,
                                                uint64_t group,
                                                uint64_t *start,
                                                uint64_t *end);

// Sets `is_indexed` to 1 where an index holds the group, and to 0 where none does.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a group that there is not.
enum lacuna_status lacuna_indexed_weights_is_indexed(const struct lacuna_indexed_weights *weights,
                                                     uint64_t group,
                                                     uint32_t *is_indexed);

// How many entries the index of so many weights has.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_index_len(uint64_t n_elements, struct lacuna_index_sizes *sizes);

// Copies a group's index to host memory, so that it need not be made again: as many entries as `lacuna_index_len` says.
//
// Two copies, for which it waits.
//
// Errors: `LACUNA_NULL`; `LACUNA_SHAPE` for arrays of another length; `LACUNA_RANGE` for a group that there is not, or that no index holds;
// `LACUNA_WRONG_QUEUE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_indexed_weights_download_index(const struct lacuna_queue *queue,
                                                         const struct lacuna_indexed_weights *weights,
                                                         uint64_t group,
                                                         uint32_t *tile_bytes,
                                                         uint64_t n_tile_bytes,
                                                         uint16_t *granule_bits,
                                                         uint64_t n_granule_bits);

// The code table of DF11's `luts`, `[n_lut_rows + 1, 256]` in host memory, into `n_bytes` of host memory: `LACUNA_CODE_TABLE_BYTES`.
//
// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`.
enum lacuna_status lacuna_df11_code_table(struct lacuna_bytes luts,
                                          uint8_t *table,
                                          uint64_t n_bytes);

// The code table of a compact group's `lengths`, 128 bytes in host memory, into `n_bytes` of host memory: `LACUNA_CODE_TABLE_BYTES`.
//
// Errors: `LACUNA_NULL`, `LACUNA_SHAPE`; `LACUNA_FORMAT` for lengths that are those of no code.
enum lacuna_status lacuna_compact_code_table(struct lacuna_bytes lengths,
                                             uint8_t *table,
                                             uint64_t n_bytes);

// Expands every group: bit for bit the weights that were encoded. A corrupt tile of 4,096 weights is quiet NaNs (0x7FC0), of a group
// without an index all of it, which `lacuna_indexed_check` reports. Where `output` is aligned to 16 bytes, stores are so wide.
//
// One launch, and another where there are groups without an index.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE` before anything is launched;
// `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_indexed_decode(const struct lacuna_queue *queue,
                                         const struct lacuna_indexed_weights *weights,
                                         const struct lacuna_indexed_decode_args *args);

// Makes a plan: arithmetic alone, no driver call.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
enum lacuna_status lacuna_indexed_decode_rows_plan_new(const struct lacuna_indexed_decode_rows_shape *shape,
                                                       struct lacuna_indexed_decode_rows_plan **plan);

// Ends a plan; null is nothing.
void lacuna_indexed_decode_rows_plan_free(struct lacuna_indexed_decode_rows_plan *plan);

// How long views must be.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
enum lacuna_status lacuna_indexed_decode_rows_plan_sizes(const struct lacuna_indexed_decode_rows_plan *plan,
                                                         struct lacuna_indexed_decode_rows_sizes *sizes);

// Expands rows of a matrix that lies in a group which an index holds; nothing else of the group is read:
// `output[i, j] = weight first_element + rows[i] * row_len + j`. Weights of a corrupt span of 32 granules are quiet NaNs (0x7FC0), which
// `lacuna_indexed_check` reports.
//
// One launch; row numbers are read on the device.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_WRONG_QUEUE`, and `LACUNA_RANGE` for a group that no index holds, before
// anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_indexed_decode_rows(const struct lacuna_queue *queue,
                                              const struct lacuna_indexed_weights *weights,
                                              const struct lacuna_indexed_decode_rows_plan *plan,
                                              const struct lacuna_indexed_decode_rows_args *args);

// Expands a compact group in host memory on the CPU, on all threads: `output` is of the group's `n_elements`. A corrupt tile is quiet NaNs.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_FORMAT`, `LACUNA_SHAPE`; `LACUNA_CORRUPT`, whose message says where and what.
enum lacuna_status lacuna_compact_group_decode(const struct lacuna_compact_group *group,
                                               uint16_t *output,
                                               uint64_t n_elements);

// Waits for the queue's stream, and reports the lowest corrupt tile that any launch with this workspace has met since it was last
// zeroed; where there is none, the lowest corrupt block of groups without an index. Who synchronises anyway looks at the first two words himself: 0 is sound.
//
// Errors: `LACUNA_CORRUPT`, whose message says where and what; `LACUNA_NULL`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_DRIVER`.
enum lacuna_status lacuna_indexed_check(const struct lacuna_queue *queue,
                                        const struct lacuna_indexed_weights *weights,
                                        const struct lacuna_view *workspace);

// What the first word of a workspace says, which the caller has copied to the host, and the second, where there are groups without
// an index; else 0.
//
// Errors: `LACUNA_CORRUPT`, whose message says where and what.
enum lacuna_status lacuna_indexed_check_status(uint64_t tile_status,
                                               uint64_t block_status);

// The group in which what these status words report is, as `lacuna_indexed_check_status` takes them.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for words that report nothing of these weights.
enum lacuna_status lacuna_indexed_weights_locate(const struct lacuna_indexed_weights *weights,
                                                 uint64_t tile_status,
                                                 uint64_t block_status,
                                                 uint64_t *group);

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
// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_FORMAT` where a tensor is not what the format allows; `LACUNA_RANGE`, `LACUNA_DRIVER`.
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
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_FORMAT`, `LACUNA_SHAPE`.
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

// The group in which what this status word reports is, as `lacuna_df11_check_status` takes it.
//
// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a word that reports nothing of these weights.
enum lacuna_status lacuna_df11_weights_locate(const struct lacuna_df11_weights *weights,
                                              uint64_t status,
                                              uint64_t *group);

// Expands a group in host memory on the CPU, on all threads: `output` is of the group's `n_elements`. A corrupt
// group is quiet NaNs.
//
// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_FORMAT`, `LACUNA_SHAPE`; `LACUNA_CORRUPT`, whose message says where and what.
enum lacuna_status lacuna_df11_group_decode(const struct lacuna_df11_group *group,
                                            uint16_t *output,
                                            uint64_t n_elements);

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
