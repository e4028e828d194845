// SPDX-License-Identifier: MIT OR Apache-2.0
// What a warp of `attend_tiered` has on chip, and how pieces of pages and rows come there while
// those before are multiplied.
#ifndef LACUNA_ATTENTION_FEED_CUH_
#define LACUNA_ATTENTION_FEED_CUH_

#include "codes.cuh"
#include "parts.cuh"

namespace {

// Positions of a step: the slots of a page, or as many rows of segments.
constexpr uint32_t kStep = 64;
// Rows of queries of a block, and its warps.
constexpr uint32_t kQueries = 8;
constexpr uint32_t kWarps = 4;
// Elements from row to row of weights, so that eight rows are in different banks.
constexpr uint32_t kWeightPitch = kStep + 16;
// Entries of a warp's steps that are on chip.
constexpr uint32_t kEntries = 32;
// Strips of 16 positions.
constexpr uint32_t kStrips = kStep / 16;

// Of a lane: rows of queries `2 pair` and `2 pair + 1`; tokens `group` and `group + 8` of each
// strip, or such channels.
__device__ __forceinline__ uint32_t group_of_lane() { return threadIdx.x % 32 / 4; }
__device__ __forceinline__ uint32_t pair_of_lane() { return threadIdx.x % 4; }

// What stands at the positions of a step of segments.
struct StepTokens {
  // Addresses, 0 where there is none.
  uint64_t keys[kStep];
  uint64_t values[kStep];
  float biases[kStep];
  // Queries that see it: from the lower half on, before the upper.
  uint32_t seen[kStep];
};

// What is made of a row of queries to be multiplied with codes.
struct Folded {
  float unit;
  // Of the integers.
  float sum;
  // The product with what was taken from keys.
  float offset;
};

// Of each token, what its codes are multiplied by, and what is added.
struct Affine {
  float step;
  float least;
};

// A warp's memory on chip; `TieredPlan::grid` has the sum of it.
template <uint32_t kDim>
struct Chip {
  // Bytes from row to row of a plane, so that eight rows are in different banks.
  enum : uint32_t { kPlanePitch = kDim + 16 };

  // Of a step of segments and of the next.
  StepTokens tokens[2];
  Affine affine[kStep];
  // The upper and the lower plane of each row of queries.
  alignas(16) uint8_t planes[2][kQueries][kPlanePitch];
  // Scales, and then offsets, of values.
  float channels[2][kDim];
  Folded folded[kQueries];
  alignas(16) uint16_t weights[kQueries][kWeightPitch];
  // Of keys, and of values.
  uint32_t entries[2][kEntries];
};

// A step: a page of keys and a page of values, or rows of segments.
struct Step {
  // Among the warp's.
  uint32_t ordinal;
  // Of pages; of segments those of 16 bits.
  uint32_t entries[2];
  bool is_page;
  // Its first slot, or the first of segments' positions, and how many of its positions count: none
  // where either page is none.
  uint32_t first;
  uint32_t n;

  // Of keys, or of values; 0 of numbers.
  __device__ __forceinline__ uint32_t tag(uint32_t part) const { return entries[part] >> 30; }
  // Two pieces at least, so that a step ahead is enough.
  __device__ __forceinline__ uint32_t n_pieces(uint32_t part) const {
    return n == 0 ? 1 : tag(part) == 0 ? 4 : tag(part) == 1 ? 2 : 1;
  }
};

// The pieces of a warp's steps, one after the other: first those of keys.
template <uint32_t kDim>
struct Feed {
  const AttentionTieredParams& params;
  const Part& part;
  const Positions& positions;
  Chip<kDim>& chip;
  uint8_t* stages;
  // Slots that hold tokens, and the steps of their pages.
  uint32_t n_slots;
  uint32_t n_page_steps;
  // The warp's first step, and the split's end.
  uint32_t first_step;
  uint32_t end_step;
  // What is copied, and what comes after it.
  Step ahead;
  Step next;
  // Of what is copied, the next.
  uint32_t piece;
  uint32_t stage_in;
  uint32_t stage_out;

  __device__ __forceinline__ Feed(const AttentionTieredParams& params, const Part& part,
                                  const Positions& positions, Chip<kDim>& chip, uint8_t* all_stages,
                                  uint32_t n_slots, uint32_t first, uint32_t end)
      : params(params),
        part(part),
        positions(positions),
        chip(chip),
        n_slots(n_slots),
        n_page_steps((n_slots + kStep - 1) / kStep),
        first_step(first + threadIdx.x / 32),
        end_step(end) {
    stages = all_stages + threadIdx.x / 32 * params.tiers.n_stages * stage_bytes();
  }

  __device__ __forceinline__ uint32_t stage_bytes() const {
    return 32 * kDim + (4 * kPageTokens << params.tiers.pools.tail);
  }

  // Begins to copy, from the step on that is known.
  __device__ __forceinline__ void begin() {
    ahead = {};
    piece = ahead.n_pieces(0) + ahead.n_pieces(1);
    stage_in = 0;
    stage_out = 0;
    for (uint32_t i = 1; i < params.tiers.n_stages; ++i) copy_next();
  }

  __device__ __forceinline__ bool has_step(uint32_t n) const {
    return first_step + n * kWarps < end_step;
  }

  // Finds the warp's `n`-th step, one further than what is multiplied.
  __device__ __forceinline__ void prepare(uint32_t n) {
    next = {};
    next.ordinal = n;
    if (!has_step(n)) return;
    const uint32_t i = first_step + n * kWarps;
    next.is_page = i < n_page_steps;
    if (!next.is_page) {
      next.first = (i - n_page_steps) * kStep;
      next.n = min_of(kStep, part.n_positions - next.first);
      find_tokens(chip.tokens[n % 2]);
      return;
    }
    if (n % kEntries == 0) load_entries(n);
    next.first = i * kStep;
    const QuantPools& pools = params.tiers.pools;
    bool is_there = true;
#pragma unroll
    for (uint32_t p = 0; p < 2; ++p) {
      const uint32_t entry = chip.entries[p][n % kEntries];
      next.entries[p] = entry;
      is_there = is_there && (entry & 0x3FFFFFFF) < pools.n_pages[entry >> 30];
    }
    next.n = is_there ? min_of(kStep, n_slots - next.first) : 0;
  }

  __device__ __forceinline__ void load_entries(uint32_t n) const {
    __syncwarp();
    const uint32_t own = n + threadIdx.x % 32;
    const uint32_t i = first_step + own * kWarps;
    const uint64_t head = uint64_t{part.b} * params.attend.n_heads + part.head;
#pragma unroll
    for (uint32_t p = 0; p < 2; ++p) {
      // Of no page.
      uint32_t entry = 0xFFFFFFFF;
      if (i < end_step && i < n_page_steps) {
        entry = params.tiers.entries[p][head * params.tiers.n_pages + i];
      }
      chip.entries[p][own % kEntries] = entry;
    }
    __syncwarp();
  }

  __device__ __forceinline__ void find_tokens(StepTokens& tokens) const {
    for (uint32_t i = threadIdx.x % 32; i < kStep; i += 32) {
      Token token = {};
      if (i < next.n) {
        token =
            find_token(params.attend, StoredKeys{}, positions, part.b, part.head, next.first + i);
      }
      tokens.keys[i] = token.key;
      tokens.values[i] = token.value;
      tokens.biases[i] = token.bias;
      tokens.seen[i] = token.seen;
    }
    __syncwarp();
  }

  // Begins to copy the next piece; a group of copies in any case.
  __device__ __forceinline__ void copy_next() {
    if (piece == ahead.n_pieces(0) + ahead.n_pieces(1)) {
      ahead = next;
      piece = 0;
    }
    if (ahead.n != 0) {
      uint8_t* stage = stages + stage_in * stage_bytes();
      const bool is_key = piece < ahead.n_pieces(0);
      const uint32_t i = is_key ? piece : piece - ahead.n_pieces(0);
      const uint32_t entry = is_key ? ahead.entries[0] : ahead.entries[1];
      const uint32_t tag = entry >> 30;
      const QuantPools& pools = params.tiers.pools;
      const uint8_t* page = nullptr;
      if (ahead.is_page) {
        page =
            pools.pages[tag] + uint64_t{entry & 0x3FFFFFFF} * page_bytes_of(tag, kDim, pools.tail);
      }
      if (tag != 0) {
        copy_codes(page, tag, i, stage);
      } else {
        const StepTokens& tokens = chip.tokens[ahead.ordinal % 2];
        copy_numbers(is_key ? tokens.keys : tokens.values, page, i * kTile, stage);
      }
    }
    ++piece;
    commit_copies();
    if (++stage_in == params.tiers.n_stages) stage_in = 0;
  }

  __device__ __forceinline__ void copy_codes(const uint8_t* page, uint32_t tag, uint32_t i,
                                             uint8_t* stage) const {
    const uint32_t lane = threadIdx.x % 32;
    const uint8_t* codes = page + i * 32 * kDim + 16 * lane;
    uint8_t* to = stage + 16 * lane;
    // Pieces of 2 bits are half as long, and have no second.
    constexpr uint32_t kHalf = 16 * kDim;
#pragma unroll
    for (uint32_t at = 0; at < kHalf; at += 16 * 32) copy_async<16>(to + at, codes + at);
    if (tag != 3) {
#pragma unroll
      for (uint32_t at = kHalf; at < 2 * kHalf; at += 16 * 32) copy_async<16>(to + at, codes + at);
    }
    const uint8_t* tail = page + 8 * kDim * bits_of(tag);
    const uint32_t n_tail = 4 * kPageTokens << params.tiers.pools.tail;
    if (i == 0 && 16 * lane < n_tail) {
      copy_async<16>(stage + 32 * kDim + 16 * lane, tail + 16 * lane);
    }
  }

  // 16 rows, of a page or by addresses. Nothing is read where nothing is.
  __device__ __forceinline__ void copy_numbers(const uint64_t* rows, const uint8_t* page,
                                               uint32_t first, uint8_t* stage) const {
    constexpr uint32_t kChunks = kDim / 8;
#pragma unroll 4
    for (uint32_t at = threadIdx.x % 32; at < kTile * kChunks; at += 32) {
      const uint32_t row = at / kChunks;
      const uint32_t chunk = at % kChunks;
      const uint8_t* from = page + uint64_t{first + row} * 2 * kDim;
      if (page == nullptr) from = reinterpret_cast<const uint8_t*>(rows[first + row]);
      const bool is_there = first + row < ahead.n && from != nullptr;
      copy_async<16>(stage + 16 * (row * pitch_of(kDim) + chunk),
                     is_there ? from + 16 * chunk : params.attend.queries, is_there);
    }
  }

  // The next piece, when it is there; the one before is given up.
  __device__ __forceinline__ const uint8_t* take() {
    __syncwarp();
    copy_next();
    if (params.tiers.n_stages == 2) {
      wait_copies<1>();
    } else {
      wait_copies<2>();
    }
    __syncwarp();
    const uint8_t* stage = stages + stage_out * stage_bytes();
    if (++stage_out == params.tiers.n_stages) stage_out = 0;
    return stage;
  }
};

// Of a page's tokens, from its tail, relative to a code; zeros past the last.
template <uint32_t kMiddle>
__device__ __forceinline__ void load_affine(const AttentionTieredParams& params,
                                            const uint8_t* tail, uint32_t n, Affine (&all)[kStep]) {
  for (uint32_t t = threadIdx.x % 32; t < kStep; t += 32) {
    Affine affine = {0.0f, 0.0f};
    if (t < n && params.tiers.pools.tail == kZeroPoints) {
      const uint16_t* halves = reinterpret_cast<const uint16_t*>(tail);
      affine.step = from_bf16(halves[t]);
      const int32_t zero = static_cast<int32_t>(uint32_t{halves[kStep + t]} << 16) >> 16;
      affine.least = __fmul_rn(affine.step, __fmul_rn(__int2float_rn(-zero), 0.0625f));
    } else if (t < n) {
      const float* words = reinterpret_cast<const float*>(tail);
      affine.step = words[t];
      affine.least = words[kStep + t];
    }
    if (kMiddle != 0) {
      affine.least = __fmaf_rn(static_cast<float>(kMiddle), affine.step, affine.least);
    }
    all[t] = affine;
  }
  __syncwarp();
}

}  // namespace

#endif  // LACUNA_ATTENTION_FEED_CUH_
