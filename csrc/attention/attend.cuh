// SPDX-License-Identifier: MIT OR Apache-2.0
// Attention of few queries over many rows of paged caches. A row of positions is split by its own
// length alone; of a split each warp has every so many-th tile of 16 positions; and warps, then
// splits, are added up in order, by the last block to end. Where there are more than 16 rows of
// queries, each 16 have a set of warps, and warps of the same tile in all sets copy it together.
#ifndef LACUNA_ATTENTION_ATTEND_CUH_
#define LACUNA_ATTENTION_ATTEND_CUH_

#include "../common/async.cuh"
#include "low_rank.cuh"
#include "parts.cuh"
#include "tokens.cuh"

namespace {

// Of a set.
constexpr uint32_t kMostWarps = 4;
constexpr uint32_t kLeastSplit = 128;

struct Shared {
  Positions positions;
  Tokens tokens[kMostWarps][2];
  Finishing finishing;
};

// The fewest positions, a power of two times 128, of which 64 splits have all.
__device__ __forceinline__ uint32_t split_len_of(uint32_t n_positions) {
  uint32_t split_len = kLeastSplit;
  while (n_positions > kMostParts * split_len) split_len *= 2;
  return split_len;
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

template <uint32_t kMostDim, typename Keys>
__device__ __forceinline__ void attend(const AttentionAttendParams& params, const Keys& maker,
                                       uint4* dynamic, Shared& shared) {
  Part part;
  part.b = blockIdx.z;
  part.tile_rows = kRows;
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
    merge_parts(params, part, rows, n_warps, dynamic, shared.finishing);
  }
}

}  // namespace

#endif  // LACUNA_ATTENTION_ATTEND_CUH_
