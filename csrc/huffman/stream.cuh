// SPDX-License-Identifier: MIT OR Apache-2.0
// A stream of codes as DFloat11 has it: every thread counts the codes that start in its 64 bits, a
// scan turns counts into the group's elements, and every thread can then walk the same bits again.
// Nothing in the buffers is trusted; src/huffman/reference.rs is the specification.
#ifndef LACUNA_HUFFMAN_STREAM_CUH_
#define LACUNA_HUFFMAN_STREAM_CUH_

#include "group.cuh"
#include "luts.cuh"

constexpr uint32_t kThreads = 512;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kChunkBits = 64;
constexpr uint32_t kBlockBytes = kThreads * kChunkBits / 8;
// A code that starts in a thread's last bit reads 31 bits of the next thread's.
constexpr uint32_t kLookAheadBytes = 4;
constexpr uint32_t kGapBytes = kThreads * 5 / 8;
// Every code has at least one bit.
constexpr uint32_t kMaxBlockElements = kBlockBytes * 8;

// The numbers of CorruptionReason in src/huffman/group.rs; the highest that holds is reported.
enum StreamReason : uint32_t {
  kSound = 0,
  kPositions = 1,
  kCodeLength = 2,
  kPointer = 3,
  kGap = 4,
  kCount = 5,
};

struct StreamShared {
  alignas(16) uint8_t codes[kBlockBytes + kLookAheadBytes];
  uint8_t luts[(kMostLutRows + 1) * 256];
  // One more byte: the next block's first gap.
  uint8_t gaps[kGapBytes + 1];
  uint32_t warp_counts[kWarps];
  uint32_t reason;
};

// What one thread block decodes.
struct StreamBlock {
  uint64_t first_byte;
  // Elements of the group: from `start` to `end`.
  uint64_t start;
  uint64_t end;
  bool is_last;
};

// What decoding one chunk of 64 bits found.
struct StreamWalk {
  uint32_t n_codes;
  // First bit after the last code, counted from the chunk's first.
  uint32_t end_bit;
  StreamReason reason;
};

// What a block's first walk leaves, by thread.
struct StreamPass {
  uint32_t n_lut_rows;
  // Bits of the thread's chunk that codes may start in.
  uint32_t limit;
  // The block's codes before the thread's.
  uint32_t before;
  StreamReason reason;
};

__device__ __forceinline__ uint64_t read_position(const HuffmanGroup& group, uint32_t idx) {
  if (idx >= group.n_positions) return group.n_elements;
  // The tensor is bytes in the file, so its address in device memory may be odd.
  const uint8_t* bytes = group.positions + uint64_t{idx} * 4;
  return uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 |
         uint32_t{bytes[3]} << 24;
}

__device__ __forceinline__ StreamBlock locate_block(const HuffmanGroup& group, uint32_t block_idx) {
  StreamBlock block;
  block.first_byte = uint64_t{block_idx} * kBlockBytes;
  block.start = read_position(group, block_idx);
  block.end = read_position(group, block_idx + 1);
  block.is_last = block_idx + 1 == group.n_blocks;
  return block;
}

__device__ __forceinline__ bool has_sound_positions(const HuffmanGroup& group,
                                                    const StreamBlock& block) {
  return block.start <= block.end && block.end <= group.n_elements &&
         block.end - block.start <= kMaxBlockElements &&
         (block.first_byte != 0 || block.start == 0) &&
         (!block.is_last || block.end == group.n_elements);
}

__device__ __forceinline__ bool is_aligned(const void* pointer, uint32_t n_bytes) {
  return reinterpret_cast<uint64_t>(pointer) % n_bytes == 0;
}

// Tables, gaps and codes to shared memory; code bytes past the end of the stream are zero.
__device__ __forceinline__ void stage_inputs(const HuffmanGroup& group, const StreamBlock& block,
                                             uint32_t n_lut_rows, StreamShared& shared) {
  const uint32_t thread = threadIdx.x;
  for (uint32_t i = thread; i < (n_lut_rows + 1) * 256; i += kThreads) {
    shared.luts[i] = group.luts[i];
  }

  const uint64_t first_gap = block.first_byte / kBlockBytes * kGapBytes;
  const uint32_t n_gap_bytes = block.is_last ? kGapBytes : kGapBytes + 1;
  if (thread <= kGapBytes) {
    shared.gaps[thread] = thread < n_gap_bytes ? group.gaps[first_gap + thread] : 0;
  }

  const uint8_t* codes = group.codes + block.first_byte;
  const uint64_t n_left = group.n_code_bytes - block.first_byte;
  uint32_t n_staged = 0;
  if (n_left >= kBlockBytes && is_aligned(codes, 16)) {
    n_staged = kBlockBytes;
    if (thread < kBlockBytes / 16) {
      reinterpret_cast<uint4*>(shared.codes)[thread] =
          reinterpret_cast<const uint4*>(codes)[thread];
    }
  }
  for (uint32_t i = n_staged + thread; i < kBlockBytes + kLookAheadBytes; i += kThreads) {
    shared.codes[i] = i < n_left ? codes[i] : 0;
  }
}

__device__ __forceinline__ uint32_t read_gap(const StreamShared& shared, uint32_t chunk) {
  const uint32_t bit = chunk * 5;
  // Chunk 512, the next block's first, ends in the staged byte after the last gap.
  const uint32_t high = shared.gaps[bit / 8];
  const uint32_t low = bit / 8 < kGapBytes ? shared.gaps[bit / 8 + 1] : 0;
  return (high << 8 | low) >> (11 - bit % 8) & 31;
}

// Visits the codes that start in the thread's chunk, from its gap to `limit`: how many came before
// it, its exponent, the bit that it begins at and its length.
template <typename Visit>
__device__ __forceinline__ StreamWalk walk_codes(const StreamShared& shared, uint32_t n_lut_rows,
                                                 uint32_t limit, Visit visit) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(shared.codes) + threadIdx.x * 2;
  const uint32_t first = __byte_perm(words[0], 0, 0x0123);
  const uint32_t second = __byte_perm(words[1], 0, 0x0123);
  const uint32_t third = __byte_perm(words[2], 0, 0x0123);
  const uint8_t* lengths = shared.luts + n_lut_rows * 256;

  StreamWalk walk = {0, read_gap(shared, threadIdx.x), kSound};
  while (walk.end_bit < limit) {
    const bool in_first = walk.end_bit < 32;
    const uint32_t peek =
        __funnelshift_l(in_first ? second : third, in_first ? first : second, walk.end_bit & 31);
    uint32_t exponent = shared.luts[peek >> 24];
    // Only three levels hold pointers: the fourth table's entries are exponents, whatever their
    // value, which is how the format stores exponents of 240 and above.
    for (uint32_t shift = 16; exponent >= kFirstPointer; shift -= 8) {
      const uint32_t row = 256 - exponent;
      if (row >= n_lut_rows) {
        walk.reason = kPointer;
        return walk;
      }
      exponent = shared.luts[row * 256 + (peek >> shift & 255)];
      if (shift == 0) break;
    }
    // Inner loop: 1 element a load.
    const uint32_t n_bits = lengths[exponent];
    if (n_bits == 0 || n_bits > kLongestCode) {
      walk.reason = kCodeLength;
      return walk;
    }
    visit(walk.n_codes, static_cast<uint8_t>(exponent), walk.end_bit, n_bits);
    walk.n_codes += 1;
    walk.end_bit += n_bits;
  }
  return walk;
}

// The sum of `count` over the threads before this one; `total` over all. Ends in step.
__device__ __forceinline__ uint32_t scan_counts(uint32_t count, uint32_t& total,
                                                StreamShared& shared) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  uint32_t inclusive = count;
  for (uint32_t distance = 1; distance < 32; distance *= 2) {
    const uint32_t before = __shfl_up_sync(0xFFFFFFFFu, inclusive, distance);
    if (lane >= distance) inclusive += before;
  }
  if (lane == 31) shared.warp_counts[warp] = inclusive;
  __syncthreads();
  uint32_t before_warp = 0;
  total = 0;
  for (uint32_t i = 0; i < kWarps; ++i) {
    if (i < warp) before_warp += shared.warp_counts[i];
    total += shared.warp_counts[i];
  }
  return before_warp + inclusive - count;
}

// What is wrong with this thread's chunk, whose first code is element `first` of the group.
__device__ __forceinline__ StreamReason judge_chunk(const HuffmanGroup& group,
                                                    const StreamBlock& block,
                                                    const StreamWalk& walk, uint64_t first,
                                                    const StreamShared& shared) {
  const bool has_more = first + walk.n_codes < group.n_elements;
  if (walk.reason != kSound) {
    // After the last element come padding bits, which need not be codes.
    return !block.is_last || has_more ? walk.reason : kSound;
  }
  const uint64_t next_byte = block.first_byte + (threadIdx.x + 1) * (kChunkBits / 8);
  if (next_byte >= group.n_code_bytes || !has_more) return kSound;
  return walk.end_bit - kChunkBits == read_gap(shared, threadIdx.x + 1) ? kSound : kGap;
}

// The highest reason any thread found. Ends in step, with every staged input visible.
__device__ __forceinline__ StreamReason agree_on_reason(StreamReason mine, StreamShared& shared) {
  if (mine != kSound) atomicMax(&shared.reason, static_cast<uint32_t>(mine));
  __syncthreads();
  return static_cast<StreamReason>(shared.reason);
}

// Stages one block of a group and counts its codes. All threads find the same reason; where it is
// sound `walk_codes` finds the same codes again.
__device__ __forceinline__ StreamPass count_codes(const HuffmanGroup& group,
                                                  const StreamBlock& block, StreamShared& shared) {
  StreamPass pass = {min(group.n_lut_rows, kMostLutRows), 0, 0, kPositions};
  if (!has_sound_positions(group, block)) return pass;

  stage_inputs(group, block, pass.n_lut_rows, shared);
  if (threadIdx.x == 0) shared.reason = kSound;
  __syncthreads();

  const uint64_t chunk_byte = block.first_byte + threadIdx.x * (kChunkBits / 8);
  const uint64_t n_left =
      chunk_byte < group.n_code_bytes ? group.n_code_bytes - chunk_byte : uint64_t{0};
  pass.limit = n_left < kChunkBits / 8 ? static_cast<uint32_t>(n_left) * 8 : kChunkBits;

  const StreamWalk walk =
      walk_codes(shared, pass.n_lut_rows, pass.limit, [](uint32_t, uint8_t, uint32_t, uint32_t) {});
  uint32_t n_codes;
  pass.before = scan_counts(walk.n_codes, n_codes, shared);

  const uint32_t n_expected = static_cast<uint32_t>(block.end - block.start);
  StreamReason mine = judge_chunk(group, block, walk, block.start + pass.before, shared);
  if (block.is_last ? n_codes < n_expected : n_codes != n_expected) mine = kCount;
  pass.reason = agree_on_reason(mine, shared);
  return pass;
}

// By one thread: the status word has the lowest corrupt block of a launch.
__device__ __forceinline__ void report_block(uint64_t* status, StreamReason reason) {
  atomicMax(reinterpret_cast<unsigned long long*>(status),
            static_cast<unsigned long long>(0xFFFFFFFFu - blockIdx.x) << 32 | reason);
}

#endif  // LACUNA_HUFFMAN_STREAM_CUH_
