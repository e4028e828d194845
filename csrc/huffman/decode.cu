// SPDX-License-Identifier: MIT OR Apache-2.0
// DFloat11 decode in two phases: every thread counts the codes that start in its 64 bits, a scan
// turns counts into output indices, and every thread decodes the same bits again into its place.
// Nothing in the buffers is trusted; src/huffman/reference.rs is the specification.

#include "../common/kernel.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 512;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kChunkBits = 64;
constexpr uint32_t kBlockBytes = kThreads * kChunkBits / 8;
// A code that starts in a thread's last bit reads 31 bits of the next thread's.
constexpr uint32_t kLookAheadBytes = 4;
constexpr uint32_t kGapBytes = kThreads * 5 / 8;
constexpr uint32_t kMaxLutRows = 17;
constexpr uint32_t kFirstPointer = 240;
constexpr uint32_t kMaxCodeBits = 32;
// Every code has at least one bit.
constexpr uint32_t kMaxBlockElements = kBlockBytes * 8;
constexpr uint16_t kQuietNan = 0x7FC0;

// The numbers of CorruptionReason in src/huffman/group.rs; the highest that holds is reported.
enum Reason : uint32_t {
  kSound = 0,
  kPositions = 1,
  kCodeLength = 2,
  kPointer = 3,
  kGap = 4,
  kCount = 5,
};

struct Shared {
  // Exponents of the block in output order, from the output's last multiple of 8 before it.
  alignas(16) uint8_t exponents[kMaxBlockElements + 8];
  alignas(16) uint8_t codes[kBlockBytes + kLookAheadBytes];
  uint8_t luts[(kMaxLutRows + 1) * 256];
  // One more byte: the next block's first gap.
  uint8_t gaps[kGapBytes + 1];
  uint32_t warp_counts[kWarps];
  uint32_t reason;
  uint32_t is_last_done;
};

// What one thread block decodes.
struct Block {
  uint64_t first_byte;
  // Elements of the group: from `start` to `end`.
  uint64_t start;
  uint64_t end;
  bool is_last;
};

// What decoding one chunk of 64 bits found.
struct Walk {
  uint32_t n_codes;
  // First bit after the last code, counted from the chunk's first.
  uint32_t end_bit;
  Reason reason;
};

__device__ uint32_t find_group(const HuffmanDecodeParams& params, uint32_t block) {
  uint32_t low = 0;
  uint32_t high = params.n_groups;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    if (params.groups[middle].first_block <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

__device__ uint64_t read_position(const HuffmanGroup& group, uint32_t idx) {
  if (idx >= group.n_positions) return group.n_elements;
  // The tensor is bytes in the file, so its address in device memory may be odd.
  const uint8_t* bytes = group.positions + uint64_t{idx} * 4;
  return uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 |
         uint32_t{bytes[3]} << 24;
}

__device__ Block locate_block(const HuffmanGroup& group, uint32_t block_idx) {
  Block block;
  block.first_byte = uint64_t{block_idx} * kBlockBytes;
  block.start = read_position(group, block_idx);
  block.end = read_position(group, block_idx + 1);
  block.is_last = block_idx + 1 == group.n_blocks;
  return block;
}

__device__ bool has_sound_positions(const HuffmanGroup& group, const Block& block) {
  return block.start <= block.end && block.end <= group.n_elements &&
         block.end - block.start <= kMaxBlockElements &&
         (block.first_byte != 0 || block.start == 0) &&
         (!block.is_last || block.end == group.n_elements);
}

__device__ bool is_aligned(const void* pointer, uint32_t n_bytes) {
  return reinterpret_cast<uint64_t>(pointer) % n_bytes == 0;
}

// Tables, gaps and codes to shared memory; code bytes past the end of the stream are zero.
__device__ void stage_inputs(const HuffmanGroup& group, const Block& block, uint32_t n_lut_rows,
                             Shared& shared) {
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

__device__ uint32_t read_gap(const Shared& shared, uint32_t chunk) {
  const uint32_t bit = chunk * 5;
  // Chunk 512, the next block's first, ends in the staged byte after the last gap.
  const uint32_t high = shared.gaps[bit / 8];
  const uint32_t low = bit / 8 < kGapBytes ? shared.gaps[bit / 8 + 1] : 0;
  return (high << 8 | low) >> (11 - bit % 8) & 31;
}

// Visits the codes that start in the thread's chunk, from its gap to `limit`.
template <typename Visit>
__device__ Walk walk_codes(const Shared& shared, uint32_t n_lut_rows, uint32_t limit, Visit visit) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(shared.codes) + threadIdx.x * 2;
  const uint32_t first = __byte_perm(words[0], 0, 0x0123);
  const uint32_t second = __byte_perm(words[1], 0, 0x0123);
  const uint32_t third = __byte_perm(words[2], 0, 0x0123);
  const uint8_t* lengths = shared.luts + n_lut_rows * 256;

  Walk walk = {0, read_gap(shared, threadIdx.x), kSound};
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
    if (n_bits == 0 || n_bits > kMaxCodeBits) {
      walk.reason = kCodeLength;
      return walk;
    }
    visit(walk.n_codes, static_cast<uint8_t>(exponent));
    walk.n_codes += 1;
    walk.end_bit += n_bits;
  }
  return walk;
}

// The sum of `count` over the threads before this one; `total` over all. Ends in step.
__device__ uint32_t scan_counts(uint32_t count, uint32_t& total, Shared& shared) {
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
__device__ Reason judge_chunk(const HuffmanGroup& group, const Block& block, const Walk& walk,
                              uint64_t first, const Shared& shared) {
  const bool has_more = first + walk.n_codes < group.n_elements;
  if (walk.reason != kSound) {
    // After the last element come padding bits, which need not be codes.
    return !block.is_last || has_more ? walk.reason : kSound;
  }
  const uint64_t next_byte = block.first_byte + (threadIdx.x + 1) * (kChunkBits / 8);
  if (next_byte >= group.n_code_bytes || !has_more) return kSound;
  return walk.end_bit - kChunkBits == read_gap(shared, threadIdx.x + 1) ? kSound : kGap;
}

// Two bf16 from two sign-mantissa bytes and two exponents, each pair in bits 15..0.
__device__ uint32_t join_pair(uint32_t sign_mantissa, uint32_t exponents) {
  const uint32_t wide = __byte_perm(sign_mantissa, 0, 0x4140);
  return (wide & 0x00800080u) << 8 | __byte_perm(exponents, 0, 0x4140) << 7 | (wide & 0x007F007Fu);
}

// Joins staged exponents with signs and mantissas, 8 elements a step where addresses allow.
__device__ void write_weights(const HuffmanGroup& group, const Block& block, uint16_t* output,
                              const Shared& shared) {
  const uint64_t base = block.start / 8 * 8;
  const uint8_t* sign_mantissa = group.sign_mantissa;
  uint64_t vector_start = block.end;
  uint64_t vector_end = block.end;
  if (is_aligned(output, 16) && is_aligned(sign_mantissa, 8)) {
    const uint64_t first = (block.start + 7) / 8 * 8;
    if (first < block.end) {
      vector_start = first;
      vector_end = block.end / 8 * 8;
    }
  }
  for (uint64_t i = vector_start + threadIdx.x * 8; i < vector_end; i += kThreads * 8) {
    const uint2 exponents = *reinterpret_cast<const uint2*>(shared.exponents + (i - base));
    const uint2 bytes = *reinterpret_cast<const uint2*>(sign_mantissa + i);
    // Inner loop: 8 elements a store.
    *reinterpret_cast<uint4*>(output + i) =
        make_uint4(join_pair(bytes.x, exponents.x), join_pair(bytes.x >> 16, exponents.x >> 16),
                   join_pair(bytes.y, exponents.y), join_pair(bytes.y >> 16, exponents.y >> 16));
  }
  for (uint64_t i = block.start + threadIdx.x; i < vector_start; i += kThreads) {
    output[i] = static_cast<uint16_t>(join_pair(sign_mantissa[i], shared.exponents[i - base]));
  }
  for (uint64_t i = vector_end + threadIdx.x; i < block.end; i += kThreads) {
    output[i] = static_cast<uint16_t>(join_pair(sign_mantissa[i], shared.exponents[i - base]));
  }
}

// The highest reason any thread found. Ends in step, with every staged input visible.
__device__ Reason agree_on_reason(Reason mine, Shared& shared) {
  if (mine != kSound) atomicMax(&shared.reason, static_cast<uint32_t>(mine));
  __syncthreads();
  return static_cast<Reason>(shared.reason);
}

// Decodes one block of a group into `output`, or says why not; on a reason nothing was written.
__device__ Reason decode_block(const HuffmanGroup& group, const Block& block, uint16_t* output,
                               Shared& shared) {
  if (!has_sound_positions(group, block)) return kPositions;

  const uint32_t n_lut_rows = min(group.n_lut_rows, kMaxLutRows);
  stage_inputs(group, block, n_lut_rows, shared);
  if (threadIdx.x == 0) shared.reason = kSound;
  __syncthreads();

  const uint64_t chunk_byte = block.first_byte + threadIdx.x * (kChunkBits / 8);
  const uint64_t n_left =
      chunk_byte < group.n_code_bytes ? group.n_code_bytes - chunk_byte : uint64_t{0};
  const uint32_t limit = n_left < kChunkBits / 8 ? static_cast<uint32_t>(n_left) * 8 : kChunkBits;

  const Walk walk = walk_codes(shared, n_lut_rows, limit, [](uint32_t, uint8_t) {});
  uint32_t n_codes;
  const uint32_t before = scan_counts(walk.n_codes, n_codes, shared);

  const uint32_t n_expected = static_cast<uint32_t>(block.end - block.start);
  Reason mine = judge_chunk(group, block, walk, block.start + before, shared);
  if (block.is_last ? n_codes < n_expected : n_codes != n_expected) mine = kCount;
  const Reason reason = agree_on_reason(mine, shared);
  if (reason != kSound) return reason;

  uint8_t* place = shared.exponents + block.start % 8 + before;
  // Padding of the last block may read as codes: past the last element there is room for them.
  walk_codes(shared, n_lut_rows, limit, [&](uint32_t i, uint8_t exponent) { place[i] = exponent; });
  __syncthreads();
  write_weights(group, block, output, shared);
  return kSound;
}

// The last block of a group to get here leaves the state zeroed and, if any block of the group
// was corrupt, nothing but quiet NaNs in its output.
__device__ void finish_group(const HuffmanGroup& group, HuffmanGroupState* state, uint64_t* status,
                             Reason reason, uint16_t* output, Shared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    if (reason != kSound) {
      atomicMax(reinterpret_cast<unsigned long long*>(status),
                static_cast<unsigned long long>(0xFFFFFFFFu - blockIdx.x) << 32 | reason);
      atomicExch(&state->corrupt, 1u);
    }
    // The barriers carry one thread's fences to the block's writes and to the last block's reads.
    __threadfence();
    shared.is_last_done = atomicAdd(&state->n_done, 1u) + 1 == group.n_blocks;
    __threadfence();
  }
  __syncthreads();
  if (!shared.is_last_done) return;
  if (atomicAdd(&state->corrupt, 0u) != 0) {
    for (uint64_t i = threadIdx.x; i < group.n_elements; i += kThreads) output[i] = kQuietNan;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    state->n_done = 0;
    state->corrupt = 0;
  }
}

}  // namespace

LACUNA_ENTRY(decode_bf16, HuffmanDecodeParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  if (params.n_groups == 0) return;
  const uint32_t group_idx = find_group(params, blockIdx.x);
  const HuffmanGroup group = params.groups[group_idx];
  const uint32_t block_idx = blockIdx.x - group.first_block;
  if (block_idx >= group.n_blocks) return;

  uint16_t* output = params.output + group.output_offset;
  const Reason reason = decode_block(group, locate_block(group, block_idx), output, shared);
  finish_group(group, params.states + group_idx, params.status, reason, output, shared);
}
