// SPDX-License-Identifier: MIT OR Apache-2.0
#include "checker.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include <algorithm>

#include "worker.h"

namespace lacuna_simt {
namespace {

// Whether `n_bytes` from `address` are all in a piece of memory; no address wraps around.
bool holds(uint64_t start, uint64_t size, uint64_t address, uint64_t n_bytes) {
  return n_bytes <= size && address - start <= size - n_bytes;
}

Exchange exchange_of(AccessKind kind) {
  switch (kind) {
    case AccessKind::kAtomicRead:
      return Exchange::kReads;
    case AccessKind::kAtomicStore:
      return Exchange::kStores;
    default:
      return Exchange::kReplaces;
  }
}

}  // namespace

void Checker::begin_launch(const LacunaSimtLaunch& launch) {
  checks_ = launch.checks;
  all_shared_bytes_ = w_->all_shared_bytes();
  unwritten_ = {};
  const uint32_t n_warps = static_cast<uint32_t>(w_->waiting.size());
  order_.begin_launch(reinterpret_cast<uint64_t>(w_->shared_start()), all_shared_bytes_,
                      launch.cluster_blocks, w_->n_warps);
  counters_.begin_launch(launch.most_sectors, launch.most_conflict_ways, n_warps);
  arena_.reset(n_warps);
  regions_.clear();
  for (uint64_t i = 0; i < launch.n_regions; ++i) {
    const LacunaSimtRegion& region = launch.regions[i];
    if (region.n_bytes == 0) continue;
    regions_.push_back({region.start, region.start + region.n_bytes, static_cast<Role>(region.role),
                        region.name, 0});
  }
  std::stable_sort(regions_.begin(), regions_.end(),
                   [](const Region& a, const Region& b) { return a.start < b.start; });
  shadows_.resize(std::max(shadows_.size(), regions_.size()));
  for (uint32_t i = 0; i < regions_.size(); ++i) {
    regions_[i].shadow = i;
    // What nobody may write needs no memory of who read it.
    if (regions_[i].role != Role::kInput) {
      shadows_[i].reset(regions_[i].end - regions_[i].start);
    }
  }
  shared_arena_.reset(n_warps);
  shared_.reset(all_shared_bytes_);
}

void Checker::begin_blocks(uint64_t first) {
  first_source_ = ~uint64_t{0};
  sources_end_ = 0;
  // A block that has run before is not this one.
  if (is_unwritten_shared_) unwritten_ = {};
  is_unwritten_shared_ = false;
  early_ = {};
  remotes_.clear();
  remote_of_.clear();
  order_.begin_blocks(static_cast<uint32_t>(first));
  shared_arena_.forget_more();
}

void Checker::at_barrier(uint32_t rank) {
  order_.at_barrier(rank);
  if (has(kCounters)) counters_.flush(rank * w_->n_warps, (rank + 1) * w_->n_warps);
}

void Checker::at_cluster_barrier() {
  order_.at_cluster_barrier();
  forget_remotes();
  if (has(kCounters)) counters_.flush(0, static_cast<uint32_t>(w_->waiting.size()));
}

bool Checker::end_blocks() {
  if (unwritten_.kind != kNoFault && is_unwritten_shared_) {
    w_->fault = unwritten_;
    return false;
  }
  if (!are_remotes_right()) return false;
  if (!has(kCounters)) return true;
  counters_.flush(0, static_cast<uint32_t>(w_->waiting.size()));
  const Overrun* overrun = counters_.overrun();
  if (overrun == nullptr) return true;
  const bool is_shared = overrun->space == Space::kShared;
  set_fault(w_, is_shared ? kBankConflict : kSectors, w_->fibres[overrun->warp * kWarpSize],
            nullptr, 0,
            is_shared ? "a request of this warp takes %llu passes over the banks, and its budget "
                        "is %u"
                      : "a request of this warp touches %llu sectors, and its budget is %u",
            static_cast<unsigned long long>(overrun->n_units),
            is_shared ? w_->launch->most_conflict_ways : w_->launch->most_sectors);
  w_->fault.pc = overrun->pc;
  return false;
}

bool Checker::end_launch() {
  if (!has(kUnwritten)) return true;
  if (unwritten_.kind != kNoFault) {
    w_->fault = unwritten_;
    return false;
  }
  for (const Region& region : regions_) {
    if (region.role != Role::kOutput) continue;
    const size_t n_bytes = region.end - region.start;
    const size_t first = shadows_[region.shadow].find_unwritten(n_bytes, order_.first_of_launch());
    if (first == n_bytes) continue;
    set_fault(w_, kUnwrittenOutput, w_->fibres[0], nullptr, 0,
              "the launch has ended, and nothing wrote byte %zu of the %zu of output `%s`", first,
              n_bytes, region.name);
    w_->fault.pc = reinterpret_cast<uint64_t>(w_->launch->entry) + 1;
    return false;
  }
  return true;
}

void Checker::fail(uint32_t kind, uint64_t pc, const char* format, ...) {
  char message[sizeof w_->fault.message];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  set_fault(w_, static_cast<Kind>(kind), *w_->running, nullptr, 0, "%s", message);
  w_->fault.pc = pc;
  abandon(w_);
}

bool Checker::is_in_fibre(uint64_t address) const {
  return address - reinterpret_cast<uint64_t>(w_->running->stack) < Stacks::kStackBytes;
}

// Where each variable is, only the compiler knows; but none is outside the frames of the kernel.
void Checker::check_local(uint64_t address, uint64_t n_bytes, AccessKind kind, uint64_t pc) {
  const uint64_t first = reinterpret_cast<uint64_t>(__builtin_frame_address(0));
  const uint64_t end = reinterpret_cast<uint64_t>(w_->running->frames_end);
  if (!has(kAccesses) || (address >= first && holds(first, end - first, address, n_bytes))) return;
  fail(kOutOfBounds, pc, "%s %" PRIu64 " bytes %s the thread's own variables", name_of(kind),
       n_bytes, address < first ? "before" : "past the end of");
}

bool Checker::is_own(uint64_t address, uint64_t n_bytes, AccessKind kind, uint64_t pc) {
  if (is_in_fibre(address)) {
    check_local(address, n_bytes, kind, pc);
    return true;
  }
  const uint64_t offset = address - reinterpret_cast<uint64_t>(w_->launch->params);
  if (offset >= w_->launch->params_bytes) return false;
  if (writes(kind)) fail(kWriteToInput, pc, "%s its own parameters", name_of(kind));
  if (n_bytes > w_->launch->params_bytes - offset) {
    fail(kOutOfBounds, pc,
         "%s %" PRIu64 " bytes that reach %" PRIu64 " bytes past the end of its parameters",
         name_of(kind), n_bytes, offset + n_bytes - w_->launch->params_bytes);
  }
  return true;
}

void Checker::find_shared(uint64_t address, uint64_t n_bytes, uint64_t pc, Place* place) {
  const uint64_t base = reinterpret_cast<uint64_t>(w_->shared_start());
  const bool is_cluster = w_->blocks.size() > 1;
  const uint32_t rank =
      is_cluster ? static_cast<uint32_t>((address - base) / Worker::kSharedStride) : 0;
  const uint64_t first = rank * Worker::kSharedStride;
  const bool is_remote = is_cluster && rank != w_->block->rank;
  if (is_remote && !(w_->block->mapped >> rank & 1)) {
    fail(kOutOfBounds, pc,
         "%" PRIu64
         " bytes of shared memory of block %u of the cluster, for whose address this "
         "block has not asked",
         n_bytes, rank);
  }
  for (const SharedObject& object : w_->shared_objects) {
    const uint64_t start = reinterpret_cast<uint64_t>(object.start) + first;
    if (holds(start, object.n_bytes, address, n_bytes)) {
      place->space = is_remote ? Space::kDistributed : Space::kShared;
      place->name = object.name;
      place->base = base;
      place->start = start;
      place->role = Role::kWorkspace;
      place->shadow = &shared_;
      place->rank = rank;
      return;
    }
  }
  fail_outside_shared(address - first, n_bytes, pc);
}

void Checker::fail_outside_shared(uint64_t address, uint64_t n_bytes, uint64_t pc) {
  if (w_->shared_objects.empty()) {
    fail(kOutOfBounds, pc, "%" PRIu64 " bytes of shared memory, of which the kernel declares none",
         n_bytes);
  }
  const auto starts = [](const SharedObject& object) {
    return reinterpret_cast<uint64_t>(object.start);
  };
  const SharedObject* nearest = nullptr;
  uint64_t distance = ~uint64_t{0};
  for (const SharedObject& object : w_->shared_objects) {
    const uint64_t end = starts(object) + object.n_bytes;
    const uint64_t found =
        address + n_bytes > end ? address + n_bytes - end : starts(object) - address;
    if (found < distance) {
      distance = found;
      nearest = &object;
    }
  }
  const bool is_after = address >= starts(*nearest);
  fail(kOutOfBounds, pc, "%" PRIu64 " bytes reach %" PRIu64 " bytes %s shared `%s` (%zu bytes)",
       n_bytes, distance, is_after ? "past the end of" : "before", nearest->name, nearest->n_bytes);
}

void Checker::fail_outside(uint64_t address, uint64_t n_bytes, AccessKind kind, uint64_t pc) {
  const Region* nearest = nullptr;
  uint64_t distance = ~uint64_t{0};
  bool is_after = false;
  for (const Region& region : regions_) {
    const bool after = address >= region.start;
    const uint64_t found = after ? address - region.end + n_bytes : region.start - address;
    if (found < distance) {
      distance = found;
      nearest = &region;
      is_after = after;
    }
  }
  if (nearest == nullptr) {
    fail(kOutOfBounds, pc,
         "%s %" PRIu64 " bytes at 0x%" PRIx64 ", and the launch was given no buffer", name_of(kind),
         n_bytes, address);
  }
  fail(kOutOfBounds, pc,
       "%s %" PRIu64 " bytes that reach %" PRIu64 " bytes %s `%s` (%" PRIu64 " bytes)",
       name_of(kind), n_bytes, distance, is_after ? "past the end of" : "before", nearest->name,
       nearest->end - nearest->start);
}

bool Checker::find_global(uint64_t address, uint64_t n_bytes, AccessKind kind, uint32_t site,
                          uint64_t pc, Place* place) {
  const auto is_in = [&](const Region& region) {
    return holds(region.start, region.end - region.start, address, n_bytes);
  };
  uint32_t idx = sites_[site].region;
  if (idx >= regions_.size() || !is_in(regions_[idx])) {
    const auto after =
        std::upper_bound(regions_.begin(), regions_.end(), address,
                         [](uint64_t value, const Region& region) { return value < region.start; });
    // Views may overlap: one that begins before may reach further.
    auto found = after;
    while (found != regions_.begin() && !is_in(*(found - 1))) --found;
    if (found == regions_.begin()) {
      const uint64_t constants = reinterpret_cast<uint64_t>(w_->constants.start);
      const uint64_t end = reinterpret_cast<uint64_t>(w_->constants.end);
      if (!writes(kind) && holds(constants, end - constants, address, n_bytes)) return false;
      fail_outside(address, n_bytes, kind, pc);
    }
    idx = static_cast<uint32_t>(found - 1 - regions_.begin());
    sites_[site].region = idx;
  }
  const Region& region = regions_[idx];
  place->space = Space::kGlobal;
  place->name = region.name;
  place->base = place->start = region.start;
  place->role = region.role;
  place->shadow = &shadows_[region.shadow];
  return true;
}

bool Checker::find(uint64_t address, uint64_t n_bytes, AccessKind kind, uint32_t site, uint64_t pc,
                   Place* place) {
  const uint64_t shared = reinterpret_cast<uint64_t>(w_->shared_start());
  if (address - shared >= all_shared_bytes_) {
    return find_global(address, n_bytes, kind, site, pc, place);
  }
  find_shared(address, n_bytes, pc, place);
  return true;
}

void Checker::fail_misaligned(const char* name, uint64_t address, uint64_t n_bytes, AccessKind kind,
                              uint64_t pc) {
  fail(kMisaligned, pc,
       "%s what must be aligned to %" PRIu64 " bytes, of %s, %" PRIu64 " bytes past a multiple",
       name_of(kind), n_bytes, name, address % n_bytes);
}

void Checker::misaligned(uint64_t address, uint64_t n_bytes, AccessKind kind, uint64_t pc) {
  if (!has(kAccesses)) return;
  Place place;
  place.name = "the thread's own memory";
  // What is outside every buffer too is told as that.
  if (!is_own(address, n_bytes, kind, pc)) {
    place.name = "a constant";
    find(address, n_bytes, kind, sites_.find(pc), pc, &place);
  }
  fail_misaligned(place.name, address, n_bytes, kind, pc);
}

void Checker::access(uint64_t address, uint64_t n_bytes, AccessKind kind, bool is_vector,
                     uint64_t pc) {
  if (n_bytes == 0 || is_own(address, n_bytes, kind, pc)) return;
  const uint32_t site = sites_.find(pc);
  const uint32_t thread = w_->running->idx;
  // Written field by field: a copy of what was just written would wait for the stores.
  Place place;
  if (!find(address, n_bytes, kind, site, pc, &place)) return;
  if (has(kAccesses)) {
    if (is_vector && address % n_bytes != 0) {
      fail_misaligned(place.name, address, n_bytes, kind, pc);
    }
    if (place.role == Role::kInput && writes(kind)) {
      fail(kWriteToInput, pc, "%s %" PRIu64 " bytes of input `%s`, at byte %" PRIu64, name_of(kind),
           n_bytes, place.name, address - place.start);
    }
  }
  w_->totals.n_atomics += is_atomic(kind);
  // All of it is inside: what follows counts in 32 bits.
  const uint32_t n_inside = static_cast<uint32_t>(std::min<uint64_t>(n_bytes, ~0u));
  if (has(kCounters)) {
    const Direction direction = is_atomic(kind) ? Direction::kAtomic
                                : writes(kind)  ? Direction::kWrite
                                                : Direction::kRead;
    // No instruction moves more than 16 bytes.
    for (uint64_t at = 0; at < n_bytes; at += 16) {
      if (counters_.is_full(site, place.space, thread)) wait_for_lanes(site, place.space);
      counters_.add(site, pc, place.space, direction, thread, address + at,
                    static_cast<uint32_t>(std::min<uint64_t>(n_bytes - at, 16)));
    }
  }
  const bool is_remote = place.space == Space::kDistributed;
  if (place.role == Role::kInput || (checks_ & (kRaces | kUnwritten)) == 0) {
    if (is_remote) note_remote(place.rank, pc);
    return;
  }
  if (is_atomic(kind)) order_.begin_atomic(thread, address, exchange_of(kind));
  Arena* arena = place.space == Space::kGlobal ? &arena_ : &shared_arena_;
  const Access seen = {place,  address, n_inside, kind, site, order_.stamp(thread),
                       thread, pc,      arena};
  place.shadow->visit(arena, address - place.base, n_bytes, [&](Cell& cell) {
    check_cell(&cell, seen);
    return true;
  });
  // A race is the better word.
  if (is_remote) note_remote(place.rank, pc);
  if (is_atomic(kind)) order_.end_atomic(thread);
  // A write that nothing orders after the copy's beginning was a race.
  if (writes(kind)) check_sources(place, address, n_bytes, pc);
}

// Requests are of lanes that are equally far: the others of the warp get there first, or not soon.
void Checker::wait_for_lanes(uint32_t site, Space space) {
  const uint32_t thread = w_->running->idx;
  const uint32_t first = thread / kWarpSize * kWarpSize;
  const uint32_t end = std::min(first + kWarpSize, w_->block->first + w_->n_threads);
  const auto is_behind = [&](const Fibre& fibre) {
    return fibre.state == State::kReady && counters_.n_open(site, space, fibre.idx) > 0 &&
           !counters_.is_full(site, space, fibre.idx);
  };
  for (uint32_t round = 0; round < 64; ++round) {
    give_way(w_);
    if (!counters_.is_full(site, space, thread)) return;
    if (std::none_of(&w_->fibres[first], &w_->fibres[0] + end, is_behind)) break;
  }
  counters_.make_room(site, space, thread);
}

void Checker::check_sources(const Place& place, uint64_t address, uint64_t n_bytes, uint64_t pc) {
  if (!has(kRaces) || address >= sources_end_ || address + n_bytes <= first_source_) return;
  const Copy* copy = find_copy_from(w_, address, n_bytes);
  if (copy == nullptr) return;
  w_->fault.other_pc = copy->pc;
  fail(kAsyncCopy, pc,
       "writes %" PRIu64 " bytes of `%s`, at byte %" PRIu64
       ", while an asynchronous copy of them is under way",
       n_bytes, place.name, address - place.start);
}

void Checker::read_source(uint64_t address, uint32_t n_bytes, uint64_t pc) {
  Place place;
  const uint32_t site = sites_.find(pc);
  if (is_in_fibre(address) ||
      address - reinterpret_cast<uint64_t>(w_->shared_start()) < all_shared_bytes_ ||
      address - reinterpret_cast<uint64_t>(w_->launch->params) < w_->launch->params_bytes ||
      !find_global(address, n_bytes, AccessKind::kRead, site, pc, &place)) {
    fail(kOutOfBounds, pc, "an asynchronous copy of what is not global memory");
  }
  access(address, n_bytes, AccessKind::kRead, false, pc);
  if (place.role == Role::kInput) return;
  first_source_ = std::min(first_source_, address);
  sources_end_ = std::max(sources_end_, address + n_bytes);
}

void Checker::read_source_again(uint64_t address, uint32_t n_bytes, uint64_t pc) {
  Place place;
  const uint32_t site = sites_.find(pc);
  if (!find_global(address, n_bytes, AccessKind::kRead, site, pc, &place)) return;
  if (place.role == Role::kInput || !has(kRaces)) return;
  const uint32_t thread = w_->running->idx;
  const Access again = {place,  address, n_bytes, AccessKind::kRead, site, order_.stamp(thread),
                        thread, pc,      &arena_};
  place.shadow->visit(&arena_, address - place.base, n_bytes, [&](Cell& cell) {
    check_cell(&cell, again);
    return true;
  });
}

void Checker::require_inside(uint64_t address, uint32_t n_bytes, uint64_t pc) {
  if (is_own(address, n_bytes, AccessKind::kAtomicUpdate, pc)) return;
  Place place;
  find(address, n_bytes, AccessKind::kAtomicUpdate, sites_.find(pc), pc, &place);
}

void Checker::deliver(uint64_t address, uint32_t n_bytes, StampId stamp, uint32_t lane,
                      uint64_t pc) {
  const uint64_t start = reinterpret_cast<uint64_t>(w_->shared_start());
  const uint32_t site = sites_.find(pc);
  shared_.visit(&shared_arena_, address - start, n_bytes, [&](Cell& cell) {
    start_anew(&cell, &shared_arena_);
    cell.write = stamp;
    cell.write_site = site;
    cell.write_lane = static_cast<uint8_t>(lane);
    return true;
  });
}

}  // namespace lacuna_simt
