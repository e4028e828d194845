// SPDX-License-Identifier: MIT OR Apache-2.0
#include "order.h"

#include <string.h>

#include <algorithm>

namespace lacuna_simt {
namespace {

// Answers that are remembered: a power of two.
constexpr size_t kNumAnswers = 4096;

uint64_t mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  return x ^ x >> 32;
}

}  // namespace

void Order::begin_launch(uint64_t shared_start, uint64_t shared_bytes) {
  next_ = first_of_block_ = first_of_epoch_ = first_of_launch();
  shared_start_ = shared_start;
  shared_bytes_ = shared_bytes;
  stamps_.clear();
  logs_.clear();
  shared_logs_.clear();
  ended_logs_.clear();
  answers_.assign(kNumAnswers, {});
}

void Order::begin_block(uint32_t block, uint32_t n_threads) {
  block_ = block;
  first_of_block_ = first_of_epoch_ = next_;
  n_barriers_ = 0;
  warps_.resize((n_threads + kWarpSize - 1) / kWarpSize);
  for (Warp& warp : warps_) memset(&warp, 0, sizeof warp);
  // The first event is 1: no lane has met another at 0.
  for (Warp& warp : warps_) warp.event = 1;
  threads_.clear();
  threads_.resize(n_threads);
  block_known_ = std::make_shared<const KnownSet>();
  block_pending_.clear();
  pending_version_ = 0;
  has_known_ = false;
  fences_.first_of_epoch = 0;
  fences_.events.assign(n_threads, 0);
  fences_.known.clear();
  has_new_fences_ = false;
  block_fences_.reset();
  for (auto& entry : shared_logs_) ended_logs_.push_back(std::move(entry.second));
  shared_logs_.clear();
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

bool Order::holds(const KnownSet& set, const Known& known) {
  return std::any_of(set.begin(), set.end(), [&](const Known& found) {
    return found.log == known.log && found.from <= known.from && known.n <= found.n &&
           (known.same_block_only || !found.same_block_only);
  });
}

void Order::merge(KnownSet* set, const Known& known) {
  if (known.from >= known.n || holds(*set, known)) return;
  for (Known& found : *set) {
    const bool touches = found.from <= known.n && known.from <= found.n;
    if (found.log != known.log || found.same_block_only != known.same_block_only || !touches) {
      continue;
    }
    found.from = std::min(found.from, known.from);
    found.n = std::max(found.n, known.n);
    return;
  }
  set->push_back(known);
}

void Order::at_barrier() {
  for (uint32_t warp = 0; warp < warps_.size(); ++warp) bump(warp);
  first_of_epoch_ = next_;
  n_barriers_ += 1;
  if (has_new_fences_) block_fences_ = std::make_shared<const Fences>(fences_);
  has_new_fences_ = false;
  if (!has_known_) return;
  KnownSet known = *block_known_;
  bool has_new_pending = false;
  for (Thread& thread : threads_) {
    merge(&known, thread.known);
    thread.known.clear();
    for (const Known& pending : thread.pending) {
      has_new_pending |= !holds(block_pending_, pending);
      merge(&block_pending_, pending);
    }
    thread.pending.clear();
  }
  pending_version_ += has_new_pending;
  block_known_ = std::make_shared<const KnownSet>(std::move(known));
  has_known_ = false;
}

void Order::at_sync(uint32_t warp_idx, uint32_t lanes) {
  bump(warp_idx);
  Warp& warp = warps_[warp_idx];
  uint32_t joined[kWarpSize] = {};
  KnownSet known;
  KnownSet pending;
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
    for (uint32_t i = 0; i < kWarpSize; ++i) {
      joined[i] = std::max(joined[i], warp.synced[lane][i]);
    }
    if (!has_known_ || warp_idx * kWarpSize + lane >= threads_.size()) continue;
    const Thread& thread = threads_[warp_idx * kWarpSize + lane];
    merge(&known, thread.known);
    merge(&pending, thread.pending);
  }
  for (uint32_t i = 0; i < kWarpSize; ++i) {
    if (lanes >> i & 1) joined[i] = warp.event;
  }
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
    memcpy(warp.synced[lane], joined, sizeof joined);
    if (!has_known_ || warp_idx * kWarpSize + lane >= threads_.size()) continue;
    Thread& thread = threads_[warp_idx * kWarpSize + lane];
    thread.known = known;
    thread.pending = pending;
  }
}

Order::Record Order::snapshot(uint32_t thread, bool same_block_only) const {
  const Warp& warp = warps_[thread / kWarpSize];
  Record record = {};
  record.block = block_;
  record.warp = thread / kWarpSize;
  record.lane = thread % kWarpSize;
  record.first_of_epoch = first_of_epoch_;
  record.same_block_only = same_block_only;
  memcpy(record.synced, warp.synced[record.lane], sizeof record.synced);
  record.synced[record.lane] = warp.event;
  record.fences = block_fences_;
  record.known = threads_[thread].known;
  record.block_known = block_known_;
  record.version = version_of(thread);
  return record;
}

void Order::at_fence(uint32_t thread, Scope scope) {
  Thread& own = threads_[thread];
  const bool same_block_only = scope == Scope::kBlock;
  const auto acquire_all = [&](const KnownSet& set) {
    for (Known known : set) {
      known.same_block_only |= same_block_only;
      merge(&own.known, known);
    }
    has_known_ |= !set.empty();
  };
  acquire_all(own.pending);
  // A wider fence may follow.
  if (!same_block_only) own.pending.clear();
  uint32_t& acquired = own.acquired[same_block_only];
  if (acquired != pending_version_) acquire_all(block_pending_);
  acquired = pending_version_;
  bump(thread / kWarpSize);
  own.n_fences += 1;
  own.block_fence.reset(new Record(snapshot(thread, true)));
  if (same_block_only) return;
  fences_.first_of_epoch = first_of_epoch_;
  const Record& fence = *own.block_fence;
  const uint32_t first = thread / kWarpSize * kWarpSize;
  const uint32_t n_lanes = std::min(kWarpSize, static_cast<uint32_t>(threads_.size()) - first);
  for (uint32_t lane = 0; lane < n_lanes; ++lane) {
    uint32_t& event = fences_.events[first + lane];
    event = std::max(event, fence.synced[lane]);
  }
  merge(&fences_.known, own.known);
  merge(&fences_.known, *block_known_);
  has_new_fences_ = true;
  own.device_fence.reset(new Record(snapshot(thread, false)));
}

Order::Log* Order::find_log(uint64_t address) {
  auto& logs = address - shared_start_ < shared_bytes_ ? shared_logs_ : logs_;
  if (logs.empty()) return nullptr;
  const auto found = logs.find(address);
  return found == logs.end() ? nullptr : found->second.get();
}

Order::Log* Order::make_log(uint64_t address) {
  auto& logs = address - shared_start_ < shared_bytes_ ? shared_logs_ : logs_;
  auto& log = logs[address];
  if (log == nullptr) log.reset(new Log());
  return log.get();
}

void Order::append(Log* log, uint32_t thread, Record record) {
  // What the block handed on through this log is in its own earlier records, for who is of the
  // block.
  const auto is_there = [&](const Known& k) {
    return k.log == log && k.from >= log->first_valid && k.same_block_only &&
           record.same_block_only;
  };
  auto& known = record.known;
  known.erase(std::remove_if(known.begin(), known.end(), is_there), known.end());
  // A thread that asks again and again, and does nothing else, says nothing new; but who has seen
  // the first has not seen the next.
  const size_t n_closed = std::max(log->first_valid, log->n_seen);
  if (log->records.size() > n_closed) {
    Record& last = log->records.back();
    if (last.block == record.block && last.warp == record.warp && last.lane == record.lane &&
        last.version == record.version && last.same_block_only == record.same_block_only &&
        record.first_atomic != 0 && last.last_atomic + 1 == record.first_atomic) {
      last.last_atomic = record.last_atomic;
      return;
    }
  }
  const uint32_t idx = static_cast<uint32_t>(log->records.size());
  const uint64_t key = uint64_t{record.block} << 32 | thread;
  const auto placed = log->writer_of.emplace(key, static_cast<uint32_t>(log->writers.size()));
  if (placed.second) {
    log->writers.push_back({record.block, {}, {}, false});
    log->writers_of_block[record.block].push_back(placed.first->second);
  }
  Writer& writer = log->writers[placed.first->second];
  (record.same_block_only ? writer.for_block : writer.for_all).push_back(idx);
  const bool is_nested = !known.empty() ||
                         (record.block_known != nullptr && !record.block_known->empty()) ||
                         (record.fences != nullptr && !record.fences->known.empty());
  if (is_nested && !writer.is_nested) {
    writer.is_nested = true;
    log->nested.push_back(placed.first->second);
  }
  log->records.push_back(std::move(record));
}

void Order::release_with(Log* log, uint32_t thread, const Record& fence, StampId atomic) {
  Record record = fence;
  record.fences = block_fences_;
  record.first_atomic = record.last_atomic = atomic;
  record.version = version_of(thread);
  append(log, thread, std::move(record));
}

void Order::begin_atomic(uint32_t thread, uint64_t address, Exchange exchange) {
  Thread& own = threads_[thread];
  Log* log = find_log(address);
  if (log != nullptr && exchange != Exchange::kStores) {
    const uint32_t n = static_cast<uint32_t>(log->records.size());
    merge(&own.pending, {log, log->first_valid, n, false});
    has_known_ |= !own.pending.empty();
    const Record& last = log->records.back();
    const bool is_own =
        last.block == block_ && last.warp == thread / kWarpSize && last.lane == thread % kWarpSize;
    if (!is_own) log->n_seen = n;
  }
  // What a store overwrites, nobody reads after it.
  if (log != nullptr && exchange == Exchange::kStores) {
    log->first_valid = static_cast<uint32_t>(log->records.size());
  }
  if (!is_releasing(thread) || exchange == Exchange::kReads) return;
  if (log == nullptr) log = make_log(address);
  bump(thread / kWarpSize);
  const StampId atomic = stamp(thread);
  if (own.device_fence != nullptr) {
    release_with(log, thread, *own.device_fence, atomic);
  } else if (block_fences_ != nullptr) {
    // Only the fences of others.
    Record record = snapshot(thread, false);
    record.first_of_epoch = 0;
    memset(record.synced, 0, sizeof record.synced);
    record.known.clear();
    record.block_known.reset();
    release_with(log, thread, record, atomic);
  }
  const bool is_wider =
      own.device_fence != nullptr &&
      (own.block_fence == nullptr || own.block_fence->version == own.device_fence->version);
  if (own.block_fence != nullptr && !is_wider) {
    release_with(log, thread, *own.block_fence, atomic);
  }
}

void Order::end_atomic(uint32_t thread) {
  if (is_releasing(thread)) bump(thread / kWarpSize);
}

bool Order::is_releasing(uint32_t thread) const {
  return threads_[thread].block_fence != nullptr || block_fences_ != nullptr;
}

void Order::release(uint32_t thread, uint64_t address) {
  bump(thread / kWarpSize);
  append(make_log(address), thread, snapshot(thread, true));
}

void Order::acquire(uint32_t thread, uint64_t address, uint32_t n) {
  Log* log = find_log(address);
  if (log == nullptr) return;
  merge(&threads_[thread].known, {log, log->first_valid, n, true});
  has_known_ = true;
}

uint32_t Order::count_releases(uint64_t address) {
  const Log* log = find_log(address);
  return log == nullptr ? 0 : static_cast<uint32_t>(log->records.size());
}

StampId Order::release_copy(uint64_t address) {
  Record record = {};
  record.block = block_;
  record.warp = kNoWarp;
  record.first_of_epoch = first_of_block_;
  record.first_atomic = record.last_atomic = add_stamp(kNoWarp);
  record.same_block_only = true;
  const StampId stamp = record.first_atomic;
  append(make_log(address), kNoWarp, std::move(record));
  return stamp;
}

bool Order::covers(const Record& record, StampId stamp, uint32_t lane) const {
  if (stamp < record.first_of_epoch) return true;
  const Stamp& found = at(stamp);
  if (found.warp == record.warp && record.synced[lane] > found.event) return true;
  if (record.fences == nullptr || found.warp == kNoWarp) return false;
  return stamp < record.fences->first_of_epoch ||
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

// Whether the releases of the stamp's own block say so.
bool Order::hands_on(const Log& log, const Known& known, uint32_t holder, StampId stamp,
                     uint32_t lane) const {
  const uint32_t block = at(stamp).block;
  const auto found = log.writers_of_block.find(block);
  if (found == log.writers_of_block.end()) return false;
  const bool is_near = holder == block;
  if (known.same_block_only && !is_near) return false;
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
  return false;
}

// What whoever knows these releases knows through them.
void Order::follow(const Log& log, const Known& known, uint32_t holder) {
  for (const uint32_t writer_idx : log.nested) {
    const Writer& writer = log.writers[writer_idx];
    const bool is_near = writer.block == holder;
    if (known.same_block_only && !is_near) continue;
    for (const auto* records : {&writer.for_all, &writer.for_block}) {
      if (records == &writer.for_block && !is_near) continue;
      const auto end = std::lower_bound(records->begin(), records->end(), known.n);
      if (end == records->begin() || *(end - 1) < known.from) continue;
      const Record& record = log.records[*(end - 1)];
      const auto lead = [&](const KnownSet& set) {
        for (const Known& next : set) leads_.push_back({next, record.block});
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
      answer.block == block_) {
    return true;
  }
  leads_.clear();
  seen_.clear();
  for (const Known& known : threads_[thread].known) leads_.push_back({known, block_});
  for (const Known& known : *block_known_) leads_.push_back({known, block_});
  // Each release is looked at once by whom it tells the same.
  for (size_t next = 0; next < leads_.size(); ++next) {
    const Lead lead = leads_[next];
    const uint64_t key = mix(reinterpret_cast<uint64_t>(lead.known.log)) ^
                         mix(uint64_t{lead.holder} << 1 | lead.known.same_block_only);
    Seen& seen = seen_[key];
    if (seen.n != 0 && seen.from <= lead.known.from && lead.known.n <= seen.n) continue;
    seen = {lead.known.from, lead.known.n};
    if (hands_on(*lead.known.log, lead.known, lead.holder, stamp, lane)) {
      answer = {stamp, thread, lane, block_};
      return true;
    }
    follow(*lead.known.log, lead.known, lead.holder);
  }
  return false;
}

uint32_t Order::drop_synced(StampId stamp, uint32_t lanes, uint32_t thread) const {
  const uint32_t warp_idx = thread / kWarpSize;
  const Stamp& found = at(stamp);
  if (stamp < first_of_block_ || found.warp != warp_idx) return lanes;
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
  if (threads_[thread].known.empty() && block_known_->empty()) return false;
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    if (!is_known(thread, stamp, static_cast<uint32_t>(__builtin_ctz(rest)))) return false;
  }
  return true;
}

}  // namespace lacuna_simt
