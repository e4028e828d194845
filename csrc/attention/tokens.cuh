// SPDX-License-Identifier: MIT OR Apache-2.0
// Which rows of which cache stand at which position of a request's segments.
#ifndef LACUNA_ATTENTION_TOKENS_CUH_
#define LACUNA_ATTENTION_TOKENS_CUH_

#include "../common/kv.cuh"
#include "params.h"
#include "state.cuh"

namespace {

constexpr uint32_t kMostSegments = 4;
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
  // 0 where the key is stored; else one more than the position of one that is made, and the address
  // is that of what it is made of.
  uint32_t made[kTile];
};

struct Token {
  uint64_t key;
  uint64_t value;
  float bias;
  uint32_t seen;
  uint32_t made;
};

// A row that stands at a position: of which segment, in which list, at which place of it.
struct Place {
  uint32_t segment;
  uint64_t list;
  uint32_t entry;
  // In its block, and in the cache.
  uint32_t in_block;
  uint32_t row;
};

// How keys come that are all stored.
struct StoredKeys {
  enum : bool { kAreMade = false };

  __device__ uint32_t n_basis_chunks() const { return 0; }
  __device__ uint32_t n_factor_chunks() const { return 0; }
  __device__ void stage_basis(const AttentionAttendParams&, uint32_t, uint32_t, uint4*) const {}
  __device__ bool makes(uint32_t) const { return false; }
  __device__ uint32_t count_tokens(const LacunaKvView&, uint32_t, uint32_t n_rows) const {
    return n_rows;
  }
  __device__ bool find(const AttentionAttendParams&, const Place&, uint32_t, uint32_t,
                       Token&) const {
    return false;
  }
  __device__ void fetch(const Tokens&, const uint8_t*, uint4*) const {}
  __device__ void make(const AttentionAttendParams&, const Tokens&, const uint4*, const uint4*,
                       uint4*) const {}
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
template <typename Keys>
__device__ __forceinline__ Token find_token(const AttentionAttendParams& params, const Keys& maker,
                                            const Positions& positions, uint32_t b, uint32_t h,
                                            uint32_t position) {
  Token token = {};
  Place place = {};
  uint32_t& s = place.segment;
  while (s < params.n_segments && position >= positions.ends[s]) ++s;
  if (s == params.n_segments) return token;
  const AttentionSegment& segment = params.segments[s];
  const uint32_t i = position - (s == 0 ? 0 : positions.ends[s - 1]);
  uint32_t n_rows = positions.n_rows[s];
  if (maker.makes(s)) n_rows = maker.count_tokens(segment.kv, b, n_rows);
  place.list = list_of(segment, b, h);
  place.row = positions.first_rows[s] + i;
  place.entry = place.row;
  if (segment.indices != nullptr) {
    place.entry = i / segment.block_size;
    place.in_block = i - place.entry * segment.block_size;
    // A negative number is large.
    const uint32_t block =
        static_cast<uint32_t>(segment.indices[place.list * segment.n_indices + place.entry]);
    const uint64_t row = uint64_t{block} * segment.block_size + place.in_block;
    if (row >= n_rows) return token;
    place.row = static_cast<uint32_t>(row);
  }
  const uint32_t seen = find_seeing(segment, params.n_queries, place.row, n_rows);
  if (seen == 0) return token;
  if (maker.makes(s)) {
    if (!maker.find(params, place, b, h, token)) return token;
  } else {
    const uint64_t element = locate_kv(segment.kv, b, place.row, h);
    if (element == kNoRow) return token;
    token.key = reinterpret_cast<uint64_t>(segment.kv.keys + 2 * element);
    token.value = reinterpret_cast<uint64_t>(segment.kv.values + 2 * element);
  }
  if (segment.biases != nullptr) {
    token.bias = segment.biases[place.list * segment.bias_stride + place.entry];
  }
  token.seen = seen;
  return token;
}

}  // namespace

#endif  // LACUNA_ATTENTION_TOKENS_CUH_
