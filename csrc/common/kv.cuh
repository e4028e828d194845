// SPDX-License-Identifier: MIT OR Apache-2.0
// Where the rows of a paged cache are, and their elements.
#ifndef LACUNA_COMMON_KV_CUH_
#define LACUNA_COMMON_KV_CUH_

#include "../kv.h"
#include "number.cuh"

__device__ __forceinline__ uint32_t rows_of(uint32_t n_tokens, uint32_t tokens_per_row) {
  return n_tokens / tokens_per_row + (n_tokens % tokens_per_row != 0);
}

// Rows that so many tokens have, as far as a request's table can hold them.
__device__ __forceinline__ uint32_t count_rows_of(const LacunaKvView& kv, uint32_t n_tokens) {
  const uint32_t n = rows_of(n_tokens, kv.tokens_per_row);
  return n < kv.n_rows ? n : kv.n_rows;
}

// Rows that request `b` has.
__device__ __forceinline__ uint32_t count_rows(const LacunaKvView& kv, uint32_t b) {
  return count_rows_of(kv, kv.lengths[b]);
}

constexpr uint64_t kNoRow = ~uint64_t{0};

// Where rows of one request and head are. Of rows that follow each other, the table is read once a
// page.
struct KvRows {
  const LacunaKvView& kv;
  const int32_t* table;
  uint64_t head_start;
  uint32_t page;
  int32_t physical;

  __device__ __forceinline__ KvRows(const LacunaKvView& kv, uint32_t b, uint32_t h)
      : kv(kv),
        table(kv.page_table + b * kv.table_stride),
        head_start(h * kv.head_stride),
        page(~0u),
        physical(-1) {}

  // The element at which row `t` begins; `kNoRow` where its page is none.
  __device__ __forceinline__ uint64_t locate(uint32_t t) {
    const uint32_t next = static_cast<uint32_t>(t * kv.page_multiplier >> 34);
    if (next != page) physical = table[next];
    page = next;
    // A negative one is large.
    if (static_cast<uint32_t>(physical) >= kv.n_pages) return kNoRow;
    return static_cast<uint32_t>(physical) * kv.page_stride +
           (t - page * kv.page_size) * kv.token_stride + head_start;
  }
};

// The same of one row.
__device__ __forceinline__ uint64_t locate_kv(const LacunaKvView& kv, uint32_t b, uint32_t t,
                                              uint32_t h) {
  return KvRows(kv, b, h).locate(t);
}

// Eight elements from a multiple of eight on: 4 words of 16-bit ones, 2 of 8-bit ones.
__device__ __forceinline__ void load_bits(uint32_t (&words)[4], const uint8_t* pool,
                                          uint64_t element, uint32_t kind) {
  if (kind >= kFloatE4m3) {
    // Inner loop: not this way.
    const uint2 two = *reinterpret_cast<const uint2*>(pool + element);
    words[0] = two.x;
    words[1] = two.y;
  } else {
    const uint4 four = *reinterpret_cast<const uint4*>(pool + 2 * element);
    words[0] = four.x;
    words[1] = four.y;
    words[2] = four.z;
    words[3] = four.w;
  }
}

// The same, as `expand_floats` takes them.
__device__ __forceinline__ void load_kv(uint32_t (&words)[4], const uint8_t* pool, uint64_t element,
                                        uint32_t kind) {
  load_bits(words, pool, element, kind);
  if (kind >= kFloatE4m3) widen_fp8(words, kind);
}

#endif  // LACUNA_COMMON_KV_CUH_
