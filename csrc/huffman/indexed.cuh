// SPDX-License-Identifier: MIT OR Apache-2.0
// A span of up to 32 granules of 128 weights, decoded by one warp: each lane its granule, from
// where the index says, to exponents in shared memory. src/huffman/indexed/reference.rs is the
// specification.
#ifndef LACUNA_HUFFMAN_INDEXED_CUH_
#define LACUNA_HUFFMAN_INDEXED_CUH_

#include "../common/async.cuh"
#include "granule.cuh"
#include "luts.cuh"
#include "params.h"

constexpr uint32_t kLookupBits = 12;
constexpr uint32_t kTableEntries = 1u << kLookupBits;
constexpr uint32_t kMostTileBits = kTileWeights * kLongestCode + 7;
// Code bytes on chip: more than 3.3 bits a weight of a tile. Behind a span's codes comes what its
// last code's lookup sees of others, and then room for the longest walk of codes that do not end
// where they should.
constexpr uint32_t kStagedBytes = 1936;
constexpr uint32_t kSeenBytes = 8;
constexpr uint32_t kStrayBytes = kGranuleWeights * kLookupBits / 8 + kSeenBytes;
// A granule's exponents: in other banks than its neighbours'.
constexpr uint32_t kRowBytes = kGranuleWeights + 4;

// The numbers of TileReason in src/huffman/indexed/reference.rs; the highest that holds is
// reported.
enum TileReason : uint32_t { kSound = 0, kBadIndex = 1, kBadCode = 2, kBadChain = 3 };

struct WarpShared {
  alignas(16) uint8_t codes[2][kStagedBytes];
  alignas(16) uint8_t exponents[kTileGranules * kRowBytes];
};

// Where a span's codes are, by lane.
struct Span {
  // A multiple of 16 bytes, that bits are counted from.
  uint64_t first_byte;
  // The lane's granule, and the next one.
  uint32_t start;
  uint32_t next;
  // Bytes from the first to the end of what lookups see.
  uint32_t n_bytes;
  bool is_sound;
};

__device__ __forceinline__ uint64_t find_start(const HuffmanIndexedGroup& group, uint32_t granule) {
  return uint64_t{group.tile_bytes[granule / kTileGranules]} * 8 + group.granule_bits[granule];
}

// Granules `first` to `first + n_granules - 1`, of 1 to 32. All lanes take part.
__device__ __forceinline__ Span find_span(const HuffmanIndexedGroup& group, uint32_t first,
                                          uint32_t n_granules) {
  const uint32_t lane = threadIdx.x % 32;
  const uint64_t end = find_start(group, first + n_granules);
  const uint64_t start = lane < n_granules ? find_start(group, first + lane) : end;
  const uint64_t begin = __shfl_sync(0xFFFFFFFFu, start, 0) / 8 * 8;
  const uint64_t after = __shfl_down_sync(0xFFFFFFFFu, start, 1);
  const uint64_t next = lane < 31 ? after : end;
  const bool is_mine =
      start <= next && end <= group.n_code_bytes * 8 && end - begin <= kMostTileBits;
  Span span;
  span.is_sound = __all_sync(0xFFFFFFFFu, is_mine);
  span.first_byte = begin / 8 / 16 * 16;
  span.start = static_cast<uint32_t>(start - span.first_byte * 8);
  span.next = static_cast<uint32_t>(next - span.first_byte * 8);
  span.n_bytes = static_cast<uint32_t>((end + 7) / 8 - span.first_byte) + kSeenBytes;
  return span;
}

__device__ __forceinline__ bool fits(const Span& span) {
  return span.n_bytes + kStrayBytes <= kStagedBytes;
}

// Begins to copy a span's codes, if it is sound and they fit; past the end of the stream come
// zeros. Commits one group of copies in any case.
__device__ __forceinline__ void stage_codes(const HuffmanIndexedGroup& group, const Span& span,
                                            uint8_t* staged) {
  if (span.is_sound && fits(span)) {
    const uint8_t* codes = group.codes + span.first_byte;
    const uint64_t n_left = group.n_code_bytes - span.first_byte;
    for (uint32_t at = threadIdx.x % 32 * 16; at < span.n_bytes; at += 32 * 16) {
      if (at + 16 <= n_left) {
        copy_async<16>(staged + at, codes + at);
      } else {
        for (uint32_t i = at; i < at + 16; ++i) staged[i] = i < n_left ? codes[i] : 0;
      }
    }
  }
  commit_copies();
}

// The codes' words one after the other, first bit highest, on chip.
struct Staged {
  const uint8_t* codes;
  // In bytes.
  uint32_t next;

  __device__ __forceinline__ void begin(uint32_t idx) { next = idx * 4; }

  __device__ __forceinline__ uint32_t read() {
    const uint32_t word = *reinterpret_cast<const uint32_t*>(codes + next);
    next += 4;
    return __byte_perm(word, 0, 0x0123);
  }

  // Words before the next.
  __device__ __forceinline__ uint32_t count() const { return next / 4; }
};

// Where they do not fit.
struct Unstaged {
  const uint8_t* codes;
  uint64_t n_bytes;
  uint32_t next;

  __device__ __forceinline__ void begin(uint32_t idx) { next = idx; }

  __device__ __forceinline__ uint32_t read() {
    const uint64_t at = uint64_t{next++} * 4;
    if (at + 4 <= n_bytes) {
      return __byte_perm(*reinterpret_cast<const uint32_t*>(codes + at), 0, 0x0123);
    }
    uint32_t word = 0;
    for (uint32_t i = 0; i < 4; ++i) word = word << 8 | (at + i < n_bytes ? codes[at + i] : 0);
    return word;
  }

  __device__ __forceinline__ uint32_t count() const { return next; }
};

__device__ __forceinline__ uint32_t rotate(uint32_t exponent) {
  return exponent >> 1 | (exponent & 1) << 7;
}

// The code that 32 bits begin with: the exponent, rotated, and above it the length; 0 where there
// is none.
__device__ __forceinline__ uint32_t find_code(const HuffmanIndexedGroup& group, uint32_t bits) {
  const uint32_t n_rows = min(group.n_lut_rows, kMostLutRows);
  if (n_rows == 0) return 0;
  uint32_t exponent = group.luts[bits >> 24];
  // As walk_codes in stream.cuh, whose loop a shared function would cost three instructions.
  for (uint32_t shift = 16; exponent >= kFirstPointer; shift -= 8) {
    const uint32_t row = 256 - exponent;
    if (row >= n_rows) return 0;
    exponent = group.luts[row * 256 + (bits >> shift & 255)];
    if (shift == 0) break;
  }
  const uint32_t n_bits = group.luts[n_rows * 256 + exponent];
  return n_bits == 0 || n_bits > kLongestCode ? 0 : rotate(exponent) | n_bits << 8;
}

// A lane's way through its codes.
template <typename Words>
struct Walk {
  Words words;
  // The 64 bits that the next code begins in the first half of.
  uint32_t high;
  uint32_t low;
  // In the lowest byte the next code's bit; a sum of entries' upper halves, whose carries go up.
  uint32_t bits;

  __device__ __forceinline__ Walk(const Words& words_, uint32_t bit) : words(words_), bits(bit) {
    words.begin(bit / 32);
    high = words.read();
    low = words.read();
  }

  __device__ __forceinline__ uint32_t bit() const { return (words.count() - 2) * 32 + (bits & 31); }

  __device__ __forceinline__ uint32_t window() const { return __funnelshift_l(low, high, bits); }

  // Goes on, by up to 32 bits.
  __device__ __forceinline__ void skip(uint32_t n_bits) {
    const uint32_t before = bits;
    bits += n_bits;
    refill(before);
  }

  __device__ __forceinline__ void refill(uint32_t before) {
    if ((bits ^ before) & 32) {
      high = low;
      low = words.read();
    }
  }
};

// One code that the table has not.
template <typename Words>
__device__ __forceinline__ TileReason take_long(const HuffmanIndexedGroup& group, Walk<Words>& walk,
                                                uint32_t next, uint8_t* place) {
  // Behind the next granule's first code whatever is wrong is that.
  if (walk.bit() > next) return kBadChain;
  const uint32_t code = find_code(group, walk.window());
  if (code == 0) return kBadCode;
  *place = static_cast<uint8_t>(code);
  walk.skip(code >> 8);
  return kSound;
}

// Decodes `n_weights` exponents, rotated, to `row`.
template <typename Words>
__device__ __forceinline__ TileReason decode_granule(const HuffmanIndexedGroup& group,
                                                     const uint32_t* table, const Words& words,
                                                     const Span& span, uint32_t n_weights,
                                                     uint8_t* row) {
  Walk<Words> walk(words, span.start);
  uint32_t n = 0;
  // Two lookups are of 24 bits at most, and of four weights.
  const uint32_t last = n_weights < 3 ? 0 : n_weights - 3;
  while (n < last) {
    uint32_t entry;
    do {
      const uint32_t before = walk.bits;
      uint32_t window = walk.window();
      entry = table[window >> (32 - kLookupBits)];
      uint8_t* place = row + n;
      place[0] = static_cast<uint8_t>(entry);
      place[1] = static_cast<uint8_t>(entry >> 8);
      n += entry >> 24;
      walk.bits += entry >> 16;
      window = __funnelshift_l(0, window, entry >> 16);
      entry = table[window >> (32 - kLookupBits)];
      place = row + n;
      // Way of a lookup: 4 elements a store.
      place[0] = static_cast<uint8_t>(entry);
      place[1] = static_cast<uint8_t>(entry >> 8);
      // Way of a lookup: here.
      n += entry >> 24;
      walk.bits += entry >> 16;
      walk.refill(before);
      // After an entry of 0 the second is that one again.
    } while (entry != 0 && n < last);
    if (entry != 0) break;
    const TileReason reason = take_long(group, walk, span.next, row + n);
    if (reason != kSound) return reason;
    ++n;
  }
  const uint8_t* lengths = reinterpret_cast<const uint8_t*>(group.table + kTableEntries);
  while (n < n_weights) {
    const uint32_t entry = table[walk.window() >> (32 - kLookupBits)];
    if (entry == 0) {
      const TileReason reason = take_long(group, walk, span.next, row + n);
      if (reason != kSound) return reason;
      ++n;
      continue;
    }
    uint32_t n_bits = entry >> 16 & 255;
    row[n++] = static_cast<uint8_t>(entry);
    if (entry >> 24 == 2) {
      if (n < n_weights) {
        row[n++] = static_cast<uint8_t>(entry >> 8);
      } else {
        const uint32_t exponent = entry & 255;
        n_bits = lengths[(exponent << 1 | exponent >> 7) & 255];
        if (n_bits == 0 || n_bits > kLookupBits) {
          return walk.bit() > span.next ? kBadChain : kBadCode;
        }
      }
    }
    walk.skip(n_bits);
  }
  // Way of a tile: here.
  return walk.bit() == span.next ? kSound : kBadChain;
}

// Decodes a span's exponents to a warp's rows; its first weight is of granule `first`, and it has
// `n_weights`. The codes have been waited for. All lanes take part, and find the same; the rows are
// theirs after `__syncwarp`.
__device__ __forceinline__ TileReason decode_span(const HuffmanIndexedGroup& group,
                                                  const uint32_t* table, const Span& span,
                                                  uint32_t n_weights, const uint8_t* staged,
                                                  uint8_t* exponents) {
  if (!span.is_sound) return kBadIndex;
  const uint32_t first = threadIdx.x % 32 * kGranuleWeights;
  const uint32_t n_mine = first < n_weights ? min(n_weights - first, kGranuleWeights) : 0;
  uint8_t* row = exponents + threadIdx.x % 32 * kRowBytes;
  TileReason reason = kSound;
  if (fits(span)) {
    const Staged words = {staged, 0};
    reason = decode_granule(group, table, words, span, n_mine, row);
  } else {
    const Unstaged words = {group.codes + span.first_byte, group.n_code_bytes - span.first_byte, 0};
    // Way of a tile: not here.
    reason = decode_granule(group, table, words, span, n_mine, row);
  }
  return static_cast<TileReason>(__reduce_max_sync(0xFFFFFFFFu, static_cast<uint32_t>(reason)));
}

__device__ __forceinline__ uint32_t check_entry(uint32_t entry) {
  const uint32_t n_codes = entry >> 24;
  const uint32_t n_bits = entry >> 16 & 255;
  return n_codes - 1 < 2 && n_codes <= n_bits && n_bits <= kLookupBits ? entry : 0;
}

// A group's table to shared memory, by all `n_threads` of a block: what no table has becomes 0.
__device__ __forceinline__ void stage_table(const HuffmanIndexedGroup& group, uint32_t n_threads,
                                            uint32_t* table) {
  for (uint32_t i = threadIdx.x; i < kTableEntries / 4; i += n_threads) {
    const uint4 entries = reinterpret_cast<const uint4*>(group.table)[i];
    reinterpret_cast<uint4*>(table)[i] = make_uint4(check_entry(entries.x), check_entry(entries.y),
                                                    check_entry(entries.z), check_entry(entries.w));
  }
}

// Four bf16, two in each word, from four rotated exponents and four bytes of sign and mantissa.
__device__ __forceinline__ uint2 join_four(uint32_t exponents, uint32_t sign_mantissa) {
  // Bits of one where the mask has none, else of the other, as one instruction.
  const uint32_t both = exponents ^ sign_mantissa;
  const uint32_t high = (both & 0x80808080u) ^ exponents;
  const uint32_t low = (both & 0x80808080u) ^ sign_mantissa;
  return make_uint2(__byte_perm(low, high, 0x5140), __byte_perm(low, high, 0x7362));
}

__device__ __forceinline__ uint16_t join_one(uint32_t exponent, uint32_t sign_mantissa) {
  return static_cast<uint16_t>(join_four(exponent, sign_mantissa).x);
}

// By a warp: the status word has the lowest corrupt tile of a launch.
__device__ __forceinline__ void report_tile(uint64_t* status, uint32_t tile, TileReason reason) {
  if (threadIdx.x % 32 != 0) return;
  const uint64_t word = uint64_t{0xFFFFFFFFu - tile} << 32 | reason;
  atomicMax(reinterpret_cast<unsigned long long*>(status), word);
}

#endif  // LACUNA_HUFFMAN_INDEXED_CUH_
