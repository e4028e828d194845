// SPDX-License-Identifier: MIT OR Apache-2.0
// Rows of a paged cache on their way to be multiplied with queries: 8 lanes have a row, each its
// own eights, which it copies into slots of its own, so that no thread waits for another's copies.
#ifndef LACUNA_SELECT_LANES_CUH_
#define LACUNA_SELECT_LANES_CUH_

#include "../common/async.cuh"
#include "../common/dot.cuh"
#include "../common/kv.cuh"

// Query heads that are multiplied at once.
constexpr uint32_t kQueries = 4;
constexpr uint32_t kSlotBytes = 16;

__device__ __forceinline__ uint32_t min_of(uint32_t x, uint32_t y) { return x < y ? x : y; }

// Elements of a query on chip, from one to the next: pieces of 64.
__device__ __forceinline__ uint32_t query_pitch(uint32_t head_dim) {
  return (head_dim + 63) / 64 * 64;
}

// Where on chip element `i` of a query is: of the eight that a lane needs at once, the first four
// are beside those of other lanes, so that no two lanes read from one bank.
__device__ __forceinline__ uint32_t place_query(uint32_t i) {
  return i / 64 * 64 + i % 8 / 4 * 32 + i % 64 / 8 * 4 + i % 4;
}

// What a lane copies of the rows of its group of lanes.
struct RowLane {
  uint32_t head_dim;
  // Rows at once, and slots of each: its pieces of 64 elements, of a box twice as many.
  uint32_t n_rows;
  uint32_t n_each;
  uint32_t n_pieces;
  // The lane's first element of a row.
  uint32_t first;
  unsigned char* slots;

  __device__ __forceinline__ unsigned char* slot(uint32_t idx) const {
    return slots + idx * 32 * kSlotBytes;
  }
};

// `n_slots` slots of every lane from `slots` on, for `most_rows` rows at most.
__device__ __forceinline__ RowLane locate_lane(uint32_t head_dim, bool is_box, uint32_t most_rows,
                                               uint32_t n_slots, uint32_t n_stages,
                                               unsigned char* slots) {
  RowLane lane;
  lane.head_dim = head_dim;
  lane.n_pieces = (head_dim + 63) / 64;
  lane.n_each = is_box ? 2 * lane.n_pieces : lane.n_pieces;
  lane.n_rows = min_of(most_rows, n_slots / lane.n_each);
  lane.first = threadIdx.x % kDotLanes * 8;
  const uint32_t warp_slot = threadIdx.x / 32 * n_stages * n_slots * 32;
  lane.slots = slots + (warp_slot + threadIdx.x % 32) * kSlotBytes;
  return lane;
}

// Begins to copy `n` rows from `first_row` on into slots from `first_slot` on, and tells which are
// absent; what is copied of those is zeros.
__device__ __forceinline__ uint32_t fetch_rows(const LacunaKvView& kv, uint32_t b, uint32_t head,
                                               const RowLane& lane, uint32_t first_slot,
                                               uint32_t first_row, uint32_t n) {
  const uint32_t d = lane.head_dim;
  KvRows rows(kv, b, head);
  uint32_t absent = 0;
  for (uint32_t r = 0; r < n; ++r) {
    const uint64_t row = rows.locate(first_row + r);
    const bool is_there = row != kNoRow;
    if (!is_there) absent |= 1u << r;
    for (uint32_t piece = 0; piece < lane.n_each; ++piece) {
      const bool is_upper = piece >= lane.n_pieces;
      const uint32_t i = lane.first + (is_upper ? piece - lane.n_pieces : piece) * 64;
      if (i >= d) continue;
      const uint64_t element = is_there ? row + (is_upper ? d + i : i) : 0;
      unsigned char* slot = lane.slot(first_slot + r * lane.n_each + piece);
      if (kv.element >= kFloatE4m3) {
        copy_async<8>(slot, kv.keys + element, is_there);
      } else {
        copy_async<16>(slot, kv.keys + 2 * element, is_there);
      }
    }
  }
  commit_copies();
  return absent;
}

__device__ __forceinline__ void load_slot(float (&values)[8], const unsigned char* slot,
                                          uint32_t kind) {
  uint32_t words[4];
  load_kv(words, slot, 0, kind);
  expand_floats(values, words, kind);
}

// This lane's part of the products of `n` rows, `kRows` at most, in slots from `first_slot` on,
// with `n_queries` queries, 4 at most: `products[q * kRows + r]`.
template <bool kIsBox, uint32_t kRows>
__device__ __forceinline__ void multiply_rows(const RowLane& lane, uint32_t kind,
                                              uint32_t first_slot, uint32_t n, const float* queries,
                                              uint32_t n_queries,
                                              float (&products)[kQueries * kRows]) {
#pragma unroll
  for (uint32_t i = 0; i < kQueries * kRows; ++i) products[i] = 0.0f;
  for (uint32_t piece = 0; piece < lane.n_pieces; ++piece) {
    const uint32_t i = lane.first + piece * 64;
    if (i >= lane.head_dim) break;
    float keys[kRows][8] = {};
    float greatest[kIsBox ? kRows : 1][8] = {};
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
      if (r >= n) break;
      const uint32_t idx = first_slot + r * lane.n_each + piece;
      load_slot(keys[r], lane.slot(idx), kind);
      if (kIsBox) load_slot(greatest[kIsBox ? r : 0], lane.slot(idx + lane.n_pieces), kind);
    }
#pragma unroll
    for (uint32_t q = 0; q < kQueries; ++q) {
      if (q >= n_queries) break;
      const float* place = queries + q * lane.n_pieces * 64 + place_query(i);
      const float4 low = *reinterpret_cast<const float4*>(place);
      const float4 high = *reinterpret_cast<const float4*>(place + 32);
      const float query[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (uint32_t r = 0; r < kRows; ++r) {
#pragma unroll
        for (uint32_t e = 0; e < 8; ++e) {
          const float key = kIsBox && query[e] > 0.0f ? greatest[kIsBox ? r : 0][e] : keys[r][e];
          // Inner loop: 1 element a multiplication.
          products[q * kRows + r] = __fmaf_rn(query[e], key, products[q * kRows + r]);
        }
      }
    }
  }
}

#endif  // LACUNA_SELECT_LANES_CUH_
