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
// The warps of a block; of rows of queries it has `kQueries`, 4 or 8.
constexpr uint32_t kWarps = 4;
// Elements from row to row of weights, and between four rows and the next four, so that four rows
// that are read together, and all pairs of rows that are written, are in different banks.
constexpr uint32_t kWeightPitch = kStep + 16;
constexpr uint32_t kWeightGap = 8;
// Steps of a warp of which it is on chip where their keys and values are, in two halves.
constexpr uint32_t kKnownSteps = 32;
// Strips of 16 positions.
constexpr uint32_t kStrips = kStep / 16;

// Of a lane: row of queries `pair`, or of eight `2 pair` and `2 pair + 1`; tokens `group` and
// `group + 8` of each strip, or such channels. What it has of both is in order of tokens, then
// rows.
__device__ __forceinline__ uint32_t group_of_lane() { return threadIdx.x % 32 / 4; }
__device__ __forceinline__ uint32_t pair_of_lane() { return threadIdx.x % 4; }
__device__ constexpr uint32_t own_of(uint32_t n_queries) { return n_queries / 4; }

// Of a step's positions what a lane has, of each of its rows.
template <uint32_t kQueries>
using OfStep = float[2 * own_of(kQueries) * kStrips];

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
template <uint32_t kDim, uint32_t kQueries>
struct Chip {
  // Bytes from row to row of a plane, so that eight rows are in different banks.
  enum : uint32_t { kPlanePitch = kDim + 16 };

  // Of a step of segments and of the next.
  StepTokens tokens[2];
  Affine affine[kStep];
  // The upper and the lower plane of each row of queries, both of numbers with a sign.
  alignas(16) uint8_t planes[2][kQueries][kPlanePitch];
  // Scales, and then offsets, of values.
  float channels[2][kDim];
  Folded folded[kQueries];
  alignas(16) uint16_t weights[kQueries * kWeightPitch + kQueries / 4 * kWeightGap];
  // Of each step's keys and values: the page's address, and in its lowest bits the tag; 0 of
  // segments, and kNoPage where either is none.
  uint64_t pages[2 * kKnownSteps];

  __device__ __forceinline__ uint16_t* weights_of(uint32_t row) {
    return weights + row * kWeightPitch + row / 4 * kWeightGap;
  }
};

// Has the tag of pages of one piece.
constexpr uint64_t kNoPage = 3;

// 0 of numbers.
__device__ __forceinline__ uint32_t tag_of(uint64_t page) {
  return static_cast<uint32_t>(page) & 3;
}

// One at least, so that a step ahead is enough.
__device__ __forceinline__ uint32_t n_pieces_of(uint32_t tag) { return 0x1124u >> 4 * tag & 7; }

// A step: a page of keys and a page of values, or rows of segments.
struct Step {
  // Among the warp's.
  uint32_t ordinal;
  bool is_page;
  // Of keys, and of values.
  uint32_t tags[2];
  // Its first slot, or the first of segments' positions, and how many of its positions count: none
  // where either page is none.
  uint32_t first;
  uint32_t n;
};

// The pieces of a warp's steps, one after the other: first those of keys.
template <uint32_t kDim, uint32_t kQueries>
struct Feed {
  // A piece: codes, and where they are the first what is said of tokens, or padded rows. From a
  // warp's piece to its next.
  enum : uint32_t {
    kStageBytes = 32 * kDim + 8 * kPageTokens,
    kStageStride = kWarps * kStageBytes
  };

  const AttentionTieredParams& params;
  const Part& part;
  const Positions& positions;
  Chip<kDim, kQueries>& chip;
  // Of all warps, one next to the other.
  uint8_t* stages;
  // Slots that hold tokens, and the steps of their pages.
  uint32_t n_slots;
  uint32_t n_page_steps;
  // The warp's first step, and the split's end.
  uint32_t first_step;
  uint32_t end_step;
  // What is copied next: of which step's keys or values, the piece, and where to.
  uint32_t n_copied;
  uint32_t piece;
  uint32_t stage_at;

  __device__ __forceinline__ Feed(const AttentionTieredParams& params, const Part& part,
                                  const Positions& positions, Chip<kDim, kQueries>& chip,
                                  uint8_t* stages, uint32_t n_slots, uint32_t first, uint32_t end)
      : params(params),
        part(part),
        positions(positions),
        chip(chip),
        stages(stages),
        n_slots(n_slots),
        n_page_steps((n_slots + kStep - 1) / kStep),
        first_step(first + threadIdx.x / 32),
        end_step(end) {}

  // Begins to copy, from the first step on, which is known.
  __device__ __forceinline__ void begin() {
    n_copied = 0;
    piece = 0;
    stage_at = threadIdx.x / 32 * kStageBytes;
    for (uint32_t i = 1; i < params.tiers.n_stages; ++i) copy_next();
  }

  __device__ __forceinline__ bool has_step(uint32_t n) const {
    return first_step + n * kWarps < end_step;
  }

  // Of the warp's `n`-th step, which is known.
  __device__ __forceinline__ Step step(uint32_t n) const {
    Step step;
    step.ordinal = n;
    const uint64_t* pages = chip.pages + 2 * n % (2 * kKnownSteps);
    step.tags[0] = tag_of(pages[0]);
    step.tags[1] = tag_of(pages[1]);
    const uint32_t i = first_step + n * kWarps;
    step.is_page = i < n_page_steps;
    step.first = (step.is_page ? i : i - n_page_steps) * kStep;
    const uint32_t n_all = step.is_page ? n_slots : part.n_positions;
    step.n = pages[0] != kNoPage ? min_of(kStep, n_all - step.first) : 0;
    return step;
  }

  // Makes the warp's `n`-th step known, one further than what is multiplied.
  __device__ __forceinline__ void prepare(uint32_t n) {
    if (n % (kKnownSteps / 2) == 0) find_pages(n);
    const uint32_t i = first_step + n * kWarps;
    if (i >= n_page_steps && i < end_step) find_tokens(i, chip.tokens[n % 2]);
  }

  // Of 16 steps; keys and values of each are two lanes', and either is nowhere where the other is.
  __device__ __forceinline__ void find_pages(uint32_t n) const {
    const uint32_t own = n + threadIdx.x % 32 / 2;
    const uint32_t of = threadIdx.x % 2;
    const uint32_t i = first_step + own * kWarps;
    uint64_t page = i >= n_page_steps && i < end_step ? 0 : kNoPage;
    if (i < n_page_steps && i < end_step) {
      const uint64_t head = uint64_t{part.b} * params.attend.n_heads + part.head;
      const uint64_t at = head * params.tiers.n_pages + i;
      const uint32_t entry = (of == 0 ? params.tiers.entries[0] : params.tiers.entries[1])[at];
      const QuantPools& pools = params.tiers.pools;
      report_entry(pools, entry, at, 1 + of);
      const uint8_t* found = find_page(pools, entry, kDim);
      if (found != nullptr) page = reinterpret_cast<uint64_t>(found) + (entry >> 30);
    }
    const uint32_t is_there = page != kNoPage ? 1 : 0;
    const bool is_other = __shfl_xor_sync(0xFFFFFFFFu, is_there, 1) != 0;
    chip.pages[(2 * n + threadIdx.x % 32) % (2 * kKnownSteps)] = is_other ? page : kNoPage;
    __syncwarp();
  }

  __device__ __forceinline__ void find_tokens(uint32_t of_split, StepTokens& tokens) const {
    const uint32_t first = (of_split - n_page_steps) * kStep;
    for (uint32_t i = threadIdx.x % 32; i < kStep; i += 32) {
      Token token = {};
      if (first + i < part.n_positions) {
        token = find_token(params.attend, StoredKeys{}, positions, part.b, part.head, first + i);
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
    const uint64_t found = chip.pages[n_copied % (2 * kKnownSteps)];
    const uint32_t tag = tag_of(found);
    if (found != kNoPage) {
      uint8_t* stage = stages + stage_at;
      if (tag != 0) {
        copy_codes(reinterpret_cast<const uint8_t*>(found - tag), tag, stage);
      } else {
        copy_numbers(reinterpret_cast<const uint8_t*>(found), stage);
      }
    }
    if (++piece == n_pieces_of(tag)) {
      piece = 0;
      ++n_copied;
    }
    commit_copies();
    stage_at += kStageStride;
    const uint32_t n_all = params.tiers.n_stages * kStageStride;
    if (stage_at >= n_all) stage_at -= n_all;
  }

  __device__ __forceinline__ void copy_codes(const uint8_t* page, uint32_t tag,
                                             uint8_t* stage) const {
    const uint32_t lane = threadIdx.x % 32;
    const uint8_t* from = page + piece * 32 * kDim + 16 * lane;
    uint8_t* to = stage + 16 * lane;
    // Of 2 bits half of what others have.
    constexpr uint32_t kHalf = 16 * kDim;
#pragma unroll
    for (uint32_t at = 0; at < kHalf; at += 16 * 32) {
      // Way of 2 bits and 4 bits: here.
      copy_async<16>(to + at, from + at);
    }
    // Zeros where it has none, which nobody reads.
    const bool has_tail = piece == 0 && 16 * lane < 4 * kPageTokens << params.tiers.pools.tail;
    const uint8_t* tail = from + (kHalf << (3 - tag));
    copy_async<16>(to + 2 * kHalf, tail, has_tail);
    if (tag == 3) return;
#pragma unroll
    for (uint32_t at = kHalf; at < 2 * kHalf; at += 16 * 32) {
      // Way of 4 bits: here.
      copy_async<16>(to + at, from + at);
    }
  }

  // 16 rows, of a page or by addresses. Nothing is read where nothing is.
  __device__ __forceinline__ void copy_numbers(const uint8_t* page, uint8_t* stage) const {
    const StepTokens& tokens = chip.tokens[n_copied / 2 % 2];
    const uint64_t* rows = n_copied % 2 == 0 ? tokens.keys : tokens.values;
    // Of a page.
    const uint32_t n = n_slots - (first_step + n_copied / 2 * kWarps) * kStep;
    constexpr uint32_t kChunks = kDim / 8;
#pragma unroll 4
    for (uint32_t at = threadIdx.x % 32; at < kTile * kChunks; at += 32) {
      const uint32_t row = piece * kTile + at / kChunks;
      const uint32_t chunk = at % kChunks;
      const uint8_t* from = row < n ? page + uint64_t{row} * 2 * kDim : nullptr;
      if (page == nullptr) from = reinterpret_cast<const uint8_t*>(rows[row]);
      copy_async<16>(stage + 16 * (at / kChunks * pitch_of(kDim) + chunk),
                     from != nullptr ? from + 16 * chunk : params.attend.queries, from != nullptr);
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
    // The oldest piece is where the one after the newest will be.
    return stages + stage_at;
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
      // Way of 2 bits and 4 bits: here.
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
