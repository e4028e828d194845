// SPDX-License-Identifier: MIT OR Apache-2.0
// Means of channels and root mean squares around them, over the rows that lists name. A chain has
// every eighth row of 512, relative to its first; chains are joined in their order, and then, by
// the last block of a span, its pieces. src/quant/channels/reference.rs is the specification.

#include "../common/kv.cuh"
#include "../common/last.cuh"
#include "params.h"

namespace {

constexpr uint32_t kPageTokens = 64;
constexpr uint32_t kPieceSlots = 512;
constexpr uint32_t kChains = 8;
constexpr uint32_t kChainSlots = kPieceSlots / kChains;
constexpr uint32_t kMostDim = 256;
// Rows of a chain whose loads are on their way at once.
constexpr uint32_t kTogether = 4;

struct Shared {
  // Of each slot the address of its row, or 0.
  uint64_t rows[kPieceSlots];
  // Of each chain's channels.
  alignas(16) uint32_t counts[kChains][kMostDim];
  alignas(16) float means[kChains][kMostDim];
  alignas(16) float squares[kChains][kMostDim];
  uint32_t is_last;
};

// Of numbers: how many, their mean, and the sum of the squares of what each is away from it.
struct Moments {
  uint32_t n;
  float mean;
  float squares;
};

// What a block has.
struct Work {
  uint32_t b;
  uint32_t head;
  // 0 of keys, 1 of values.
  uint32_t part;
  // Of spans of all heads, keys and values.
  uint64_t span;
  uint32_t piece;
  const int32_t* indices;
  // Slots of the piece that count.
  uint32_t n_slots;
};

__device__ __forceinline__ uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

__device__ __forceinline__ Work find_work(const QuantMeasureParams& params) {
  Work work = {};
  work.b = blockIdx.z / 2;
  work.part = blockIdx.z % 2;
  work.head = blockIdx.y;
  const uint32_t span = blockIdx.x / params.n_pieces;
  work.piece = blockIdx.x - span * params.n_pieces;
  const uint64_t head = uint64_t{work.b} * params.kv.n_heads + work.head;
  work.span = (head * 2 + work.part) * params.n_spans + span;
  const uint32_t list = params.n_lists == 1 ? work.b : work.b * params.n_lists + work.head;
  const uint32_t n_slots = params.n_pages * kPageTokens;
  const uint32_t first_page = span * params.span_pages;
  const uint32_t span_pages = least(params.span_pages, params.n_pages - first_page);
  uint32_t end = (first_page + span_pages) * kPageTokens;
  if (params.counts != nullptr) end = least(end, params.counts[list]);
  const uint32_t first = first_page * kPageTokens + work.piece * kPieceSlots;
  work.indices = params.indices + (uint64_t{list} * n_slots + first);
  work.n_slots = first < end ? least(end - first, kPieceSlots) : 0;
  return work;
}

// Where the rows of the piece are.
__device__ __forceinline__ void find_rows(const QuantMeasureParams& params, const Work& work,
                                          Shared& shared) {
  const uint8_t* pool = work.part == 0 ? params.kv.keys : params.kv.values;
  const uint32_t n_rows = count_rows(params.kv, work.b);
  for (uint32_t slot = threadIdx.x; slot < kPieceSlots; slot += blockDim.x) {
    uint64_t address = 0;
    if (slot < work.n_slots) {
      // A negative number is large.
      const uint32_t row = static_cast<uint32_t>(work.indices[slot]);
      const uint64_t element = row < n_rows ? locate_kv(params.kv, work.b, row, work.head) : kNoRow;
      if (element != kNoRow) address = reinterpret_cast<uint64_t>(pool + 2 * element);
    }
    shared.rows[slot] = address;
  }
}

__device__ __forceinline__ bool is_finite(float x) {
  return (__float_as_uint(x) & 0x7FFFFFFF) < 0x7F800000;
}

__device__ __forceinline__ void expand(float (&x)[8], const uint4& four, uint32_t kind) {
  const uint32_t words[4] = {four.x, four.y, four.z, four.w};
  expand_floats(x, words, kind);
}

__device__ __forceinline__ float of_count(uint32_t n) {
  return __int2float_rn(static_cast<int32_t>(n));
}

// Eight channels of a chain, by one thread.
__device__ __forceinline__ void measure_chain(const QuantMeasureParams& params, Shared& shared) {
  const uint32_t n_chunks = params.kv.row_len / 8;
  const uint32_t chain = threadIdx.x / n_chunks;
  const uint32_t channel = 8 * (threadIdx.x - chain * n_chunks);
  const uint32_t kind = params.kv.element;
  float pivots[8] = {};
  uint32_t j = 0;
  while (j < kChainSlots && shared.rows[j * kChains + chain] == 0) ++j;
  if (j < kChainSlots) {
    const uint64_t row = shared.rows[j * kChains + chain];
    expand(pivots, *reinterpret_cast<const uint4*>(row + 2 * channel), kind);
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) pivots[e] = is_finite(pivots[e]) ? pivots[e] : 0.0f;
  }
  uint32_t counts[8] = {};
  float sums[8] = {};
  float squares[8] = {};
  for (; j < kChainSlots; j += kTogether) {
    uint4 chunks[kTogether];
    bool is_row[kTogether];
#pragma unroll
    for (uint32_t i = 0; i < kTogether; ++i) {
      const uint64_t row = j + i < kChainSlots ? shared.rows[(j + i) * kChains + chain] : 0;
      is_row[i] = row != 0;
      chunks[i] = make_uint4(0, 0, 0, 0);
      if (is_row[i]) chunks[i] = *reinterpret_cast<const uint4*>(row + 2 * channel);
    }
#pragma unroll
    for (uint32_t i = 0; i < kTogether; ++i) {
      if (!is_row[i]) continue;
      float x[8];
      expand(x, chunks[i], kind);
#pragma unroll
      for (uint32_t e = 0; e < 8; ++e) {
        const bool counts_in = is_finite(x[e]);
        const float apart = counts_in ? __fsub_rn(x[e], pivots[e]) : 0.0f;
        counts[e] += counts_in ? 1 : 0;
        sums[e] = __fadd_rn(sums[e], apart);
        // Inner loop: 1 element a multiplication.
        squares[e] = __fmaf_rn(apart, apart, squares[e]);
      }
    }
  }
  // Of none no numbers, which nobody reads.
#pragma unroll
  for (uint32_t e = 0; e < 8; ++e) {
    const float shift = __fdiv_rn(sums[e], of_count(counts[e]));
    const float around = __fmaf_rn(-sums[e], shift, squares[e]);
    sums[e] = __fadd_rn(pivots[e], shift);
    squares[e] = around < 0.0f ? 0.0f : around;
  }
#pragma unroll
  for (uint32_t e = 0; e < 8; e += 4) {
    const uint32_t c = channel + e;
    *reinterpret_cast<uint4*>(&shared.counts[chain][c]) =
        make_uint4(counts[e], counts[e + 1], counts[e + 2], counts[e + 3]);
    *reinterpret_cast<float4*>(&shared.means[chain][c]) =
        make_float4(sums[e], sums[e + 1], sums[e + 2], sums[e + 3]);
    *reinterpret_cast<float4*>(&shared.squares[chain][c]) =
        make_float4(squares[e], squares[e + 1], squares[e + 2], squares[e + 3]);
  }
}

// Both together, as if they were one after the other.
__device__ __forceinline__ void join(Moments& all, const Moments& more) {
  if (more.n == 0) return;
  if (all.n == 0) {
    all = more;
    return;
  }
  const float n_before = of_count(all.n);
  all.n += more.n;
  const float share = __fdiv_rn(of_count(more.n), of_count(all.n));
  const float apart = __fsub_rn(more.mean, all.mean);
  const float between = __fmul_rn(__fmul_rn(apart, apart), __fmul_rn(n_before, share));
  all.squares = __fadd_rn(__fadd_rn(all.squares, more.squares), between);
  all.mean = __fmaf_rn(apart, share, all.mean);
}

__device__ __forceinline__ void write_channel(const QuantMeasureParams& params, const Work& work,
                                              const Moments& moments) {
  const QuantMeasured& measured = params.measured[work.part];
  const uint64_t span = work.span % params.n_spans;
  const uint64_t head = uint64_t{work.b} * params.kv.n_heads + work.head;
  const uint64_t channel = (head * params.n_spans + span) * params.kv.row_len + threadIdx.x;
  if (measured.offsets != nullptr) {
    measured.offsets[channel] = is_finite(moments.mean) ? moments.mean : 0.0f;
  }
  if (measured.scales == nullptr) return;
  float square = moments.n != 0 ? __fdiv_rn(moments.squares, of_count(moments.n)) : 0.0f;
  if (measured.offsets == nullptr) square = __fmaf_rn(moments.mean, moments.mean, square);
  float scale = __fsqrt_rn(square);
  constexpr float kGreatest = 0x1.fffffep127f;
  constexpr float kLeastNormal = 0x1p-126f;
  // Also of what is no number.
  if (!(scale <= kGreatest)) scale = kGreatest;
  measured.scales[channel] = scale < kLeastNormal ? 1.0f : scale;
}

}  // namespace

// A thread has eight channels of a chain, and then one channel of all.
LACUNA_ENTRY(measure_channels, QuantMeasureParams, kMostDim) {
  LACUNA_SHARED(Shared, shared);
  const Work work = find_work(params);
  const QuantMeasured& measured = params.measured[work.part];
  if (measured.scales == nullptr && measured.offsets == nullptr) return;
  find_rows(params, work, shared);
  __syncthreads();
  measure_chain(params, shared);
  __syncthreads();
  const uint32_t channel = threadIdx.x;
  Moments moments = {};
#pragma unroll
  for (uint32_t chain = 0; chain < kChains; ++chain) {
    join(moments, {shared.counts[chain][channel], shared.means[chain][channel],
                   shared.squares[chain][channel]});
  }
  if (params.n_pieces != 1) {
    const uint32_t d = params.kv.row_len;
    uint32_t* pieces = params.pieces + work.span * params.n_pieces * 3 * d + channel;
    uint32_t* own = pieces + uint64_t{work.piece} * 3 * d;
    own[0] = moments.n;
    own[d] = __float_as_uint(moments.mean);
    own[2 * d] = __float_as_uint(moments.squares);
    if (!is_last_block(params.tickets + work.span, params.n_pieces, shared.is_last)) return;
    moments = {};
#pragma unroll 4
    for (uint32_t piece = 0; piece < params.n_pieces; ++piece, pieces += 3 * d) {
      join(moments, {pieces[0], __uint_as_float(pieces[d]), __uint_as_float(pieces[2 * d])});
    }
  }
  write_channel(params, work, moments);
}
