// SPDX-License-Identifier: MIT OR Apache-2.0
// Attention of few queries over many rows of paged caches. A row of positions is split by its own
// length alone; of a split each warp has every so many-th tile of 16 positions, which it copies and
// multiplies by itself; and warps, then splits, are added up in order, by the last block to end.
#ifndef LACUNA_ATTENTION_ATTEND_CUH_
#define LACUNA_ATTENTION_ATTEND_CUH_

#include "../common/async.cuh"
#include "../common/last.cuh"
#include "low_rank.cuh"
#include "sums.cuh"
#include "tokens.cuh"

namespace {

constexpr uint32_t kMostWarps = 4;
constexpr uint32_t kLeastSplit = 128;

struct Shared {
  Positions positions;
  Tokens tokens[kMostWarps][2];
  MergeShared merge;
  // What a row's sum is multiplied by, and its output after that.
  float scales[kRows];
  float reciprocals[kRows];
  uint32_t is_last;
};

// What a block has of a request.
struct Part {
  uint32_t b;
  uint32_t head;
  uint32_t tile;
  // Rows of queries: of the head, and of this block.
  uint32_t n_all_rows;
  uint32_t n_rows;
  // Positions of the row, and how many of them are a split.
  uint32_t n_positions;
  uint32_t split_len;
  uint32_t n_splits;
};

// A row of queries: which query it is of, and which head of its group.
struct QueryRow {
  uint32_t query;
  uint32_t in_group;
};

__device__ __forceinline__ QueryRow locate_query(const AttentionAttendParams& params,
                                                 const Part& part, uint32_t r) {
  const uint32_t row = part.tile * kRows + r;
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

// Queries of the block; zeros past the last.
__device__ __forceinline__ void stage_queries(const AttentionAttendParams& params, const Part& part,
                                              uint4* queries) {
  const uint32_t n_chunks = params.head_dim / 8;
  for (uint32_t i = threadIdx.x; i < kRows * n_chunks; i += blockDim.x) {
    const uint32_t r = i / n_chunks;
    const uint32_t chunk = i - r * n_chunks;
    uint4 four = make_uint4(0, 0, 0, 0);
    if (r < part.n_rows) {
      const QueryRow row = locate_query(params, part, r);
      const uint64_t token = uint64_t{part.b} * params.n_queries + row.query;
      const uint64_t head = uint64_t{part.head} * params.group + row.in_group;
      const uint64_t element = token * params.query_stride + head * params.head_dim + 8 * chunk;
      four = *reinterpret_cast<const uint4*>(params.queries + 2 * element);
    }
    queries[r * pitch_of(params.head_dim) + chunk] = four;
  }
}

// A tile of a warp on chip: its keys, its values, and what keys are made of that are not stored.
struct Stage {
  uint4* keys;
  uint4* values;
  uint4* factors;
};

// Begins to copy the rows at 16 positions from `first` on, of which those from `end` on are none.
template <typename Keys>
__device__ __forceinline__ void fetch_tile(const AttentionAttendParams& params, const Keys& maker,
                                           const Part& part, const Positions& positions,
                                           uint32_t first, uint32_t end, Tokens& tokens,
                                           const Stage& stage) {
  const uint32_t lane = threadIdx.x % 32;
  if (lane < kTile) {
    Token token = {};
    if (first + lane < end) {
      token = find_token(params, maker, positions, part.b, part.head, first + lane);
    }
    tokens.keys[lane] = token.key;
    tokens.values[lane] = token.value;
    tokens.biases[lane] = token.bias;
    tokens.seen[lane] = token.seen;
    if (Keys::kAreMade) tokens.made[lane] = token.made;
  }
  __syncwarp();
  const uint32_t n_chunks = params.head_dim / 8;
  const uint32_t pitch = pitch_of(params.head_dim);
  uint32_t row = lane / n_chunks;
  uint32_t chunk = lane - row * n_chunks;
  const uint32_t row_step = 32 / n_chunks;
  const uint32_t chunk_step = 32 - row_step * n_chunks;
  while (row < kTile) {
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
                                             const Part& part, uint32_t split, uint4* dynamic,
                                             Shared& shared) {
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t n_warps = blockDim.x / 32;
  const uint32_t n_stage = kTile * pitch_of(params.head_dim);
  const uint32_t n_turn = 2 * n_stage + maker.n_factor_chunks();
  uint4* stages = dynamic + n_stage + maker.n_basis_chunks() + warp * 2 * n_turn;
  const auto stage_of = [&](uint32_t turn) {
    uint4* first = stages + turn * n_turn;
    return Stage{first, first + n_stage, first + 2 * n_stage};
  };
  const uint32_t first = split * part.split_len;
  const uint32_t end = min_of(first + part.split_len, part.n_positions);
  const uint32_t query[2] = {locate_query(params, part, threadIdx.x % 32 / 4).query,
                             locate_query(params, part, threadIdx.x % 32 / 4 + 8).query};
  Sums<kMostDim> sums;
  sums.clear();
  // A tile is on its way while the one before is multiplied.
  const uint32_t step = n_warps * kTile;
  uint32_t next = first + warp * kTile;
  uint32_t turn = 0;
  for (uint32_t before = end;; before = next, next += step, turn = 1 - turn) {
    if (next < end) {
      fetch_tile(params, maker, part, shared.positions, next, end, shared.tokens[warp][turn],
                 stage_of(turn));
    }
    commit_copies();
    if (before < end) {
      const Stage stage = stage_of(1 - turn);
      wait_copies<1>();
      __syncwarp();
      const Tokens& tokens = shared.tokens[warp][1 - turn];
      maker.make(params, tokens, dynamic + n_stage, stage.factors, stage.keys);
      const auto sees = [&](uint32_t half, uint32_t position) {
        const uint32_t seen = tokens.seen[position];
        const uint32_t begin = seen & 0xFFFF;
        return query[half] - begin < (seen >> 16) - begin;
      };
      const auto bias_of = [&](uint32_t position) { return tokens.biases[position]; };
      sums.add_tile(params.logits, params.head_dim, dynamic, stage.keys, stage.values, sees,
                    bias_of);
      __syncwarp();
    }
    if (next >= end) break;
  }
  wait_copies<0>();
  __syncthreads();
  uint32_t* words = reinterpret_cast<uint32_t*>(dynamic);
  sums.store(words + warp * kRows * (params.head_dim + kExtraWords), part.n_rows, params.head_dim);
}

// What of the row's sums makes its outputs, and the logarithm. By the thread of a row.
__device__ __forceinline__ void finish_row(const AttentionAttendParams& params, const Part& part,
                                           uint32_t r, Shared& shared) {
  const QueryRow row = locate_query(params, part, r);
  const uint32_t head = part.head * params.group + row.in_group;
  const float* sink = params.sinks != nullptr ? params.sinks + head : nullptr;
  const Finish finish =
      finish_sums(params.logits, shared.merge.greatest[r], shared.merge.sums[r][0], sink);
  shared.scales[r] = finish.scale;
  shared.reciprocals[r] = finish.reciprocal;
  if (params.log_sums == nullptr) return;
  const AttentionLogSumStrides& strides = params.log_sum_strides;
  params.log_sums[part.b * strides.request + row.query * strides.query + head * strides.head] =
      finish.log_sum;
}

// Writes the outputs of rows whose parts were weighed.
__device__ __forceinline__ void write_outputs(const AttentionAttendParams& params, const Part& part,
                                              const uint32_t* words, uint32_t n_parts,
                                              uint32_t part_stride, Shared& shared) {
  if (threadIdx.x < part.n_rows) finish_row(params, part, threadIdx.x, shared);
  __syncthreads();
  const uint32_t d = params.head_dim;
  for (uint32_t i = threadIdx.x; i < part.n_rows * d; i += blockDim.x) {
    const uint32_t r = i / d;
    const uint32_t c = i - r * d;
    const float sum = add_parts(words, n_parts, part_stride, r, c, d, shared.merge);
    const float output = finish_output(sum, shared.scales[r], shared.reciprocals[r]);
    const QueryRow row = locate_query(params, part, r);
    const uint64_t token = uint64_t{part.b} * params.n_queries + row.query;
    const uint64_t head = uint64_t{part.head} * params.group + row.in_group;
    store_float(params.outputs, token * params.output_stride + head * d + c,
                params.logits.output_element, output);
  }
}

// Parts as one.
__device__ __forceinline__ void store_part(const uint32_t* words, uint32_t n, uint32_t part_stride,
                                           const Part& part, uint32_t d, uint32_t* target,
                                           const MergeShared& shared) {
  const uint32_t row_words = d + kExtraWords;
  for (uint32_t i = threadIdx.x; i < part.n_rows * row_words; i += blockDim.x) {
    const uint32_t r = i / row_words;
    const uint32_t c = i - r * row_words;
    if (c < d) {
      target[i] = __float_as_uint(add_parts(words, n, part_stride, r, c, d, shared));
    } else if (c == d) {
      target[i] = __float_as_uint(shared.sums[r][0]);
    } else if (c == d + 1) {
      target[i] = static_cast<uint32_t>(shared.greatest[r]);
    }
  }
}

template <uint32_t kMostDim, typename Keys>
__device__ __forceinline__ void attend(const AttentionAttendParams& params, const Keys& maker,
                                       uint4* dynamic, Shared& shared) {
  Part part;
  part.b = blockIdx.z;
  if (params.skips != nullptr && params.skips[part.b] != 0) return;
  part.head = blockIdx.y / params.n_tiles;
  part.tile = blockIdx.y - part.head * params.n_tiles;
  part.n_all_rows = params.n_queries * params.group;
  part.n_rows = min_of(kRows, part.n_all_rows - part.tile * kRows);
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
  maker.stage_basis(params, part.b, part.head, dynamic + kTile * pitch_of(params.head_dim));
  __syncthreads();
  attend_split<kMostDim>(params, maker, part, split, dynamic, shared);
  __syncthreads();
  const uint32_t d = params.head_dim;
  const uint32_t row_words = d + kExtraWords;
  const uint32_t n_warps = blockDim.x / 32;
  // First of warps, on chip, then of splits, where there are several.
  const uint32_t* words = reinterpret_cast<uint32_t*>(dynamic);
  uint32_t n_parts = n_warps;
  uint32_t part_stride = kRows * row_words;
  for (uint32_t n_to_merge = part.n_splits == 1 ? 1 : 2;; --n_to_merge) {
    weigh_parts(words, n_parts, part_stride, part.n_rows, d, shared.merge);
    if (n_to_merge == 1) break;
    const uint64_t head = uint64_t{part.b} * params.n_heads + part.head;
    const uint32_t split_words = part.n_all_rows * row_words;
    uint32_t* partials = params.partials + head * params.n_splits * split_words +
                         uint64_t{part.tile} * kRows * row_words;
    store_part(words, n_parts, part_stride, part, d, partials + split * split_words, shared.merge);
    uint32_t* ticket = params.tickets + head * params.n_tiles + part.tile;
    if (!is_last_block(ticket, part.n_splits, shared.is_last)) return;
    words = partials;
    n_parts = part.n_splits;
    part_stride = split_words;
  }
  write_outputs(params, part, words, n_parts, part_stride, shared);
}

}  // namespace

#endif  // LACUNA_ATTENTION_ATTEND_CUH_
