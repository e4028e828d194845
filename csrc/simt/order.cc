// SPDX-License-Identifier: MIT OR Apache-2.0
#include "order.h"

#include <string.h>

#include <algorithm>

namespace lacuna_simt {

void Order::begin_launch() {
  next_ = first_of_block_ = first_of_epoch_ = first_of_launch();
  stamps_.clear();
  logs_.clear();
}

void Order::begin_block(uint32_t block, uint32_t n_threads) {
  block_ = block;
  first_of_block_ = first_of_epoch_ = next_;
  warps_.resize((n_threads + kWarpSize - 1) / kWarpSize);
  for (Warp& warp : warps_) memset(&warp, 0, sizeof warp);
  // The first event is 1: no lane has met another at 0.
  for (Warp& warp : warps_) warp.event = 1;
  threads_.clear();
  threads_.resize(n_threads);
  block_known_.clear();
  block_pending_.clear();
  has_known_ = false;
  fences_.first_of_epoch = 0;
  fences_.events.assign(n_threads, 0);
  has_new_fences_ = false;
  block_fences_.reset();
}

StampId Order::add_stamp(uint32_t warp) {
  const uint32_t event = warp == kNoWarp ? 0 : warps_[warp].event;
  stamps_.push_back({block_, warp, event});
  return next_++;
}

StampId Order::stamp(uint32_t thread) {
  Warp& warp = warps_[thread / kWarpSize];
  if (warp.stamp == 0) warp.stamp = add_stamp(thread / kWarpSize);
  return warp.stamp;
}

void Order::bump(uint32_t warp) {
  warps_[warp].event += 1;
  warps_[warp].stamp = 0;
}

void Order::at_barrier() {
  for (uint32_t warp = 0; warp < warps_.size(); ++warp) bump(warp);
  first_of_epoch_ = next_;
  if (has_new_fences_) block_fences_ = std::make_shared<const Fences>(fences_);
  has_new_fences_ = false;
  if (!has_known_) return;
  for (Thread& thread : threads_) {
    block_known_.insert(block_known_.end(), thread.known.begin(), thread.known.end());
    thread.known.clear();
    block_pending_.insert(block_pending_.end(), thread.pending.begin(), thread.pending.end());
    thread.pending.clear();
  }
  has_known_ = false;
}

void Order::at_sync(uint32_t warp_idx, uint32_t lanes) {
  bump(warp_idx);
  Warp& warp = warps_[warp_idx];
  uint32_t joined[kWarpSize] = {};
  std::vector<Known> known;
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
    for (uint32_t i = 0; i < kWarpSize; ++i) {
      joined[i] = std::max(joined[i], warp.synced[lane][i]);
    }
    if (!has_known_) continue;
    const Thread& thread = threads_[warp_idx * kWarpSize + lane];
    known.insert(known.end(), thread.known.begin(), thread.known.end());
  }
  for (uint32_t i = 0; i < kWarpSize; ++i) {
    if (lanes >> i & 1) joined[i] = warp.event;
  }
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
    memcpy(warp.synced[lane], joined, sizeof joined);
    if (has_known_) threads_[warp_idx * kWarpSize + lane].known = known;
  }
}

Order::Record Order::snapshot(uint32_t thread, bool same_block_only) const {
  const Warp& warp = warps_[thread / kWarpSize];
  Record record;
  record.block = block_;
  record.warp = thread / kWarpSize;
  record.lane = thread % kWarpSize;
  record.first_of_epoch = first_of_epoch_;
  record.atomic = 0;
  record.same_block_only = same_block_only;
  memcpy(record.synced, warp.synced[record.lane], sizeof record.synced);
  record.synced[record.lane] = warp.event;
  record.fences = block_fences_;
  record.known = threads_[thread].known;
  record.known.insert(record.known.end(), block_known_.begin(), block_known_.end());
  return record;
}

void Order::at_fence(uint32_t thread, Scope scope) {
  Thread& own = threads_[thread];
  const bool same_block_only = scope == Scope::kBlock;
  own.pending.insert(own.pending.end(), block_pending_.begin(), block_pending_.end());
  for (Known known : own.pending) {
    known.same_block_only |= same_block_only;
    own.known.push_back(known);
    has_known_ = true;
  }
  own.pending.clear();
  bump(thread / kWarpSize);
  if (!same_block_only) {
    fences_.first_of_epoch = first_of_epoch_;
    fences_.events[thread] = warps_[thread / kWarpSize].event;
    has_new_fences_ = true;
  }
  own.fence.reset(new Record(snapshot(thread, same_block_only)));
}

void Order::append(uint64_t address, Record record) {
  Log& log = logs_[address];
  const uint32_t idx = static_cast<uint32_t>(log.records.size());
  log.of_block[record.block].push_back(idx);
  // What came through this log is in its own earlier records.
  auto& known = record.known;
  known.erase(
      std::remove_if(known.begin(), known.end(), [&](const Known& k) { return k.log == &log; }),
      known.end());
  if (!known.empty()) log.nested.push_back(idx);
  log.records.push_back(std::move(record));
}

void Order::begin_atomic(uint32_t thread, uint64_t address, bool writes) {
  Thread& own = threads_[thread];
  if (!logs_.empty()) {
    const auto found = logs_.find(address);
    if (found != logs_.end()) {
      const Known known = {&found->second, static_cast<uint32_t>(found->second.records.size()),
                           false};
      const auto same = std::find_if(own.pending.begin(), own.pending.end(),
                                     [&](const Known& k) { return k.log == known.log; });
      if (same != own.pending.end()) {
        *same = known;
      } else {
        own.pending.push_back(known);
        has_known_ = true;
      }
    }
  }
  if (!is_releasing(thread) || !writes) return;
  bump(thread / kWarpSize);
  Record record;
  if (own.fence != nullptr) {
    record = *own.fence;
  } else {
    // Only the fences of others.
    record = snapshot(thread, false);
    record.first_of_epoch = 0;
    memset(record.synced, 0, sizeof record.synced);
  }
  record.fences = block_fences_;
  record.atomic = stamp(thread);
  append(address, std::move(record));
}

void Order::end_atomic(uint32_t thread) {
  if (is_releasing(thread)) bump(thread / kWarpSize);
}

bool Order::is_releasing(uint32_t thread) const {
  return threads_[thread].fence != nullptr || block_fences_ != nullptr;
}

void Order::release(uint32_t thread, uint64_t address) {
  bump(thread / kWarpSize);
  append(address, snapshot(thread, true));
}

void Order::acquire(uint32_t thread, uint64_t address) {
  const auto found = logs_.find(address);
  if (found == logs_.end()) return;
  Log& log = found->second;
  threads_[thread].known.push_back({&log, static_cast<uint32_t>(log.records.size()), true});
  has_known_ = true;
}

StampId Order::release_copy(uint64_t address) {
  Record record = {};
  record.block = block_;
  record.warp = kNoWarp;
  record.first_of_epoch = first_of_block_;
  record.atomic = add_stamp(kNoWarp);
  record.same_block_only = true;
  const StampId stamp = record.atomic;
  append(address, std::move(record));
  return stamp;
}

bool Order::covers(const Record& record, StampId stamp, uint32_t lane) const {
  if (stamp < record.first_of_epoch) return true;
  if (stamp == record.atomic) return lane == record.lane;
  const Stamp& found = at(stamp);
  if (found.warp == record.warp && record.synced[lane] > found.event) return true;
  if (record.fences == nullptr || found.warp == kNoWarp) return false;
  return stamp < record.fences->first_of_epoch ||
         record.fences->events[found.warp * kWarpSize + lane] > found.event;
}

bool Order::is_known(const std::vector<Known>& known, StampId stamp, uint32_t lane,
                     std::vector<const Log*>& visited) const {
  const uint32_t block = at(stamp).block;
  for (const Known& entry : known) {
    if (std::find(visited.begin(), visited.end(), entry.log) != visited.end()) continue;
    const auto found = entry.log->of_block.find(block);
    if (found != entry.log->of_block.end()) {
      for (const uint32_t idx : found->second) {
        if (idx >= entry.n) break;
        const Record& record = entry.log->records[idx];
        if ((record.same_block_only || entry.same_block_only) && record.block != block_) continue;
        if (covers(record, stamp, lane)) return true;
      }
    }
    visited.push_back(entry.log);
    for (const uint32_t idx : entry.log->nested) {
      if (idx >= entry.n) break;
      if (is_known(entry.log->records[idx].known, stamp, lane, visited)) return true;
    }
    visited.pop_back();
  }
  return false;
}

bool Order::is_before_here(StampId stamp, uint32_t lanes, uint32_t thread) const {
  const uint32_t warp_idx = thread / kWarpSize;
  const Stamp& found = at(stamp);
  if (stamp >= first_of_block_ && found.warp == warp_idx) {
    lanes &= ~(1u << thread % kWarpSize);
    const Warp& warp = warps_[warp_idx];
    for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
      const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
      if (warp.synced[thread % kWarpSize][lane] > found.event) lanes &= ~(1u << lane);
    }
  }
  const Thread& own = threads_[thread];
  if (lanes != 0 && own.known.empty() && block_known_.empty()) return false;
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
    std::vector<const Log*> visited;
    if (!is_known(own.known, stamp, lane, visited) &&
        !is_known(block_known_, stamp, lane, visited)) {
      return false;
    }
  }
  return true;
}

}  // namespace lacuna_simt
