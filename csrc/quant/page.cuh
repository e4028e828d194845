// SPDX-License-Identifier: MIT OR Apache-2.0
// Where what of a tiered page is. src/quant/format.md is the specification.
#ifndef LACUNA_QUANT_PAGE_CUH_
#define LACUNA_QUANT_PAGE_CUH_

#include "../common/kv.cuh"
#include "params.h"

namespace {

constexpr uint32_t kPageTokens = 64;
// A tile of codes, as operand A of an integer product has it.
constexpr uint32_t kTileRows = 16;
constexpr uint32_t kTileColumns = 32;

// Of a tag.
__device__ __forceinline__ uint32_t bits_of(uint32_t tag) { return 16u >> tag; }

// What pages of codes end with.
constexpr uint32_t kZeroPoints = 0;
constexpr uint32_t kMinimums = 1;

__device__ __forceinline__ uint32_t page_bytes_of(uint32_t tag, uint32_t d, uint32_t tail) {
  return 8 * d * bits_of(tag) + (tag != 0 ? 4 * kPageTokens << tail : 0);
}

// How the codes of a page lie.
struct Order {
  // Powers of two: words that a lane has of a tile, and tiles that stand together.
  uint32_t word_bits;
  uint32_t together_bits;
  // Of a strip of 16 rows.
  uint32_t n_groups;

  __device__ __forceinline__ Order(uint32_t tag, uint32_t n_columns) {
    const uint32_t n_tiles = n_columns / kTileColumns;
    word_bits = 3 - tag;
    // 1, 2 or 4 tiles are 16 bytes of a lane.
    together_bits = tag - 1;
    while ((n_tiles & ((1u << together_bits) - 1)) != 0) --together_bits;
    n_groups = n_tiles >> together_bits;
  }
};

// Of a word of a page, the first row and column of its lowest byte, in register 0.
struct WordPlace {
  uint32_t row;
  uint32_t column;
  uint32_t word;
};

__device__ __forceinline__ WordPlace locate_word(const Order& order, uint32_t i) {
  const uint32_t word = i & ((1u << order.word_bits) - 1);
  i >>= order.word_bits;
  const uint32_t in_group = i & ((1u << order.together_bits) - 1);
  i >>= order.together_bits;
  const uint32_t lane = i % 32;
  i /= 32;
  const uint32_t strip = i / order.n_groups;
  const uint32_t tile = ((i - strip * order.n_groups) << order.together_bits) + in_group;
  return {strip * kTileRows + lane / 4, tile * kTileColumns + lane % 4 * 4, word};
}

// Where the code of a row and column is: its byte, and its lowest bit.
struct CodePlace {
  uint32_t byte;
  uint32_t shift;
};

__device__ __forceinline__ CodePlace locate_code(const Order& order, uint32_t tag, uint32_t row,
                                                 uint32_t column) {
  const uint32_t tile = column / kTileColumns;
  const uint32_t lane = row % 8 * 4 + column % 16 / 4;
  const uint32_t reg = row % kTileRows / 8 + column % kTileColumns / 16 * 2;
  uint32_t i = row / kTileRows * order.n_groups + (tile >> order.together_bits);
  i = i * 32 + lane;
  i = (i << order.together_bits) + (tile & ((1u << order.together_bits) - 1));
  const uint32_t word = reg & ((1u << order.word_bits) - 1);
  return {((i << order.word_bits) + word) * 4 + column % 4,
          (reg >> order.word_bits) * bits_of(tag)};
}

// What a block has: a page of keys, or of values.
struct Work {
  uint32_t b;
  uint32_t head;
  // 0 of keys, 1 of values.
  uint32_t part;
  uint32_t tag;
  // The page; null where there is nothing to do.
  uint8_t* page;
  // Of its slots those that count, and their rows' numbers.
  const int32_t* indices;
  uint32_t n_tokens;
  uint32_t n_rows;
  // Of its span, or null.
  const float* scales;
  const float* offsets;
};

// A block's request, head, and part, of the grid of all kernels of pages.
__device__ __forceinline__ Work begin_work() {
  Work work = {};
  work.b = blockIdx.z / 2;
  work.part = blockIdx.z % 2;
  work.head = blockIdx.y;
  return work;
}

// Gives it the slots of page `p` of a list of so many, as far as they count; false where none does.
__device__ __forceinline__ bool take_slots(const int32_t* indices, const uint32_t* counts,
                                           uint64_t list, uint32_t n_slots, uint32_t p,
                                           Work& work) {
  uint32_t n = n_slots;
  if (counts != nullptr && counts[list] < n) n = counts[list];
  const uint32_t first = p * kPageTokens;
  if (first >= n) return false;
  work.indices = indices + list * n_slots + first;
  work.n_tokens = n - first < kPageTokens ? n - first : kPageTokens;
  return true;
}

// And what its channels are relative to, from element `channel` on.
__device__ __forceinline__ void take_channels(const QuantChannels& channels, uint64_t channel,
                                              Work& work) {
  work.scales = channels.scales != nullptr ? channels.scales + channel : nullptr;
  work.offsets = channels.offsets != nullptr ? channels.offsets + channel : nullptr;
}

// The number of no page, of whatever tag.
constexpr uint32_t kNoNumber = 0x3FFFFFFF;

// Says so where an entry names a page that is not there; `at` is its place in its table.
__device__ __forceinline__ void report_entry(const QuantPools& pools, uint32_t entry, uint64_t at,
                                             uint32_t reason) {
  const uint32_t number = entry & kNoNumber;
  if (pools.status == nullptr || number == kNoNumber || number < pools.n_pages[entry >> 30]) return;
  atomicMax(pools.status, (uint64_t{0xFFFFFFFF} - at) << 32 | reason);
}

// The page that an entry names; null of none.
__device__ __forceinline__ uint8_t* find_page(const QuantPools& pools, uint32_t entry, uint32_t d) {
  const uint32_t tag = entry >> 30;
  const uint32_t number = entry & kNoNumber;
  if (number >= pools.n_pages[tag]) return nullptr;
  return pools.pages[tag] + uint64_t{number} * page_bytes_of(tag, d, pools.tail);
}

__device__ __forceinline__ Work find_work(const QuantPagesParams& params) {
  Work work = begin_work();
  const uint32_t p = blockIdx.x;
  const uint32_t list = params.n_lists == 1 ? work.b : work.b * params.n_lists + work.head;
  const uint32_t n_slots = params.n_pages * kPageTokens;
  if (!take_slots(params.indices, params.counts, list, n_slots, p, work)) return work;
  const uint64_t head = uint64_t{work.b} * params.kv.n_heads + work.head;
  const uint64_t at = head * params.n_pages + p;
  const uint32_t entry = params.entries[work.part][at];
  if (threadIdx.x == 0) report_entry(params.pools, entry, at, 1 + work.part);
  const uint32_t d = params.kv.row_len;
  work.tag = entry >> 30;
  work.page = find_page(params.pools, entry, d);
  work.n_rows = count_rows(params.kv, work.b);
  const uint32_t span = p / params.span_pages;
  take_channels(params.channels[work.part], (head * params.n_spans + span) * d, work);
  return work;
}

// The address of a row of the block's part; null where it is none.
__device__ __forceinline__ const uint8_t* find_row(const LacunaKvView& kv, const Work& work,
                                                   uint32_t row) {
  if (row >= work.n_rows) return nullptr;
  const uint64_t element = locate_kv(kv, work.b, row, work.head);
  if (element == kNoRow) return nullptr;
  return (work.part == 0 ? kv.keys : kv.values) + 2 * element;
}

// The same of the row that a slot names.
__device__ __forceinline__ const uint8_t* find_row_in_slot(const LacunaKvView& kv, const Work& work,
                                                           uint32_t slot) {
  if (slot >= work.n_tokens) return nullptr;
  // A negative number is large.
  return find_row(kv, work, static_cast<uint32_t>(work.indices[slot]));
}

}  // namespace

#endif  // LACUNA_QUANT_PAGE_CUH_
