// SPDX-License-Identifier: MIT OR Apache-2.0
// What of a request a block has, and how its parts become outputs: those of its warps, and those of
// other blocks.
#ifndef LACUNA_ATTENTION_PARTS_CUH_
#define LACUNA_ATTENTION_PARTS_CUH_

#include "../common/async.cuh"
#include "../common/last.cuh"
#include "sums.cuh"
#include "tokens.cuh"

namespace {

// By which the rows of a tile are finished.
struct Finishing {
  // What a row's sum is multiplied by, and its output after that.
  float scales[kRows];
  float reciprocals[kRows];
  uint32_t is_last;
};

// What a block has of a request.
struct Part {
  uint32_t b;
  uint32_t head;
  // Rows of queries of the head, and the block's first tile of them.
  uint32_t n_all_rows;
  uint32_t first_tile;
  // Of a tile, at most: 16, or fewer.
  uint32_t tile_rows;
  // Sets of warps.
  uint32_t n_sets;
  // Positions of the row, and how many of them are a split.
  uint32_t n_positions;
  uint32_t split_len;
  uint32_t n_splits;
};

// Rows of queries of a tile.
struct Rows {
  uint32_t tile;
  uint32_t n;
};

__device__ __forceinline__ Rows rows_of_tile(const Part& part, uint32_t tile) {
  const uint32_t first = tile * part.tile_rows;
  return {tile, first < part.n_all_rows ? min_of(part.tile_rows, part.n_all_rows - first) : 0};
}

// A row of queries: which query it is of, and which head of its group.
struct QueryRow {
  uint32_t query;
  uint32_t in_group;
};

__device__ __forceinline__ QueryRow locate_query(const AttentionAttendParams& params,
                                                 uint32_t row) {
  QueryRow found;
  found.query = row / params.group;
  found.in_group = row - found.query * params.group;
  return found;
}

// Begins to copy the block's queries; zeros past the last.
__device__ __forceinline__ void stage_queries(const AttentionAttendParams& params, const Part& part,
                                              uint4* queries) {
  const uint32_t n_chunks = params.head_dim / 8;
  for (uint32_t i = threadIdx.x; i < part.n_sets * part.tile_rows * n_chunks; i += blockDim.x) {
    const uint32_t r = i / n_chunks;
    const uint32_t chunk = i - r * n_chunks;
    const bool is_row = part.first_tile * part.tile_rows + r < part.n_all_rows;
    const QueryRow row = locate_query(params, is_row ? part.first_tile * part.tile_rows + r : 0);
    const uint64_t token = uint64_t{part.b} * params.n_queries + row.query;
    const uint64_t head = uint64_t{part.head} * params.group + row.in_group;
    const uint64_t element = token * params.query_stride + head * params.head_dim + 8 * chunk;
    copy_async<16>(queries + r * pitch_of(params.head_dim) + chunk, params.queries + 2 * element,
                   is_row);
  }
}

// What of the row's sums makes its outputs, and the logarithm. By the thread of a row.
__device__ __forceinline__ void finish_row(const AttentionAttendParams& params, const Part& part,
                                           const Rows& rows, uint32_t r, const Merge& merge,
                                           Finishing& finishing) {
  const QueryRow row = locate_query(params, rows.tile * part.tile_rows + r);
  const uint32_t head = part.head * params.group + row.in_group;
  const float* sink = params.sinks != nullptr ? params.sinks + head : nullptr;
  const Finish finish =
      finish_sums(params.logits, merge.greatest[r], merge.sums[r], merge.masses[r], sink);
  finishing.scales[r] = finish.scale;
  finishing.reciprocals[r] = finish.reciprocal;
  if (params.log_sums == nullptr) return;
  const AttentionLogSumStrides& strides = params.log_sum_strides;
  params.log_sums[part.b * strides.request + row.query * strides.query + head * strides.head] =
      finish.log_sum;
}

// Writes the outputs of rows whose parts were weighed.
__device__ __forceinline__ void write_outputs(const AttentionAttendParams& params, const Part& part,
                                              const Rows& rows, const uint32_t* words,
                                              uint32_t n_parts, uint32_t part_stride,
                                              const Merge& merge, Finishing& finishing) {
  if (threadIdx.x < rows.n) finish_row(params, part, rows, threadIdx.x, merge, finishing);
  __syncthreads();
  const uint32_t d = params.head_dim;
  for (uint32_t i = 4 * threadIdx.x; i < rows.n * d; i += 4 * blockDim.x) {
    const uint32_t r = i / d;
    const uint32_t c = i - r * d;
    float four[4];
    add_parts(words, n_parts, part_stride, r, c, d, merge, four);
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
      four[j] = finish_output(four[j], finishing.scales[r], finishing.reciprocals[r]);
    }
    const QueryRow row = locate_query(params, rows.tile * part.tile_rows + r);
    const uint64_t token = uint64_t{part.b} * params.n_queries + row.query;
    const uint64_t head = uint64_t{part.head} * params.group + row.in_group;
    store_four(params.outputs, token * params.output_stride + head * d + c,
               params.logits.output_element, four);
  }
}

// Parts as one.
__device__ __forceinline__ void store_part(const uint32_t* words, uint32_t n, uint32_t part_stride,
                                           uint32_t n_rows, uint32_t d, uint32_t* target,
                                           const Merge& merge) {
  const uint32_t row_words = d + kExtraWords;
  for (uint32_t i = 4 * threadIdx.x; i < n_rows * row_words; i += 4 * blockDim.x) {
    const uint32_t r = i / row_words;
    const uint32_t c = i - r * row_words;
    uint4 four;
    if (c < d) {
      float sums[4];
      add_parts(words, n, part_stride, r, c, d, merge, sums);
      four = make_uint4(__float_as_uint(sums[0]), __float_as_uint(sums[1]),
                        __float_as_uint(sums[2]), __float_as_uint(sums[3]));
    } else {
      four = make_uint4(__float_as_uint(merge.sums[r]), static_cast<uint32_t>(merge.greatest[r]),
                        __float_as_uint(merge.masses[r]), 0);
    }
    *reinterpret_cast<uint4*>(target + i) = four;
  }
}

// Adds up what the warps of a set left on chip, and what other blocks have of the same rows of
// queries, by the last of them.
__device__ __forceinline__ void merge_parts(const AttentionAttendParams& params, const Part& part,
                                            const Rows& rows, uint32_t n_warps, uint4* dynamic,
                                            Finishing& finishing) {
  const uint32_t d = params.head_dim;
  const uint32_t row_words = d + kExtraWords;
  uint32_t n_parts = n_warps;
  uint32_t part_stride = part.tile_rows * row_words;
  uint32_t* const chip = reinterpret_cast<uint32_t*>(dynamic);
  uint32_t* const room = chip + part.n_sets * n_warps * part_stride;
  const uint32_t* words = chip + (rows.tile - part.first_tile) * n_warps * part_stride;
  // First of warps, then of splits, where there are several.
  Merge merge(room, n_parts);
  for (uint32_t n_to_merge = part.n_splits == 1 ? 1 : 2;; --n_to_merge) {
    weigh_parts(words, n_parts, part_stride, rows.n, d, merge);
    if (n_to_merge == 1) break;
    const uint64_t head = uint64_t{part.b} * params.n_heads + part.head;
    const uint32_t split_words = part.n_all_rows * row_words;
    uint32_t* partials = params.partials + head * params.n_splits * split_words +
                         uint64_t{rows.tile} * part.tile_rows * row_words;
    store_part(words, n_parts, part_stride, rows.n, d, partials + blockIdx.x * split_words, merge);
    uint32_t* ticket = params.tickets + head * params.n_tiles + rows.tile;
    if (!is_last_block(ticket, part.n_splits, finishing.is_last)) return;
    words = partials;
    n_parts = part.n_splits;
    part_stride = split_words;
    merge = Merge(room, n_parts);
  }
  write_outputs(params, part, rows, words, n_parts, part_stride, merge, finishing);
}

}  // namespace

#endif  // LACUNA_ATTENTION_PARTS_CUH_
