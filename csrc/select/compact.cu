// SPDX-License-Identifier: MIT OR Apache-2.0
// The kept elements of each row, in its order: a mask becomes bits, bits become places by prefix
// sums. A row of one chunk is one launch. Of longer rows a first launch writes bits and counts, so
// that a mask is read once, and no block waits for another; src/select/compact/reference.rs is the
// specification.

#include "../common/kernel.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 512;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kChunk = kThreads * 32;
constexpr uint32_t kAllLanes = 0xFFFFFFFF;

struct Shared {
  // A bit for each element of the chunk, 32 for each thread.
  uint32_t words[kThreads];
  // Kept elements of the chunk, ascending.
  uint16_t kept[kChunk];
  // Of each warp: what it counted; and of the row's chunks that it added, those before this one,
  // and all.
  uint32_t n_own[kWarps];
  uint32_t n_before[kWarps];
  uint32_t n_all[kWarps];
  uint32_t is_last_done;
};

struct Chunk {
  const uint8_t* row;
  uint32_t row_idx;
  uint32_t idx;
  // The element of its first bit; before the row's where that lies at no multiple of 16 bytes.
  int32_t first;
  int32_t length;
  bool is_skipped;
  // What is 0 in the mask counts as kept, and the rest does not.
  bool is_inverted;
};

__device__ Chunk locate_chunk(const SelectMask& mask) {
  Chunk chunk;
  chunk.row_idx = blockIdx.x / mask.n_chunks;
  chunk.idx = blockIdx.x % mask.n_chunks;
  chunk.row = mask.kept + chunk.row_idx * mask.row_stride;
  const uint32_t shift = reinterpret_cast<uint64_t>(chunk.row) % 16;
  chunk.first = static_cast<int32_t>(chunk.idx * kChunk) - static_cast<int32_t>(shift);
  const uint32_t length =
      mask.lengths != nullptr ? mask.lengths[chunk.row_idx / mask.rows_per_request] : mask.n;
  chunk.length = static_cast<int32_t>(length < mask.n ? length : mask.n);
  chunk.is_skipped = mask.skips != nullptr && mask.skips[chunk.row_idx] != 0;
  chunk.is_inverted = mask.lists_dropped != 0;
  return chunk;
}

// A bit for each of four bytes that is not 0.
__device__ uint32_t find_kept(uint32_t bytes) {
  const uint32_t highest = ((bytes & 0x7F7F7F7F) + 0x7F7F7F7F) | bytes;
  return (highest >> 7 & 0x01010101) * 0x10204080 >> 28;
}

// A bit for each of 16 elements.
__device__ uint32_t load_bits(const Chunk& chunk, uint32_t piece) {
  const int32_t first = chunk.first + static_cast<int32_t>(piece * 16);
  if (first >= 0 && first + 16 <= chunk.length) {
    const uint4 bytes = *reinterpret_cast<const uint4*>(chunk.row + first);
    const uint32_t bits = find_kept(bytes.x) | find_kept(bytes.y) << 4 | find_kept(bytes.z) << 8 |
                          find_kept(bytes.w) << 12;
    return chunk.is_inverted ? bits ^ 0xFFFF : bits;
  }
  uint32_t bits = 0;
  for (int32_t i = 0; i < 16; ++i) {
    const int32_t element = first + i;
    const bool is_inside = element >= 0 && element < chunk.length;
    if (is_inside && (chunk.row[element] != 0) != chunk.is_inverted) bits |= 1u << i;
  }
  return bits;
}

// The thread's 32 elements.
__device__ uint32_t load_word(const Chunk& chunk, Shared& shared) {
  uint16_t* pieces = reinterpret_cast<uint16_t*>(shared.words);
  for (uint32_t piece = threadIdx.x; piece < 2 * kThreads; piece += kThreads) {
    pieces[piece] = static_cast<uint16_t>(load_bits(chunk, piece));
  }
  __syncthreads();
  return shared.words[threadIdx.x];
}

// What the threads before count, and all of the block.
struct Scan {
  uint32_t n_before;
  uint32_t n_all;
};

__device__ Scan scan_counts(uint32_t n_own, Shared& shared) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  uint32_t n_through = n_own;
  for (uint32_t delta = 1; delta < 32; delta *= 2) {
    const uint32_t before = __shfl_up_sync(kAllLanes, n_through, delta);
    if (lane >= delta) n_through += before;
  }
  if (lane == 31) shared.n_own[warp] = n_through;
  __syncthreads();
  Scan scan = {n_through - n_own, 0};
  for (uint32_t other = 0; other < kWarps; ++other) {
    const uint32_t n = shared.n_own[other];
    scan.n_all += n;
    if (other < warp) scan.n_before += n;
  }
  return scan;
}

// Kept elements of the row's chunks before this one, and of all. Its sums are visible after the
// scan's barrier.
__device__ void add_chunks(const SelectCompactParams& params, const Chunk& chunk, Shared& shared) {
  const uint32_t n_chunks = params.mask.n_chunks;
  const uint32_t* counts = params.chunk_counts + uint64_t{chunk.row_idx} * n_chunks;
  uint32_t n_before = 0;
  uint32_t n_all = 0;
  for (uint32_t i = threadIdx.x; i < n_chunks; i += kThreads) {
    const uint32_t n = counts[i];
    n_all += n;
    if (i < chunk.idx) n_before += n;
  }
  n_before = __reduce_add_sync(kAllLanes, n_before);
  n_all = __reduce_add_sync(kAllLanes, n_all);
  if (threadIdx.x % 32 == 0) {
    shared.n_before[threadIdx.x / 32] = n_before;
    shared.n_all[threadIdx.x / 32] = n_all;
  }
}

// The places of the chunk's elements: gathered on chip, so that whole sectors are written, and
// inverted in the order of the row.
__device__ void place_kept(const SelectCompactParams& params, const Chunk& chunk, uint32_t word,
                           uint32_t n_before, uint32_t start, Shared& shared) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t lanes_before = (1u << lane) - 1;
  int32_t* offsets = params.offsets != nullptr
                         ? params.offsets + uint64_t{chunk.row_idx} * params.mask.n
                         : nullptr;
  for (uint32_t i = 0; i < 32; ++i) {
    const uint32_t bits = __shfl_sync(kAllLanes, word, static_cast<int>(i));
    const uint32_t place = __shfl_sync(kAllLanes, n_before, static_cast<int>(i)) +
                           static_cast<uint32_t>(__popc(bits & lanes_before));
    const bool is_kept = (bits >> lane & 1) != 0;
    const uint32_t in_chunk = (threadIdx.x - lane + i) * 32 + lane;
    if (is_kept) shared.kept[place] = static_cast<uint16_t>(in_chunk);
    const int32_t element = chunk.first + static_cast<int32_t>(in_chunk);
    if (offsets != nullptr && element >= 0 && element < static_cast<int32_t>(params.mask.n)) {
      offsets[element] = is_kept ? static_cast<int32_t>(start + place) : -1;
    }
  }
  __syncthreads();
}

__device__ void write_indices(const SelectCompactParams& params, const Chunk& chunk, uint32_t start,
                              uint32_t n_kept, uint32_t n_all, const Shared& shared) {
  int32_t* indices = params.indices + uint64_t{chunk.row_idx} * params.capacity;
  const uint32_t end = start + n_kept < params.capacity ? start + n_kept : params.capacity;
  // From a multiple of 32 on, so that warps write whole sectors.
  for (uint32_t i = start / 32 * 32 + threadIdx.x; i < end; i += kThreads) {
    if (i >= start) indices[i] = chunk.first + static_cast<int32_t>(shared.kept[i - start]);
  }
  const uint32_t first = n_all / 32 * 32 + chunk.idx * kThreads + threadIdx.x;
  for (uint64_t i = first; i < params.capacity; i += params.mask.n_chunks * kThreads) {
    if (i >= n_all) indices[i] = -1;
  }
}

__device__ void compact_chunk(const SelectCompactParams& params, const Chunk& chunk,
                              Shared& shared) {
  const bool is_counted = params.words != nullptr;
  uint32_t word;
  if (is_counted) {
    word = params.words[uint64_t{blockIdx.x} * kThreads + threadIdx.x];
    add_chunks(params, chunk, shared);
  } else {
    word = load_word(chunk, shared);
  }
  const Scan scan = scan_counts(static_cast<uint32_t>(__popc(word)), shared);
  uint32_t start = 0;
  uint32_t n_all = scan.n_all;
  if (is_counted) {
    n_all = 0;
    for (uint32_t warp = 0; warp < kWarps; ++warp) {
      start += shared.n_before[warp];
      n_all += shared.n_all[warp];
    }
  }
  place_kept(params, chunk, word, scan.n_before, start, shared);
  write_indices(params, chunk, start, scan.n_all, n_all, shared);
  if (threadIdx.x == 0 && chunk.idx == 0) params.counts[chunk.row_idx] = n_all;
}

// By one block of each row: the last of them adds up what all wrote.
__device__ void start_rows(const SelectCompactParams& params, Shared& shared) {
  const uint32_t n_rows = params.mask.n_rows;
  if (threadIdx.x == 0) {
    // The barrier carries this thread's fence to the block's reads.
    __threadfence();
    shared.is_last_done = atomicAdd(params.n_done, 1u) + 1 == n_rows;
    __threadfence();
  }
  __syncthreads();
  if (shared.is_last_done == 0) return;
  uint32_t start = 0;
  for (uint32_t base = 0; base < n_rows; base += kThreads) {
    const uint32_t row = base + threadIdx.x;
    const uint32_t count = row < n_rows ? params.counts[row] : 0;
    const Scan scan = scan_counts(count < params.capacity ? count : params.capacity, shared);
    if (row < n_rows) params.row_starts[row] = start + scan.n_before;
    start += scan.n_all;
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    params.row_starts[n_rows] = start;
    *params.n_done = 0;
  }
}

}  // namespace

LACUNA_ENTRY(count_kept, SelectCountKeptParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  if (blockIdx.x / params.mask.n_chunks >= params.mask.n_rows) return;
  const Chunk chunk = locate_chunk(params.mask);
  if (chunk.is_skipped) return;
  const uint32_t word = load_word(chunk, shared);
  params.words[uint64_t{blockIdx.x} * kThreads + threadIdx.x] = word;
  const Scan scan = scan_counts(static_cast<uint32_t>(__popc(word)), shared);
  if (threadIdx.x == 0) params.chunk_counts[blockIdx.x] = scan.n_all;
}

LACUNA_ENTRY(compact_rows, SelectCompactParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  if (blockIdx.x / params.mask.n_chunks >= params.mask.n_rows) return;
  const Chunk chunk = locate_chunk(params.mask);
  if (!chunk.is_skipped) compact_chunk(params, chunk, shared);
  if (params.row_starts != nullptr && chunk.idx == 0) start_rows(params, shared);
}
