// SPDX-License-Identifier: MIT OR Apache-2.0
// Attention of few queries over tiered pages and rows of paged caches. A step is 64 positions; of a
// split each warp has every fourth. Tokens are operand A of products with 8 rows of queries, and
// channels of values that with their weights, so that codes are multiplied as they lie in pages.
// src/attention/tiered/reference.rs is the specification.
#ifndef LACUNA_ATTENTION_TIERED_CUH_
#define LACUNA_ATTENTION_TIERED_CUH_

#include "scores.cuh"
#include "weighed.cuh"

namespace {

constexpr uint32_t kLeastSteps = 4;

struct TieredShared {
  Positions positions;
  Finishing finishing;
};

// The fewest steps, a power of two times 4, of which 64 splits have all.
__device__ __forceinline__ uint32_t split_steps_of(uint32_t n_steps) {
  uint32_t n = kLeastSteps;
  while (n_steps > kMostParts * n) n *= 2;
  return n;
}

// Logits of positions that no step has.
__device__ __forceinline__ void clear_logits(const AttentionTieredParams& params, const Part& part,
                                             const Rows& rows, uint32_t n_page_steps) {
  const AttentionAttendParams& attend = params.attend;
  const uint32_t n_slots = kStep * params.tiers.n_pages;
  const uint32_t n_rest = static_cast<uint32_t>(params.tiers.n_positions);
  const uint32_t step = gridDim.x * blockDim.x;
  for (uint32_t r = 0; r < rows.n; ++r) {
    const QueryRow row = locate_query(attend, rows.tile * part.tile_rows + r);
    const uint64_t token = uint64_t{part.b} * attend.n_queries + row.query;
    const uint64_t head = uint64_t{part.head} * attend.group + row.in_group;
    float* target = params.tiers.logits +
                    (token * attend.n_heads * attend.group + head) * params.tiers.n_positions;
    const uint32_t own = blockIdx.x * blockDim.x + threadIdx.x;
    for (uint32_t i = kStep * n_page_steps + own; i < n_slots; i += step) {
      target[i] = minus_infinity();
    }
    for (uint32_t i = n_slots + part.n_positions + own; i < n_rest; i += step) {
      target[i] = minus_infinity();
    }
  }
}

template <uint32_t kDim, uint32_t kQueries>
__device__ __forceinline__ void attend_tiers(const AttentionTieredParams& params, uint4* dynamic,
                                             TieredShared& shared) {
  const AttentionAttendParams& attend = params.attend;
  Part part;
  part.b = blockIdx.z;
  part.tile_rows = kQueries;
  part.n_sets = 1;
  if (attend.skips != nullptr && attend.skips[part.b] != 0) return;
  part.head = blockIdx.y / attend.n_tiles;
  part.first_tile = blockIdx.y - part.head * attend.n_tiles;
  part.n_all_rows = attend.n_queries * attend.group;
  if (threadIdx.x == 0) count_positions(attend, part.b, part.head, shared.positions);
  __syncthreads();
  part.n_positions = shared.positions.ends[attend.n_segments - 1];
  const uint32_t list =
      params.tiers.n_lists == 1 ? part.b : part.b * params.tiers.n_lists + part.head;
  uint32_t n_slots = kStep * params.tiers.n_pages;
  if (params.tiers.counts != nullptr) n_slots = min_of(n_slots, params.tiers.counts[list]);
  const uint32_t n_page_steps = (n_slots + kStep - 1) / kStep;
  const uint32_t n_steps = n_page_steps + (part.n_positions + kStep - 1) / kStep;
  part.split_len = split_steps_of(n_steps);
  part.n_splits = (n_steps + part.split_len - 1) / part.split_len;
  // A row of nothing has an output too.
  if (part.n_splits == 0) part.n_splits = 1;
  const Rows rows = rows_of_tile(part, part.first_tile);
  if (params.tiers.logits != nullptr) clear_logits(params, part, rows, n_page_steps);
  if (blockIdx.x >= part.n_splits) return;
  stage_queries(attend, part, dynamic);
  commit_copies();
  const uint32_t warp = threadIdx.x / 32;
  uint8_t* chips = reinterpret_cast<uint8_t*>(dynamic + kQueries * pitch_of(kDim));
  Chip<kDim, kQueries>& chip = *(reinterpret_cast<Chip<kDim, kQueries>*>(chips) + warp);
  const uint32_t first = blockIdx.x * part.split_len;
  Feed<kDim, kQueries> feed(params, part, shared.positions, chip,
                            chips + kWarps * sizeof(Chip<kDim, kQueries>), n_slots, first,
                            min_of(first + part.split_len, n_steps));
  wait_copies<0>();
  __syncthreads();
  Scores<kDim, kQueries> scores = {params, part, rows, chip, dynamic, 0};
  Weighed<kDim, kQueries> weighed(params, rows, chip);
  // A step is known before the one before it is multiplied.
  feed.prepare(0);
  feed.begin();
  for (uint32_t n = 0; feed.has_step(n); ++n) {
    const Step step = feed.step(n);
    feed.prepare(n + 1);
    // Of a step that is not there, an empty piece of each.
    OfStep<kQueries> of_step;
    for (uint32_t i = 0; i < n_pieces_of(step.tags[0]); ++i) {
      const uint8_t* stage = feed.take();
      if (step.n != 0) scores.score_piece(step, i, stage, of_step);
    }
    if (step.n != 0) {
      const bool is_plain = scores.mask_step(step, of_step);
      scores.store_logits(step, of_step);
      weighed.weigh_step(is_plain, of_step);
    } else {
      scores.store_logits(step, nullptr);
    }
    for (uint32_t i = 0; i < n_pieces_of(step.tags[1]); ++i) {
      const uint8_t* stage = feed.take();
      if (step.n != 0) weighed.add_piece(step, i, stage, of_step);
    }
  }
  wait_copies<0>();
  __syncthreads();
  uint32_t* words = reinterpret_cast<uint32_t*>(dynamic);
  weighed.store(words + warp * kQueries * (kDim + kExtraWords));
  __syncthreads();
  merge_parts(attend, part, rows, kWarps, dynamic, shared.finishing);
}

}  // namespace

#endif  // LACUNA_ATTENTION_TIERED_CUH_
