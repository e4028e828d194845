// SPDX-License-Identifier: MIT OR Apache-2.0
// Tokens from pages of their tiers to pages of others. src/quant/retier/reference.rs is the
// specification.

#include "rows.cuh"

namespace {

constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kNoSlot = ~0u;

// Where tokens are, and their rows once they are gathered.
struct Retiered {
  Quantized quantized;
  // Of each slot, of numbers: its row; null of none.
  const uint8_t* rows[kPageTokens];
  // Of codes: the entry of its page, else 0; and its token there.
  uint32_t entries[kPageTokens];
  uint32_t tokens[kPageTokens];
  // Its step, and above it its zero point.
  uint32_t of_sources[kPageTokens];
  // Of each warp: the slots that the tokens of a page go to.
  alignas(16) uint32_t targets[kWarps][kPageTokens];
};

// What a block has, and which of the new entries is that of its page.
struct Target {
  Work work;
  uint64_t head;
  uint32_t p;
};

__device__ __forceinline__ Target find_target(const QuantRetierParams& params) {
  Target target = {begin_work(), 0, 0};
  Work& work = target.work;
  target.head = uint64_t{work.b} * params.kv.n_heads + work.head;
  const uint32_t number = blockIdx.x / params.n_pages;
  const uint32_t p = blockIdx.x - number * params.n_pages;
  const uint32_t list = params.n_lists == 1 ? work.b : work.b * params.n_lists + work.head;
  const uint64_t run = uint64_t{list} * params.n_runs + number;
  const uint32_t n_slots = params.n_pages * kPageTokens;
  uint64_t at = number * params.n_pages;
  if (params.first_pages != nullptr) at = params.first_pages[run];
  at += p;
  if (at >= params.n_new_pages) return target;
  if (!take_slots(params.indices, params.counts, run, n_slots, p, work)) return target;
  target.p = static_cast<uint32_t>(at);
  work.n_rows = params.kv.lengths != nullptr ? count_rows(params.kv, work.b) : 0;
  const uint64_t at_entry = target.head * params.n_new_pages + target.p;
  const uint32_t entry = params.new_entries[work.part][at_entry];
  if (threadIdx.x == 0) report_entry(params.pools, entry, at_entry, 1 + work.part);
  work.tag = entry >> 30;
  work.page = find_page(params.pools, entry, params.kv.row_len);
  take_channels(params.channels[work.part], target.head * params.kv.row_len, work);
  return target;
}

// Finds where the token of a slot is, and says where it will be.
__device__ __forceinline__ void place_token(const QuantRetierParams& params, const Target& target,
                                            uint32_t slot, Retiered& shared) {
  const Work& work = target.work;
  const uint32_t d = params.kv.row_len;
  shared.rows[slot] = nullptr;
  shared.entries[slot] = 0;
  if (slot >= work.n_tokens) return;
  // A negative number is large.
  const uint32_t position = static_cast<uint32_t>(work.indices[slot]);
  if (position >= params.n_positions) return;
  const uint64_t of_head = target.head * params.n_positions + position;
  if (work.part == 0) {
    params.new_slots[of_head] = static_cast<int32_t>(target.p * kPageTokens + slot);
  }
  const int32_t place = params.slot_of[of_head];
  if (place < 0) {
    shared.rows[slot] = find_row(params.kv, work, position);
    return;
  }
  const uint32_t p = static_cast<uint32_t>(place) / kPageTokens;
  const uint32_t token = static_cast<uint32_t>(place) % kPageTokens;
  if (p >= params.n_old_pages) return;
  const uint64_t at = target.head * params.n_old_pages + p;
  const uint32_t entry = params.old_entries[work.part][at];
  report_entry(params.pools, entry, at, 3 + work.part);
  const uint32_t tag = entry >> 30;
  const uint8_t* page = find_page(params.pools, entry, d);
  if (page == nullptr) return;
  if (tag == 0) {
    shared.rows[slot] = page + uint64_t{2} * d * token;
    return;
  }
  const uint16_t* of_tokens = reinterpret_cast<const uint16_t*>(page + 8 * d * bits_of(tag));
  const uint32_t step = of_tokens[token];
  const uint32_t zero = of_tokens[kPageTokens + token];
  shared.entries[slot] = entry;
  shared.tokens[slot] = token;
  shared.of_sources[slot] = zero << 16 | step;
  // Where codes are kept, these are.
  shared.quantized.of_tokens[0][slot] = static_cast<uint16_t>(step);
  shared.quantized.of_tokens[1][slot] = static_cast<uint16_t>(zero);
}

// Of tokens `first` and `first + 32`, by a lane each.
__device__ __forceinline__ uint64_t vote(bool first, bool second) {
  const uint64_t upper = __ballot_sync(0xFFFFFFFFu, second);
  return upper << 32 | __ballot_sync(0xFFFFFFFFu, first);
}

// Four codes of a register, as `load_register` takes them, to the slots of their tokens.
__device__ __forceinline__ void store_register(const uint32_t* targets, uint32_t part, uint32_t row,
                                               uint32_t column, uint32_t codes,
                                               Quantized& quantized) {
  if (part == 0) {
    const uint32_t slot = targets[row];
    if (slot == kNoSlot) return;
    *reinterpret_cast<uint32_t*>(&quantized.codes[slot][column]) = codes;
    return;
  }
  const uint4 four = *reinterpret_cast<const uint4*>(&targets[column]);
  const uint32_t slots[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) {
    if (slots[j] == kNoSlot) continue;
    quantized.codes[slots[j]][row] = static_cast<uint8_t>(codes >> 8 * j);
  }
}

// The codes of a page's wanted tokens. What holds none of them is not read.
__device__ __forceinline__ void scatter_codes(const QuantRetierParams& params, uint32_t part,
                                              uint32_t entry, uint64_t wanted,
                                              const uint32_t* targets, Quantized& quantized) {
  const uint32_t tag = entry >> 30;
  const uint32_t bits = bits_of(tag);
  const uint32_t d = params.kv.row_len;
  const Order order(tag, part == 0 ? d : kPageTokens);
  const uint8_t* page = find_page(params.pools, entry, d);
  const uint32_t ones = 0x01010101 * ((1u << bits) - 1);
  for (uint32_t i = 4 * threadIdx.x; i < 2 * d * bits; i += 4 * kThreads) {
    WordPlace places[4];
    uint64_t tokens = 0;
#pragma unroll
    for (uint32_t w = 0; w < 4; ++w) {
      places[w] = locate_word(order, i + w);
      tokens |=
          part == 0 ? uint64_t{0x101} << places[w].row : uint64_t{0xF000F} << places[w].column;
    }
    if ((tokens & wanted) == 0) continue;
    const uint4 four = *reinterpret_cast<const uint4*>(page + 4 * i);
    const uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (uint32_t w = 0; w < 4; ++w) {
      for (uint32_t reg = places[w].word; reg < 4; reg += 1u << order.word_bits) {
        const uint32_t codes = words[w] >> (reg >> order.word_bits) * bits & ones;
        store_register(targets, part, places[w].row + reg % 2 * 8, places[w].column + reg / 2 * 16,
                       codes, quantized);
      }
    }
  }
}

// The codes of all slots whose tokens have any, page by page. Threads do not wait for each other
// between pages: a slot's codes are of one.
__device__ __forceinline__ void gather_codes(const QuantRetierParams& params, uint32_t part,
                                             Retiered& shared) {
  const uint32_t lane = threadIdx.x % 32;
  uint32_t* targets = shared.targets[threadIdx.x / 32];
  const uint32_t entries[2] = {shared.entries[lane], shared.entries[lane + 32]};
  uint64_t rest = vote(entries[0] != 0, entries[1] != 0);
  while (rest != 0) {
    const uint32_t entry = shared.entries[__ffsll(static_cast<long long>(rest)) - 1];
    targets[lane] = kNoSlot;
    targets[lane + 32] = kNoSlot;
    __syncwarp();
    bool is_served[2];
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t slot = lane + 32 * half;
      is_served[half] = entries[half] == entry && (rest >> slot & 1) != 0;
      if (is_served[half]) atomicMin(&targets[shared.tokens[slot]], slot);
    }
    __syncwarp();
    // Of slots of the same token the first alone; the others have their turn.
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t slot = lane + 32 * half;
      if (is_served[half]) is_served[half] = targets[shared.tokens[slot]] == slot;
    }
    rest &= ~vote(is_served[0], is_served[1]);
    const uint64_t wanted = vote(targets[lane] != kNoSlot, targets[lane + 32] != kNoSlot);
    scatter_codes(params, part, entry, wanted, targets, shared.quantized);
    __syncwarp();
  }
}

// Eight of a slot's numbers relative to their channels, from the codes that were gathered.
__device__ __forceinline__ void expand_codes(const Retiered& shared, uint32_t slot,
                                             uint32_t channel, float (&y)[8]) {
  const uint32_t of_source = shared.of_sources[slot];
  const float s = from_bf16(of_source & 0xFFFF);
  const int32_t zero = static_cast<int32_t>(of_source) >> 16;
  const uint2 two = *reinterpret_cast<const uint2*>(&shared.quantized.codes[slot][channel]);
  const uint32_t words[2] = {two.x, two.y};
#pragma unroll
  for (uint32_t e = 0; e < 8; ++e) {
    const int32_t code = static_cast<int32_t>(words[e / 4] >> e % 4 * 8 & 0xFF);
    y[e] = __fmul_rn(s, __fmul_rn(__int2float_rn(16 * code - zero), 0.0625f));
  }
}

// Numbers as they are, and what codes stand for; zeros of nothing.
__device__ __forceinline__ void write_numbers(const QuantRetierParams& params, const Work& work,
                                              const Retiered& shared) {
  const uint32_t n_chunks = params.kv.row_len / 8;
  const uint32_t kind = params.kv.element;
  const Channels& channels = shared.quantized.channels;
  for (uint32_t i = threadIdx.x; i < kPageTokens * n_chunks; i += kThreads) {
    const uint32_t slot = i / n_chunks;
    const uint32_t chunk = i - slot * n_chunks;
    uint4 four = make_uint4(0, 0, 0, 0);
    if (shared.rows[slot] != nullptr) {
      four = reinterpret_cast<const uint4*>(shared.rows[slot])[chunk];
    } else if (shared.entries[slot] != 0) {
      float x[8];
      expand_codes(shared, slot, 8 * chunk, x);
#pragma unroll
      for (uint32_t e = 0; e < 8; ++e) {
        x[e] = __fmaf_rn(x[e], channels.scales[8 * chunk + e], channels.offsets[8 * chunk + e]);
      }
      four = make_uint4(to_halves(x[0], x[1], kind), to_halves(x[2], x[3], kind),
                        to_halves(x[4], x[5], kind), to_halves(x[6], x[7], kind));
    }
    reinterpret_cast<uint4*>(work.page)[i] = four;
  }
}

// The codes of the rows that come from another tier.
__device__ __forceinline__ void quantize_rows(const QuantRetierParams& params, const Work& work,
                                              Retiered& shared) {
  constexpr uint32_t kTogether = kThreads / kDotLanes;
  for (uint32_t first = 0; first < kPageTokens; first += kTogether) {
    const uint32_t slot = first + threadIdx.x / kDotLanes;
    const uint8_t* row = shared.rows[slot];
    const uint32_t entry = shared.entries[slot];
    const bool is_kept = entry != 0 && entry >> 30 == work.tag;
    if (__all_sync(0xFFFFFFFFu, is_kept) != 0) continue;
    quantize_row(work, params.kv.row_len, slot, is_kept, shared.quantized,
                 [&](uint32_t channel, float(&y)[8]) {
                   if (row != nullptr) {
                     load_chunk(shared.quantized.channels, row, params.kv.element, channel, y);
                   } else if (entry != 0) {
                     expand_codes(shared, slot, channel, y);
                     make_finite(y);
                   }
                 });
  }
}

}  // namespace

LACUNA_ENTRY(retier_pages, QuantRetierParams, kThreads) {
  LACUNA_SHARED(Retiered, shared);
  const Target target = find_target(params);
  const Work& work = target.work;
  if (threadIdx.x < kPageTokens) place_token(params, target, threadIdx.x, shared);
  if (work.page == nullptr) return;
  __syncthreads();
  // From codes to codes no channel is asked for.
  const uint32_t lane = threadIdx.x % 32;
  const uint64_t is_coded = vote(shared.entries[lane] != 0, shared.entries[lane + 32] != 0);
  const uint64_t is_number = vote(shared.rows[lane] != nullptr, shared.rows[lane + 32] != nullptr);
  if ((work.tag == 0 ? is_coded : is_number) != 0) {
    stage_channels(work, params.kv.row_len, shared.quantized.channels);
  }
  gather_codes(params, work.part, shared);
  __syncthreads();
  if (work.tag == 0) {
    write_numbers(params, work, shared);
    return;
  }
  quantize_rows(params, work, shared);
  __syncthreads();
  write_codes(work, params.kv.row_len, shared.quantized);
}
