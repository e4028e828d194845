// SPDX-License-Identifier: MIT OR Apache-2.0
// What the threads of a block do together: barriers and warp collectives.
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

}  // namespace

bool are_at_one_place(Worker* w, const Fibre& last) {
  for (const Fibre& other : Threads(w, *last.block)) {
    if (other.state == State::kDone || is_at(other, last.file, last.line)) continue;
    set_fault(w, kBarrierDivergence, other, other.file, other.line,
              "thread %u waits at this barrier, and thread %u at the one at %s:%u",
              thread_of(other), thread_of(last), last.file, last.line);
    return false;
  }
  return true;
}

bool has_torn_warp(const Worker* w, const Block& block) {
  const uint32_t first = block.first / kWarpSize;
  for (uint32_t warp = first; warp < first + w->n_warps; ++warp) {
    const uint32_t returned = w->returned[warp];
    if (returned != 0 && returned != lanes_of_warp(w, warp)) return true;
  }
  return false;
}

namespace {

// All threads of the block have arrived that have not returned: lets them run. False on a fault.
bool resolve_barrier(Worker* w, const Fibre& last) {
  Block* block = last.block;
  if (!are_at_one_place(w, last)) return false;
  w->totals.n_barriers += 1;
  if (w->checker != nullptr) w->checker->at_barrier(block->rank);
  for (Fibre& other : Threads(w, *block)) {
    if (other.state == State::kDone) continue;
    other.value = block->n_predicates;
    other.state = State::kReady;
  }
  block->n_at_barrier = 0;
  block->n_predicates = 0;
  return true;
}

}  // namespace

bool meet_without_returned(Worker* w) {
  bool has_met = false;
  // A lane that is called by two may still go to one after the other.
  const size_t n_warps = w->has_moved ? 0 : w->waiting.size();
  for (uint32_t warp = 0; warp < n_warps; ++warp) {
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
  for (const Block& block : w->blocks) {
    if (block.n_at_barrier == 0 || block.n_at_barrier + block.n_done < w->n_threads) continue;
    if (has_torn_warp(w, block)) continue;
    const auto is_there = [](const Fibre& fibre) { return fibre.state == State::kAtBarrier; };
    const Threads threads(w, block);
    if (!resolve_barrier(w, *std::find_if(threads.begin(), threads.end(), is_there))) return false;
    has_met = true;
  }
  return has_met || meet_at_cluster_barrier(w);
}

uint32_t barrier(bool predicate, const char* file, uint32_t line) {
  Worker* w = worker;
  Fibre* fibre = w->running;
  Block* block = w->block;
  fibre->file = file;
  fibre->line = line;
  fibre->state = State::kAtBarrier;
  block->n_at_barrier += 1;
  block->n_predicates += predicate;
  if (block->n_at_barrier < w->n_threads) {
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
