// SPDX-License-Identifier: MIT OR Apache-2.0
// Where the rows of a paged cache are, and their elements.
#ifndef LACUNA_COMMON_KV_CUH_
#define LACUNA_COMMON_KV_CUH_

#include "../kv.h"
#include "number.cuh"

// Rows that so many tokens have, as far as a request's table can hold them.
__device__ __forceinline__ uint32_t count_rows_of(const LacunaKvView& kv, uint32_t n_tokens) {
  const uint32_t n = n_tokens / kv.tokens_per_row + (n_tokens % kv.tokens_per_row != 0);
  return n < kv.n_rows ? n : kv.n_rows;
}

// Rows that request `b` has.
__device__ __forceinline__ uint32_t count_rows(const LacunaKvView& kv, uint32_t b) {
  return count_rows_of(kv, kv.lengths[b]);
}

constexpr uint64_t kNoRow = ~uint64_t{0};

// The element at which row `t` of request `b` and head `h` begins; `kNoRow` where its page is none.
__device__ __forceinline__ uint64_t locate_kv(const LacunaKvView& kv, uint32_t b, uint32_t t,
                                              uint32_t h) {
  const uint32_t page = static_cast<uint32_t>(t * kv.page_multiplier >> 34);
  const int32_t physical = kv.page_table[b * kv.table_stride + page];
  // A negative one is large.
  if (static_cast<uint32_t>(physical) >= kv.n_pages) return kNoRow;
  return static_cast<uint32_t>(physical) * kv.page_stride +
         (t - page * kv.page_size) * kv.token_stride + h * kv.head_stride;
}

// Eight elements from a multiple of eight on, in words as `expand_floats` takes them.
__device__ __forceinline__ void load_kv(uint32_t (&words)[4], const uint8_t* pool, uint64_t element,
                                        uint32_t kind) {
  if (kind >= kFloatE4m3) {
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

#endif  // LACUNA_COMMON_KV_CUH_
