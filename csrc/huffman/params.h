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

#endif  // LACUNA_HUFFMAN_PARAMS_H_
