// SPDX-License-Identifier: MIT OR Apache-2.0
// The k largest scores of each row, exactly: a radix search, 8 bits at a time, for the key of the
// last one picked, then one pass that writes indices in order. Counts are exact whatever falls into
// a bin, and ties go to the lower index by prefix sums; src/select/reference.rs is the
// specification.

#include "../common/kernel.cuh"
#include "params.h"

namespace {

constexpr uint32_t kThreads = 512;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kBins = 256;
constexpr uint32_t kBf16 = 0;
constexpr uint32_t kF32 = 2;
// Of candidates that come before all others; no score has it.
constexpr uint32_t kFirst = 0xFFFFFFFF;

struct Shared {
  uint32_t histogram[kBins];
  // Of each warp, keys above the threshold and, from bit 16 on, keys at it.
  uint32_t n_found[kWarps];
  // Of the digit that the k-th largest key has: itself, and how many of its bin are still to be
  // picked.
  uint32_t digit;
  uint32_t n_left;
};

// A row's candidates.
struct Row {
  const uint8_t* scores;
  uint32_t start;
  uint32_t length;
  uint32_t n_picked;
};

__device__ Row locate_row(const SelectTopkParams& params, uint32_t row) {
  Row found;
  const uint32_t n_bytes = params.element == kF32 ? 4 : 2;
  found.scores = params.scores + row * params.row_stride * n_bytes;
  const uint32_t start = params.starts != nullptr ? params.starts[row] : 0;
  found.start = start < params.n ? start : params.n;
  const uint32_t rest = params.n - found.start;
  const uint32_t length = params.lengths != nullptr ? params.lengths[row] : rest;
  found.length = length < rest ? length : rest;
  const uint32_t asked = params.counts_asked != nullptr ? params.counts_asked[row] : params.k;
  const uint32_t most = asked < params.k ? asked : params.k;
  found.n_picked = most < found.length ? most : found.length;
  return found;
}

// Ascending with the score: NaN is 0, below -inf; zeros of both signs are one.
__device__ uint32_t key_of_half(uint32_t bits, uint32_t infinity) {
  const uint32_t magnitude = bits & 0x7FFF;
  if (magnitude > infinity) return 0;
  if (magnitude == 0) return 0x8000;
  return bits >> 15 != 0 ? ~bits & 0xFFFF : bits | 0x8000;
}

__device__ uint32_t key_of_float(uint32_t bits) {
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return 0;
  if (magnitude == 0) return 0x80000000;
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000;
}

__device__ uint32_t load_key(const SelectTopkParams& params, const Row& row, uint32_t i) {
  if (i < params.n_first || row.length - i <= params.n_last) {
    return params.element == kF32 ? kFirst : kFirst >> 16;
  }
  const uint64_t at = uint64_t{row.start} + i;
  if (params.element == kF32) {
    return key_of_float(reinterpret_cast<const uint32_t*>(row.scores)[at]);
  }
  const uint32_t infinity = params.element == kBf16 ? 0x7F80 : 0x7C00;
  return key_of_half(reinterpret_cast<const uint16_t*>(row.scores)[at], infinity);
}

// The keys of a row: from shared memory, where they fit, so that the row is read once.
struct Keys {
  const SelectTopkParams& params;
  const Row& row;
  unsigned char* staged;
  bool are_staged;

  __device__ uint32_t operator[](uint32_t i) const {
    if (!are_staged) return load_key(params, row, i);
    if (params.element == kF32) return reinterpret_cast<const uint32_t*>(staged)[i];
    return reinterpret_cast<const uint16_t*>(staged)[i];
  }
};

// The search's first barrier comes after it.
__device__ void stage_keys(const Keys& keys) {
  if (!keys.are_staged) return;
  for (uint32_t i = threadIdx.x; i < keys.row.length; i += kThreads) {
    const uint32_t key = load_key(keys.params, keys.row, i);
    if (keys.params.element == kF32) {
      reinterpret_cast<uint32_t*>(keys.staged)[i] = key;
    } else {
      reinterpret_cast<uint16_t*>(keys.staged)[i] = static_cast<uint16_t>(key);
    }
  }
}

// By the first warp: the greatest digit at which `n_left` keys and no more are at or above it.
__device__ void find_digit(uint32_t n_left, Shared& shared) {
  const uint32_t lane = threadIdx.x;
  // Lane 0 has the greatest digits.
  const uint32_t last = kBins - 1 - lane * 8;
  uint32_t n_own = 0;
  for (uint32_t i = 0; i < 8; ++i) n_own += shared.histogram[last - i];
  uint32_t n_through = n_own;
  for (uint32_t delta = 1; delta < 32; delta *= 2) {
    const uint32_t before = __shfl_up_sync(0xFFFFFFFFu, n_through, delta);
    if (lane >= delta) n_through += before;
  }
  uint32_t n_before = n_through - n_own;
  if (n_before >= n_left || n_through < n_left) return;
  uint32_t digit = last;
  while (n_before + shared.histogram[digit] < n_left) {
    n_before += shared.histogram[digit];
    digit -= 1;
  }
  shared.digit = digit;
  shared.n_left = n_left - n_before;
}

// The key of the last one picked; of those that have it, `n_left` are picked.
__device__ uint32_t find_threshold(const Keys& keys, uint32_t n_digits, uint32_t& n_left,
                                   Shared& shared) {
  uint32_t threshold = 0;
  uint32_t decided = 0;
  for (uint32_t digit = n_digits; digit-- > 0;) {
    for (uint32_t i = threadIdx.x; i < kBins; i += kThreads) shared.histogram[i] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < keys.row.length; i += kThreads) {
      const uint32_t key = keys[i];
      if ((key & decided) == threshold) {
        atomicAdd(&shared.histogram[key >> (8 * digit) & 255], 1u);
      }
    }
    __syncthreads();
    if (threadIdx.x < 32) find_digit(n_left, shared);
    __syncthreads();
    threshold |= shared.digit << (8 * digit);
    decided |= uint32_t{255} << (8 * digit);
    n_left = shared.n_left;
  }
  return threshold;
}

// In the order of the row: all above the threshold, and the first `n_left` at it. Their places are
// gathered on chip, so that whole sectors are written.
__device__ void gather_picks(const Keys& keys, uint32_t threshold, uint32_t n_left, uint32_t* picks,
                             Shared& shared) {
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lanes_before = (1u << threadIdx.x % 32) - 1;
  uint32_t n_above = 0;
  uint32_t n_equal = 0;
  for (uint32_t base = 0; base < keys.row.length; base += kThreads) {
    const uint32_t i = base + threadIdx.x;
    // Past the row's end: above nothing, and after every candidate that it may equal.
    const uint32_t key = i < keys.row.length ? keys[i] : 0;
    const bool is_above = key > threshold;
    const bool is_equal = key == threshold;
    const uint32_t above = __ballot_sync(0xFFFFFFFFu, is_above);
    const uint32_t equal = __ballot_sync(0xFFFFFFFFu, is_equal);
    if (threadIdx.x % 32 == 0) {
      shared.n_found[warp] =
          static_cast<uint32_t>(__popc(above)) | static_cast<uint32_t>(__popc(equal)) << 16;
    }
    __syncthreads();
    uint32_t n_before = 0;
    uint32_t n_all = 0;
    for (uint32_t other = 0; other < kWarps; ++other) {
      const uint32_t n_found = shared.n_found[other];
      n_all += n_found;
      if (other < warp) n_before += n_found;
    }
    const uint32_t above_before =
        n_above + (n_before & 0xFFFF) + static_cast<uint32_t>(__popc(above & lanes_before));
    const uint32_t equal_before =
        n_equal + (n_before >> 16) + static_cast<uint32_t>(__popc(equal & lanes_before));
    const uint32_t taken_before = equal_before < n_left ? equal_before : n_left;
    if (is_above || (is_equal && equal_before < n_left)) picks[above_before + taken_before] = i;
    n_above += n_all & 0xFFFF;
    n_equal += n_all >> 16;
    __syncthreads();
  }
}

template <typename Score>
__device__ void write_values(const SelectTopkParams& params, const Row& row,
                             const uint32_t* picks) {
  const Score* scores = reinterpret_cast<const Score*>(row.scores) + row.start;
  Score* values = reinterpret_cast<Score*>(params.values) + uint64_t{blockIdx.x} * params.k;
  for (uint32_t i = threadIdx.x; i < params.k; i += kThreads) {
    values[i] = i < row.n_picked ? scores[picks[i]] : Score{0};
  }
}

__device__ void write_picks(const SelectTopkParams& params, const Row& row, const uint32_t* picks) {
  int32_t* indices = params.indices + uint64_t{blockIdx.x} * params.k;
  for (uint32_t i = threadIdx.x; i < params.k; i += kThreads) {
    indices[i] = i < row.n_picked ? static_cast<int32_t>(row.start + picks[i]) : -1;
  }
  if (threadIdx.x == 0) params.counts[blockIdx.x] = row.n_picked;
  if (params.values == nullptr) return;
  if (params.element == kF32) {
    write_values<uint32_t>(params, row, picks);
  } else {
    write_values<uint16_t>(params, row, picks);
  }
}

}  // namespace

LACUNA_ENTRY(topk_rows, SelectTopkParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  if (blockIdx.x >= params.n_rows) return;
  if (params.skips != nullptr && params.skips[blockIdx.x] != 0) return;
  const Row row = locate_row(params, blockIdx.x);
  uint32_t* picks = reinterpret_cast<uint32_t*>(dynamic);
  if (row.n_picked != 0) {
    unsigned char* staged = dynamic + uint64_t{params.k} * sizeof(uint32_t);
    const Keys keys = {params, row, staged, row.length <= params.n_staged};
    stage_keys(keys);
    uint32_t n_left = row.n_picked;
    const uint32_t n_digits = params.element == kF32 ? 4 : 2;
    const uint32_t threshold = find_threshold(keys, n_digits, n_left, shared);
    gather_picks(keys, threshold, n_left, picks, shared);
  }
  write_picks(params, row, picks);
}
