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
  SearchShared search;
  GatherShared gather;
};

template <typename Format, typename Team>
__device__ Cut find_cut(uint32_t rule, const Team& team, Keys<Format>& keys, float amount,
                        uint32_t n_picks, uint4* work, SearchShared& shared) {
  if (rule == kMass) return find_mass(team, keys, amount, work, shared);
  if (rule == kAtLeast) return find_least(keys, amount);
  return find_largest(team, keys, n_picks, work, shared);
}

// How many the rule wants where that is known beforehand, and else no more than the candidates.
__device__ uint32_t count_wanted(const SelectTopkParams& params, const Row& row, uint32_t row_idx,
                                 float amount) {
  if (params.rule == kPercentile) {
    const uint64_t n_forced = uint64_t{params.n_first} + params.n_last;
    const uint32_t n_kept = count_kept(row.length, amount);
    return n_kept < n_forced ? static_cast<uint32_t>(min(n_forced, uint64_t{row.length})) : n_kept;
  }
  if (params.rule != kLargest) return row.length;
  return at_most(params.counts_asked != nullptr ? params.counts_asked[row_idx] : params.k,
                 row.length);
}

// Leaves the picks of a row in `picks`, and returns how many the rule wants.
template <typename Format, typename Team>
__device__ uint32_t pick(const SelectTopkParams& params, const Team& team, const Row& row,
                         uint32_t row_idx, const Picks& picks, unsigned char* dynamic,
                         Shared& shared) {
  const float amount = params.amounts != nullptr ? params.amounts[row_idx] : params.amount;
  const uint32_t n_known = count_wanted(params, row, row_idx, amount);
  const bool is_known = params.rule == kLargest || params.rule == kPercentile;
  if (n_known == 0 || (is_known && picks.n_most == 0)) return n_known;
  uint4* const work = reinterpret_cast<uint4*>(dynamic);
  uint4* const staged = work + params.n_work_bytes / sizeof(uint4);
  Keys<Format> keys(params, row, team.share(row.length), staged);
  const uint32_t n_picks = at_most(n_known, picks.n_most);
  uint32_t rule = params.rule;
  uint32_t n_wanted = 0;
  for (;;) {
    const Cut cut = find_cut(rule, team, keys, amount, n_picks, work, shared.search);
    const uint32_t n_cut = gather(team, keys, cut, picks, shared.gather);
    if (rule == kLargest || rule == kPercentile) break;
    n_wanted = n_cut;
    if (n_wanted <= picks.n_most) break;
    // The first of them by index are not the first of them.
    rule = kLargest;
  }
  return is_known ? n_known : n_wanted;
}

template <typename Score>
__device__ void write_values(const SelectTopkParams& params, const Row& row, uint32_t row_idx,
                             const Picks& picks, uint32_t n_picked) {
  const Score* scores = reinterpret_cast<const Score*>(row.scores);
  Score* values = reinterpret_cast<Score*>(params.values) + uint64_t{row_idx} * params.k;
  for (uint32_t i = threadIdx.x; i < params.k; i += blockDim.x) {
    values[i] = i < n_picked ? scores[picks[i]] : Score{0};
  }
}

// Where an index of the row is in the pool of pages; -1 where it is not.
__device__ int32_t locate_slot(const SelectTopkParams& params, const int32_t* pages, uint32_t idx) {
  const uint32_t page = static_cast<uint32_t>(idx * params.page_multiplier >> 34);
  if (page >= params.table_stride) return -1;
  const int32_t physical = pages[page];
  // A negative one is large.
  if (static_cast<uint32_t>(physical) >= params.n_pages) return -1;
  return static_cast<int32_t>(static_cast<uint32_t>(physical) * params.page_size +
                              (idx - page * params.page_size));
}

__device__ void write_picks(const SelectTopkParams& params, const Row& row, uint32_t row_idx,
                            const Picks& picks, uint32_t n_picked) {
  const uint64_t first = uint64_t{row_idx} * params.k;
  for (uint32_t i = threadIdx.x; i < params.k; i += blockDim.x) {
    params.indices[first + i] = i < n_picked ? static_cast<int32_t>(row.start + picks[i]) : -1;
  }
  if (params.values != nullptr) {
    if (params.element == kFloatF32) {
      write_values<uint32_t>(params, row, row_idx, picks, n_picked);
    } else {
      write_values<uint16_t>(params, row, row_idx, picks, n_picked);
    }
  }
  if (params.slots == nullptr) return;
  const int32_t* pages =
      params.page_table + row_idx / params.rows_per_request * params.table_stride;
  for (uint32_t i = threadIdx.x; i < params.k; i += blockDim.x) {
    params.slots[first + i] = i < n_picked ? locate_slot(params, pages, row.start + picks[i]) : -1;
  }
}

}  // namespace

LACUNA_ENTRY(topk_rows, SelectTopkParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  const OneBlock team;
  const uint32_t row_idx = blockIdx.x;
  if (row_idx >= params.n_rows) return;
  if (params.skips != nullptr && params.skips[row_idx] != 0) return;
  const Row row = locate_row(params, row_idx);
  const bool is_by_score = params.order != 0;
  const Picks picks = {team.work(dynamic), row.n_most, is_by_score};
  const uint32_t n_wanted = params.element == kFloatF32
                                ? pick<Single>(params, team, row, row_idx, picks, dynamic, shared)
                                : pick<Half>(params, team, row, row_idx, picks, dynamic, shared);
  if (!team.writes()) return;
  const uint32_t n_picked = at_most(n_wanted, row.n_most);
  if (is_by_score) sort_pairs(picks.pairs(), n_picked);
  write_picks(params, row, row_idx, picks, n_picked);
  if (threadIdx.x == 0) {
    params.counts[row_idx] = n_picked;
    if (params.wanted != nullptr) params.wanted[row_idx] = n_wanted;
  }
}
