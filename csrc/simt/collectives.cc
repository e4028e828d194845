// SPDX-License-Identifier: MIT OR Apache-2.0
// What the threads of a block do together: barriers and warp collectives, and the diagnosis where
// they never meet.
#include <string.h>

#include "worker.h"

namespace lacuna_simt {
namespace {

bool is_shuffle(Op op) { return op <= Op::kShuffleXor; }

// The lane that a shuffle reads; the lane itself where the source leaves its segment.
uint32_t shuffle_source(const Fibre& fibre) {
  const uint32_t lane = fibre.idx % kWarpSize;
  const uint32_t first = lane / fibre.width * fibre.width;
  const uint32_t last = first + fibre.width - 1;
  switch (fibre.op) {
    case Op::kShuffle:
      return first + fibre.argument % fibre.width;
    case Op::kShuffleUp:
      return fibre.argument <= lane - first ? lane - fibre.argument : lane;
    case Op::kShuffleDown:
      return fibre.argument <= last - lane ? lane + fibre.argument : lane;
    default: {
      const uint32_t source = lane ^ fibre.argument;
      return source <= last ? source : lane;
    }
  }
}

bool is_at(const Fibre& fibre, const char* file, uint32_t line) {
  return fibre.line == line && strcmp(fibre.file, file) == 0;
}

uint64_t reduce(Op op, uint64_t a, uint64_t b) {
  const uint32_t x = static_cast<uint32_t>(a);
  const uint32_t y = static_cast<uint32_t>(b);
  switch (op) {
    case Op::kReduceAdd:
      return x + y;
    case Op::kReduceMin:
      return std::min(x, y);
    case Op::kReduceMax:
      return std::max(x, y);
    case Op::kReduceMinSigned:
      return static_cast<uint32_t>(std::min(static_cast<int32_t>(x), static_cast<int32_t>(y)));
    case Op::kReduceMaxSigned:
      return static_cast<uint32_t>(std::max(static_cast<int32_t>(x), static_cast<int32_t>(y)));
    case Op::kReduceAnd:
      return x & y;
    case Op::kReduceOr:
      return x | y;
    default:
      return x ^ y;
  }
}

// All lanes of `mask` have arrived that are still there: gives each its result and lets it run.
// False on a fault.
bool resolve_collective(Worker* w, const Fibre& last) {
  const uint32_t warp = last.idx / kWarpSize;
  Fibre* lanes = &w->fibres[warp * kWarpSize];
  const uint32_t named = last.mask;
  const uint32_t mask = named & ~lanes_gone(w, warp, named);
  uint32_t ballot = 0;
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const Fibre& other = lanes[lane];
    // Lanes may meet from different lines, except where the instruction is an `.aligned` one.
    const bool is_same = other.op == last.op && other.mask == named &&
                         (last.op != Op::kJoint ||
                          (other.argument == last.argument && is_at(other, last.file, last.line)));
    if (!is_same) {
      set_fault(w, kWarpMask, last, last.file, last.line,
                "lane %u waits for mask 0x%08x here, and lane %u, which it names, for mask 0x%08x "
                "at %s:%u",
                last.idx % kWarpSize, named, lane, other.mask, other.file, other.line);
      return false;
    }
    if (other.value != 0) ballot |= 1u << lane;
  }
  if (last.op == Op::kJoint) {
    void* values[kWarpSize];
    for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
      values[lane] = reinterpret_cast<void*>(lanes[lane].value);
    }
    last.joint(values);
  }
  uint64_t results[kWarpSize];
  uint64_t reduced = 0;
  bool is_first = true;
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    if (!(mask >> lane & 1)) continue;
    reduced = is_first ? lanes[lane].value : reduce(last.op, reduced, lanes[lane].value);
    is_first = false;
  }
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const Fibre& fibre = lanes[lane];
    if (is_shuffle(fibre.op)) {
      const uint32_t source = shuffle_source(fibre);
      if (!(mask >> source & 1)) {
        set_fault(w, kWarpMask, fibre, fibre.file, fibre.line, "lane %u reads lane %u, which %s",
                  lane, source,
                  named >> source & 1 ? "has returned or never was" : "the mask does not name");
        return false;
      }
      results[lane] = lanes[source].value;
      continue;
    }
    switch (fibre.op) {
      case Op::kBallot:
        results[lane] = ballot;
        break;
      case Op::kAny:
        results[lane] = ballot != 0;
        break;
      case Op::kAll:
        results[lane] = ballot == mask;
        break;
      case Op::kMatchAny: {
        uint64_t same = 0;
        for (uint32_t i = 0; i < kWarpSize; ++i) {
          if ((mask >> i & 1) && lanes[i].value == fibre.value) same |= 1u << i;
        }
        results[lane] = same;
        break;
      }
      case Op::kSyncWarp:
      case Op::kJoint:
        results[lane] = 0;
        break;
      default:
        results[lane] = reduced;
    }
  }
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    if (!(mask >> lane & 1)) continue;
    lanes[lane].value = results[lane];
    lanes[lane].state = State::kReady;
  }
  w->waiting[warp] &= ~mask;
  w->totals.n_collectives += 1;
  // Of all collectives, only this one orders memory.
  if (last.op == Op::kSyncWarp && w->checker != nullptr) w->checker->order().at_sync(warp, mask);
  return true;
}

// All threads have arrived that have not returned: lets them run. False on a fault.
bool resolve_barrier(Worker* w, const Fibre& last) {
  for (const Fibre& other : w->fibres) {
    if (other.state == State::kDone || is_at(other, last.file, last.line)) continue;
    set_fault(w, kBarrierDivergence, other, other.file, other.line,
              "thread %u waits at this barrier, and thread %u at the one at %s:%u", other.idx,
              last.idx, last.file, last.line);
    return false;
  }
  w->totals.n_barriers += 1;
  if (w->checker != nullptr) w->checker->at_barrier();
  for (Fibre& other : w->fibres) {
    if (other.state == State::kDone) continue;
    other.value = w->n_predicates;
    other.state = State::kReady;
  }
  w->n_at_barrier = 0;
  w->n_predicates = 0;
  return true;
}

const char* where(const Fibre& fibre) {
  switch (fibre.state) {
    case State::kDone:
      return "has returned";
    case State::kAtBarrier:
      return "waits at a barrier";
    case State::kInCollective:
      return "waits in a warp collective";
    default:
      return "runs";
  }
}

}  // namespace

bool meet_without_returned(Worker* w) {
  bool has_met = false;
  for (uint32_t warp = 0; warp < w->waiting.size(); ++warp) {
    for (uint32_t rest = w->waiting[warp]; rest != 0; rest &= w->waiting[warp]) {
      const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
      rest &= rest - 1;
      const Fibre& fibre = w->fibres[warp * kWarpSize + lane];
      const uint32_t present = fibre.mask & ~lanes_gone(w, warp, fibre.mask);
      if (fibre.op == Op::kJoint || (w->waiting[warp] & present) != present) continue;
      if (!resolve_collective(w, fibre)) return false;
      has_met = true;
    }
  }
  if (has_met) return true;
  if (w->n_at_barrier == 0 || w->n_at_barrier + w->n_done < w->n_threads) return false;
  // A warp of which some lanes are at the barrier and others have returned is a bug on most GPUs.
  for (uint32_t warp = 0; warp < w->returned.size(); ++warp) {
    const uint32_t returned = w->returned[warp];
    if (returned != 0 && returned != lanes_of_warp(w, warp)) return false;
  }
  const auto is_there = [](const Fibre& fibre) { return fibre.state == State::kAtBarrier; };
  return resolve_barrier(w, *std::find_if(w->fibres.begin(), w->fibres.end(), is_there));
}

void diagnose_stall(Worker* w) {
  for (const Fibre& fibre : w->fibres) {
    if (fibre.poll_pc == 0) continue;
    set_fault(w, kDeadlock, fibre, nullptr, 0,
              "waits for an mbarrier, and no other thread of the block can run");
    w->fault.pc = fibre.poll_pc;
    return;
  }
  for (const Fibre& fibre : w->fibres) {
    if (fibre.state != State::kInCollective) continue;
    const uint32_t warp = fibre.idx / kWarpSize;
    for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
      if (!(fibre.mask >> lane & 1)) continue;
      const Fibre& other = w->fibres[warp * kWarpSize + lane];
      if (other.state == State::kInCollective && other.line == fibre.line && other.op == fibre.op) {
        continue;
      }
      if (other.state == State::kAtBarrier && w->n_at_barrier + 1 < w->n_threads) {
        set_fault(w, kDeadlock, fibre, fibre.file, fibre.line,
                  "lane %u waits for lane %u, which waits at the barrier at %s:%u",
                  fibre.idx % kWarpSize, lane, other.file, other.line);
      } else {
        set_fault(w, kWarpMask, fibre, fibre.file, fibre.line,
                  "mask 0x%08x names lane %u, which %s", fibre.mask, lane, where(other));
      }
      return;
    }
  }
  const Fibre* at_barrier = nullptr;
  const Fibre* missing = nullptr;
  for (const Fibre& fibre : w->fibres) {
    const uint32_t warp = fibre.idx / kWarpSize;
    const bool has_left = w->returned[warp] == lanes_of_warp(w, warp);
    if (fibre.state == State::kAtBarrier && at_barrier == nullptr) at_barrier = &fibre;
    if (fibre.state != State::kAtBarrier && !has_left && missing == nullptr) missing = &fibre;
  }
  if (at_barrier != nullptr && missing != nullptr) {
    set_fault(w, kBarrierDivergence, *missing, at_barrier->file, at_barrier->line,
              "%u of %u threads wait at this barrier, and thread %u %s", w->n_at_barrier,
              w->n_threads, missing->idx, where(*missing));
  } else {
    const Fibre& first = w->fibres.front();
    set_fault(w, kDeadlock, first, first.file, first.line, "no thread of the block can run");
  }
}

uint32_t barrier(bool predicate, const char* file, uint32_t line) {
  Worker* w = worker;
  Fibre* fibre = w->running;
  fibre->file = file;
  fibre->line = line;
  fibre->state = State::kAtBarrier;
  w->n_at_barrier += 1;
  w->n_predicates += predicate;
  if (w->n_at_barrier < w->n_threads) {
    give_way(w);
    return static_cast<uint32_t>(fibre->value);
  }
  if (!resolve_barrier(w, *fibre)) abandon(w);
  return static_cast<uint32_t>(fibre->value);
}

uint64_t collect(Op op, uint32_t mask, uint64_t value, uint32_t argument, uint32_t width,
                 const char* file, uint32_t line) {
  Worker* w = worker;
  Fibre* fibre = w->running;
  const uint32_t warp = fibre->idx / kWarpSize;
  const uint32_t lane = fibre->idx % kWarpSize;
  fibre->file = file;
  fibre->line = line;
  if (!(mask >> lane & 1)) {
    set_fault(w, kWarpMask, *fibre, file, line, "mask 0x%08x does not name the caller, lane %u",
              mask, lane);
    abandon(w);
  }
  const uint32_t gone = lanes_gone(w, warp, mask);
  if (gone != 0 && op == Op::kJoint) {
    set_fault(w, kWarpMask, *fibre, file, line,
              "mask 0x%08x names lane %u, which has returned or never was", mask,
              static_cast<uint32_t>(__builtin_ctz(gone)));
    abandon(w);
  }
  if (is_shuffle(op) && (width == 0 || width > kWarpSize || (width & (width - 1)) != 0)) {
    set_fault(w, kWarpMask, *fibre, file, line,
              "a shuffle's width is a power of two up to 32, not %u", width);
    abandon(w);
  }
  fibre->op = op;
  fibre->mask = mask;
  fibre->value = value;
  fibre->argument = argument;
  fibre->width = width;
  fibre->state = State::kInCollective;
  w->waiting[warp] |= 1u << lane;
  if (((w->waiting[warp] | gone) & mask) == mask) {
    if (!resolve_collective(w, *fibre)) abandon(w);
  } else {
    give_way(w);
  }
  return fibre->value;
}

void collect_jointly(void (*joint)(void* const* values), uint32_t what, void* own, const char* file,
                     uint32_t line) {
  worker->running->joint = joint;
  collect(Op::kJoint, ~0u, reinterpret_cast<uint64_t>(own), what, kWarpSize, file, line);
}

}  // namespace lacuna_simt
