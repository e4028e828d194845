// SPDX-License-Identifier: MIT OR Apache-2.0
// Whether an access conflicts with what is remembered of its memory.
#include "checker.h"
#include "worker.h"

namespace lacuna_simt {
namespace {

// Of one cell, beside the two in it and the readings. Accesses past so many, none of them ordered,
// are forgotten: what races with them races with those that are not, but for what orders all of
// those.
constexpr size_t kMaxOthers = 64;

const char* name_of(const Slot& slot) {
  return static_cast<Sharing>(slot.sharing) == Sharing::kReads ? "read" : "used atomically";
}

Sharing sharing_of(AccessKind kind) {
  if (!is_atomic(kind)) return Sharing::kReads;
  return kind == AccessKind::kAtomicRead ? Sharing::kAtomicReads : Sharing::kAtomicWrites;
}

uint32_t log_of(uint32_t n_bytes) { return 31 - static_cast<uint32_t>(__builtin_clz(n_bytes)); }

// Whether an access and those of a slot may not happen at once.
bool conflicts(AccessKind kind, uint32_t n_bytes, const Slot& slot) {
  if (writes(kind) && !is_atomic(kind)) return true;
  const Sharing sharing = static_cast<Sharing>(slot.sharing);
  if (!is_atomic(kind)) return sharing == Sharing::kAtomicWrites;
  if (sharing == Sharing::kReads) return writes(kind);
  // Atomics of two sizes are no atomics to each other.
  const bool is_any_write = writes(kind) || sharing == Sharing::kAtomicWrites;
  return is_any_write && slot.size != log_of(n_bytes);
}

// Whether all that conflicts with `old` conflicts with `own` too.
bool is_weaker(const Slot& old, const Slot& own) {
  const Sharing sharing = static_cast<Sharing>(own.sharing);
  const Sharing older = static_cast<Sharing>(old.sharing);
  switch (sharing) {
    case Sharing::kReads:
      return older == Sharing::kReads;
    case Sharing::kAtomicReads:
      return older == Sharing::kAtomicReads && old.size == own.size;
    default:
      return older != Sharing::kReads && old.size == own.size;
  }
}

bool is_same(const Slot& slot, const Slot& own) {
  return slot.stamp == own.stamp && slot.sharing == own.sharing && slot.size == own.size;
}

}  // namespace

void Checker::fail_race(const Access& access, const char* other, StampId stamp, uint32_t lane,
                        uint32_t site) {
  w_->fault.other_pc = sites_[site].pc;
  const unsigned long long first = access.address - access.place.start;
  if (order_.is_copy(stamp)) {
    fail(kRace, access.pc,
         "%s %u bytes of `%s`, at byte %llu, that a bulk copy has written, unwaited for",
         name_of(access.kind), access.n_bytes, access.place.name, first);
  }
  const uint32_t other_thread = order_.warp_of(stamp) * kWarpSize + lane;
  fail(kRace, access.pc,
       "%s %u bytes of `%s`, at byte %llu, that thread %u of block %u has %s, and nothing orders "
       "the two",
       name_of(access.kind), access.n_bytes, access.place.name, first, other_thread,
       order_.block_of(stamp), other);
}

void Checker::note_unwritten(const Place& place, uint64_t address, uint32_t n_bytes, uint64_t pc) {
  const LacunaSimtFault kept = w_->fault;
  set_fault(w_, kUnwrittenRead, *w_->running, nullptr, 0,
            "reads %u bytes of `%s`, at byte %llu, that nothing has written", n_bytes, place.name,
            static_cast<unsigned long long>(address - place.start));
  w_->fault.pc = pc;
  unwritten_ = w_->fault;
  is_unwritten_shared_ = place.space != Space::kGlobal;
  w_->fault = kept;
}

void Checker::settle(LacunaSimtFault* fault) const {
  const bool is_other = fault->kind != kNoFault && fault->kind != kRace;
  if (unwritten_.kind != kNoFault && is_other) *fault = unwritten_;
}

void Checker::check_slot(Slot* slot, StampId first, const Access& access) {
  if (slot->stamp == 0) return;
  if (slot->stamp < first) {
    *slot = {};
    return;
  }
  if (!conflicts(access.kind, access.n_bytes, *slot)) return;
  const uint32_t own = slot->stamp == access.stamp ? 1u << access.thread % kWarpSize : 0;
  const uint32_t others = slot->lanes & ~own;
  if (others == 0 || order_.is_before(slot->stamp, others, access.thread)) return;
  fail_race(access, name_of(*slot), slot->stamp, static_cast<uint32_t>(__builtin_ctz(others)),
            slot->site);
}

void Checker::check_more(const Cell& cell, StampId first, const Access& access) {
  MoreSlots& more = access.arena->more(cell);
  for (Slot& slot : more.others) check_slot(&slot, first, access);
  // All of them before the last barrier of all who may read it.
  if (more.newest < order_.first_of_cluster_epoch() && more.newest >= order_.first_of_cluster() &&
      access.place.space != Space::kGlobal) {
    return;
  }
  const uint32_t n_warps = static_cast<uint32_t>(w_->waiting.size());
  for (uint32_t warp = 0; warp < n_warps; ++warp) {
    const Reading& reading = access.arena->reading(cell, warp);
    if (reading.generation != cell.generation) continue;
    Slot slot = {reading.stamp, reading.lanes, reading.site, 0, 0};
    check_slot(&slot, first, access);
  }
}

// Whether whatever comes after `own` comes after the slot's accesses too, and conflicts with `own`
// if with them.
bool Checker::is_replaceable(const Slot& slot, const Slot& own, StampId first, uint32_t thread) {
  if (slot.stamp < first) return true;
  const uint32_t same = slot.stamp == own.stamp ? 1u << thread % kWarpSize : 0;
  return is_weaker(slot, own) && order_.is_plainly_before(slot.stamp, slot.lanes & ~same, thread);
}

void Checker::add_slot(Cell* cell, StampId first, const Access& access) {
  const uint32_t thread = access.thread;
  const Sharing sharing = sharing_of(access.kind);
  Slot own;
  own.stamp = access.stamp;
  own.lanes = 1u << thread % kWarpSize;
  own.site = access.site;
  own.sharing = static_cast<uint32_t>(sharing);
  // Reads of any size are alike.
  own.size = is_atomic(access.kind) ? log_of(access.n_bytes) : 0;
  cell->has_atomic_writes |= sharing == Sharing::kAtomicWrites;
  for (Slot& slot : cell->slots) {
    if (!is_same(slot, own)) continue;
    slot.lanes |= own.lanes;
    return;
  }
  for (Slot& slot : cell->slots) {
    if (slot.stamp != 0 && !is_replaceable(slot, own, first, thread)) continue;
    slot = own;
    return;
  }
  Arena* arena = access.arena;
  if (!arena->has_more(*cell)) arena->add_more(cell);
  MoreSlots& more = arena->more(*cell);
  if (sharing == Sharing::kReads) {
    Reading& reading = arena->reading(*cell, thread / kWarpSize);
    const bool is_own = reading.generation == cell->generation;
    Slot found = own;
    found.stamp = reading.stamp;
    found.lanes = reading.lanes;
    if (is_own && reading.stamp == own.stamp) {
      reading.lanes |= own.lanes;
      return;
    }
    if (!is_own || is_replaceable(found, own, first, thread)) {
      reading = {own.stamp, own.lanes, access.site, cell->generation};
      more.newest = std::max(more.newest, own.stamp);
      return;
    }
  }
  for (Slot& slot : more.others) {
    if (!is_same(slot, own)) continue;
    slot.lanes |= own.lanes;
    return;
  }
  for (Slot& slot : more.others) {
    if (!is_replaceable(slot, own, first, thread)) continue;
    slot = own;
    return;
  }
  if (more.others.size() < kMaxOthers) more.others.push_back(own);
}

void Checker::check_cell(Cell* cell, const Access& access) {
  const AccessKind kind = access.kind;
  const uint32_t thread = access.thread;
  const uint32_t lane = thread % kWarpSize;
  const bool is_global = access.place.space == Space::kGlobal;
  const StampId first = is_global ? order_.first_of_launch() : order_.first_of_cluster();
  // Most accesses: a read of what was written before the last barrier, and read since by this warp.
  if (kind == AccessKind::kRead && !cell->has_atomic_writes && !cell->is_in_flight &&
      order_.is_before_barrier(cell->write)) {
    const auto adds = [&](Slot& slot) {
      const bool is_own =
          slot.stamp == access.stamp && static_cast<Sharing>(slot.sharing) == Sharing::kReads;
      if (is_own) slot.lanes |= 1u << lane;
      return is_own;
    };
    if (adds(cell->slots[0]) || adds(cell->slots[1])) return;
    if (access.arena->has_more(*cell)) {
      Reading& reading = access.arena->reading(*cell, thread / kWarpSize);
      if (reading.stamp == access.stamp && reading.generation == cell->generation) {
        reading.lanes |= 1u << lane;
        return;
      }
    }
    if (has(kRaces)) add_slot(cell, first, access);
    return;
  }
  if (cell->write < first) {
    if (has(kUnwritten) && unwritten_.kind == kNoFault && reads(kind) &&
        access.place.role != Role::kInOut) {
      note_unwritten(access.place, access.address, access.n_bytes, access.pc);
    }
  } else if (cell->is_in_flight) {
    w_->fault.other_pc = sites_[cell->write_site].pc;
    fail(kAsyncCopy, access.pc,
         "%s %u bytes of `%s` while an asynchronous copy to them is under way", name_of(kind),
         access.n_bytes, access.place.name);
  }
  if (!has(kRaces)) {
    if (writes(kind)) cell->write = access.stamp;
    return;
  }
  // An atomic write is in a slot too.
  if (cell->write >= first && !cell->is_atomic &&
      !(cell->write == access.stamp && cell->write_lane == lane) &&
      !order_.is_before(cell->write, 1u << cell->write_lane, thread)) {
    fail_race(access, "written", cell->write, cell->write_lane, cell->write_site);
  }
  if (kind != AccessKind::kRead || cell->has_atomic_writes) {
    for (Slot& slot : cell->slots) check_slot(&slot, first, access);
    if (access.arena->has_more(*cell)) check_more(*cell, first, access);
  }
  if (writes(kind) && !is_atomic(kind)) {
    start_anew(cell, access.arena);
    cell->write = access.stamp;
    cell->write_site = access.site;
    cell->write_lane = static_cast<uint8_t>(lane);
    cell->is_in_flight = kind == AccessKind::kIssueCopy;
    return;
  }
  if (writes(kind) && cell->write < first) {
    cell->write = access.stamp;
    cell->write_site = access.site;
    cell->write_lane = static_cast<uint8_t>(lane);
    cell->is_atomic = true;
    cell->is_in_flight = false;
  }
  add_slot(cell, first, access);
}

}  // namespace lacuna_simt
