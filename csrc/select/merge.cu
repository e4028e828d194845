// SPDX-License-Identifier: MIT OR Apache-2.0
// Evicted tokens merged into kept ones, three launches: the nearest kept key of each evicted one,
// a threshold of each head from how near they are, and the sums. src/select/merge/reference.rs is
// the specification.

#include "../common/dot.cuh"
#include "../common/kv.cuh"
#include "params.h"
#include "tiles.cuh"

namespace {

constexpr uint32_t kNearThreads = 256;
// Rows that a block has of either list at once.
constexpr uint32_t kRows = kNearThreads / kDotLanes;
// Of a row's 256 elements at most, those of one lane: 8 of every 64.
constexpr uint32_t kPieces = 4;
constexpr float kAbsent = -1.0f;
constexpr uint32_t kSoftmax = 0;

struct NearShared {
  uint4 keys[kRows][kPieces * kDotLanes];
  // Of each: the root of its square, or `kAbsent`.
  float norms[kRows];
};

// The element at which a token's row begins; `kNoRow` where there is none.
__device__ uint64_t locate_token(const LacunaKvView& kv, uint32_t list, int32_t token) {
  const uint32_t b = list / kv.n_heads;
  const uint32_t t = static_cast<uint32_t>(token);
  if (t >= count_rows(kv, b)) return kNoRow;
  return locate_kv(kv, b, t, list - b * kv.n_heads);
}

__device__ uint4 load_piece(const uint8_t* pool, uint64_t element) {
  uint32_t words[4];
  load_kv(words, pool, element, kFloatBf16);
  return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ void expand_piece(float (&values)[8], const uint4& piece, uint32_t kind) {
  const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
  expand_floats(values, words, kind);
}

__device__ float find_norm(const uint4 (&pieces)[kPieces], uint32_t row_len, uint32_t kind) {
  float sum = 0.0f;
#pragma unroll
  for (uint32_t j = 0; j < kPieces; ++j) {
    if (64 * j + 8 * (threadIdx.x % kDotLanes) >= row_len) continue;
    float values[8];
    expand_piece(values, pieces[j], kind);
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) sum = __fmaf_rn(values[i], values[i], sum);
  }
  return __fsqrt_rn(add_over_lanes(sum));
}

__device__ void load_row(uint4 (&pieces)[kPieces], const LacunaKvView& kv, uint64_t element) {
#pragma unroll
  for (uint32_t j = 0; j < kPieces; ++j) {
    const uint32_t column = 64 * j + 8 * (threadIdx.x % kDotLanes);
    pieces[j] = make_uint4(0, 0, 0, 0);
    if (element != kNoRow && column < kv.row_len) pieces[j] = load_piece(kv.keys, element + column);
  }
}

// From -1 to 1; 0 of what has no direction.
__device__ float find_cosine(float product, float norm, float other) {
  const float cosine = __fdiv_rn(product, __fmul_rn(norm, other));
  if (!(cosine == cosine)) return 0.0f;
  return cosine > 1.0f ? 1.0f : cosine < -1.0f ? -1.0f : cosine;
}

}  // namespace

LACUNA_ENTRY(nearest_kept, SelectNearestParams, kNearThreads) {
  LACUNA_SHARED(NearShared, shared);
  const SelectEviction& lists = params.lists;
  const LacunaKvView& kv = lists.kv;
  const uint32_t n_blocks = lists.n_evicted / kRows + (lists.n_evicted % kRows != 0);
  const uint32_t list = blockIdx.x / n_blocks;
  if (list >= kv.batch * kv.n_heads) return;
  const uint32_t team = threadIdx.x / kDotLanes;
  const uint32_t lane = threadIdx.x % kDotLanes;
  const uint32_t place = (blockIdx.x - list * n_blocks) * kRows + team;
  const int32_t* evicted = lists.evicted + uint64_t{list} * lists.n_evicted;
  const int32_t* kept = lists.kept + uint64_t{list} * lists.n_kept;

  uint64_t element = kNoRow;
  if (place < lists.n_evicted) element = locate_token(kv, list, evicted[place]);
  uint4 own[kPieces];
  load_row(own, kv, element);
  const float norm = find_norm(own, kv.row_len, kv.element);
  float values[kPieces][8];
#pragma unroll
  for (uint32_t j = 0; j < kPieces; ++j) expand_piece(values[j], own[j], kv.element);
  float nearness = 0.0f;
  int32_t nearest = -1;
  for (uint32_t first = 0; first < lists.n_kept; first += kRows) {
    const uint32_t n_left = lists.n_kept - first;
    uint64_t other = kNoRow;
    if (team < n_left) other = locate_token(kv, list, kept[first + team]);
    uint4 pieces[kPieces];
    load_row(pieces, kv, other);
    const float other_norm = find_norm(pieces, kv.row_len, kv.element);
#pragma unroll
    for (uint32_t j = 0; j < kPieces; ++j) shared.keys[team][kDotLanes * j + lane] = pieces[j];
    if (lane == 0) shared.norms[team] = other != kNoRow ? other_norm : kAbsent;
    __syncthreads();
    // Else registers for several rows at once leave too few warps.
#pragma unroll 1
    for (uint32_t row = 0; row < kRows; ++row) {
      const float row_norm = shared.norms[row];
      if (row_norm == kAbsent) continue;
      float sum = 0.0f;
#pragma unroll
      for (uint32_t j = 0; j < kPieces; ++j) {
        if (64 * j + 8 * lane >= kv.row_len) continue;
        float others[8];
        expand_piece(others, shared.keys[row][kDotLanes * j + lane], kv.element);
#pragma unroll
        for (uint32_t i = 0; i < 8; ++i) sum = __fmaf_rn(values[j][i], others[i], sum);
      }
      const float cosine = find_cosine(add_over_lanes(sum), norm, row_norm);
      if (nearest < 0 || cosine > nearness) {
        nearness = cosine;
        nearest = static_cast<int32_t>(first + row);
      }
    }
    __syncthreads();
  }
  if (place >= lists.n_evicted || lane != 0) return;
  const uint64_t at = uint64_t{list} * lists.n_evicted + place;
  params.nearest[at] = element != kNoRow ? nearest : -1;
  // Of no token 0, as of its zeros.
  params.similarities[at] = nearness;
}

namespace {

struct MeanShared {
  unsigned long long sum;
  uint32_t n;
};

}  // namespace

LACUNA_ENTRY(update_thresholds, SelectThresholdParams, kNearThreads) {
  LACUNA_SHARED(MeanShared, shared);
  if (blockIdx.x >= params.n_lists) return;
  if (threadIdx.x == 0) shared = {0, 0};
  __syncthreads();
  const uint64_t first = uint64_t{blockIdx.x} * params.n_evicted;
  // In 2^-32: whole numbers, whose sum has no order.
  unsigned long long sum = 0;
  uint32_t n = 0;
  for (uint32_t i = threadIdx.x; i < params.n_evicted; i += kNearThreads) {
    if (params.nearest[first + i] < 0) continue;
    const float similarity = params.similarities[first + i];
    const bool is_negative = similarity < 0.0f;
    const unsigned long long parts =
        __float2ull_rn(__fmul_rn(is_negative ? -similarity : similarity, 0x1p+32f));
    sum += is_negative ? 0 - parts : parts;
    n += 1;
  }
  atomicAdd(&shared.sum, sum);
  atomicAdd(&shared.n, n);
  __syncthreads();
  if (threadIdx.x != 0 || shared.n == 0) return;
  const bool is_negative = shared.sum >> 63 != 0;
  const float size = __ull2float_rn(is_negative ? 0 - shared.sum : shared.sum);
  const float whole = __fmul_rn(is_negative ? -size : size, 0x1p-32f);
  const float mean = __fdiv_rn(whole, __ull2float_rn(shared.n));
  const float old = params.thresholds[blockIdx.x];
  // NaN before the first step.
  params.thresholds[blockIdx.x] =
      old == old ? __fmaf_rn(params.decay, old, __fmul_rn(params.rest, mean)) : mean;
}

namespace {

// Whose rows go where: the tile's row of an evicted one that is merged.
struct FindMerged {
  const SelectMergeParams& params;
  uint64_t start;
  uint32_t first;
  float threshold;

  __device__ uint32_t operator()(uint32_t place) const {
    if (place >= params.lists.n_evicted) return kNone;
    // None where the threshold is NaN.
    if (!(params.similarities[start + place] >= threshold)) return kNone;
    return static_cast<uint32_t>(params.nearest[start + place]) - first;
  }
};

__device__ float find_weight(float similarity, uint32_t weights) {
  if (weights != kSoftmax) return similarity;
  // The kept row's is 1: all are divided by e.
  return exp2_of(__fmul_rn(__fsub_rn(similarity, 1.0f), 0x1.715476p+0f));
}

__device__ void add_row(float (&sums)[8], const uint8_t* pool, uint64_t element, float weight,
                        uint32_t kind) {
  float values[8];
  expand_piece(values, load_piece(pool, element), kind);
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) sums[i] = __fmaf_rn(weight, values[i], sums[i]);
}

__device__ void write_row(const float (&sums)[8], const uint8_t* pool, uint64_t element,
                          float weight, uint32_t kind) {
  uint32_t words[4];
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    uint32_t halves[2];
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      const float mean = __fdiv_rn(sums[2 * i + j], weight);
      halves[j] = kind == kFloatBf16 ? to_bf16(mean) : to_f16(mean);
    }
    words[i] = halves[0] | halves[1] << 16;
  }
  // The view says `const` for all kernels that only read.
  *reinterpret_cast<uint4*>(const_cast<uint8_t*>(pool) + 2 * element) =
      make_uint4(words[0], words[1], words[2], words[3]);
}

// By a warp: one row of a pool becomes the mean of itself and those that go to it, in the order of
// the list. Keys and values after each other: sums of both would leave too few registers.
__device__ void merge_row(const SelectMergeParams& params, const uint8_t* pool, uint32_t list,
                          uint64_t target, uint32_t tile_row, uint32_t n_found,
                          const FindMerged& find, const TileFinds& finds) {
  const LacunaKvView& kv = params.lists.kv;
  const uint32_t column = 8 * (threadIdx.x % 32);
  const bool is_column = column < kv.row_len;
  float sums[8] = {};
  float total = 1.0f;
  bool is_merged = false;
  visit_places(params.lists.n_evicted, n_found, tile_row, find, finds, [&](uint32_t from) {
    const uint64_t source = locate_token(kv, list, params.lists.evicted[find.start + from]);
    if (source == kNoRow) return;
    if (!is_merged && is_column) {
      expand_piece(sums, load_piece(pool, target + column), kv.element);
    }
    const float similarity = params.similarities[find.start + from];
    const float weight = find_weight(similarity, params.weights);
    total = __fadd_rn(total, params.weights == kSoftmax ? weight : 1.0f);
    is_merged = true;
    if (is_column) add_row(sums, pool, source + column, weight, kv.element);
  });
  // A row that none goes to is left alone.
  if (is_merged && is_column) write_row(sums, pool, target + column, total, kv.element);
}

}  // namespace

LACUNA_ENTRY(merge_rows, SelectMergeParams, kTileThreads) {
  LACUNA_SHARED(TileFinds, finds);
  const SelectEviction& lists = params.lists;
  const LacunaKvView& kv = lists.kv;
  const uint32_t n_tiles = lists.n_kept / kTile + (lists.n_kept % kTile != 0);
  const uint32_t list = blockIdx.x / n_tiles;
  if (list >= kv.batch * kv.n_heads) return;
  const uint32_t first = (blockIdx.x - list * n_tiles) * kTile;
  const uint64_t start = uint64_t{list} * lists.n_evicted;
  const FindMerged find = {params, start, first, params.thresholds[list]};
  const uint32_t n_found = find_places(lists.n_evicted, find, finds);
  const uint32_t n_left = lists.n_kept - first;
  for (uint32_t row = threadIdx.x / 32; row < kTile && row < n_left; row += kTileWarps) {
    const uint64_t target =
        locate_token(kv, list, lists.kept[uint64_t{list} * lists.n_kept + first + row]);
    if (target == kNoRow) continue;
    merge_row(params, kv.keys, list, target, row, n_found, find, finds);
    if (kv.values == nullptr) continue;
    merge_row(params, kv.values, list, target, row, n_found, find, finds);
  }
}
