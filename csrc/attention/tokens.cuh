// SPDX-License-Identifier: MIT OR Apache-2.0
// Which rows of which cache stand at which position of a request's segments.
#ifndef LACUNA_ATTENTION_TOKENS_CUH_
#define LACUNA_ATTENTION_TOKENS_CUH_

#include "../common/kv.cuh"
#include "params.h"

namespace {

constexpr uint32_t kMostSegments = 4;
// Positions that are multiplied at once.
constexpr uint32_t kTile = 16;

// Of a request and head, each segment's.
struct Positions {
  // Those up to its last.
  uint32_t ends[kMostSegments];
  // Its first row, and its request's rows.
  uint32_t first_rows[kMostSegments];
  uint32_t n_rows[kMostSegments];
};

// What stands at the positions of a tile.
struct Tokens {
  // Addresses, 0 where there is none.
  uint64_t keys[kTile];
  uint64_t values[kTile];
  float biases[kTile];
  // Queries that see it: from the lower half on, before the upper.
  uint32_t seen[kTile];
};

struct Token {
  uint64_t key;
  uint64_t value;
  float bias;
  uint32_t seen;
};

__device__ __forceinline__ uint32_t min_of(uint32_t x, uint32_t y) { return x < y ? x : y; }

__device__ __forceinline__ uint32_t list_of(const AttentionSegment& segment, uint32_t b,
                                            uint32_t h) {
  return segment.n_lists == 1 ? b : b * segment.n_lists + h;
}

// By one thread.
__device__ __forceinline__ void count_positions(const AttentionAttendParams& params, uint32_t b,
                                                uint32_t h, Positions& positions) {
  uint32_t end = 0;
  for (uint32_t s = 0; s < params.n_segments; ++s) {
    const AttentionSegment& segment = params.segments[s];
    const uint32_t n_rows = count_rows(segment.kv, b);
    uint32_t first_row = 0;
    uint32_t n = 0;
    if (segment.indices != nullptr) {
      const uint32_t n_blocks =
          segment.counts != nullptr
              ? min_of(segment.counts[list_of(segment, b, h)], segment.n_indices)
              : segment.n_indices;
      n = n_blocks * segment.block_size;
    } else {
      first_row = n_rows > segment.n_last ? n_rows - segment.n_last : 0;
      if (segment.window != 0) {
        // What no query sees any more.
        const uint64_t n_seen = uint64_t{segment.window} + params.n_queries - 1;
        if (n_rows > n_seen) {
          const uint32_t first_seen = n_rows - static_cast<uint32_t>(n_seen);
          first_row = first_row < first_seen ? first_seen : first_row;
        }
      }
      first_row = first_row < segment.first_row ? segment.first_row : first_row;
      const uint32_t end_row = min_of(n_rows, segment.end_row);
      n = end_row > first_row ? end_row - first_row : 0;
    }
    end += n;
    positions.ends[s] = end;
    positions.first_rows[s] = first_row;
    positions.n_rows[s] = n_rows;
  }
}

// Queries that see row `t` of `n_rows`.
__device__ __forceinline__ uint32_t find_seeing(const AttentionSegment& segment, uint32_t n_queries,
                                                uint32_t t, uint32_t n_rows) {
  if (segment.is_causal == 0) return n_queries << 16;
  // Rows are fewer than 2^26: query `first` is the one whose own row it is.
  const int32_t first = static_cast<int32_t>(t + n_queries) - static_cast<int32_t>(n_rows);
  const uint32_t begin = first > 0 ? static_cast<uint32_t>(first) : 0;
  uint32_t end = n_queries;
  if (segment.window != 0) {
    const int64_t last = int64_t{first} + segment.window;
    end = last < 0 ? 0 : last < n_queries ? static_cast<uint32_t>(last) : n_queries;
  }
  return begin < end ? end << 16 | begin : 0;
}

// Zeros where nothing stands there, or nothing that any query sees.
__device__ __forceinline__ Token find_token(const AttentionAttendParams& params,
                                            const Positions& positions, uint32_t b, uint32_t h,
                                            uint32_t position) {
  Token token = {};
  uint32_t s = 0;
  while (s < params.n_segments && position >= positions.ends[s]) ++s;
  if (s == params.n_segments) return token;
  const AttentionSegment& segment = params.segments[s];
  const uint32_t i = position - (s == 0 ? 0 : positions.ends[s - 1]);
  const uint64_t list = list_of(segment, b, h);
  uint32_t t = positions.first_rows[s] + i;
  uint32_t entry = t;
  if (segment.indices != nullptr) {
    entry = i / segment.block_size;
    // A negative number is large.
    const uint32_t block = static_cast<uint32_t>(segment.indices[list * segment.n_indices + entry]);
    const uint64_t row = uint64_t{block} * segment.block_size + (i - entry * segment.block_size);
    if (row >= positions.n_rows[s]) return token;
    t = static_cast<uint32_t>(row);
  }
  const uint32_t seen = find_seeing(segment, params.n_queries, t, positions.n_rows[s]);
  if (seen == 0) return token;
  const uint64_t element = locate_kv(segment.kv, b, t, h);
  if (element == kNoRow) return token;
  token.key = reinterpret_cast<uint64_t>(segment.kv.keys + 2 * element);
  token.value = reinterpret_cast<uint64_t>(segment.kv.values + 2 * element);
  if (segment.biases != nullptr) token.bias = segment.biases[list * segment.bias_stride + entry];
  token.seen = seen;
  return token;
}

}  // namespace

#endif  // LACUNA_ATTENTION_TOKENS_CUH_
