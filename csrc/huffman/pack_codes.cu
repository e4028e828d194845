// SPDX-License-Identifier: MIT OR Apache-2.0
// bf16 weights to codes of at most 12 bits, with their index: a block packs a part of 65,536
// weights, a warp a tile of 4,096 on chip, from bit 0 on, and then to where it belongs. A word
// that two tiles share is written by the one in which it begins, which encodes what of the next it
// needs: nothing is zeroed before, and nobody waits. src/huffman/compact/reference.rs is the
// specification.

#include "../common/scan.cuh"
#include "codes.cuh"
#include "granule.cuh"
#include "planes.cuh"

namespace {

constexpr uint32_t kPackWarps = 4;
constexpr uint32_t kPackThreads = kPackWarps * 32;
constexpr uint32_t kSteps = kTileWeights / kVector / 32;
constexpr uint32_t kGranuleLanes = kGranuleWeights / kVector;
// Where two codes are, left-aligned.
constexpr uint32_t kPairBits = ~0u << (32 - 2 * kLongestCode);
// Codes that a tile's last word may take of the weights behind it, at most.
constexpr uint32_t kAheadWeights = 32;
// With room for three words past the last bit.
constexpr uint32_t kTileWords = (kTileWeights + kAheadWeights) * kLongestCode / 32 + 4;
static_assert(kTileWords % 4 == 0, "cleared 16 bytes at a time");

struct PackWarp {
  // The tile's codes, from bit 0 on, the first bit the most significant; else zeros.
  alignas(16) uint32_t words[kTileWords];
  // Where its granules begin.
  uint32_t starts[kTileGranules];
};

struct PackShared {
  uint32_t table[kExponents];
  uint32_t tile_bits[2][kPackWarps];
  PackWarp warps[kPackWarps];
};

// An entry of a table, as safe as one of a code.
__device__ __forceinline__ uint32_t check_entry(uint32_t entry) {
  return (entry & 63) > kLongestCode ? 0 : entry & 0xFFF0003Fu;
}

// Eight codes after each other, the first bit the most significant, and how many bits they have.
struct Eight {
  uint32_t words[3];
  uint32_t n;
};

// Four codes, of up to 48 bits, of two words of weights of which the first `n_valid` count. Shifts
// see the lowest five bits of entries and of their sums, which are those of lengths.
template <bool kIsWhole>
__device__ __forceinline__ uint32_t find_four(const uint32_t* table, uint32_t x, uint32_t y,
                                              uint32_t n_valid, uint32_t& high, uint32_t& low) {
  const uint32_t exponents[4] = {x >> 7 & 255, x >> 23 & 255, y >> 7 & 255, y >> 23 & 255};
  uint32_t entries[4];
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    entries[i] = kIsWhole || i < n_valid ? table[exponents[i]] : 0;
  }
  const uint32_t first = (entries[0] | entries[1] >> entries[0] % 32) & kPairBits;
  const uint32_t second = (entries[2] | entries[3] >> entries[2] % 32) & kPairBits;
  const uint32_t n_first = entries[0] + entries[1];
  high = first | second >> n_first % 32;
  low = __funnelshift_r(0, second, n_first);
  return (n_first + entries[2] + entries[3]) % 64;
}

template <bool kIsWhole>
__device__ __forceinline__ Eight find_eight(const uint32_t* table, const uint4& eight,
                                            uint32_t n_valid) {
  uint32_t high[2];
  uint32_t low[2];
  const uint32_t n_after = n_valid < 4 ? 0 : n_valid - 4;
  const uint32_t n = find_four<kIsWhole>(table, eight.x, eight.y, n_valid, high[0], low[0]);
  const uint32_t n_more = find_four<kIsWhole>(table, eight.z, eight.w, n_after, high[1], low[1]);
  const uint32_t first = high[1] >> n % 32;
  const uint32_t second = __funnelshift_r(low[1], high[1], n);
  const uint32_t third = __funnelshift_r(0, low[1], n);
  const bool is_far = n >= 32;
  return {
      {high[0] | (is_far ? 0 : first), low[0] | (is_far ? first : second), is_far ? second : third},
      n + n_more};
}

// From bit `at` on, where zeros are.
__device__ __forceinline__ void put_bits(uint32_t* words, uint32_t at, const Eight& own) {
  words += at / 32;
  const uint32_t end = at % 32 + own.n;
  atomicOr(&words[0], own.words[0] >> at % 32);
  if (end > 32) atomicOr(&words[1], __funnelshift_r(own.words[1], own.words[0], at));
  if (end > 64) atomicOr(&words[2], __funnelshift_r(own.words[2], own.words[1], at));
  if (end > 96) atomicOr(&words[3], __funnelshift_r(0, own.words[2], at));
}

// Puts the codes of two steps, all lanes' of the first and then all of the second, from bit
// `n_bits` on, and returns where they end; `begins` is where the lane's own do.
__device__ __forceinline__ uint32_t put_steps(uint32_t* words, const Eight& first,
                                              const Eight& second, uint32_t n_bits,
                                              uint32_t (&begins)[2]) {
  // Sums of a step's 256 codes are less than 2^16.
  const uint32_t inclusive = scan_warp(first.n | second.n << 16);
  const uint32_t all = __shfl_sync(0xFFFFFFFFu, inclusive, 31);
  begins[0] = n_bits + inclusive % 65536 - first.n;
  n_bits += all % 65536;
  begins[1] = n_bits + inclusive / 65536 - second.n;
  put_bits(words, begins[0], first);
  put_bits(words, begins[1], second);
  return n_bits + all / 65536;
}

template <bool kIsWhole>
__device__ __forceinline__ uint32_t put_tile(const HuffmanPackParams& params, const uint32_t* table,
                                             PackWarp& warp, uint64_t first, uint32_t n_weights) {
  const uint32_t lane = threadIdx.x % 32;
  const uint16_t* weights = params.weights + first;
  uint8_t* sign_mantissa = params.sign_mantissa + first;
  uint32_t n_bits = 0;
  for (uint32_t step = 0; step < kSteps; step += kTogether) {
    uint4 eights[kTogether];
    uint32_t n_valid[kTogether];
#pragma unroll
    for (uint32_t k = 0; k < kTogether; ++k) {
      const uint32_t i = ((step + k) * 32 + lane) * kVector;
      n_valid[k] = kIsWhole ? kVector : count_left(n_weights, i, kVector);
      eights[k] = load_eight<kIsWhole>(weights + i, n_valid[k]);
    }
    Eight codes[kTogether];
#pragma unroll
    for (uint32_t k = 0; k < kTogether; ++k) {
      const uint32_t i = ((step + k) * 32 + lane) * kVector;
      store_rest(sign_mantissa + i, eights[k], n_valid[k]);
      codes[k] = find_eight<kIsWhole>(table, eights[k], n_valid[k]);
    }
#pragma unroll
    for (uint32_t k = 0; k < kTogether; k += 2) {
      uint32_t begins[2];
      n_bits = put_steps(warp.words, codes[k], codes[k + 1], n_bits, begins);
      if (lane % kGranuleLanes == 0) {
        uint32_t* starts = &warp.starts[(step + k) * 32 / kGranuleLanes + lane / kGranuleLanes];
        starts[0] = begins[0];
        starts[32 / kGranuleLanes] = begins[1];
      }
    }
  }
  return n_bits;
}

// What the tile's last word has of the codes behind the tile.
__device__ __forceinline__ void put_ahead(const HuffmanPackParams& params, const uint32_t* table,
                                          PackWarp& warp, uint64_t next, uint32_t n_bits) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t n_ahead = count_left(params.n_elements, next, kAheadWeights);
  const uint32_t n_valid = count_left(n_ahead, lane * kVector, kVector);
  const uint4 eight = load_eight<false>(params.weights + next + lane * kVector, n_valid);
  uint32_t begins[2];
  put_steps(warp.words, find_eight<false>(table, eight, n_valid), {}, n_bits, begins);
}

// Writes the words that begin in the tile, whose codes begin at bit `start`.
__device__ __forceinline__ void write_words(const HuffmanPackParams& params, const PackWarp& warp,
                                            uint64_t start, uint32_t n_bits) {
  const uint32_t shift = static_cast<uint32_t>(0 - start) % 32;
  const uint64_t first = start / 32 + (shift != 0);
  const uint32_t n_words = (n_bits + 31 - shift) / 32;
  const uint64_t n_whole = params.n_code_bytes / 4;
  for (uint32_t i = threadIdx.x % 32; i < n_words; i += 32) {
    const uint32_t word = __funnelshift_l(warp.words[i + 1], warp.words[i], shift);
    const uint64_t at = first + i;
    if (at < n_whole) {
      reinterpret_cast<uint32_t*>(params.codes)[at] = __byte_perm(word, 0, 0x0123);
    } else if (at == n_whole) {
      for (uint32_t j = 0; j < params.n_code_bytes % 4; ++j) {
        params.codes[at * 4 + j] = static_cast<uint8_t>(word >> (24 - 8 * j));
      }
    }
  }
}

__device__ __forceinline__ void write_index(const HuffmanPackParams& params, const PackWarp& warp,
                                            uint64_t tile, uint32_t n_weights, uint64_t start,
                                            uint32_t n_bits) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t n_granules = (n_weights + kGranuleWeights - 1) / kGranuleWeights;
  const uint32_t bit = static_cast<uint32_t>(start % 8);
  uint16_t* granule_bits = params.granule_bits + tile * kTileGranules;
  if (lane < n_granules) granule_bits[lane] = static_cast<uint16_t>(bit + warp.starts[lane]);
  if (lane != 0) return;
  params.tile_bytes[tile] = static_cast<uint32_t>(start / 8);
  if (tile * kTileWeights + n_weights != params.n_elements) return;
  const uint64_t end = start + n_bits;
  if (n_granules < kTileGranules) {
    granule_bits[n_granules] = static_cast<uint16_t>(bit + n_bits);
  } else {
    params.tile_bytes[tile + 1] = static_cast<uint32_t>(end / 8);
    granule_bits[kTileGranules] = static_cast<uint16_t>(end % 8);
  }
}

__device__ __forceinline__ void clear_words(PackWarp& warp, uint32_t n_words) {
  uint4* fours = reinterpret_cast<uint4*>(warp.words);
  for (uint32_t i = threadIdx.x % 32; i < (n_words + 3) / 4; i += 32) {
    fours[i] = make_uint4(0, 0, 0, 0);
  }
}

}  // namespace

LACUNA_ENTRY(pack_codes, HuffmanPackParams, kPackThreads) {
  LACUNA_SHARED(PackShared, shared);
  const uint32_t own = threadIdx.x / 32;
  PackWarp& warp = shared.warps[own];
  for (uint32_t i = threadIdx.x; i < kExponents; i += kPackThreads) {
    shared.table[i] = check_entry(params.table[i]);
  }
  clear_words(warp, kTileWords);
  __syncthreads();
  uint64_t begin = params.starts[blockIdx.x];
  constexpr uint32_t kTurns = kPartWeights / kTileWeights / kPackWarps;
  for (uint32_t turn = 0; turn < kTurns; ++turn) {
    const uint64_t first_tile = (uint64_t{blockIdx.x} * kTurns + turn) * kPackWarps;
    if (first_tile * kTileWeights >= params.n_elements) return;
    const uint64_t tile = first_tile + own;
    const uint64_t first = tile * kTileWeights;
    const uint32_t n_weights = count_left(params.n_elements, first, kTileWeights);
    uint32_t n_bits = 0;
    if (n_weights == kTileWeights) {
      n_bits = put_tile<true>(params, shared.table, warp, first, n_weights);
      put_ahead(params, shared.table, warp, first + kTileWeights, n_bits);
    } else if (n_weights != 0) {
      n_bits = put_tile<false>(params, shared.table, warp, first, n_weights);
    }
    if (threadIdx.x % 32 == 0) shared.tile_bits[turn % 2][own] = n_bits;
    __syncthreads();
    uint64_t start = begin;
#pragma unroll
    for (uint32_t w = 0; w < kPackWarps; ++w) {
      const uint32_t of_warp = shared.tile_bits[turn % 2][w];
      start += w < own ? of_warp : 0;
      begin += of_warp;
    }
    if (n_weights != 0) {
      write_words(params, warp, start, n_bits);
      write_index(params, warp, tile, n_weights, start, n_bits);
    }
    __syncwarp();
    clear_words(warp, (n_bits + kAheadWeights * kLongestCode) / 32 + 1);
    __syncwarp();
  }
}
