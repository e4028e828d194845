// SPDX-License-Identifier: MIT OR Apache-2.0
#include "counters.h"

#include <algorithm>

namespace lacuna_simt {
namespace {

constexpr uint64_t kSectorBytes = 32;
constexpr uint64_t kBankBytes = 4;
constexpr uint32_t kBanks = 32;

// Distinct `unit_bytes` pieces that `lanes` of the request touch.
template <typename Units>
void collect_units(const uint64_t* addresses, uint32_t lanes, uint32_t n_bytes, uint64_t unit_bytes,
                   Units* units) {
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const uint64_t address = addresses[__builtin_ctz(rest)];
    const uint64_t last = (address + n_bytes - 1) / unit_bytes;
    for (uint64_t unit = address / unit_bytes; unit <= last; ++unit) {
      if (units->empty() || units->back() != unit) units->push_back(unit);
    }
  }
  std::sort(units->begin(), units->end());
  units->erase(std::unique(units->begin(), units->end()), units->end());
}

uint64_t count_sectors(const uint64_t* addresses, uint32_t lanes, uint32_t n_bytes) {
  static thread_local std::vector<uint64_t> units;
  units.clear();
  collect_units(addresses, lanes, n_bytes, kSectorBytes, &units);
  return units.size();
}

// Passes over the banks: 8-byte accesses take two half-warps, 16-byte ones four quarters; in each,
// as many passes as the busiest bank has different words.
uint64_t count_ways(const uint64_t* addresses, uint32_t lanes, uint32_t n_bytes) {
  static thread_local std::vector<uint64_t> units;
  const uint32_t n_parts = n_bytes <= 4 ? 1 : n_bytes <= 8 ? 2 : 4;
  const uint32_t n_lanes = kWarpSize / n_parts;
  const uint32_t first = n_lanes == kWarpSize ? ~0u : (1u << n_lanes) - 1;
  uint64_t most = 0;
  for (uint32_t part = 0; part < n_parts; ++part) {
    const uint32_t active = lanes & first << part * n_lanes;
    if (active == 0) continue;
    units.clear();
    collect_units(addresses, active, n_bytes, kBankBytes, &units);
    uint32_t words[kBanks] = {};
    for (const uint64_t unit : units) words[unit % kBanks] += 1;
    most = std::max<uint64_t>(most, *std::max_element(words, words + kBanks));
  }
  return most;
}

}  // namespace

void Counters::begin_launch(uint32_t most_sectors, uint32_t most_conflict_ways, uint32_t n_warps) {
  n_warps_ = n_warps;
  tallies_.clear();
  open_.clear();
  most_sectors_ = most_sectors;
  most_conflict_ways_ = most_conflict_ways;
  has_overrun_ = false;
}

void Counters::add(uint32_t site, uint64_t pc, Space space, Direction direction, uint32_t thread,
                   uint64_t address, uint32_t n_bytes) {
  const uint32_t idx = site * kNumSpaces + static_cast<uint32_t>(space);
  if (idx >= tallies_.size()) tallies_.resize(idx + 1);
  Tally& tally = tallies_[idx];
  if (!tally.is_open) {
    tally.is_open = true;
    open_.push_back(idx);
    tally.totals.pc = pc;
    tally.totals.space = static_cast<uint32_t>(space);
    tally.totals.direction = static_cast<uint32_t>(direction);
    tally.n_done.resize(n_warps_ * kWarpSize);
    tally.requests.resize(n_warps_);
  }
  const uint32_t n = tally.n_done[thread]++;
  std::vector<Request>& requests = tally.requests[thread / kWarpSize];
  if (n >= requests.size()) requests.resize(n + 1);
  Request& request = requests[n];
  request.lanes |= 1u << thread % kWarpSize;
  request.n_bytes = std::max(request.n_bytes, n_bytes);
  request.addresses[thread % kWarpSize] = address;
}

void Counters::close(Tally* tally, uint32_t warp, const Request& request) {
  LacunaSimtSite& totals = tally->totals;
  const bool is_shared = totals.space == static_cast<uint32_t>(Space::kShared);
  const uint64_t n_units = is_shared
                               ? count_ways(request.addresses, request.lanes, request.n_bytes)
                               : count_sectors(request.addresses, request.lanes, request.n_bytes);
  totals.n_requests += 1;
  totals.n_bytes += uint64_t{request.n_bytes} * __builtin_popcount(request.lanes);
  totals.n_units += n_units;
  totals.most_units = std::max(totals.most_units, n_units);
  const uint32_t most = is_shared ? most_conflict_ways_ : most_sectors_;
  if (most != 0 && n_units > most && !has_overrun_) {
    has_overrun_ = true;
    overrun_ = {totals.pc, static_cast<Space>(totals.space), warp, n_units};
  }
}

void Counters::make_room(uint32_t site, Space space, uint32_t thread) {
  Tally& tally = tallies_[site * kNumSpaces + static_cast<uint32_t>(space)];
  close_all(&tally, thread / kWarpSize);
}

void Counters::close_all(Tally* tally, uint32_t warp) {
  for (const Request& request : tally->requests[warp]) close(tally, warp, request);
  tally->requests[warp].clear();
  std::fill_n(&tally->n_done[warp * kWarpSize], kWarpSize, 0u);
}

void Counters::flush(uint32_t first_warp, uint32_t end_warp) {
  const bool is_all = first_warp == 0 && end_warp == n_warps_;
  for (const uint32_t idx : open_) {
    Tally& tally = tallies_[idx];
    tally.is_open &= !is_all;
    for (uint32_t warp = first_warp; warp < end_warp; ++warp) close_all(&tally, warp);
  }
  if (is_all) open_.clear();
}

void Counters::report(const LacunaSimtLaunch& launch) const {
  for (const Tally& tally : tallies_) {
    if (tally.totals.n_requests != 0) launch.on_site(launch.context, &tally.totals);
  }
}

}  // namespace lacuna_simt
