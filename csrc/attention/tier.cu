// SPDX-License-Identifier: MIT OR Apache-2.0
// Which of what lists ask for is in the slots of a small buffer, and which slots the rest goes to:
// replacement by CLOCK, whose victims are a prefix sum over two sets of bits. A block has a list.
// src/attention/tier/reference.rs is the specification.

#include "../common/kernel.cuh"
#include "bits.cuh"
#include "params.h"

namespace {

constexpr uint32_t kMostEntries = 8192;
constexpr uint32_t kMostSlots = 32768;
// What entry 0 marks its number in `slot_of` with; later entries with less, and no slot with as
// much.
constexpr int32_t kClaim = 0x7FFFFFFF;

struct Shared {
  // A bit of each slot.
  uint32_t wanted[kMostSlots / 32];
  uint32_t referenced[kMostSlots / 32];
  // A bit of each entry.
  uint32_t hit[kMostEntries / 32];
  uint32_t missed[kMostEntries / 32];
  uint32_t first[kMostEntries / 32];
  uint32_t fetched[kMostEntries / 32];
  // How many there are before the word's entries: of first misses, then of hits; and of fetched
  // ones.
  uint32_t n_before[kMostEntries / 32];
  uint32_t n_fetched_before[kMostEntries / 32];
  // Of each miss: its first entry, and the slot that it goes to.
  uint16_t entries[kMostEntries];
  uint16_t victims[kMostEntries];
  uint64_t of_warps[kWarps];
  // Free slots below the hand.
  uint32_t n_fresh_below;
  uint32_t n_stale_below;
  // The last slot that is taken.
  uint32_t last;
};

struct List {
  uint32_t idx;
  uint32_t request;
  uint32_t in_request;
  uint32_t n_counted;
  const int32_t* indices;
  int32_t* slot_of;
  int32_t* logical_of;
};

__device__ __forceinline__ List find_list(const AttentionTierParams& params) {
  List list;
  list.idx = blockIdx.x;
  list.request = list.idx / params.lists_per_request;
  list.in_request = list.idx - list.request * params.lists_per_request;
  const uint32_t count = params.counts != nullptr ? params.counts[list.idx] : params.n;
  list.n_counted = count < params.n ? count : params.n;
  list.indices = params.indices + uint64_t{list.idx} * params.n;
  list.slot_of = params.slot_of + uint64_t{list.idx} * params.n_logical;
  list.logical_of = params.logical_of + uint64_t{list.idx} * params.n_slots;
  return list;
}

// Its page in the large tier; -1 where it has none.
__device__ __forceinline__ int32_t find_source(const AttentionTierParams& params, const List& list,
                                               uint32_t logical) {
  if (params.source_table == nullptr) {
    return static_cast<int32_t>(list.idx * params.n_logical + logical);
  }
  const int32_t page = params.source_table[uint64_t{list.request} * params.n_logical + logical];
  // A negative one is large.
  const uint64_t source =
      uint64_t{static_cast<uint32_t>(page)} * params.lists_per_request + list.in_request;
  return source < params.n_source_pages ? static_cast<int32_t>(source) : -1;
}

// Where it is; -1 unless both maps say so.
__device__ __forceinline__ int32_t find_slot(const AttentionTierParams& params, const List& list,
                                             int32_t logical) {
  const int32_t slot = list.slot_of[logical];
  if (static_cast<uint32_t>(slot) >= params.n_slots) return -1;
  return list.logical_of[slot] == logical ? slot : -1;
}

// Each entry of the list to its thread.
template <typename Visit>
__device__ __forceinline__ void visit_entries(const AttentionTierParams& params,
                                              const Visit& visit) {
  for (uint32_t base = 0; base < params.n; base += kThreads) visit(base + threadIdx.x);
}

// Hits have their slots, and those slots are wanted.
__device__ __forceinline__ void find_hits(const AttentionTierParams& params, const List& list,
                                          Shared& shared) {
  visit_entries(params, [&](uint32_t e) {
    const int32_t logical = e < list.n_counted ? list.indices[e] : -1;
    const bool is_asked = static_cast<uint32_t>(logical) < params.n_logical;
    const int32_t slot = is_asked ? find_slot(params, list, logical) : -1;
    if (slot >= 0) atomicOr(&shared.wanted[slot / 32], 1u << slot % 32);
    const bool is_missed =
        is_asked && slot < 0 && find_source(params, list, static_cast<uint32_t>(logical)) >= 0;
    mark(shared.hit, e, slot >= 0);
    mark(shared.missed, e, is_missed);
    if (e < params.n) params.slots[uint64_t{list.idx} * params.n + e] = slot;
  });
  __syncthreads();
}

// The first entry of each number that misses: in `slot_of` the greatest claim is the earliest's.
__device__ __forceinline__ void find_first_misses(const AttentionTierParams& params,
                                                  const List& list, Shared& shared) {
  // Whatever was there is less than any claim then.
  visit_entries(params, [&](uint32_t e) {
    if (has_bit(shared.missed, e)) atomicMin(list.slot_of + list.indices[e], -1);
  });
  __syncthreads();
  visit_entries(params, [&](uint32_t e) {
    const int32_t claim = kClaim - static_cast<int32_t>(e);
    if (has_bit(shared.missed, e)) atomicMax(list.slot_of + list.indices[e], claim);
  });
  __syncthreads();
  visit_entries(params, [&](uint32_t e) {
    const int32_t claim = kClaim - static_cast<int32_t>(e);
    const bool is_missed = has_bit(shared.missed, e);
    mark(shared.first, e, is_missed && list.slot_of[list.indices[e]] == claim);
  });
  __syncthreads();
}

// The words of slots that a thread has.
struct Words {
  uint32_t begin;
  uint32_t end;
};

__device__ __forceinline__ Words find_words(uint32_t n_slots) {
  const uint32_t n_words = (n_slots + 31) / 32;
  const uint32_t n_each = (n_words + kThreads - 1) / kThreads;
  const uint32_t begin = threadIdx.x * n_each;
  const uint32_t end = begin + n_each;
  return {begin, end < n_words ? end : n_words};
}

// Slots that may be taken.
__device__ __forceinline__ uint32_t free_of(const Shared& shared, uint32_t word, uint32_t n_slots) {
  return ~shared.wanted[word] & span_of(word, 0, n_slots);
}

// What there is to miss, and to take: slots not referenced first, then the others, both from the
// hand on.
struct Totals {
  uint32_t n_missed;
  uint32_t n_fresh;
  uint32_t n_taken;
};

__device__ __forceinline__ Totals pick_victims(const AttentionTierParams& params, uint32_t hand,
                                               Shared& shared) {
  const Words own = find_words(params.n_slots);
  const uint32_t n_entry_words = (params.n + 31) / 32;
  uint32_t n_fresh = 0;
  uint32_t n_stale = 0;
  for (uint32_t word = own.begin; word < own.end; ++word) {
    const uint32_t free = free_of(shared, word, params.n_slots);
    n_fresh += static_cast<uint32_t>(__popc(free & ~shared.referenced[word]));
    n_stale += static_cast<uint32_t>(__popc(free & shared.referenced[word]));
  }
  const bool has_entries = threadIdx.x < n_entry_words;
  const uint32_t n_first =
      has_entries ? static_cast<uint32_t>(__popc(shared.first[threadIdx.x])) : 0;
  const Scan scan = scan_block(pack(n_first, n_fresh, n_stale), shared.of_warps);
  if (has_entries) shared.n_before[threadIdx.x] = unpack(scan.before, 0);
  n_fresh = unpack(scan.before, 1);
  n_stale = unpack(scan.before, 2);
  for (uint32_t word = own.begin; word < own.end && word <= hand / 32; ++word) {
    const uint32_t free = free_of(shared, word, params.n_slots);
    const uint32_t fresh = free & ~shared.referenced[word];
    const uint32_t stale = free & shared.referenced[word];
    if (word == hand / 32) {
      shared.n_fresh_below = n_fresh + count_below(fresh, hand);
      shared.n_stale_below = n_stale + count_below(stale, hand);
    }
    n_fresh += static_cast<uint32_t>(__popc(fresh));
    n_stale += static_cast<uint32_t>(__popc(stale));
  }
  __syncthreads();
  Totals totals = {unpack(scan.all, 0), unpack(scan.all, 1), 0};
  const uint32_t n_all_stale = unpack(scan.all, 2);
  const uint32_t n_free = totals.n_fresh + n_all_stale;
  totals.n_taken = totals.n_missed < n_free ? totals.n_missed : n_free;
  n_fresh = unpack(scan.before, 1);
  n_stale = unpack(scan.before, 2);
  for (uint32_t word = own.begin; word < own.end; ++word) {
    uint32_t taken = 0;
    for (uint32_t rest = free_of(shared, word, params.n_slots); rest != 0; rest &= rest - 1) {
      const uint32_t bit = static_cast<uint32_t>(__ffs(rest)) - 1;
      const bool is_stale = (shared.referenced[word] >> bit & 1) != 0;
      // By its place after the hand, round the buffer.
      const uint32_t place = is_stale ? n_stale++ : n_fresh++;
      const uint32_t n_below = is_stale ? shared.n_stale_below : shared.n_fresh_below;
      const uint32_t n_kind = is_stale ? n_all_stale : totals.n_fresh;
      const uint32_t rank = (place >= n_below ? place - n_below : place + n_kind - n_below) +
                            (is_stale ? totals.n_fresh : 0);
      if (rank >= totals.n_taken) continue;
      shared.victims[rank] = static_cast<uint16_t>(word * 32 + bit);
      if (rank + 1 == totals.n_taken) shared.last = word * 32 + bit;
      taken |= 1u << bit;
    }
    shared.wanted[word] |= taken;
  }
  return totals;
}

// Misses in the order of the list; those that no slot is left for are nowhere.
__device__ __forceinline__ void rank_misses(const AttentionTierParams& params, const List& list,
                                            uint32_t n_taken, Shared& shared) {
  visit_entries(params, [&](uint32_t e) {
    if (!has_bit(shared.first, e)) return;
    const uint32_t rank = shared.n_before[e / 32] + count_below(shared.first[e / 32], e);
    if (rank < n_taken) {
      shared.entries[rank] = static_cast<uint16_t>(e);
    } else {
      list.slot_of[list.indices[e]] = -1;
    }
  });
  __syncthreads();
}

// What was in the slots is in none now.
__device__ __forceinline__ void evict(const AttentionTierParams& params, const List& list,
                                      uint32_t n_taken, const Shared& shared) {
  for (uint32_t rank = threadIdx.x; rank < n_taken; rank += kThreads) {
    const int32_t slot = shared.victims[rank];
    const uint32_t before = static_cast<uint32_t>(list.logical_of[slot]);
    if (before < params.n_logical) atomicCAS(list.slot_of + before, slot, -1);
  }
}

// Slots that the hand passed have had their chance; wanted ones have a new one.
__device__ __forceinline__ void move_hand(const AttentionTierParams& params, const List& list,
                                          uint32_t hand, const Totals& totals,
                                          const Shared& shared) {
  const uint32_t n_slots = params.n_slots;
  const uint32_t n_words = (n_slots + 31) / 32;
  const uint32_t end = totals.n_taken != 0 ? shared.last + 1 : hand;
  const bool is_round = totals.n_taken > totals.n_fresh;
  const bool is_wrapped = totals.n_taken != 0 && end <= hand;
  for (uint32_t word = threadIdx.x; word < n_words; word += kThreads) {
    uint32_t passed = is_wrapped ? span_of(word, 0, end) | span_of(word, hand, n_slots)
                                 : span_of(word, hand, end);
    if (is_round) passed = ~0u;
    const uint32_t referenced = (shared.referenced[word] & ~passed) | shared.wanted[word];
    params.referenced[uint64_t{list.idx} * n_words + word] = referenced;
  }
  if (threadIdx.x == 0) params.hands[list.idx] = end < n_slots ? end : 0;
}

__device__ __forceinline__ void fill_slots(const AttentionTierParams& params, const List& list,
                                           const Totals& totals, const Shared& shared) {
  for (uint32_t rank = threadIdx.x; rank < params.n; rank += kThreads) {
    int2 pair = make_int2(-1, -1);
    if (rank < totals.n_taken) {
      const int32_t slot = shared.victims[rank];
      const int32_t logical = list.indices[shared.entries[rank]];
      list.logical_of[slot] = logical;
      list.slot_of[logical] = slot;
      pair.x = find_source(params, list, static_cast<uint32_t>(logical));
      pair.y = static_cast<int32_t>(list.idx * params.n_slots) + slot;
    }
    reinterpret_cast<int2*>(params.misses)[uint64_t{list.idx} * params.n + rank] = pair;
  }
  if (threadIdx.x != 0) return;
  params.miss_counts[list.idx] = totals.n_taken;
  if (params.overflows != nullptr) params.overflows[list.idx] = totals.n_missed - totals.n_taken;
}

// The slots of entries that missed.
__device__ __forceinline__ void find_fetched(const AttentionTierParams& params, const List& list,
                                             Shared& shared) {
  visit_entries(params, [&](uint32_t e) {
    const int32_t slot = has_bit(shared.missed, e) ? list.slot_of[list.indices[e]] : -1;
    if (slot >= 0) params.slots[uint64_t{list.idx} * params.n + e] = slot;
    mark(shared.fetched, e, slot >= 0);
  });
  __syncthreads();
}

// Hits and fetched ones as lists of their own.
__device__ __forceinline__ void part_slots(const AttentionTierParams& params, const List& list,
                                           Shared& shared) {
  const bool has_entries = threadIdx.x < (params.n + 31) / 32;
  const uint32_t hit = has_entries ? shared.hit[threadIdx.x] : 0;
  const uint32_t fetched = has_entries ? shared.fetched[threadIdx.x] : 0;
  const Scan scan = scan_block(
      pack(static_cast<uint32_t>(__popc(hit)), static_cast<uint32_t>(__popc(fetched)), 0),
      shared.of_warps);
  if (has_entries) {
    shared.n_before[threadIdx.x] = unpack(scan.before, 0);
    shared.n_fetched_before[threadIdx.x] = unpack(scan.before, 1);
  }
  const uint32_t n_hits = unpack(scan.all, 0);
  const uint32_t n_fetched = unpack(scan.all, 1);
  __syncthreads();
  const uint64_t start = uint64_t{list.idx} * params.n;
  visit_entries(params, [&](uint32_t e) {
    if (e >= params.n) return;
    const int32_t slot = params.slots[start + e];
    const uint32_t word = e / 32;
    if (has_bit(shared.hit, e)) {
      params.hits[start + shared.n_before[word] + count_below(shared.hit[word], e)] = slot;
    } else if (slot >= 0) {
      params.fetched[start + shared.n_fetched_before[word] + count_below(shared.fetched[word], e)] =
          slot;
    }
    if (e >= n_hits) params.hits[start + e] = -1;
    if (e >= n_fetched) params.fetched[start + e] = -1;
  });
  if (threadIdx.x != 0) return;
  params.hit_counts[list.idx] = n_hits;
  params.fetched_counts[list.idx] = n_fetched;
}

}  // namespace

LACUNA_ENTRY(tier_resolve, AttentionTierParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  const List list = find_list(params);
  const uint32_t n_words = (params.n_slots + 31) / 32;
  const uint32_t hand = params.hands[list.idx] % params.n_slots;
  for (uint32_t word = threadIdx.x; word < n_words; word += kThreads) {
    shared.referenced[word] = params.referenced[uint64_t{list.idx} * n_words + word];
    shared.wanted[word] = 0;
  }
  __syncthreads();
  find_hits(params, list, shared);
  find_first_misses(params, list, shared);
  const Totals totals = pick_victims(params, hand, shared);
  rank_misses(params, list, totals.n_taken, shared);
  evict(params, list, totals.n_taken, shared);
  move_hand(params, list, hand, totals, shared);
  __syncthreads();
  fill_slots(params, list, totals, shared);
  __syncthreads();
  find_fetched(params, list, shared);
  if (params.hits != nullptr) part_slots(params, list, shared);
}
