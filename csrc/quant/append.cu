// SPDX-License-Identifier: MIT OR Apache-2.0
// New tokens into a paged cache. Which row a kept token goes to is how many are kept before it: a
// block counts those of its own 1,024 tokens itself, and of longer prompts a first launch those of
// each 1,024, so that a mask is read twice and no block waits for another.
// src/quant/append/reference.rs is the specification.

#include "../common/kv.cuh"
#include "../common/turn.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kTile = 1024;
constexpr uint32_t kAllLanes = 0xFFFFFFFF;

// Of kept tokens.
struct Count {
  // Before the block's.
  uint32_t n_before;
  uint32_t n_all;
  // Rows from the request's length on that follow each other; 2^32 - 1 where no end is known.
  uint32_t n_room;
};

struct Shared {
  Count counts[kWarps];
  // Of the block's own tokens.
  uint32_t n_own[kWarps];
  // Of each: the element at which the rows of its first head begin, and where its angles are.
  uint64_t rows[kThreads];
  uint32_t positions[kThreads];
};

struct Request {
  uint32_t b;
  uint32_t length;
  uint32_t n_tokens;
  // Null where all are kept.
  const uint32_t* keeps;
};

__device__ __forceinline__ uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

__device__ __forceinline__ Request find_request(const QuantAppendParams& params) {
  const uint32_t b = blockIdx.y;
  Request request = {b, params.kv.lengths[b], params.n_tokens, nullptr};
  if (params.counts != nullptr) request.n_tokens = least(params.counts[b], params.n_tokens);
  if (params.keeps != nullptr) request.keeps = params.keeps + uint64_t{b} * params.n_tokens;
  return request;
}

__device__ __forceinline__ bool is_kept(const Request& request, uint32_t token) {
  return token < request.n_tokens && (request.keeps == nullptr || request.keeps[token] != 0);
}

// The first of the rows from `first` to `end`, counted from the length on, that is of no page: of
// the thread's share of pages.
__device__ __forceinline__ uint32_t find_full(const LacunaKvView& kv, const Request& request,
                                              uint32_t first, uint32_t end) {
  const uint32_t n_free = request.length < kv.n_rows ? kv.n_rows - request.length : 0;
  const uint32_t full = n_free < end ? n_free : ~0u;
  const uint32_t last = least(n_free, end);
  if (first >= last) return full;
  const int32_t* table = kv.page_table + request.b * kv.table_stride;
  const uint32_t first_row = request.length + first;
  const uint32_t first_page = static_cast<uint32_t>(first_row * kv.page_multiplier >> 34);
  const uint32_t last_page =
      static_cast<uint32_t>((request.length + last - 1) * kv.page_multiplier >> 34);
  for (uint32_t page = first_page + threadIdx.x; page <= last_page; page += kThreads) {
    // A negative one is large.
    if (static_cast<uint32_t>(table[page]) < kv.n_pages) continue;
    const uint32_t row = page * kv.page_size;
    return (row > first_row ? row : first_row) - request.length;
  }
  return full;
}

// Kept tokens from `token` to `end`, of the thread's share.
__device__ __forceinline__ uint32_t count_kept(const Request& request, uint32_t token,
                                               uint32_t end) {
  uint32_t n = 0;
  for (token += threadIdx.x; token < end; token += kThreads) n += is_kept(request, token) ? 1 : 0;
  return n;
}

// Leaves what each warp counted, to be added after a barrier.
__device__ __forceinline__ void leave_count(Shared& shared, const Count& count) {
  const Count of_warp = {__reduce_add_sync(kAllLanes, count.n_before),
                         __reduce_add_sync(kAllLanes, count.n_all),
                         __reduce_min_sync(kAllLanes, count.n_room)};
  if (threadIdx.x % 32 == 0) shared.counts[threadIdx.x / 32] = of_warp;
}

__device__ __forceinline__ Count add_counts(const Shared& shared) {
  Count count = {0, 0, ~0u};
#pragma unroll
  for (uint32_t warp = 0; warp < kWarps; ++warp) {
    count.n_before += shared.counts[warp].n_before;
    count.n_all += shared.counts[warp].n_all;
    count.n_room = least(count.n_room, shared.counts[warp].n_room);
  }
  return count;
}

// What is before the block's tokens, and room for them; in the first block all there is.
__device__ __forceinline__ Count count_request(const QuantAppendParams& params,
                                               const Request& request, uint32_t first) {
  Count count = {0, 0, ~0u};
  const bool is_first = blockIdx.x == 0;
  if (params.tiles == nullptr) {
    const uint32_t n = count_kept(request, 0, is_first ? request.n_tokens : first);
    (is_first ? count.n_all : count.n_before) = n;
    const uint32_t end = is_first ? request.n_tokens : first + params.block_tokens;
    count.n_room = find_full(params.kv, request, 0, end);
    return count;
  }
  const uint32_t own = first / kTile;
  count.n_before = count_kept(request, own * kTile, first);
  const uint32_t* tiles = params.tiles + uint64_t{request.b} * params.n_tiles * 2;
  for (uint32_t tile = threadIdx.x; tile < params.n_tiles; tile += kThreads) {
    const uint32_t n = tiles[2 * tile];
    count.n_all += n;
    if (tile < own) count.n_before += n;
    count.n_room = least(count.n_room, tiles[2 * tile + 1]);
  }
  return count;
}

// The block's own tokens' rows, of which the one in the thread's place is the thread's.
__device__ __forceinline__ void place_token(const QuantAppendParams& params, const Request& request,
                                            uint32_t token, uint32_t rank, uint32_t n_room,
                                            Shared& shared) {
  uint64_t row = kNoRow;
  if (rank < n_room) row = locate_kv(params.kv, request.b, request.length + rank, 0);
  shared.rows[threadIdx.x] = row;
  if (row == kNoRow || params.turn == kTurnNone) return;
  uint32_t position = request.length + token;
  if (params.positions != nullptr) {
    const int32_t given = params.positions[uint64_t{request.b} * params.n_tokens + token];
    position = given < 0 ? 0 : static_cast<uint32_t>(given);
  }
  shared.positions[threadIdx.x] = least(position, params.n_positions - 1);
}

__device__ __forceinline__ void load_floats(float (&floats)[8], const float* from) {
#pragma unroll
  for (uint32_t i = 0; i < 8; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + i);
    floats[i] = four.x;
    floats[i + 1] = four.y;
    floats[i + 2] = four.z;
    floats[i + 3] = four.w;
  }
}

__device__ __forceinline__ void load_eight(float (&x)[8], const uint8_t* from, uint32_t kind) {
  const uint4 four = *reinterpret_cast<const uint4*>(from);
  const uint32_t words[4] = {four.x, four.y, four.z, four.w};
  expand_floats(x, words, kind);
}

__device__ __forceinline__ void store_eight(uint8_t* to, const float (&x)[8], uint32_t kind) {
  *reinterpret_cast<uint4*>(to) =
      make_uint4(to_halves(x[0], x[1], kind), to_halves(x[2], x[3], kind),
                 to_halves(x[4], x[5], kind), to_halves(x[6], x[7], kind));
}

__device__ __forceinline__ void copy_eight(uint8_t* to, const uint8_t* from) {
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
}

// Eight elements of a key from `8 * unit` on, and where halves are turned those half of it further.
__device__ __forceinline__ void append_key(const QuantAppendParams& params, uint8_t* to,
                                           const uint8_t* from, uint32_t unit, uint32_t position) {
  const uint32_t n_turned = params.turn == kTurnNone ? 0 : params.rotary_dim;
  const uint32_t half = n_turned / 2;
  const uint32_t kind = params.kv.element;
  const float* cosines = params.cos_sin + uint64_t{position} * n_turned;
  if (params.turn == kTurnHalves) {
    if (8 * unit < half) {
      float x[8];
      float y[8];
      float cosine[8];
      float sine[8];
      load_eight(x, from + 16 * unit, kind);
      load_eight(y, from + 16 * unit + 2 * half, kind);
      load_floats(cosine, cosines + 8 * unit);
      load_floats(sine, cosines + half + 8 * unit);
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) turn_by(cosine[i], sine[i], x[i], y[i]);
      store_eight(to + 16 * unit, x, kind);
      store_eight(to + 16 * unit + 2 * half, y, kind);
      return;
    }
    // Past both halves.
    unit += half / 8;
  } else if (8 * unit < n_turned) {
    float x[8];
    load_eight(x, from + 16 * unit, kind);
    const float4 cosine = *reinterpret_cast<const float4*>(cosines + 4 * unit);
    const float4 sine = *reinterpret_cast<const float4*>(cosines + half + 4 * unit);
    turn_by(cosine.x, sine.x, x[0], x[1]);
    turn_by(cosine.y, sine.y, x[2], x[3]);
    turn_by(cosine.z, sine.z, x[4], x[5]);
    turn_by(cosine.w, sine.w, x[6], x[7]);
    store_eight(to + 16 * unit, x, kind);
    return;
  }
  copy_eight(to + 16 * unit, from + 16 * unit);
}

// Of the block's tokens, keys or values: a thread has `n_units` parts of rows by turns.
template <typename Append>
__device__ __forceinline__ void append_rows(const QuantAppendParams& params, const Shared& shared,
                                            uint32_t n_units, uint64_t source, uint64_t stride,
                                            Append append) {
  const uint32_t n_heads = params.kv.n_heads;
  for (uint32_t i = threadIdx.x; i < params.block_tokens * n_heads * n_units; i += kThreads) {
    const uint32_t row = i / n_units;
    const uint32_t token = row / n_heads;
    const uint32_t head = row - token * n_heads;
    if (shared.rows[token] == kNoRow) continue;
    append(2 * (shared.rows[token] + head * params.kv.head_stride),
           2 * ((source + token) * stride + uint64_t{head} * params.kv.row_len), i - row * n_units,
           token);
  }
}

}  // namespace

// Of a prompt of many tokens: what each 1,024 of them keep, and what rows there are for them.
LACUNA_ENTRY(count_appended, QuantAppendParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  const Request request = find_request(params);
  const uint32_t first = blockIdx.x * kTile;
  const uint32_t end = least(first + kTile, request.n_tokens);
  const Count own = {0, count_kept(request, first, end), find_full(params.kv, request, first, end)};
  leave_count(shared, own);
  __syncthreads();
  if (threadIdx.x != 0) return;
  const Count count = add_counts(shared);
  uint32_t* tile = params.tiles + (uint64_t{request.b} * params.n_tiles + blockIdx.x) * 2;
  tile[0] = count.n_all;
  tile[1] = count.n_room;
}

LACUNA_ENTRY(append_kv, QuantAppendParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  const Request request = find_request(params);
  const uint32_t first = blockIdx.x * params.block_tokens;
  // The first block says what there is, also of nothing.
  if (first >= request.n_tokens && blockIdx.x != 0) return;
  leave_count(shared, count_request(params, request, first));
  const uint32_t token = first + threadIdx.x;
  const bool is_own = is_kept(request, token);
  const uint32_t kept = __ballot_sync(kAllLanes, is_own);
  const uint32_t warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) shared.n_own[warp] = static_cast<uint32_t>(__popc(kept));
  __syncthreads();
  const Count count = add_counts(shared);
  uint32_t rank =
      count.n_before + static_cast<uint32_t>(__popc(kept & ((1u << threadIdx.x % 32) - 1)));
  for (uint32_t other = 0; other < warp; ++other) rank += shared.n_own[other];
  if (threadIdx.x < params.block_tokens) {
    place_token(params, request, token, is_own ? rank : ~0u, count.n_room, shared);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    const uint32_t n_appended = least(count.n_all, count.n_room);
    params.new_lengths[request.b] = request.length + n_appended;
    if (params.dropped != nullptr) params.dropped[request.b] = count.n_all - n_appended;
  }
  __syncthreads();
  const uint64_t source = uint64_t{request.b} * params.n_tokens + first;
  const uint32_t n_units = params.kv.row_len / 8;
  // The view says `const` for all kernels that only read.
  uint8_t* keys = const_cast<uint8_t*>(params.kv.keys);
  uint8_t* values = const_cast<uint8_t*>(params.kv.values);
  append_rows(params, shared,
              params.turn == kTurnHalves ? n_units - params.rotary_dim / 16 : n_units, source,
              params.key_stride, [&](uint64_t to, uint64_t from, uint32_t unit, uint32_t own) {
                const uint32_t position = params.turn == kTurnNone ? 0 : shared.positions[own];
                append_key(params, keys + to, params.keys + from, unit, position);
              });
  append_rows(params, shared, n_units, source, params.value_stride,
              [&](uint64_t to, uint64_t from, uint32_t unit, uint32_t) {
                copy_eight(values + to + 16 * unit, params.values + from + 16 * unit);
              });
}
