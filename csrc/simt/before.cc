// SPDX-License-Identifier: MIT OR Apache-2.0
// Whether an access was before what a thread does now: what order.cc has noted, followed back.
#include <algorithm>

#include "order.h"

namespace lacuna_simt {
namespace {

uint64_t mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  return x ^ x >> 32;
}

}  // namespace

bool Order::covers(const Record& record, StampId stamp, uint32_t lane) const {
  if (stamp < record.first_of_cluster_epoch) return true;
  const Stamp& found = at(stamp);
  if (stamp < record.first_of_epoch && found.block == record.block) return true;
  if (found.warp == record.warp && record.synced[lane] > found.event) return true;
  if (record.fences == nullptr || found.warp == kNoWarp) return false;
  return stamp < record.fences->first_of_epoch[found.warp / n_warps_] ||
         record.fences->events[found.warp * kWarpSize + lane] > found.event;
}

// Whether the access is one of the writer's atomics themselves.
bool Order::is_atomic_of(const Log& log, const std::vector<uint32_t>& records, const Known& known,
                         StampId stamp, uint32_t lane) const {
  const auto after = std::upper_bound(
      records.begin(), records.end(), stamp,
      [&](StampId value, uint32_t idx) { return value < log.records[idx].first_atomic; });
  if (after == records.begin()) return false;
  const uint32_t idx = *(after - 1);
  const Record& record = log.records[idx];
  return idx >= known.from && idx < known.n && record.first_atomic != 0 &&
         stamp <= record.last_atomic && at(stamp).warp == record.warp &&
         (record.warp == kNoWarp || record.lane == lane);
}

// Whether the releases of the stamp's own cluster say so.
bool Order::hands_on(const Log& log, const Known& known, StampId stamp, uint32_t lane) const {
  const uint32_t n_blocks = static_cast<uint32_t>(blocks_.size());
  const uint32_t first = at(stamp).block / n_blocks * n_blocks;
  for (uint32_t block = first; block < first + n_blocks; ++block) {
    const auto found = log.writers_of_block.find(block);
    if (found == log.writers_of_block.end()) continue;
    const bool is_near = known.holder == block;
    if (known.same_block_only && !is_near) continue;
    for (const uint32_t writer_idx : found->second) {
      const Writer& writer = log.writers[writer_idx];
      for (const auto* records : {&writer.for_all, &writer.for_block}) {
        if (records == &writer.for_block && !is_near) continue;
        const auto end = std::lower_bound(records->begin(), records->end(), known.n);
        if (end == records->begin() || *(end - 1) < known.from) continue;
        if (covers(log.records[*(end - 1)], stamp, lane)) return true;
        if (is_atomic_of(log, *records, known, stamp, lane)) return true;
      }
    }
  }
  return false;
}

// What whoever knows these releases knows through them.
void Order::follow(const Log& log, const Known& known) {
  for (const uint32_t writer_idx : log.nested) {
    const Writer& writer = log.writers[writer_idx];
    const bool is_near = writer.block == known.holder;
    if (known.same_block_only && !is_near) continue;
    for (const auto* records : {&writer.for_all, &writer.for_block}) {
      if (records == &writer.for_block && !is_near) continue;
      const auto end = std::lower_bound(records->begin(), records->end(), known.n);
      if (end == records->begin() || *(end - 1) < known.from) continue;
      const Record& record = log.records[*(end - 1)];
      const auto lead = [&](const KnownSet& set) {
        leads_.insert(leads_.end(), set.begin(), set.end());
      };
      lead(record.known);
      if (record.block_known != nullptr) lead(*record.block_known);
      if (record.fences != nullptr) lead(record.fences->known);
    }
  }
}

bool Order::is_known(uint32_t thread, StampId stamp, uint32_t lane) {
  Answer& answer =
      answers_[mix(uint64_t{stamp} << 32 | uint64_t{thread} << 5 | lane) & (kNumAnswers - 1)];
  if (answer.stamp == stamp && answer.thread == thread && answer.lane == lane &&
      answer.block == own_->idx) {
    return true;
  }
  leads_.clear();
  seen_.clear();
  leads_ = threads_[thread].known;
  leads_.insert(leads_.end(), own_->known->begin(), own_->known->end());
  // Each release is looked at once by whom it tells the same.
  for (size_t next = 0; next < leads_.size(); ++next) {
    const Known lead = leads_[next];
    const uint64_t key = mix(reinterpret_cast<uint64_t>(lead.log)) ^
                         mix(uint64_t{lead.holder} << 1 | lead.same_block_only);
    Seen& seen = seen_[key];
    if (seen.n != 0 && seen.from <= lead.from && lead.n <= seen.n) continue;
    seen = {lead.from, lead.n};
    if (hands_on(*lead.log, lead, stamp, lane)) {
      answer = {stamp, thread, lane, own_->idx};
      return true;
    }
    follow(*lead.log, lead);
  }
  return false;
}

uint32_t Order::drop_synced(StampId stamp, uint32_t lanes, uint32_t thread) const {
  const uint32_t warp_idx = thread / kWarpSize;
  const Stamp& found = at(stamp);
  if (stamp < first_of_cluster_ || found.warp != warp_idx) return lanes;
  lanes &= ~(1u << thread % kWarpSize);
  const Warp& warp = warps_[warp_idx];
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
    if (warp.synced[thread % kWarpSize][lane] > found.event) lanes &= ~(1u << lane);
  }
  return lanes;
}

bool Order::is_before_here(StampId stamp, uint32_t lanes, uint32_t thread) {
  lanes = drop_synced(stamp, lanes, thread);
  if (lanes == 0) return true;
  if (threads_[thread].known.empty() && own_->known->empty()) return false;
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    if (!is_known(thread, stamp, static_cast<uint32_t>(__builtin_ctz(rest)))) return false;
  }
  return true;
}

}  // namespace lacuna_simt
