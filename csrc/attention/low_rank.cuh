// SPDX-License-Identifier: MIT OR Apache-2.0
// Keys that are made on chip, of a row of factors for each token and a basis for each head, and
// then turned by their positions (ShadowKV).
#ifndef LACUNA_ATTENTION_LOW_RANK_CUH_
#define LACUNA_ATTENTION_LOW_RANK_CUH_

#include "../common/async.cuh"
#include "../common/turn.cuh"
#include "sums.cuh"
#include "tokens.cuh"

namespace {

struct MadeKeys {
  enum : bool { kAreMade = true };

  // As many as rows of factors may be.
  enum : uint32_t { kMostTokens = 1u << 26 };

  const AttentionLowRank& low_rank;

  __device__ __forceinline__ uint32_t pitch() const { return pitch_of(low_rank.rank); }

  // On chip: a row of the basis for each channel, and one of factors for each token of a tile.
  __device__ uint32_t n_basis_chunks() const { return low_rank.head_dim * pitch(); }
  __device__ uint32_t n_factor_chunks() const { return kTile * pitch(); }

  // Begins to copy it.
  __device__ __forceinline__ void stage_basis(const AttentionAttendParams& params, uint32_t b,
                                              uint32_t h, uint4* basis) const {
    const uint32_t n_chunks = low_rank.rank / 8;
    const uint64_t first = (uint64_t{b} * params.n_heads + h) * params.head_dim * low_rank.rank;
    const uint8_t* from = low_rank.basis + 2 * first;
    for (uint32_t i = threadIdx.x; i < params.head_dim * n_chunks; i += blockDim.x) {
      const uint32_t row = i / n_chunks;
      copy_async<16>(basis + row * pitch() + (i - row * n_chunks), from + 16 * uint64_t{i}, true);
    }
  }

  __device__ bool makes(uint32_t segment) const { return segment == low_rank.segment; }

  // Where values are elsewhere, a request may have more tokens than the cache has rows.
  __device__ uint32_t count_tokens(const LacunaKvView& kv, uint32_t b, uint32_t n_rows) const {
    if (low_rank.value_indices == nullptr) return n_rows;
    return min_of(rows_of(kv.lengths[b], kv.tokens_per_row), uint32_t{kMostTokens});
  }

  // Where the row's factors and its value are.
  __device__ __forceinline__ bool find(const AttentionAttendParams& params, const Place& place,
                                       uint32_t b, uint32_t h, Token& token) const {
    const AttentionSegment& segment = params.segments[place.segment];
    if (place.row >= low_rank.n_factors) return false;
    uint32_t row = place.row;
    if (low_rank.value_indices != nullptr) {
      const uint64_t at = place.list * segment.n_indices + place.entry;
      const uint32_t block = static_cast<uint32_t>(low_rank.value_indices[at]);
      const uint64_t value_row = uint64_t{block} * segment.block_size + place.in_block;
      if (value_row >= segment.kv.n_rows) return false;
      row = static_cast<uint32_t>(value_row);
    }
    const uint64_t element = locate_kv(segment.kv, b, row, h);
    if (element == kNoRow) return false;
    const uint64_t factor = (uint64_t{b} * low_rank.n_factors + place.row) * low_rank.rank;
    token.key = reinterpret_cast<uint64_t>(low_rank.factors + 2 * factor);
    token.value = reinterpret_cast<uint64_t>(segment.kv.values + 2 * element);
    token.made = place.row + 1;
    return true;
  }

  // Begins to copy the factors of a tile; zeros where a key is stored, or none.
  __device__ __forceinline__ void fetch(const Tokens& tokens, const uint8_t* any,
                                        uint4* factors) const {
    const uint32_t n_chunks = low_rank.rank / 8;
    for (uint32_t i = threadIdx.x % 32; i < kTile * n_chunks; i += 32) {
      const uint32_t row = i / n_chunks;
      const uint32_t chunk = i - row * n_chunks;
      const bool is_made = tokens.made[row] != 0;
      const uint8_t* from =
          is_made ? reinterpret_cast<const uint8_t*>(tokens.keys[row]) + 16 * chunk : any;
      copy_async<16>(factors + row * pitch() + chunk, from, is_made);
    }
  }

  // A row's products with channels `c`, `c + 1`, and those half a head further.
  __device__ __forceinline__ void turn(uint32_t position, uint32_t c, float (&low)[2],
                                       float (&high)[2]) const {
    const uint32_t half = low_rank.head_dim / 2;
    const float* cosines = low_rank.cos_sin + uint64_t{position} * low_rank.head_dim;
    const float* sines = cosines + half;
    if (low_rank.turn == kTurnHalves) {
      const float2 cosine = *reinterpret_cast<const float2*>(cosines + c);
      const float2 sine = *reinterpret_cast<const float2*>(sines + c);
      turn_by(cosine.x, sine.x, low[0], high[0]);
      turn_by(cosine.y, sine.y, low[1], high[1]);
    } else if (low_rank.turn == kTurnPairs) {
      turn_by(cosines[c / 2], sines[c / 2], low[0], low[1]);
      turn_by(cosines[(half + c) / 2], sines[(half + c) / 2], high[0], high[1]);
    }
  }

  template <bool kIsBf16>
  __device__ __forceinline__ void make_keys(const Tokens& tokens, const uint4* basis,
                                            const uint4* factors, uint4* keys) const {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t matrix = lane / 8;
    const uint32_t half = low_rank.head_dim / 2;
    const uint32_t words_pitch = 4 * pitch_of(low_rank.head_dim);
    uint32_t* words = reinterpret_cast<uint32_t*>(keys);
    const uint4* factor = factors + (lane % 8 + matrix % 2 * 8) * pitch() + matrix / 2;
    const uint4* row = basis + (matrix / 2 * half + lane % 8) * pitch() + matrix % 2;
#pragma unroll 1
    for (uint32_t channel = 0; channel < half; channel += 8, row += 8 * pitch()) {
      float products[2][4] = {};
#pragma unroll 2
      for (uint32_t k = 0; k < low_rank.rank / 16; ++k) {
        uint32_t a[4];
        uint32_t b[4];
        load_matrices(a, factor + 2 * k);
        load_matrices(b, row + 2 * k);
        multiply<kIsBf16>(products[0], a, {b[0], b[1]});
        multiply<kIsBf16>(products[1], a, {b[2], b[3]});
      }
      const uint32_t c = channel + lane % 4 * 2;
#pragma unroll
      for (uint32_t part = 0; part < 2; ++part) {
        const uint32_t r = lane / 4 + 8 * part;
        if (tokens.made[r] == 0) continue;
        float low[2] = {products[0][2 * part], products[0][2 * part + 1]};
        float high[2] = {products[1][2 * part], products[1][2 * part + 1]};
        turn(tokens.made[r] - 1, c, low, high);
        const uint32_t kind = kIsBf16 ? kFloatBf16 : kFloatF16;
        words[r * words_pitch + c / 2] = to_halves(low[0], low[1], kind);
        words[r * words_pitch + (half + c) / 2] = to_halves(high[0], high[1], kind);
      }
    }
  }

  // Of a tile whose factors have arrived, the keys that are not stored.
  __device__ __forceinline__ void make(const AttentionAttendParams& params, const Tokens& tokens,
                                       const uint4* basis, const uint4* factors,
                                       uint4* keys) const {
    const bool is_made = tokens.made[threadIdx.x % kTile] != 0;
    if (!__any_sync(0xFFFFFFFFu, is_made)) return;
    if (params.logits.element == kFloatBf16) {
      make_keys<true>(tokens, basis, factors, keys);
    } else {
      make_keys<false>(tokens, basis, factors, keys);
    }
    __syncwarp();
  }
};

}  // namespace

#endif  // LACUNA_ATTENTION_LOW_RANK_CUH_
