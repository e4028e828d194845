// SPDX-License-Identifier: MIT OR Apache-2.0
// Whether an access conflicts with what is remembered of its memory.
#include "checker.h"
#include "worker.h"

namespace lacuna_simt {
namespace {

const char* name_of(Sharing sharing) {
  return sharing == Sharing::kReads ? "read" : "used atomically";
}

}  // namespace

void Checker::fail_race(const Place& place, uint64_t address, uint32_t n_bytes, AccessKind kind,
                        const char* other, StampId stamp, uint32_t lane, uint32_t site,
                        uint64_t pc) {
  w_->fault.other_pc = sites_[site].pc;
  const unsigned long long first = address - place.start;
  if (order_.is_copy(stamp)) {
    fail(kRace, pc, "%s %u bytes of `%s`, at byte %llu, that a bulk copy has written, unwaited for",
         name_of(kind), n_bytes, place.name, first);
  }
  const uint32_t other_thread = order_.warp_of(stamp) * kWarpSize + lane;
  fail(kRace, pc,
       "%s %u bytes of `%s`, at byte %llu, that thread %u of block %u has %s, and nothing orders "
       "the two",
       name_of(kind), n_bytes, place.name, first, other_thread, order_.block_of(stamp), other);
}

void Checker::note_unwritten(const Place& place, uint64_t address, uint32_t n_bytes, uint64_t pc) {
  const LacunaSimtFault kept = w_->fault;
  set_fault(w_, kUnwrittenRead, *w_->running, nullptr, 0,
            "reads %u bytes of `%s`, at byte %llu, that nothing has written", n_bytes, place.name,
            static_cast<unsigned long long>(address - place.start));
  w_->fault.pc = pc;
  unwritten_ = w_->fault;
  is_unwritten_shared_ = place.space == Space::kShared;
  w_->fault = kept;
}

void Checker::settle(LacunaSimtFault* fault) const {
  const bool is_other = fault->kind != kNoFault && fault->kind != kRace;
  if (unwritten_.kind != kNoFault && is_other) *fault = unwritten_;
}

void Checker::check_cell(Cell* cell, const Place& place, uint64_t address, uint32_t n_bytes,
                         AccessKind kind, uint32_t site, StampId stamp, uint32_t thread,
                         uint64_t pc) {
  const uint32_t lane = thread % kWarpSize;
  const StampId first =
      place.space == Space::kShared ? order_.first_of_block() : order_.first_of_launch();
  // Most accesses: a read of what was written before the last barrier, and read since by this warp
  // or by two others.
  const StampId epoch = order_.first_of_epoch();
  if (kind == AccessKind::kRead && cell->sharing == Sharing::kReads && !cell->is_in_flight &&
      cell->write >= order_.first_of_block() && cell->write < epoch) {
    for (Slot& slot : cell->slots) {
      if (slot.stamp != stamp) continue;
      slot.lanes |= 1u << lane;
      return;
    }
    if (cell->slots[0].stamp >= epoch && cell->slots[1].stamp >= epoch) return;
  }
  if (cell->write < first) {
    if (has(kUnwritten) && unwritten_.kind == kNoFault && reads(kind) &&
        place.role != Role::kInOut) {
      note_unwritten(place, address, n_bytes, pc);
    }
  } else if (cell->is_in_flight) {
    w_->fault.other_pc = sites_[cell->write_site].pc;
    fail(kAsyncCopy, pc, "%s %u bytes of `%s` while an asynchronous copy to them is under way",
         name_of(kind), n_bytes, place.name);
  }
  if (!has(kRaces)) {
    if (writes(kind)) cell->write = stamp;
    return;
  }
  const bool atomic = is_atomic(kind);
  if (cell->write >= first && !(cell->is_atomic && atomic) &&
      !(cell->write == stamp && cell->write_lane == lane) &&
      !order_.is_before(cell->write, 1u << cell->write_lane, thread)) {
    fail_race(place, address, n_bytes, kind, cell->is_atomic ? "used atomically" : "written",
              cell->write, cell->write_lane, cell->write_site, pc);
  }
  const auto conflicts = [&](Sharing sharing) {
    switch (sharing) {
      case Sharing::kAtomicReads:
        return kind == AccessKind::kWrite || kind == AccessKind::kIssueCopy;
      case Sharing::kReads:
        return writes(kind);
      default:
        return !atomic;
    }
  };
  for (Slot& slot : cell->slots) {
    if (slot.stamp < first) {
      slot = {};
      continue;
    }
    const uint32_t own = slot.stamp == stamp ? 1u << lane : 0;
    if ((slot.lanes & ~own) == 0) continue;
    if (order_.is_before(slot.stamp, slot.lanes, thread)) {
      // Whatever comes after this access comes after those too.
      slot = {};
    } else if (conflicts(cell->sharing)) {
      fail_race(place, address, n_bytes, kind, name_of(cell->sharing), slot.stamp,
                static_cast<uint32_t>(__builtin_ctz(slot.lanes & ~own)), slot.site, pc);
    }
  }
  if (writes(kind) && !atomic) {
    *cell = {};
    cell->write = stamp;
    cell->write_site = site;
    cell->write_lane = static_cast<uint8_t>(lane);
    cell->is_in_flight = kind == AccessKind::kIssueCopy;
    return;
  }
  if (writes(kind) && cell->write < first) {
    cell->write = stamp;
    cell->write_site = site;
    cell->write_lane = static_cast<uint8_t>(lane);
    cell->is_atomic = true;
    cell->is_in_flight = false;
  }
  const Sharing sharing = !atomic                           ? Sharing::kReads
                          : kind == AccessKind::kAtomicRead ? Sharing::kAtomicReads
                                                            : Sharing::kAtomics;
  if (cell->slots[0].stamp == 0 && cell->slots[1].stamp == 0) {
    cell->sharing = sharing;
  } else if (sharing > cell->sharing) {
    cell->sharing = sharing;
    cell->slots[0] = cell->slots[1] = {};
  } else if (sharing < cell->sharing) {
    return;
  }
  for (Slot& slot : cell->slots) {
    if (slot.stamp != stamp) continue;
    slot.lanes |= 1u << lane;
    return;
  }
  const bool is_elsewhere =
      cell->slots[0].stamp != 0 &&
      (cell->slots[1].stamp == 0 || cell->slots[1].stamp < order_.first_of_block());
  if (cell->slots[0].stamp == 0) {
    cell->slots[0] = {stamp, 1u << lane, site};
  } else if (is_elsewhere) {
    cell->slots[1] = {stamp, 1u << lane, site};
  }
}

}  // namespace lacuna_simt
