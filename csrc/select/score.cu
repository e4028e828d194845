// SPDX-License-Identifier: MIT OR Apache-2.0
// Scores of a query's heads against keys, or against what stands for several, each row read once
// for all heads of its group; and, where asked, the softmaxes over them and the votes.
// src/select/score/reference.rs is the specification.

#include "../common/last.cuh"
#include "lanes.cuh"
#include "softmax.cuh"

namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kGroups = kThreads / kDotLanes;
constexpr uint32_t kMostGroup = 16;
// Rows that a group of lanes multiplies at once.
constexpr uint32_t kRowsOfKeys = 4;
constexpr uint32_t kRowsOfBoxes = 2;
constexpr uint32_t kSlots = 8;
constexpr uint32_t kStagedBytes = 2 * kSlots * kSlotBytes * kThreads;
constexpr uint32_t kBox = 1;

struct Shared {
  SelectSoftmax softmaxes[kMostGroup];
  // Whether this block is the last of its head.
  uint32_t is_last;
};

// What a block scores: a tile of a head of keys, or all tiles of heads that vote together.
struct Part {
  uint32_t b;
  uint32_t first_head;
  uint32_t n_heads;
  uint32_t first_tile;
  uint32_t n_tiles;
  // From the first tile on.
  uint32_t n_rows;
  // Tiles of the request that have rows.
  uint32_t n_all_tiles;
  // Scores on chip between two query heads: no multiple of 32.
  uint32_t pitch;
};

__device__ uint32_t tiles_of(uint32_t n_rows) { return (n_rows + kTile - 1) / kTile; }

__device__ __forceinline__ uint32_t head_dim(const SelectScoreParams& params) {
  return params.kind == kBox ? params.kv.row_len / 2 : params.kv.row_len;
}

__device__ Part locate_part(const SelectScoreParams& params, uint32_t first_tile) {
  Part part;
  part.b = blockIdx.z;
  part.n_heads = params.n_heads_together;
  part.first_head = blockIdx.y * part.n_heads;
  const uint32_t n_all = min_of(count_rows(params.kv, part.b), params.n);
  const bool is_whole = params.votes != nullptr;
  part.first_tile = first_tile;
  const uint32_t first_row = part.first_tile * kTile;
  const uint32_t n_left = n_all > first_row ? n_all - first_row : 0;
  part.n_rows = is_whole ? n_left : min_of(n_left, kTile);
  part.n_tiles = tiles_of(part.n_rows);
  part.n_all_tiles = tiles_of(n_all);
  part.pitch = (is_whole ? params.n_tiles : 1) * kTile + 8;
  return part;
}

__device__ void stage_queries(const SelectScoreParams& params, const Part& part, uint32_t head,
                              float* queries) {
  const uint32_t d = head_dim(params);
  const uint32_t pitch = query_pitch(d);
  const uint64_t first = part.b * params.query_stride + uint64_t{head} * params.group * d;
  for (uint32_t q = 0; q < params.group; ++q) {
    for (uint32_t i = threadIdx.x; i < d; i += kThreads) {
      queries[q * pitch + place_query(i)] =
          load_float(params.queries, first + uint64_t{q} * d + i, params.query_element);
    }
  }
}

// `n` rows of a head from `first_row` on, at most a tile, against its group's queries. Rows are
// read into one of two stages of slots while those of the other are multiplied.
template <bool kIsBox, uint32_t kRows>
__device__ void score_tile(const SelectScoreParams& params, const Part& part, uint32_t head,
                           const RowLane& lane, uint32_t first_row, uint32_t n,
                           const float* queries, float* scores) {
  const uint32_t n_at_once = kGroups * lane.n_rows;
  const uint32_t n_steps = (n + n_at_once - 1) / n_at_once;
  const uint32_t first = first_dot<kQueries * kRows>(threadIdx.x % kDotLanes);
  // Past the last step there is nothing to read, and an empty group of copies.
  const auto base_of = [&](uint32_t step) {
    return (step * kGroups + threadIdx.x / kDotLanes) * lane.n_rows;
  };
  const auto n_of = [&](uint32_t step) {
    return base_of(step) < n ? min_of(lane.n_rows, n - base_of(step)) : 0;
  };
  const auto fetch = [&](uint32_t step) {
    return fetch_rows(params.kv, part.b, head, lane, step % 2 * kSlots, first_row + base_of(step),
                      n_of(step));
  };
  uint32_t absent = fetch(0);
  for (uint32_t step = 0; step < n_steps; ++step) {
    const uint32_t next = fetch(step + 1);
    wait_copies<1>();
    for (uint32_t q = 0; q < params.group; q += kQueries) {
      float products[kQueries * kRows];
      multiply_rows<kIsBox, kRows>(lane, params.kv.element, step % 2 * kSlots, n_of(step),
                                   queries + q * lane.n_pieces * 64,
                                   min_of(kQueries, params.group - q), products);
      add_lanes(products);
#pragma unroll
      for (uint32_t i = 0; i < kQueries * kRows / kDotLanes; ++i) {
        const uint32_t query = q + (first + i) / kRows;
        const uint32_t r = (first + i) % kRows;
        if (query >= params.group || r >= n_of(step)) continue;
        const float score = __fmul_rn(products[i], params.kv.key_scale);
        scores[query * part.pitch + base_of(step) + r] =
            (absent >> r & 1) != 0 ? minus_infinity() : score;
      }
    }
    absent = next;
  }
}

__device__ void score_head(const SelectScoreParams& params, const Part& part, uint32_t head,
                           const RowLane& lane, const float* queries, float* scores) {
  for (uint32_t tile = 0; tile < part.n_tiles; ++tile) {
    const uint32_t first_row = (part.first_tile + tile) * kTile;
    const uint32_t n = min_of(kTile, part.n_rows - tile * kTile);
    float* of_tile = scores + tile * kTile;
    if (params.kind == kBox) {
      score_tile<true, kRowsOfBoxes>(params, part, head, lane, first_row, n, queries, of_tile);
    } else {
      score_tile<false, kRowsOfKeys>(params, part, head, lane, first_row, n, queries, of_tile);
    }
  }
}

// Rounds every score to the type in which it is stored, so that a softmax is over what is stored.
__device__ void round_scores(const SelectScoreParams& params, const Part& part, float* scores) {
  for (uint32_t q = 0; q < params.group; ++q) {
    for (uint32_t i = threadIdx.x; i < part.n_rows; i += kThreads) {
      float& score = scores[q * part.pitch + i];
      score = round_float(score, params.score_element);
    }
  }
}

__device__ __forceinline__ float reduce_group(const SelectScoreParams& params, const Part& part,
                                              const float* scores) {
  if (params.reduction == 0) return scores[0];
  float all = params.reduction == 1 ? minus_infinity() : scores[0];
  for (uint32_t q = params.reduction == 1 ? 0 : 1; q < params.group; ++q) {
    const float score = scores[q * part.pitch];
    if (params.reduction == 1) {
      if (score > all) all = score;
    } else {
      all = __fadd_rn(all, score);
    }
  }
  return params.reduction == 1 ? all : __fmul_rn(all, params.mean_scale);
}

// Of a head's group.
__device__ void write_scores(const SelectScoreParams& params, const Part& part, uint32_t head,
                             const float* scores) {
  const uint32_t n_each = params.reduction == 0 ? 1 : params.group;
  const uint32_t n_out = params.group / n_each;
  for (uint32_t q = 0; q < n_out; ++q) {
    const uint64_t row = (uint64_t{part.b} * params.kv.n_heads + head) * n_out + q;
    const uint64_t first = row * params.score_stride + part.first_tile * kTile;
    for (uint32_t i = threadIdx.x; i < part.n_rows; i += kThreads) {
      const float score = reduce_group(params, part, scores + q * part.pitch + i);
      store_float(params.scores, first + i, params.score_element, score);
    }
  }
}

// Partial softmaxes of all tiles, `stride` from one query head to the next.
__device__ void sum_tiles(const SelectScoreParams& params, const Part& part, uint32_t n_queries,
                          const float* scores, SelectPartialSoftmax* partials, uint32_t stride) {
  for (uint32_t i = threadIdx.x / 32; i < n_queries * part.n_tiles; i += kWarps) {
    const uint32_t q = i / part.n_tiles;
    const uint32_t tile = i % part.n_tiles;
    const uint32_t n = min_of(kTile, part.n_rows - tile * kTile);
    const SelectPartialSoftmax partial =
        sum_tile(scores + q * part.pitch + tile * kTile, n, params.softmax_scale);
    if (threadIdx.x % 32 == 0) partials[q * stride + tile] = partial;
  }
}

__device__ void merge_tiles(const SelectScoreParams& params, const Part& part) {
  const uint64_t first = (uint64_t{part.b} * params.kv.n_heads + part.first_head) * params.group;
  for (uint32_t q = threadIdx.x / 32; q < params.group; q += kWarps) {
    const SelectPartialSoftmax* partials = params.partial_softmaxes + (first + q) * params.n_tiles;
    const SelectSoftmax softmax = merge_partials(partials, part.n_all_tiles);
    if (threadIdx.x % 32 == 0) params.softmaxes[first + q] = softmax;
  }
}

// All of a block's heads vote; the softmaxes of a group at a time.
__device__ void write_votes(const SelectScoreParams& params, const Part& part, uint32_t n_queries,
                            float* scores, const SelectPartialSoftmax* partials, Shared& shared) {
  const uint64_t row = uint64_t{part.b} * gridDim.y + blockIdx.y;
  // The votes so far are where the first head's scores were.
  for (uint32_t first = 0; first < n_queries; first += params.group) {
    __syncthreads();
    for (uint32_t q = threadIdx.x / 32; q < params.group; q += kWarps) {
      const SelectSoftmax softmax =
          merge_partials(partials + (first + q) * params.n_tiles, part.n_tiles);
      if (threadIdx.x % 32 != 0) continue;
      shared.softmaxes[q] = softmax;
      if (params.softmaxes == nullptr) continue;
      const uint64_t all_before =
          uint64_t{part.b} * params.kv.n_heads * params.group + part.first_head * params.group;
      params.softmaxes[all_before + first + q] = softmax;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < part.n_rows; i += kThreads) {
      float vote = first == 0 ? 0.0f : scores[i];
      for (uint32_t q = 0; q < params.group; ++q) {
        vote = add_vote(vote, scores[(first + q) * part.pitch + i], shared.softmaxes[q],
                        params.softmax_scale, params.vote_reduction);
      }
      scores[i] = vote;
    }
  }
  for (uint32_t i = threadIdx.x; i < part.n_rows; i += kThreads) {
    store_float(params.votes, row * params.vote_stride + i, params.vote_element, scores[i]);
  }
}

}  // namespace

LACUNA_ENTRY(score_rows, SelectScoreParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  if (params.skips != nullptr && params.skips[blockIdx.z] != 0) return;
  const bool is_whole = params.votes != nullptr;
  const uint32_t first_tile = is_whole ? 0 : blockIdx.x * params.n_tiles_together;
  Part part = locate_part(params, first_tile);
  if (part.n_rows == 0 && first_tile != 0) return;
  const bool is_box = params.kind == kBox;
  const RowLane lane = locate_lane(head_dim(params), is_box, is_box ? kRowsOfBoxes : kRowsOfKeys,
                                   kSlots, 2, dynamic);
  const uint32_t n_queries = part.n_heads * params.group;
  float* queries = reinterpret_cast<float*>(dynamic + kStagedBytes);
  float* scores = queries + params.group * lane.n_pieces * 64;
  const uint64_t first = (uint64_t{part.b} * params.kv.n_heads + part.first_head) * params.group;
  SelectPartialSoftmax* partials =
      is_whole ? reinterpret_cast<SelectPartialSoftmax*>(scores + n_queries * part.pitch)
               : params.partial_softmaxes + first * params.n_tiles;
  // Heads, all tiles of each; or tiles of one head.
  const uint32_t n_steps = is_whole ? part.n_heads : params.n_tiles_together;
  for (uint32_t i = 0; i < n_steps; ++i) {
    const uint32_t head = part.first_head + (is_whole ? i : 0);
    if (!is_whole) part = locate_part(params, first_tile + i);
    if (is_whole || i == 0) stage_queries(params, part, head, queries);
    __syncthreads();
    float* own = scores + (is_whole ? i * params.group * part.pitch : 0);
    score_head(params, part, head, lane, queries, own);
    __syncthreads();
    // Each thread reads what it rounds; others only after the next barrier.
    round_scores(params, part, own);
    if (params.scores != nullptr) write_scores(params, part, head, own);
    if (!is_whole && params.softmaxes == nullptr) continue;
    __syncthreads();
    SelectPartialSoftmax* of_step =
        partials + (is_whole ? i * params.group * params.n_tiles : part.first_tile);
    sum_tiles(params, part, params.group, own, of_step, params.n_tiles);
  }
  if (is_whole) return write_votes(params, part, n_queries, scores, partials, shared);
  if (params.softmaxes == nullptr) return;
  const uint32_t n_blocks =
      (part.n_all_tiles + params.n_tiles_together - 1) / params.n_tiles_together;
  uint32_t* ticket = params.tickets + part.b * params.kv.n_heads + part.first_head;
  // A request without rows has one block.
  if (is_last_block(ticket, n_blocks == 0 ? 1 : n_blocks, shared.is_last))
    merge_tiles(params, part);
}
