// SPDX-License-Identifier: MIT OR Apache-2.0
#include "order.h"

#include <string.h>

#include <algorithm>

namespace lacuna_simt {
void Order::begin_launch(uint64_t shared_start, uint64_t shared_bytes, uint32_t n_blocks,
                         uint32_t n_warps) {
  next_ = first_of_cluster_ = first_of_cluster_epoch_ = first_of_epoch_ = first_of_launch();
  shared_start_ = shared_start;
  shared_bytes_ = shared_bytes;
  n_warps_ = n_warps;
  blocks_.resize(n_blocks);
  warps_.resize(n_blocks * n_warps);
  stamps_.clear();
  logs_.clear();
  shared_logs_.clear();
  ended_logs_.clear();
  answers_.assign(kNumAnswers, {});
}

void Order::begin_blocks(uint32_t first) {
  first_of_cluster_ = first_of_cluster_epoch_ = next_;
  for (Warp& warp : warps_) memset(&warp, 0, sizeof warp);
  // The first event is 1: no lane has met another at 0.
  for (Warp& warp : warps_) warp.event = 1;
  threads_.clear();
  threads_.resize(warps_.size() * kWarpSize);
  for (uint32_t rank = 0; rank < blocks_.size(); ++rank) {
    Block& block = blocks_[rank];
    block.idx = first + rank;
    block.first_of_epoch = next_;
    block.n_barriers = 0;
    block.known = std::make_shared<const KnownSet>();
    block.pending.clear();
    block.pending_version = 0;
    block.has_known = false;
    block.fences.first_of_epoch.assign(blocks_.size(), 0);
    block.fences.events.assign(threads_.size(), 0);
    block.fences.known.clear();
    block.has_new_fences = false;
    block.barrier_fences.reset();
  }
  enter(0);
  for (auto& entry : shared_logs_) ended_logs_.push_back(std::move(entry.second));
  shared_logs_.clear();
}

StampId Order::add_stamp(uint32_t warp) {
  const uint32_t event = warp == kNoWarp ? 0 : warps_[warp].event;
  stamps_.push_back({own_->idx, warp, event});
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
           found.holder == known.holder && (known.same_block_only || !found.same_block_only);
  });
}

void Order::merge(KnownSet* set, const Known& known) {
  if (known.from >= known.n || holds(*set, known)) return;
  for (Known& found : *set) {
    const bool touches = found.from <= known.n && known.from <= found.n;
    if (found.log != known.log || found.holder != known.holder ||
        found.same_block_only != known.same_block_only || !touches) {
      continue;
    }
    found.from = std::min(found.from, known.from);
    found.n = std::max(found.n, known.n);
    return;
  }
  set->push_back(known);
}

void Order::gather(Block* block, KnownSet* known, KnownSet* pending) {
  const size_t first = static_cast<size_t>(block - &blocks_[0]) * n_warps_ * kWarpSize;
  for (size_t i = first; i < first + n_warps_ * kWarpSize; ++i) {
    Thread& thread = threads_[i];
    merge(known, thread.known);
    thread.known.clear();
    merge(pending, thread.pending);
    thread.pending.clear();
  }
  block->has_known = false;
}

void Order::give(Block* block, const KnownSet& pending) {
  const auto is_new = [&](const Known& known) { return !holds(block->pending, known); };
  block->pending_version += std::any_of(pending.begin(), pending.end(), is_new);
  merge(&block->pending, pending);
}

void Order::at_barrier(uint32_t rank) {
  Block* block = &blocks_[rank];
  for (uint32_t warp = rank * n_warps_; warp < (rank + 1) * n_warps_; ++warp) bump(warp);
  block->first_of_epoch = next_;
  if (blocks_.size() == 1) first_of_cluster_epoch_ = next_;
  enter(rank);
  block->n_barriers += 1;
  if (block->has_new_fences) {
    block->barrier_fences = std::make_shared<const Fences>(block->fences);
  }
  block->has_new_fences = false;
  if (!block->has_known) return;
  KnownSet known = *block->known;
  KnownSet pending;
  gather(block, &known, &pending);
  give(block, pending);
  block->known = std::make_shared<const KnownSet>(std::move(known));
}

void Order::at_cluster_barrier() {
  if (blocks_.size() == 1) return at_barrier(0);
  for (uint32_t warp = 0; warp < warps_.size(); ++warp) bump(warp);
  first_of_cluster_epoch_ = first_of_epoch_ = next_;
  KnownSet known;
  KnownSet pending;
  bool has_fences = false;
  for (Block& block : blocks_) {
    block.first_of_epoch = next_;
    block.n_barriers += 1;
    merge(&known, *block.known);
    merge(&pending, block.pending);
    if (block.has_known) gather(&block, &known, &pending);
    has_fences |= block.has_new_fences || block.barrier_fences != nullptr;
  }
  const auto all_known = std::make_shared<const KnownSet>(std::move(known));
  for (Block& block : blocks_) {
    block.known = all_known;
    give(&block, pending);
  }
  if (!has_fences) return;
  Fences fences = blocks_[0].fences;
  for (const Block& block : blocks_) {
    for (size_t i = 0; i < blocks_.size(); ++i) {
      fences.first_of_epoch[i] = std::max(fences.first_of_epoch[i], block.fences.first_of_epoch[i]);
    }
    for (size_t i = 0; i < fences.events.size(); ++i) {
      fences.events[i] = std::max(fences.events[i], block.fences.events[i]);
    }
    merge(&fences.known, block.fences.known);
  }
  const auto all_fences = std::make_shared<const Fences>(std::move(fences));
  for (Block& block : blocks_) {
    block.fences = *all_fences;
    block.barrier_fences = all_fences;
    block.has_new_fences = false;
  }
}

void Order::at_sync(uint32_t warp_idx, uint32_t lanes) {
  bump(warp_idx);
  Warp& warp = warps_[warp_idx];
  const bool has_known = blocks_[warp_idx / n_warps_].has_known;
  uint32_t joined[kWarpSize] = {};
  KnownSet known;
  KnownSet pending;
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
    for (uint32_t i = 0; i < kWarpSize; ++i) {
      joined[i] = std::max(joined[i], warp.synced[lane][i]);
    }
    if (!has_known) continue;
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
    if (!has_known) continue;
    Thread& thread = threads_[warp_idx * kWarpSize + lane];
    thread.known = known;
    thread.pending = pending;
  }
}

Order::Record Order::snapshot(uint32_t thread, bool same_block_only) const {
  const Warp& warp = warps_[thread / kWarpSize];
  Record record = {};
  record.block = own_->idx;
  record.warp = thread / kWarpSize;
  record.lane = thread % kWarpSize;
  record.first_of_epoch = first_of_epoch_;
  record.first_of_cluster_epoch = first_of_cluster_epoch_;
  record.same_block_only = same_block_only;
  memcpy(record.synced, warp.synced[record.lane], sizeof record.synced);
  record.synced[record.lane] = warp.event;
  record.fences = own_->barrier_fences;
  record.known = threads_[thread].known;
  record.block_known = own_->known;
  record.version = version_of(thread);
  return record;
}

void Order::at_fence(uint32_t thread, Scope scope) {
  Thread& own = threads_[thread];
  const bool same_block_only = scope == Scope::kBlock;
  const auto acquire_all = [&](const KnownSet& set) {
    for (Known known : set) {
      known.holder = own_->idx;
      known.same_block_only |= same_block_only;
      merge(&own.known, known);
    }
    own_->has_known |= !set.empty();
  };
  acquire_all(own.pending);
  // A wider fence may follow.
  if (!same_block_only) own.pending.clear();
  uint32_t& acquired = own.acquired[same_block_only];
  if (acquired != own_->pending_version) acquire_all(own_->pending);
  acquired = own_->pending_version;
  bump(thread / kWarpSize);
  own.n_fences += 1;
  own.block_fence.reset(new Record(snapshot(thread, true)));
  if (same_block_only) return;
  Fences& fences = own_->fences;
  for (StampId& epoch : fences.first_of_epoch) epoch = std::max(epoch, first_of_cluster_epoch_);
  fences.first_of_epoch[static_cast<size_t>(own_ - &blocks_[0])] = first_of_epoch_;
  const Record& fence = *own.block_fence;
  const uint32_t first = thread / kWarpSize * kWarpSize;
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    uint32_t& event = fences.events[first + lane];
    event = std::max(event, fence.synced[lane]);
  }
  merge(&fences.known, own.known);
  merge(&fences.known, *own_->known);
  own_->has_new_fences = true;
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
    return k.log == log && k.from >= log->first_valid && k.holder == record.block &&
           k.same_block_only && record.same_block_only;
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
  record.fences = own_->barrier_fences;
  record.first_atomic = record.last_atomic = atomic;
  record.version = version_of(thread);
  append(log, thread, std::move(record));
}

void Order::begin_atomic(uint32_t thread, uint64_t address, Exchange exchange) {
  Thread& own = threads_[thread];
  Log* log = find_log(address);
  if (log != nullptr && exchange != Exchange::kStores) {
    const uint32_t n = static_cast<uint32_t>(log->records.size());
    merge(&own.pending, {log, log->first_valid, n, own_->idx, false});
    own_->has_known |= !own.pending.empty();
    const Record& last = log->records.back();
    const bool is_own = last.block == own_->idx && last.warp == thread / kWarpSize &&
                        last.lane == thread % kWarpSize;
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
  } else if (own_->barrier_fences != nullptr) {
    // Only the fences of others.
    Record record = snapshot(thread, false);
    record.first_of_epoch = record.first_of_cluster_epoch = 0;
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
  return threads_[thread].block_fence != nullptr || own_->barrier_fences != nullptr;
}

void Order::release(uint32_t thread, uint64_t address) {
  bump(thread / kWarpSize);
  append(make_log(address), thread, snapshot(thread, true));
}

void Order::acquire(uint32_t thread, uint64_t address, uint32_t n) {
  Log* log = find_log(address);
  if (log == nullptr) return;
  merge(&threads_[thread].known, {log, log->first_valid, n, own_->idx, true});
  own_->has_known = true;
}

uint32_t Order::count_releases(uint64_t address) {
  const Log* log = find_log(address);
  return log == nullptr ? 0 : static_cast<uint32_t>(log->records.size());
}

StampId Order::release_copy(uint64_t address) {
  Record record = {};
  record.block = own_->idx;
  record.warp = kNoWarp;
  record.first_of_epoch = record.first_of_cluster_epoch = first_of_cluster_;
  record.first_atomic = record.last_atomic = add_stamp(kNoWarp);
  record.same_block_only = true;
  const StampId stamp = record.first_atomic;
  append(make_log(address), kNoWarp, std::move(record));
  return stamp;
}

}  // namespace lacuna_simt
