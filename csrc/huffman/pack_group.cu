// SPDX-License-Identifier: MIT OR Apache-2.0
// bf16 weights to the tensors of a DFloat11 group: a block packs a part of 65,536 weights, 4,096 at
// once, on chip, where they belong in an octet of 64-bit chunks, 64 bytes of codes and 5 of gaps.
// Whole octets go out, and the last waits for what comes next. An octet that two parts share is
// written by the one in which it ends, which packs the last 512 weights before its own again: no
// byte is written twice, none zeroed before, and no block waits. src/huffman/encode.rs is the
// specification.

#include "../common/scan.cuh"
#include "codes.cuh"
#include "planes.cuh"

namespace {

constexpr uint32_t kGroupThreads = 128;
constexpr uint32_t kGroupWarps = kGroupThreads / 32;
constexpr uint32_t kTurnWeights = kGroupThreads * kTogether * kVector;
// Codes of up to so many bits go out eight at a time.
constexpr uint32_t kQuickCode = 15;
constexpr uint32_t kQuickBits = ~0u << (32 - kQuickCode);
// Lengths, a byte each, that are of none of these.
constexpr uint32_t kLongLengths = 0x30303030;
constexpr uint32_t kChunkBits = 64;
constexpr uint32_t kBlockBits = 32768;
constexpr uint32_t kBlockChunks = kBlockBits / kChunkBits;
constexpr uint32_t kOctetChunks = 8;
constexpr uint32_t kOctetBits = kOctetChunks * kChunkBits;
constexpr uint32_t kOctetVectors = kOctetBits / 128;
constexpr uint32_t kOctetGapBytes = 5;
constexpr uint32_t kBlockGapBytes = kBlockBits / kOctetBits * kOctetGapBytes;
// Codes that an octet may have of the weights before a part, at most.
constexpr uint32_t kBehindWeights = kOctetBits;
// Octets of a turn's codes: they begin in the first.
constexpr uint32_t kTurnOctets = kTurnWeights * kLongestGroupCode / kOctetBits + 1;
constexpr uint32_t kOnes = 0x01010101;

struct GroupShared {
  // Codes that are not out, from where their octet begins, the first bit the most significant; else
  // zeros.
  uint4 codes[kTurnOctets * kOctetVectors];
  // Gaps of their chunks, a byte each; else zeros.
  uint2 gaps[kTurnOctets];
  // Of the octet that the turn before did not fill, and of the one that this does not.
  uint4 waiting_codes[2][kOctetVectors];
  uint2 waiting_gaps[2];
  uint32_t entries[kExponents];
  uint32_t long_codes[kExponents];
  uint32_t warp_bits[kGroupWarps];
};

// Weights that a block packs at once.
struct Turn {
  uint64_t first;
  uint32_t n_weights;
  // Whether they are of the part before, which writes what is of them alone.
  bool is_behind;
  // Which of the waiting octets is the last turn's.
  uint32_t parity;
};

// Eight codes after each other, the first bit the most significant, of which none is long; and the
// length of each, the first the lowest byte.
struct Eight {
  uint32_t words[4];
  uint32_t lengths[2];
  uint32_t n;
};

// Four codes of two words of weights of which the first `n_valid` count. Shifts see the lowest five
// bits of entries and of their sums, which are those of lengths.
template <bool kIsWhole>
__device__ __forceinline__ uint32_t find_four(const uint32_t* table, uint32_t x, uint32_t y,
                                              uint32_t n_valid, uint32_t& high, uint32_t& low,
                                              uint32_t& lengths) {
  const uint32_t exponents[4] = {x >> 7 & 255, x >> 23 & 255, y >> 7 & 255, y >> 23 & 255};
  uint32_t entries[4];
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    entries[i] = kIsWhole || i < n_valid ? table[exponents[i]] : 0;
  }
  const uint32_t first = (entries[0] & kQuickBits) | (entries[1] & kQuickBits) >> entries[0] % 32;
  const uint32_t second = (entries[2] & kQuickBits) | (entries[3] & kQuickBits) >> entries[2] % 32;
  const uint32_t n_first = entries[0] + entries[1];
  high = first | second >> n_first % 32;
  low = __funnelshift_r(0, second, n_first);
  lengths = __byte_perm(__byte_perm(entries[0], entries[1], 0x0040),
                        __byte_perm(entries[2], entries[3], 0x0040), 0x5410);
  return lengths * kOnes >> 24;
}

template <bool kIsWhole>
__device__ __forceinline__ Eight find_eight(const uint32_t* table, const uint4& eight,
                                            uint32_t n_valid) {
  uint32_t high[2];
  uint32_t low[2];
  Eight own;
  const uint32_t n_after = n_valid < 4 ? 0 : n_valid - 4;
  const uint32_t n =
      find_four<kIsWhole>(table, eight.x, eight.y, n_valid, high[0], low[0], own.lengths[0]);
  own.n =
      n + find_four<kIsWhole>(table, eight.z, eight.w, n_after, high[1], low[1], own.lengths[1]);
  const uint32_t first = high[1] >> n % 32;
  const uint32_t second = __funnelshift_r(low[1], high[1], n);
  const uint32_t third = __funnelshift_r(0, low[1], n);
  const bool is_far = n >= 32;
  own.words[0] = high[0] | (is_far ? 0 : first);
  own.words[1] = low[0] | (is_far ? first : second);
  own.words[2] = is_far ? second : third;
  own.words[3] = is_far ? third : 0;
  return own;
}

__device__ __forceinline__ uint64_t count_blocks(const HuffmanPackGroupParams& params) {
  return (params.n_code_bytes * 8 + kBlockBits - 1) / kBlockBits;
}

__device__ __forceinline__ uint64_t count_gap_bytes(const HuffmanPackGroupParams& params) {
  return count_blocks(params) * kBlockGapBytes;
}

// The first code that begins at chunk `chunk` or later, `gap` bits after it, is that of `element`.
// Chunks are counted from those on chip, whose first is the group's `first_chunk`.
__device__ __forceinline__ void note_first(const HuffmanPackGroupParams& params,
                                           GroupShared& shared, const Turn& turn,
                                           uint32_t first_chunk, uint32_t chunk, uint32_t gap,
                                           uint32_t element) {
  // Where no code begins any more there is none.
  if (element != static_cast<uint32_t>(params.n_elements)) {
    reinterpret_cast<uint8_t*>(shared.gaps)[chunk] = static_cast<uint8_t>(gap);
  }
  const uint32_t number = first_chunk + chunk;
  if (number % kBlockChunks != 0 || turn.is_behind) return;
  if (uint64_t{number} * 8 < params.n_code_bytes) params.positions[number / kBlockChunks] = element;
}

// Eight codes from bit `at` on, none of them long, the first of which is that of `element`.
__device__ __forceinline__ void put_eight(const HuffmanPackGroupParams& params, GroupShared& shared,
                                          const Turn& turn, uint32_t first_chunk, uint32_t at,
                                          const Eight& own, uint32_t element) {
  uint32_t* words = reinterpret_cast<uint32_t*>(shared.codes) + at / 32;
  const uint32_t end = at % 32 + own.n;
  atomicOr(&words[0], own.words[0] >> at % 32);
  if (end > 32) atomicOr(&words[1], __funnelshift_r(own.words[1], own.words[0], at));
  if (end > 64) atomicOr(&words[2], __funnelshift_r(own.words[2], own.words[1], at));
  if (end > 96) atomicOr(&words[3], __funnelshift_r(own.words[3], own.words[2], at));
  if (end > 128) atomicOr(&words[4], __funnelshift_r(0, own.words[3], at));
#pragma unroll 1
  for (uint32_t chunk = at / kChunkBits + 1; chunk <= (at + own.n) / kChunkBits; ++chunk) {
    // It begins where the codes end or before: its first code is one of these, or right behind.
    const uint32_t bits = chunk * kChunkBits - at;
    // Where each code ends, a byte each; the highest bit of those says whether it is so far.
    uint32_t ends = own.lengths[0] * kOnes;
    uint32_t element_idx = 1;
    if (ends >> 24 < bits) {
      ends = own.lengths[1] * kOnes + (ends >> 24) * kOnes;
      element_idx = 5;
    }
    const uint32_t is_far = (ends + (128 - bits) * kOnes) & 0x80808080u;
    const uint32_t first = static_cast<uint32_t>(__ffs(is_far) - 1) / 8 % 4;
    const uint32_t gap = (ends >> (8 * first) & 255) - bits;
    note_first(params, shared, turn, first_chunk, chunk, gap, element + element_idx + first);
  }
}

// Codes one by one, of any length.
__device__ __forceinline__ void put_singly(const HuffmanPackGroupParams& params,
                                           GroupShared& shared, const Turn& turn,
                                           uint32_t first_chunk, uint32_t at, uint64_t element,
                                           uint32_t n_valid) {
  uint32_t* words = reinterpret_cast<uint32_t*>(shared.codes);
#pragma unroll 1
  for (uint32_t i = 0; i < n_valid; ++i) {
    const uint32_t exponent = params.weights[element + i] >> 7 & 255;
    const uint32_t code = shared.long_codes[exponent];
    const uint32_t end = at + (shared.entries[exponent] & 63);
    atomicOr(&words[at / 32], code >> at % 32);
    if (end / 32 > at / 32) atomicOr(&words[at / 32 + 1], __funnelshift_r(0, code, at));
    const uint32_t chunk = end / kChunkBits;
    if (chunk > at / kChunkBits) {
      note_first(params, shared, turn, first_chunk, chunk, end % kChunkBits,
                 static_cast<uint32_t>(element) + i + 1);
    }
    at = end;
  }
}

__device__ __forceinline__ void write_codes(const HuffmanPackGroupParams& params, uint64_t at,
                                            const uint4& codes) {
  uint4 words = make_uint4(__byte_perm(codes.x, 0, 0x0123), __byte_perm(codes.y, 0, 0x0123),
                           __byte_perm(codes.z, 0, 0x0123), __byte_perm(codes.w, 0, 0x0123));
  if (at + 16 <= params.n_code_bytes) {
    *reinterpret_cast<uint4*>(params.codes + at) = words;
    return;
  }
#pragma unroll 1
  for (; at < params.n_code_bytes; ++at) {
    params.codes[at] = static_cast<uint8_t>(words.x);
    words.x >>= 8;
    if (at % 4 == 3) words = make_uint4(words.y, words.z, words.w, 0);
  }
}

// Writes gaps of a warp's octets, the first `n_octets` of which are the group's from `octet` on: 5
// bits each, the first the most significant.
__device__ __forceinline__ void write_gaps(const HuffmanPackGroupParams& params, uint64_t octet,
                                           uint32_t n_octets, const uint2& gaps) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t high = (gaps.x & 31) << 15 | (gaps.x >> 8 & 31) << 10 | (gaps.x >> 16 & 31) << 5 |
                        (gaps.x >> 24 & 31);
  const uint32_t low = (gaps.y & 31) << 15 | (gaps.y >> 8 & 31) << 10 | (gaps.y >> 16 & 31) << 5 |
                       (gaps.y >> 24 & 31);
  const uint64_t first = octet * kOctetGapBytes;
  const uint32_t n_own = (n_octets < 32 ? n_octets : 32) * kOctetGapBytes;
  const uint32_t n_bytes = count_left(count_gap_bytes(params), first, n_own);
#pragma unroll 1
  for (uint32_t begin = 0; begin < n_bytes; begin += 32) {
    const uint32_t i = begin + lane;
    const uint32_t from = i / kOctetGapBytes;
    const uint32_t first_byte = __shfl_sync(0xFFFFFFFFu, high >> 12, from);
    const uint32_t others = __shfl_sync(0xFFFFFFFFu, high << 20 | low, from);
    const uint32_t at = i - from * kOctetGapBytes;
    const uint32_t byte = at == 0 ? first_byte : others >> (32 - 8 * at) % 32;
    if (i < n_bytes) params.gaps[first + i] = static_cast<uint8_t>(byte);
  }
}

__device__ __forceinline__ uint4 join(const uint4& a, const uint4& b) {
  return make_uint4(a.x | b.x, a.y | b.y, a.z | b.z, a.w | b.w);
}

// Writes the octets that are whole, `n_whole` from `octet` on, and takes them from the chip. The
// next waits, or is written too where the group ends in it.
__device__ __forceinline__ void write_octets(const HuffmanPackGroupParams& params,
                                             GroupShared& shared, const Turn& turn, uint64_t octet,
                                             uint32_t n_whole) {
  const bool is_end = turn.first + turn.n_weights == params.n_elements;
  const uint32_t n_written = turn.is_behind ? 0 : n_whole + (is_end ? 1 : 0);
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < (n_whole + 1) * kOctetVectors; i += kGroupThreads) {
    uint4 codes = shared.codes[i];
    shared.codes[i] = make_uint4(0, 0, 0, 0);
    if (i < kOctetVectors) codes = join(codes, shared.waiting_codes[turn.parity][i]);
    if (i / kOctetVectors == n_whole) {
      shared.waiting_codes[turn.parity ^ 1][i % kOctetVectors] = codes;
    }
    if (i / kOctetVectors < n_written) {
      write_codes(params, octet * (kOctetBits / 8) + i * 16, codes);
    }
  }
  // By other warps than those that write the first codes.
  const uint32_t begin = (kGroupWarps - 1 - threadIdx.x / 32) * 32;
#pragma unroll 1
  for (uint32_t first = begin; first <= n_whole; first += kGroupThreads) {
    const uint32_t i = first + threadIdx.x % 32;
    uint2 gaps = make_uint2(0, 0);
    if (i <= n_whole) {
      gaps = shared.gaps[i];
      shared.gaps[i] = make_uint2(0, 0);
    }
    if (i == 0) {
      const uint2 waiting = shared.waiting_gaps[turn.parity];
      gaps = make_uint2(gaps.x | waiting.x, gaps.y | waiting.y);
    }
    if (i == n_whole) shared.waiting_gaps[turn.parity ^ 1] = gaps;
    write_gaps(params, octet + first, n_written < first ? 0 : n_written - first, gaps);
  }
}

// Packs a turn's weights, whose codes begin at bit `start`, or end there where they are those
// behind; returns where they end.
template <bool kIsWhole>
__device__ __forceinline__ uint64_t put_turn(const HuffmanPackGroupParams& params,
                                             GroupShared& shared, const Turn& turn,
                                             uint64_t start) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t own = (warp * kTogether * 32 + lane) * kVector;
  uint4 eights[kTogether];
  uint32_t n_valid[kTogether];
#pragma unroll
  for (uint32_t k = 0; k < kTogether; ++k) {
    const uint32_t i = own + k * 32 * kVector;
    n_valid[k] = kIsWhole ? kVector : count_left(turn.n_weights, i, kVector);
    eights[k] = load_eight<kIsWhole>(params.weights + turn.first + i, n_valid[k]);
  }
  Eight codes[kTogether];
#pragma unroll
  for (uint32_t k = 0; k < kTogether; ++k) {
    if (kIsWhole || !turn.is_behind) {
      const uint32_t i = own + k * 32 * kVector;
      store_rest(params.sign_mantissa + turn.first + i, eights[k], n_valid[k]);
    }
    codes[k] = find_eight<kIsWhole>(shared.entries, eights[k], n_valid[k]);
  }
  // Where each step's codes begin, from the first of the warp's. Sums of 256 codes are less than
  // 2^16.
  uint32_t begins[kTogether];
  uint32_t n_bits = 0;
#pragma unroll
  for (uint32_t k = 0; k < kTogether; k += 2) {
    const uint32_t inclusive = scan_warp(codes[k].n | codes[k + 1].n << 16);
    const uint32_t all = __shfl_sync(0xFFFFFFFFu, inclusive, 31);
    begins[k] = n_bits + inclusive % 65536 - codes[k].n;
    n_bits += all % 65536;
    begins[k + 1] = n_bits + inclusive / 65536 - codes[k + 1].n;
    n_bits += all / 65536;
  }
  if (lane == 0) shared.warp_bits[warp] = n_bits;
  __syncthreads();
  uint32_t before = 0;
  uint32_t n_all = 0;
#pragma unroll
  for (uint32_t w = 0; w < kGroupWarps; ++w) {
    const uint32_t of_warp = shared.warp_bits[w];
    before += w < warp ? of_warp : 0;
    n_all += of_warp;
  }
  if (!kIsWhole && turn.is_behind) start = start < n_all ? 0 : start - n_all;
  const uint64_t octet = start / kOctetBits;
  const uint32_t first_chunk = static_cast<uint32_t>(octet) * kOctetChunks;
  const uint32_t first_bit = static_cast<uint32_t>(start % kOctetBits);
  // Which of them have long codes.
  uint32_t rest = 0;
#pragma unroll
  for (uint32_t k = 0; k < kTogether; ++k) {
    begins[k] += first_bit + before;
    const uint32_t element = static_cast<uint32_t>(turn.first) + own + k * 32 * kVector;
    if (((codes[k].lengths[0] | codes[k].lengths[1]) & kLongLengths) == 0) {
      put_eight(params, shared, turn, first_chunk, begins[k], codes[k], element);
    } else {
      rest |= 1u << k;
    }
  }
#pragma unroll 1
  for (; rest != 0; rest &= rest - 1) {
    const uint32_t k = static_cast<uint32_t>(__ffs(rest)) - 1;
    uint32_t at = begins[0];
#pragma unroll
    for (uint32_t j = 1; j < kTogether; ++j) at = j == k ? begins[j] : at;
    const uint32_t i = own + k * 32 * kVector;
    put_singly(params, shared, turn, first_chunk, at, turn.first + i,
               kIsWhole ? kVector : count_left(turn.n_weights, i, kVector));
  }
  __syncthreads();
  write_octets(params, shared, turn, octet, (first_bit + n_all) / kOctetBits);
  return start + n_all;
}

// What is behind the last code, which ends at bit `end`, and before the first.
__device__ __forceinline__ void write_ends(const HuffmanPackGroupParams& params, uint64_t end) {
  // At most the rest of a block.
  const uint64_t first = (end / kOctetBits + 1) * kOctetGapBytes;
  const uint32_t n_left = count_left(count_gap_bytes(params), first, kBlockGapBytes);
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < n_left; i += kGroupThreads) params.gaps[first + i] = 0;
  if (threadIdx.x != 0) return;
  params.positions[0] = 0;
  params.positions[count_blocks(params)] = static_cast<uint32_t>(params.n_elements);
}

}  // namespace

LACUNA_ENTRY(pack_group, HuffmanPackGroupParams, kGroupThreads) {
  LACUNA_SHARED(GroupShared, shared);
  for (uint32_t i = threadIdx.x; i < kExponents; i += kGroupThreads) {
    const uint32_t entry = params.table[i];
    shared.entries[i] = (entry & kQuickBits) | length_of(entry);
    shared.long_codes[i] = params.table[kExponents + i];
  }
  for (uint32_t i = threadIdx.x; i < kTurnOctets * kOctetVectors; i += kGroupThreads) {
    shared.codes[i] = make_uint4(0, 0, 0, 0);
  }
  for (uint32_t i = threadIdx.x; i < kTurnOctets; i += kGroupThreads) {
    shared.gaps[i] = make_uint2(0, 0);
  }
  if (threadIdx.x < kOctetVectors) shared.waiting_codes[0][threadIdx.x] = make_uint4(0, 0, 0, 0);
  if (threadIdx.x == 0) shared.waiting_gaps[0] = make_uint2(0, 0);
  __syncthreads();
  const uint64_t part = uint64_t{blockIdx.x} * kPartWeights;
  const uint64_t part_end = part + count_left(params.n_elements, part, kPartWeights);
  uint64_t bit = params.starts[blockIdx.x];
  Turn turn = {part, kBehindWeights, true, 0};
  if (part != 0) {
    turn.first = part - kBehindWeights;
    bit = put_turn<false>(params, shared, turn, bit);
    turn.parity = 1;
  }
  turn = {part, kTurnWeights, false, turn.parity};
  for (; turn.first + kTurnWeights <= part_end; turn.first += kTurnWeights, turn.parity ^= 1) {
    bit = put_turn<true>(params, shared, turn, bit);
  }
  turn.n_weights = static_cast<uint32_t>(part_end - turn.first);
  if (turn.n_weights != 0) bit = put_turn<false>(params, shared, turn, bit);
  if (part_end == params.n_elements) write_ends(params, bit);
}
