// SPDX-License-Identifier: MIT OR Apache-2.0
// The first scores of each row, exactly, by one of four rules. A rule makes a cut, a key and how
// many of those that have it: by a radix search for the key of the last one picked (search.cuh), or
// from a threshold at once; and what is above the cut is gathered in order (gather.cuh). Ties go to
// the lower index by prefix sums; src/select/topk/reference.rs is the specification.

#include "gather.cuh"

namespace {

constexpr uint32_t kThreads = 1024;

enum Rule : uint32_t { kLargest = 0, kMass = 1, kAtLeast = 2, kPercentile = 3 };

struct Shared {
  Row row;
  Slice slice;
  SearchShared search;
  GatherShared gather;
};

__device__ Cut find_cut(uint32_t rule, const Team& team, Keys& keys, float amount, uint32_t n_picks,
                        uint4* work, SearchShared& shared) {
  if (rule == kMass) return find_mass(team, keys, amount, work, shared);
  if (rule == kAtLeast) return find_least(keys, amount);
  return find_largest(team, keys, n_picks, work, shared);
}

__device__ bool is_known(uint32_t rule) { return rule == kLargest || rule == kPercentile; }

// How many the rule wants where that is known beforehand, and else no more than the candidates.
__device__ uint32_t count_wanted(const SelectTopkParams& params, const Row& row, uint32_t row_idx) {
  if (params.rule == kPercentile) {
    const uint64_t n_forced = uint64_t{params.n_first} + params.n_last;
    const uint32_t n_kept = count_kept(row.length, row.amount);
    return n_kept < n_forced ? static_cast<uint32_t>(min(n_forced, uint64_t{row.length})) : n_kept;
  }
  if (params.rule != kLargest) return row.length;
  return at_most(params.counts_asked != nullptr ? params.counts_asked[row_idx] : params.k,
                 row.length);
}

// Leaves the picks of a row in `picks`, marks those that are kept, and returns how many the rule
// wants.
__device__ uint32_t pick(const SelectTopkParams& params, const Team& team, unsigned char* picks,
                         uint4* dynamic, Shared& shared) {
  const Row& row = shared.row;
  Keys keys(params, shared.slice, dynamic + params.n_work_bytes / sizeof(uint4));
  uint32_t rule = params.rule;
  uint32_t n_wanted = row.n_known;
  uint32_t n_picks = at_most(n_wanted, row.n_most_kept);
  uint8_t* kept = row.kept;
  for (;;) {
    const Cut cut = find_cut(rule, team, keys, row.amount, n_picks, dynamic, shared.search);
    gather(team, keys, cut, row.n_most, params.order != 0, picks, kept, shared.gather);
    const uint32_t n_cut = shared.gather.n_cut;
    if (!is_known(rule)) n_wanted = n_cut;
    // The first of them by index are not the first of them.
    if (n_cut <= row.n_most_kept) kept = nullptr;
    n_picks = kept != nullptr ? row.n_most_kept : row.n_most;
    if (n_cut <= n_picks || (kept == nullptr && n_picks == 0)) return n_wanted;
    rule = kLargest;
  }
}

// Zeros, by threads of which this is one.
__device__ void clear_bytes(uint8_t* bytes, uint32_t n, uint32_t thread, uint32_t n_threads) {
  const uint32_t n_head =
      at_most(static_cast<uint32_t>(-reinterpret_cast<uint64_t>(bytes) % 16), n);
  const uint32_t n_vectors = (n - n_head) / 16;
  uint4* const vectors = reinterpret_cast<uint4*>(bytes + n_head);
  for (uint32_t i = thread; i < n_vectors; i += n_threads) vectors[i] = make_uint4(0, 0, 0, 0);
  for (uint32_t i = thread; i < n - 16 * n_vectors; i += n_threads) {
    bytes[i < n_head ? i : 16 * n_vectors + i] = 0;
  }
}

// Where an index of the row is in the pool of pages; -1 where it is not.
__device__ int32_t locate_slot(const SelectTopkParams& params, uint32_t row_idx, uint32_t idx) {
  const uint32_t page = static_cast<uint32_t>(idx * params.page_multiplier >> 34);
  if (page >= params.table_stride) return -1;
  const uint64_t request = row_idx / params.rows_per_request;
  const int32_t physical = params.page_table[request * params.table_stride + page];
  // A negative one is large.
  if (static_cast<uint32_t>(physical) >= params.n_pages) return -1;
  return static_cast<int32_t>(static_cast<uint32_t>(physical) * params.page_size +
                              (idx - page * params.page_size));
}

// Place `place` of a row: candidate `idx`, or nothing.
__device__ __forceinline__ void write_place(const SelectTopkParams& params, const Row& row,
                                            uint32_t row_idx, uint32_t place, bool is_pick,
                                            uint32_t idx) {
  const uint64_t at = uint64_t{row_idx} * params.k + place;
  params.indices[at] = is_pick ? static_cast<int32_t>(row.start + idx) : -1;
  if (params.values != nullptr && params.element == kFloatF32) {
    reinterpret_cast<uint32_t*>(params.values)[at] =
        is_pick ? reinterpret_cast<const uint32_t*>(row.scores)[idx] : 0;
  } else if (params.values != nullptr) {
    reinterpret_cast<uint16_t*>(params.values)[at] =
        is_pick ? reinterpret_cast<const uint16_t*>(row.scores)[idx] : uint16_t{0};
  }
  if (params.slots != nullptr) {
    params.slots[at] = is_pick ? locate_slot(params, row_idx, row.start + idx) : -1;
  }
}

}  // namespace

LACUNA_ENTRY(topk_rows, SelectTopkParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  const Team team;
  const uint32_t row_idx = blockIdx.x / team.n_blocks;
  if (row_idx >= params.n_rows) return;
  if (params.skips != nullptr && params.skips[row_idx] != 0) return;
  // In shared memory, since registers are few.
  const Row& row = shared.row;
  if (threadIdx.x == 0) {
    shared.row = locate_row(params, row_idx);
    shared.row.n_known = count_wanted(params, row, row_idx);
    shared.slice = cut_slice(params, row, team);
  }
  __syncthreads();
  const bool is_by_score = params.order != 0;
  // What is sorted is sorted by the first block.
  unsigned char* const work = is_by_score ? of_block(dynamic, 0) : dynamic;
  const bool is_nothing = row.n_known == 0 || (is_known(params.rule) && row.n_most_kept == 0);
  const uint32_t n_wanted =
      is_nothing ? row.n_known
                 : pick(params, team, work, reinterpret_cast<uint4*>(dynamic), shared);
  const uint32_t n_picked = at_most(n_wanted, row.n_most);
  const uint32_t thread = team.rank * blockDim.x + threadIdx.x;
  const uint32_t n_threads = team.n_blocks * blockDim.x;
  if (row.kept != nullptr) {
    const uint32_t end = row.start + (is_nothing ? 0 : row.length);
    clear_bytes(row.kept - row.start, row.start, thread, n_threads);
    clear_bytes(row.kept - row.start + end, params.n - end, thread, n_threads);
  }
  // By whole sectors.
  for (uint32_t i = n_picked / 32 * 32 + thread; i < params.k; i += n_threads) {
    if (i >= n_picked) write_place(params, row, row_idx, i, false, 0);
  }
  if (thread == 0) {
    params.counts[row_idx] = n_picked;
    if (params.wanted != nullptr) params.wanted[row_idx] = n_wanted;
  }
  if (n_picked == 0 || (is_by_score && team.rank != 0)) return;
  const Picks picks = {dynamic, shared.gather.first, shared.gather.end, is_by_score};
  if (is_by_score) sort_pairs(picks.pairs(), n_picked);
  const uint32_t end = at_most(picks.end, n_picked);
  for (uint32_t i = picks.first / 32 * 32 + threadIdx.x; i < end; i += blockDim.x) {
    if (i >= picks.first) write_place(params, row, row_idx, i, true, picks[i]);
  }
}
