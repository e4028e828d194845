// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef LACUNA_HUFFMAN_PARAMS_H_
#define LACUNA_HUFFMAN_PARAMS_H_

#include "../device_ptr.h"

/// One DFloat11 group in device memory: the tensors of the checkpoint as they are in the file, and
/// where its weights go. No pointer needs more than its type's own alignment; 16-byte alignment of
/// `codes` and `sign_mantissa`, and of the output at `output_offset`, is faster.
typedef struct HuffmanGroup {
  /// `[n_code_bytes]` u8: the exponents, prefix-coded, most significant bit first.
  DEVICE_PTR(const uint8_t) codes;
  /// `[n_elements]` u8: bit 7 the sign, bits 6..0 the mantissa.
  DEVICE_PTR(const uint8_t) sign_mantissa;
  /// `[n_lut_rows + 1, 256]` u8: chained decode tables, then the code length of each exponent.
  DEVICE_PTR(const uint8_t) luts;
  /// `[320 * n_blocks]` u8: 5 bits per 8 code bytes, most significant bit first: where in those
  /// 64 bits the first code starts.
  DEVICE_PTR(const uint8_t) gaps;
  /// `[4 * n_positions]` u8: little-endian u32, the first element of each block of 4,096 code
  /// bytes; entries past the end count as `n_elements`.
  DEVICE_PTR(const uint8_t) positions;
  /// Bytes of `codes`, `1..2^31`.
  uint64_t n_code_bytes;
  /// Weights of the group, `1..2^32`.
  uint64_t n_elements;
  /// Where the group's weights start in the launch's output, in elements.
  uint64_t output_offset;
  /// Blocks of 4,096 code bytes in the groups before this one: the first thread block of this one.
  uint32_t first_block;
  /// Blocks of 4,096 code bytes in this group.
  uint32_t n_blocks;
  /// Decode tables, `1..=17`.
  uint32_t n_lut_rows;
  /// Entries of `positions`: `n_blocks` or `n_blocks + 1`.
  uint32_t n_positions;
} HuffmanGroup;

/// What the thread blocks of one group tell each other; zero before and after every launch.
typedef struct HuffmanGroupState {
  /// Thread blocks that have finished.
  uint32_t n_done;
  /// Nonzero once a thread block has found the group corrupt.
  uint32_t corrupt;
} HuffmanGroupState;

/// Expand DFloat11 groups to bf16. After DFloat11 (arXiv:2504.11651).
typedef struct HuffmanDecodeParams {
  /// `[n_groups]`, ascending and gapless in `first_block`.
  DEVICE_PTR(const HuffmanGroup) groups;
  /// `[output_offset + n_elements of every group]` bf16, out: each group's range is overwritten,
  /// with quiet NaNs (0x7FC0) where the group is corrupt. The ranges do not overlap.
  DEVICE_PTR(uint16_t) output;
  /// `[n_groups]`, workspace: zeroed once when allocated, left zeroed by every launch.
  DEVICE_PTR(HuffmanGroupState) states;
  /// `[1]` u64, in and out: 0 is sound; else the report of the lowest corrupt block, as
  /// `(2^32 - 1 - block) << 32 | reason`. Never cleared by a launch.
  DEVICE_PTR(uint64_t) status;
  /// Groups in the launch; 0 is a no-op.
  uint32_t n_groups;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} HuffmanDecodeParams;

/// One group with an index of its stream, in device memory. `codes` and `sign_mantissa` are aligned
/// to 16 bytes.
typedef struct HuffmanIndexedGroup {
  /// `[n_code_bytes]` u8: the exponents, prefix-coded, most significant bit first.
  DEVICE_PTR(const uint8_t) codes;
  /// `[n_elements]` u8: bit 7 the sign, bits 6..0 the mantissa.
  DEVICE_PTR(const uint8_t) sign_mantissa;
  /// `[n_granules / 32 + 1]` u32, with `n_granules = ceil(n_elements / 128)`: for each 32 entries
  /// of `granule_bits` the byte of `codes` that they count from.
  DEVICE_PTR(const uint32_t) tile_bytes;
  /// `[n_granules + 1]` u16: where each 128 weights' first code begins, in bits from there; the
  /// last is the end of the codes.
  DEVICE_PTR(const uint16_t) granule_bits;
  /// `[4096]` u32 by the next 12 bits, then `[256]` u8: bits 0..8 the first exponent, rotated right
  /// by one bit, 8..16 the second, 16..24 the bits of these codes, 24..32 how many codes (0: a
  /// longer code, or none); then the length of each exponent's code.
  DEVICE_PTR(const uint32_t) table;
  /// `[n_lut_rows + 1, 256]` u8: DF11's tables, for codes of more than 12 bits; null where there
  /// are none.
  DEVICE_PTR(const uint8_t) luts;
  /// Bytes of `codes`, `1..2^32`.
  uint64_t n_code_bytes;
  /// Weights of the group, `1..2^32`.
  uint64_t n_elements;
  /// Where the group's weights start in the launch's output, in elements.
  uint64_t output_offset;
  /// The first thread block of this group.
  uint32_t first_block;
  /// Tiles of 4,096 weights in the groups before this one.
  uint32_t first_tile;
  /// Decode tables of `luts`, `1..=17`; 0 where there are none.
  uint32_t n_lut_rows;
  /// Zero.
  uint32_t reserved;
} HuffmanIndexedGroup;

/// Expand indexed groups to bf16.
typedef struct HuffmanIndexedParams {
  /// `[n_groups]`, ascending and gapless in `first_block` and `first_tile`.
  DEVICE_PTR(const HuffmanIndexedGroup) groups;
  /// `[output_offset + n_elements of every group]` bf16, out: each group's range is overwritten,
  /// with quiet NaNs (0x7FC0) in corrupt tiles. The ranges do not overlap.
  DEVICE_PTR(uint16_t) output;
  /// `[1]` u64, in and out: 0 is sound; else the report of the lowest corrupt tile, as `(2^32 - 1 -
  /// tile) << 32 | reason`. Never cleared by a launch.
  DEVICE_PTR(uint64_t) status;
  /// Groups in the launch; of 0 there are no thread blocks.
  uint32_t n_groups;
  /// Tiles of one thread block, `1..`: the same for all of them.
  uint32_t block_tiles;
} HuffmanIndexedParams;

/// Where the index of a DFloat11 group goes. An entry is where each 128 weights' first code begins,
/// and after them the end of the last code.
typedef struct HuffmanIndexTarget {
  /// `[n_entries]` u32, workspace: the entries' bits of the stream, modulo 2^32.
  DEVICE_PTR(uint32_t) starts;
  /// `[(n_entries - 1) / 32 + 1]` u32, out: the byte of each 32nd entry's bit.
  DEVICE_PTR(uint32_t) tile_bytes;
  /// `[n_entries]` u16, out: bits of each entry from the byte of its 32.
  DEVICE_PTR(uint16_t) granule_bits;
  /// `ceil(n_elements / 128) + 1`.
  uint32_t n_entries;
  /// The first thread block of `pack_index` for this group: one for each 256 entries.
  uint32_t first_block;
} HuffmanIndexTarget;

/// Verify DFloat11 groups, and find where the codes of each 128 weights begin.
typedef struct HuffmanIndexParams {
  /// `[n_groups]`, ascending and gapless in `first_block`; outputs have no part.
  DEVICE_PTR(const HuffmanGroup) groups;
  /// `[n_groups]`: `starts` and `tile_bytes` are written, of a corrupt group some of them.
  DEVICE_PTR(const HuffmanIndexTarget) targets;
  /// `[n_groups]` u32, in and out: raised to 2 where the group is corrupt, and to 1 where its last
  /// code ends past the stream.
  DEVICE_PTR(uint32_t) verdicts;
  /// `[1]` u64, in and out: as in `HuffmanDecodeParams`.
  DEVICE_PTR(uint64_t) status;
  /// Groups in the launch; of 0 there are no thread blocks.
  uint32_t n_groups;
  /// Zero.
  uint32_t reserved;
} HuffmanIndexParams;

/// Entries that `index_stream` left, as an index has them.
typedef struct HuffmanPackIndexParams {
  /// `[n_groups]`, ascending and gapless in `first_block`: `granule_bits` is written.
  DEVICE_PTR(const HuffmanIndexTarget) targets;
  /// `[n_groups]` u32, in and out: raised to 1 where an entry is of more than 16 bits.
  DEVICE_PTR(uint32_t) verdicts;
  /// Groups in the launch; of 0 there are no thread blocks.
  uint32_t n_groups;
  /// Zero.
  uint32_t reserved;
} HuffmanPackIndexParams;

/// Rows of a matrix of an indexed group to bf16, by their numbers.
typedef struct HuffmanRowsParams {
  /// Its group; `output_offset` and `first_block` have no part.
  HuffmanIndexedGroup group;
  /// `[n_rows]` u32: which rows. Any numbers.
  DEVICE_PTR(const uint32_t) rows;
  /// `[n_rows, output_stride]` bf16, out: the first `row_len` of each row; what is of a corrupt
  /// span is quiet NaNs (0x7FC0).
  DEVICE_PTR(uint16_t) output;
  /// `[1]` u64, in and out: as in `HuffmanIndexedParams`, the tile being that in which a corrupt
  /// span begins.
  DEVICE_PTR(uint64_t) status;
  /// Where the matrix begins in its group, in elements.
  uint64_t first_element;
  /// Elements from row to row of the output, `row_len..`.
  uint64_t output_stride;
  /// Rows that are asked for.
  uint32_t n_rows;
  /// Rows of the matrix; it ends within the group.
  uint32_t n_matrix_rows;
  /// Elements of a row, `1..`.
  uint32_t row_len;
  /// Spans of 32 granules that a row may have weights of.
  uint32_t row_spans;
  /// Spans of one thread block, `1..`: the same for all of them.
  uint32_t block_spans;
  /// Whether a row that is not there is zeros (1), or left alone (0).
  uint32_t fills_zeros;
} HuffmanRowsParams;

/// The planes of a matrix `[n_rows, n_columns]` of bf16 as src/huffman/lane/format.md specifies
/// them, in tiles of 16 rows and 128 columns.
typedef struct HuffmanLane {
  /// `[n_row_tiles, 8]` u8: the values of an exponent's upper seven bits; a multiple of 8.
  DEVICE_PTR(uint8_t) palettes;
  /// `[n_tiles, 2048]` u8: low bytes; a multiple of 16.
  DEVICE_PTR(uint8_t) low;
  /// `[n_tiles, 256]` u32: codes and signs; a multiple of 16.
  DEVICE_PTR(uint32_t) high;
  /// `[n_tiles]` u64: where a tile's escapes are, how many, and in which steps.
  DEVICE_PTR(uint64_t) headers;
  /// `[n_escapes]` u32: weights and their places; null where there is none.
  DEVICE_PTR(uint32_t) escapes;
  /// Rows, with columns `1..2^32` weights.
  uint32_t n_rows;
  /// Columns.
  uint32_t n_columns;
  /// Tiles of 16 rows.
  uint32_t tiles_per_row;
  /// Entries of `escapes`.
  uint32_t n_escapes;
} HuffmanLane;

/// One matrix of a product: what is multiplied, and where its part of the outputs goes.
typedef struct HuffmanFactor {
  HuffmanLane planes;
  /// `[n_rows]` of the output's type, or null: added to every input's outputs.
  DEVICE_PTR(const uint8_t) bias;
  /// `[n_inputs, n_rows]` of the output's type, rows `residual_stride` apart, or null: added last.
  /// May be the output itself.
  DEVICE_PTR(const uint8_t) residual;
  /// `[n_inputs, n_rows]`, rows `output_stride` apart, out; null of the second matrix of a gated
  /// product.
  DEVICE_PTR(uint8_t) output;
  /// Elements.
  uint64_t residual_stride;
  /// Elements.
  uint64_t output_stride;
  /// The first thread block that has some of its rows; of what is gated the number of all blocks.
  uint32_t first_block;
  /// Zero.
  uint32_t reserved;
} HuffmanFactor;

/// Multiply matrices of lanes, all of `n_columns`, by one set of inputs:
/// `output[c][r] = sum over k of weight[r][k] * x[c][k] + bias[r] + residual[c][r]`.
typedef struct HuffmanMultiplyLaneParams {
  /// The first `n_matrices` count; ascending in `first_block`, from 0 on. Of a gated product the
  /// first is the gate, and the second, of as many rows, what it gates.
  HuffmanFactor matrices[4];
  /// `[n_inputs, n_columns]` bf16, rows `x_stride` apart; a multiple of 16 bytes, as the stride.
  DEVICE_PTR(const uint16_t) x;
  /// Elements, below 2^31.
  uint32_t x_stride;
  /// A multiple of 8, no larger than `x_stride`.
  uint32_t n_columns;
  /// `1..=64`, and no more than the kernel takes at once.
  uint32_t n_inputs;
  /// `1..=4`; 2 of a gated product.
  uint32_t n_matrices;
  /// Whether outputs are `silu(first) * second`.
  uint32_t is_gated;
  /// The type of outputs, biases and residuals: FloatKind, of 16 bits or f32.
  uint32_t output_kind;
} HuffmanMultiplyLaneParams;

/// Expand a matrix of lanes to rows of bf16.
typedef struct HuffmanUnpackLaneParams {
  /// What is read.
  HuffmanLane planes;
  /// `[(n_rows - 1) * output_stride + n_columns]` bf16, out: rows; what is between them is left as
  /// it is. A multiple of 16, with a stride that is one of 8, is faster.
  DEVICE_PTR(uint16_t) output;
  /// Elements between the starts of two rows, at least `n_columns`.
  uint64_t output_stride;
} HuffmanUnpackLaneParams;

/// Choose the palettes of a matrix, and count what they lack.
typedef struct HuffmanMeasureLaneParams {
  /// `[(n_rows - 1) * weights_stride + n_columns]` bf16. A multiple of 16, with a stride that is
  /// one of 8, is faster.
  DEVICE_PTR(const uint16_t) weights;
  /// Elements between the starts of two rows, at least `n_columns`.
  uint64_t weights_stride;
  /// `[n_row_tiles, 8]` u8, out.
  DEVICE_PTR(uint8_t) palettes;
  /// `[n_row_tiles]` u64, out: the first escape of each row tile.
  DEVICE_PTR(uint64_t) firsts;
  /// `[n_tiles]` u64, out: headers, whose first escape counts from the row tile's.
  DEVICE_PTR(uint64_t) headers;
  /// `[1]` u64, out: escapes of the matrix.
  DEVICE_PTR(uint64_t) n_escapes;
  /// `[1]` u32, in and out: zero before and after every launch.
  DEVICE_PTR(uint32_t) ticket;
  /// Rows, with columns `1..2^32` weights.
  uint32_t n_rows;
  /// Columns.
  uint32_t n_columns;
  /// Tiles of 16 rows.
  uint32_t tiles_per_row;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} HuffmanMeasureLaneParams;

/// Pack rows of bf16 into the planes of lanes.
typedef struct HuffmanPackLaneParams {
  /// `[(n_rows - 1) * weights_stride + n_columns]` bf16. A multiple of 16, with a stride that is
  /// one of 8, is faster.
  DEVICE_PTR(const uint16_t) weights;
  /// Elements between the starts of two rows, at least `n_columns`.
  uint64_t weights_stride;
  /// `[n_row_tiles]` u64: what was measured; nothing is written outside of `planes` whatever it is.
  DEVICE_PTR(const uint64_t) firsts;
  /// `[n_tiles]` u64: likewise.
  DEVICE_PTR(const uint64_t) headers;
  /// What is written, by the palettes that are there: all of `low`, `high` and `headers`; of
  /// `escapes` those that there is room for.
  HuffmanLane planes;
} HuffmanPackLaneParams;
/// Count the exponents of a group's weights, in parts of 65,536.
typedef struct HuffmanCountParams {
  /// `[n_elements]` bf16, aligned to 16 bytes: the weights.
  DEVICE_PTR(const uint16_t) weights;
  /// `[n_parts, 256]` u32, out, with `n_parts = ceil(n_elements / 65536)`: how many weights of each
  /// exponent each part has.
  DEVICE_PTR(uint32_t) parts;
  /// `[257]` u64, workspace: zeroed once when allocated, left zeroed by every launch.
  DEVICE_PTR(uint64_t) sums;
  /// `[256]` u64, out: how many weights of each exponent the group has.
  DEVICE_PTR(uint64_t) counts;
  /// Weights, `1..2^32`.
  uint64_t n_elements;
} HuffmanCountParams;

/// Find where the codes of each part of a group begin.
typedef struct HuffmanPlaceParams {
  /// `[n_parts, 256]` u32, aligned to 16 bytes: what `count_exponents` wrote.
  DEVICE_PTR(const uint32_t) parts;
  /// `[256]` u32, aligned to 16 bytes, by exponent: bits 0..6 the length of its code, 0 where it
  /// has none; what counts as none is longer than 32 bits. Other bits have no part.
  DEVICE_PTR(const uint32_t) table;
  /// `[n_parts]` u32, workspace: bits of each part's codes.
  DEVICE_PTR(uint32_t) part_bits;
  /// `[n_parts + 1]` u64, out: the bit at which each part's codes begin, then their end.
  DEVICE_PTR(uint64_t) starts;
  /// `[1]` u32, workspace: zeroed once when allocated, left zeroed by every launch.
  DEVICE_PTR(uint32_t) ticket;
  /// Parts, `1..=65536`.
  uint32_t n_parts;
  /// Zero; keeps the size a multiple of the alignment on both sides.
  uint32_t reserved;
} HuffmanPlaceParams;

/// Encode a group's weights by codes of at most 12 bits, in parts of 65,536.
typedef struct HuffmanPackParams {
  /// `[n_elements]` bf16, aligned to 16 bytes: the weights.
  DEVICE_PTR(const uint16_t) weights;
  /// `[n_parts + 1]` u64: what `place_codes` wrote.
  DEVICE_PTR(const uint64_t) starts;
  /// `[256]` u32: that of `place_codes`, and bits 20..32 the code, from bit 31 down. Longer ones
  /// than 12 bits count as none.
  DEVICE_PTR(const uint32_t) table;
  /// `[n_code_bytes]` u8, aligned to 4 bytes, out: the codes, most significant bit first.
  DEVICE_PTR(uint8_t) codes;
  /// `[n_elements]` u8, aligned to 8 bytes, out: bit 7 the sign, bits 6..0 the mantissa.
  DEVICE_PTR(uint8_t) sign_mantissa;
  /// `[n_granules / 32 + 1]` u32, out, with `n_granules = ceil(n_elements / 128)`: for each 32
  /// entries of `granule_bits` the byte of `codes` that they count from.
  DEVICE_PTR(uint32_t) tile_bytes;
  /// `[n_granules + 1]` u16, out: where each 128 weights' first code begins, in bits from there;
  /// the last is the end of the codes.
  DEVICE_PTR(uint16_t) granule_bits;
  /// Weights, `1..2^32`.
  uint64_t n_elements;
  /// Bytes of `codes`; codes past them are not written.
  uint64_t n_code_bytes;
} HuffmanPackParams;

/// Encode a group's weights by codes of at most 32 bits as DFloat11 has them, in parts of 65,536.
typedef struct HuffmanPackGroupParams {
  /// `[n_elements]` bf16, aligned to 16 bytes: the weights.
  DEVICE_PTR(const uint16_t) weights;
  /// `[n_parts + 1]` u64: what `place_codes` wrote.
  DEVICE_PTR(const uint64_t) starts;
  /// `[512]` u32: that of `place_codes`, and bits 17..32 the code, from bit 31 down, where it has
  /// up to 15 bits; then all codes, from bit 31 down.
  DEVICE_PTR(const uint32_t) table;
  /// `[n_code_bytes]` u8, aligned to 16 bytes, out: the codes, most significant bit first.
  DEVICE_PTR(uint8_t) codes;
  /// `[n_elements]` u8, aligned to 8 bytes, out: bit 7 the sign, bits 6..0 the mantissa.
  DEVICE_PTR(uint8_t) sign_mantissa;
  /// `[320 * n_blocks]` u8, out, with `n_blocks = ceil(n_code_bytes / 4096)`: 5 bits per 8 code
  /// bytes, most significant bit first: where in those 64 bits the first code starts.
  DEVICE_PTR(uint8_t) gaps;
  /// `[n_blocks + 1]` u32, out: the first element of each block of 4,096 code bytes, then
  /// `n_elements`.
  DEVICE_PTR(uint32_t) positions;
  /// Weights, `1..2^32`.
  uint64_t n_elements;
  /// Bytes of `codes`, `1..2^31`; what is of codes past them is not written.
  uint64_t n_code_bytes;
} HuffmanPackGroupParams;

#endif  // LACUNA_HUFFMAN_PARAMS_H_
