// SPDX-License-Identifier: MIT OR Apache-2.0
// Attention of few queries over many rows of paged caches. A row of positions is split by its own
// length alone; of a split each warp has every so many-th tile of 16 positions; and warps, then
// splits, are added up in order, by the last block to end. Where there are more than 16 rows of
// queries, each 16 have a set of warps, and warps of the same tile in all sets copy it together.
#ifndef LACUNA_ATTENTION_ATTEND_CUH_
#define LACUNA_ATTENTION_ATTEND_CUH_

#include "../common/async.cuh"
#include "../common/last.cuh"
#include "low_rank.cuh"
#include "sums.cuh"
#include "tokens.cuh"

namespace {

// Of a set.
constexpr uint32_t kMostWarps = 4;
constexpr uint32_t kLeastSplit = 128;

struct Shared {
  Positions positions;
  Tokens tokens[kMostWarps][2];
  // What a row's sum is multiplied by, and its output after that.
  float scales[kRows];
  float reciprocals[kRows];
  uint32_t is_last;
};

// What a block has of a request.
struct Part {
  uint32_t b;
  uint32_t head;
  // Rows of queries of the head, and the block's first 16 of them.
  uint32_t n_all_rows;
  uint32_t first_tile;
  // Sets of warps.
  uint32_t n_sets;
  // Positions of the row, and how many of them are a split.
  uint32_t n_positions;
  uint32_t split_len;
  uint32_t n_splits;
};

// Up to 16 rows of queries.
struct Rows {
  uint32_t tile;
  uint32_t n;
};

__device__ __forceinline__ Rows rows_of_tile(const Part& part, uint32_t tile) {
  const uint32_t first = tile * kRows;
  return {tile, first < part.n_all_rows ? min_of(kRows, part.n_all_rows - first) : 0};
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

// The fewest positions, a power of two times 128, of which 64 splits have all.
__device__ __forceinline__ uint32_t split_len_of(uint32_t n_positions) {
  uint32_t split_len = kLeastSplit;
  while (n_positions > kMostParts * split_len) split_len *= 2;
  return split_len;
}

// Begins to copy the block's queries; zeros past the last.
__device__ __forceinline__ void stage_queries(const AttentionAttendParams& params, const Part& part,
                                              uint4* queries) {
  const uint32_t n_chunks = params.head_dim / 8;
  for (uint32_t i = threadIdx.x; i < part.n_sets * kRows * n_chunks; i += blockDim.x) {
    const uint32_t r = i / n_chunks;
    const uint32_t chunk = i - r * n_chunks;
    const bool is_row = part.first_tile * kRows + r < part.n_all_rows;
    const QueryRow row = locate_query(params, is_row ? part.first_tile * kRows + r : 0);
    const uint64_t token = uint64_t{part.b} * params.n_queries + row.query;
    const uint64_t head = uint64_t{part.head} * params.group + row.in_group;
    const uint64_t element = token * params.query_stride + head * params.head_dim + 8 * chunk;
    copy_async<16>(queries + r * pitch_of(params.head_dim) + chunk, params.queries + 2 * element,
                   is_row);
  }
}

// A tile on chip: its keys, its values, and what keys are made of that are not stored.
struct Stage {
  uint4* keys;
  uint4* values;
  uint4* factors;
};

// Waits for the warps that copy the same tiles: for itself where it is alone.
__device__ __forceinline__ void sync_sets(const Part& part) {
  if (part.n_sets == 1) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

// Begins to copy the rows at 16 positions from `first` on, of which those from `end` on are none:
// of them this set's.
template <typename Keys>
__device__ __forceinline__ void fetch_tile(const AttentionAttendParams& params, const Keys& maker,
                                           const Part& part, const Positions& positions,
                                           uint32_t set, uint32_t first, uint32_t end,
                                           Tokens& tokens, const Stage& stage) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t n_own = kTile / part.n_sets;
  const uint32_t first_own = set * n_own;
  if (lane < n_own) {
    const uint32_t i = first_own + lane;
    Token token = {};
    if (first + i < end) {
      token = find_token(params, maker, positions, part.b, part.head, first + i);
    }
    tokens.keys[i] = token.key;
    tokens.values[i] = token.value;
    tokens.biases[i] = token.bias;
    tokens.seen[i] = token.seen;
    if (Keys::kAreMade) tokens.made[i] = token.made;
  }
  __syncwarp();
  const uint32_t n_chunks = params.head_dim / 8;
  const uint32_t pitch = pitch_of(params.head_dim);
  uint32_t row = lane / n_chunks;
  uint32_t chunk = lane - row * n_chunks;
  row += first_own;
  const uint32_t row_step = 32 / n_chunks;
  const uint32_t chunk_step = 32 - row_step * n_chunks;
  while (row < first_own + n_own) {
    const uint64_t key = tokens.keys[row];
    const uint64_t value = tokens.values[row];
    const bool is_there = value != 0;
    const bool is_stored = is_there && !(Keys::kAreMade && tokens.made[row] != 0);
    // Nothing is read where nothing is.
    const uint8_t* from_key = is_stored ? reinterpret_cast<const uint8_t*>(key) : params.queries;
    const uint8_t* from_value = is_there ? reinterpret_cast<const uint8_t*>(value) : params.queries;
    copy_async<16>(stage.keys + row * pitch + chunk, from_key + (is_stored ? 16 * chunk : 0),
                   is_stored);
    copy_async<16>(stage.values + row * pitch + chunk, from_value + (is_there ? 16 * chunk : 0),
                   is_there);
    row += row_step;
    chunk += chunk_step;
    if (chunk >= n_chunks) {
      chunk -= n_chunks;
      row += 1;
    }
  }
  maker.fetch(tokens, params.queries, stage.factors);
}

// The sums of this warp's tiles of a split, left on chip as one part.
template <uint32_t kMostDim, typename Keys>
__device__ __forceinline__ void attend_split(const AttentionAttendParams& params, const Keys& maker,
                                             const Part& part, uint32_t split, uint32_t n_warps,
                                             uint4* dynamic, Shared& shared) {
  const uint32_t set = threadIdx.x / 32 / n_warps;
  const uint32_t warp = threadIdx.x / 32 - set * n_warps;
  const Rows rows = rows_of_tile(part, part.first_tile + set);
  const uint32_t n_stage = kTile * pitch_of(params.head_dim);
  const uint32_t n_turn = 2 * n_stage + maker.n_factor_chunks();
  const uint4* queries = dynamic + set * n_stage;
  const uint4* basis = dynamic + part.n_sets * n_stage;
  uint4* stages = dynamic + part.n_sets * n_stage + maker.n_basis_chunks() + warp * 2 * n_turn;
  const auto stage_of = [&](uint32_t turn) {
    uint4* first = stages + turn * n_turn;
    return Stage{first, first + n_stage, first + 2 * n_stage};
  };
  const uint32_t first = split * part.split_len;
  const uint32_t end = min_of(first + part.split_len, part.n_positions);
  const uint32_t row = rows.tile * kRows + threadIdx.x % 32 / 4;
  const uint32_t query[2] = {locate_query(params, row).query, locate_query(params, row + 8).query};
  Sums<kMostDim> sums;
  sums.clear();
  // A tile is on its way while the one before is multiplied. All warps take as many turns.
  const uint32_t step = n_warps * kTile;
  const uint32_t own = warp * kTile;
  uint32_t turn = 0;
  for (uint32_t next = first;; next += step, turn = 1 - turn) {
    if (next + own < end) {
      fetch_tile(params, maker, part, shared.positions, set, next + own, end,
                 shared.tokens[warp][turn], stage_of(turn));
    }
    commit_copies();
    if (next != first) {
      wait_copies<1>();
      if (next == first + step) {
        // All warps have copied queries, and a basis.
        __syncthreads();
      } else {
        sync_sets(part);
      }
      if (next - step + own < end && rows.n != 0) {
        const Stage stage = stage_of(1 - turn);
        const Tokens& tokens = shared.tokens[warp][1 - turn];
        maker.make(params, tokens, basis, stage.factors, stage.keys);
        const auto sees = [&](uint32_t half, uint32_t position) {
          const uint32_t seen = tokens.seen[position];
          const uint32_t begin = seen & 0xFFFF;
          return query[half] - begin < (seen >> 16) - begin;
        };
        const auto bias_of = [&](uint32_t position) { return tokens.biases[position]; };
        sums.template add_tiles<1>(params.logits, params.head_dim, queries, stage.keys,
                                   stage.values, sees, bias_of);
      }
      sync_sets(part);
    }
    if (next >= end) break;
  }
  wait_copies<0>();
  __syncthreads();
  uint32_t* words = reinterpret_cast<uint32_t*>(dynamic);
  sums.store(words + threadIdx.x / 32 * kRows * (params.head_dim + kExtraWords), rows.n,
             params.head_dim);
}

// What of the row's sums makes its outputs, and the logarithm. By the thread of a row.
__device__ __forceinline__ void finish_row(const AttentionAttendParams& params, const Part& part,
                                           const Rows& rows, uint32_t r, const Merge& merge,
                                           Shared& shared) {
  const QueryRow row = locate_query(params, rows.tile * kRows + r);
  const uint32_t head = part.head * params.group + row.in_group;
  const float* sink = params.sinks != nullptr ? params.sinks + head : nullptr;
  const Finish finish =
      finish_sums(params.logits, merge.greatest[r], merge.sums[r], merge.masses[r], sink);
  shared.scales[r] = finish.scale;
  shared.reciprocals[r] = finish.reciprocal;
  if (params.log_sums == nullptr) return;
  const AttentionLogSumStrides& strides = params.log_sum_strides;
  params.log_sums[part.b * strides.request + row.query * strides.query + head * strides.head] =
      finish.log_sum;
}

// Writes the outputs of rows whose parts were weighed.
__device__ __forceinline__ void write_outputs(const AttentionAttendParams& params, const Part& part,
                                              const Rows& rows, const uint32_t* words,
                                              uint32_t n_parts, uint32_t part_stride,
                                              const Merge& merge, Shared& shared) {
  if (threadIdx.x < rows.n) finish_row(params, part, rows, threadIdx.x, merge, shared);
  __syncthreads();
  const uint32_t d = params.head_dim;
  for (uint32_t i = 4 * threadIdx.x; i < rows.n * d; i += 4 * blockDim.x) {
    const uint32_t r = i / d;
    const uint32_t c = i - r * d;
    float four[4];
    add_parts(words, n_parts, part_stride, r, c, d, merge, four);
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
      four[j] = finish_output(four[j], shared.scales[r], shared.reciprocals[r]);
    }
    const QueryRow row = locate_query(params, rows.tile * kRows + r);
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
                                            Shared& shared) {
  const uint32_t d = params.head_dim;
  const uint32_t row_words = d + kExtraWords;
  uint32_t n_parts = n_warps;
  uint32_t part_stride = kRows * row_words;
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
                         uint64_t{rows.tile} * kRows * row_words;
    store_part(words, n_parts, part_stride, rows.n, d, partials + blockIdx.x * split_words, merge);
    uint32_t* ticket = params.tickets + head * params.n_tiles + rows.tile;
    if (!is_last_block(ticket, part.n_splits, shared.is_last)) return;
    words = partials;
    n_parts = part.n_splits;
    part_stride = split_words;
    merge = Merge(room, n_parts);
  }
  write_outputs(params, part, rows, words, n_parts, part_stride, merge, shared);
}

template <uint32_t kMostDim, typename Keys>
__device__ __forceinline__ void attend(const AttentionAttendParams& params, const Keys& maker,
                                       uint4* dynamic, Shared& shared) {
  Part part;
  part.b = blockIdx.z;
  part.n_sets = Keys::kAreMade ? 1 : params.n_sets;
  if (params.skips != nullptr && params.skips[part.b] != 0) return;
  const uint32_t n_blocks = (params.n_tiles + part.n_sets - 1) / part.n_sets;
  part.head = blockIdx.y / n_blocks;
  part.first_tile = (blockIdx.y - part.head * n_blocks) * part.n_sets;
  part.n_all_rows = params.n_queries * params.group;
  if (threadIdx.x == 0) count_positions(params, part.b, part.head, shared.positions);
  __syncthreads();
  part.n_positions = shared.positions.ends[params.n_segments - 1];
  part.split_len = split_len_of(part.n_positions);
  part.n_splits = (part.n_positions + part.split_len - 1) / part.split_len;
  // A row of nothing has an output too.
  if (part.n_splits == 0) part.n_splits = 1;
  const uint32_t split = blockIdx.x;
  if (split >= part.n_splits) return;
  stage_queries(params, part, dynamic);
  maker.stage_basis(params, part.b, part.head,
                    dynamic + part.n_sets * kTile * pitch_of(params.head_dim));
  const uint32_t n_warps = blockDim.x / 32 / part.n_sets;
  attend_split<kMostDim>(params, maker, part, split, n_warps, dynamic, shared);
  for (uint32_t i = 0; i < part.n_sets; ++i) {
    const Rows rows = rows_of_tile(part, part.first_tile + i);
    if (rows.n == 0) break;
    __syncthreads();
    merge_parts(params, part, rows, n_warps, dynamic, shared);
  }
}

}  // namespace

#endif  // LACUNA_ATTENTION_ATTEND_CUH_
