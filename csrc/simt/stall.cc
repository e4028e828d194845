// SPDX-License-Identifier: MIT OR Apache-2.0
// Why no thread can get on.
#include "worker.h"

namespace lacuna_simt {
namespace {

const char* where(const Fibre& fibre) {
  switch (fibre.state) {
    case State::kDone:
      return "has returned";
    case State::kAtBarrier:
      return "waits at a barrier";
    case State::kAtClusterBarrier:
      return "waits at a cluster barrier";
    case State::kInCollective:
      return "waits in a warp collective";
    default:
      return "runs";
  }
}

// The first thread that is neither in the state nor of a warp that has returned.
const Fibre* find_missing(Worker* w, const Block& block, State state) {
  for (const Fibre& fibre : Threads(w, block)) {
    const uint32_t warp = fibre.idx / kWarpSize;
    const bool has_left = w->returned[warp] == lanes_of_warp(w, warp);
    if (fibre.state != state && !has_left) return &fibre;
  }
  return nullptr;
}

const Fibre* find_waiting(Worker* w, const Block& block, State state) {
  const Threads threads(w, block);
  const auto is_there = [&](const Fibre& fibre) { return fibre.state == state; };
  const Fibre* found = std::find_if(threads.begin(), threads.end(), is_there);
  return found == threads.end() ? nullptr : found;
}

bool diagnose_collectives(Worker* w, const Block& block) {
  for (const Fibre& fibre : Threads(w, block)) {
    if (fibre.state != State::kInCollective) continue;
    const uint32_t warp = fibre.idx / kWarpSize;
    for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
      if (!((fibre.mask & lanes_of_warp(w, warp)) >> lane & 1)) continue;
      const Fibre& other = w->fibres[warp * kWarpSize + lane];
      if (other.state == State::kInCollective && other.line == fibre.line && other.op == fibre.op) {
        continue;
      }
      if (other.state == State::kAtBarrier && block.n_at_barrier + 1 < w->n_threads) {
        set_fault(w, kDeadlock, fibre, fibre.file, fibre.line,
                  "lane %u waits for lane %u, which waits at the barrier at %s:%u",
                  fibre.idx % kWarpSize, lane, other.file, other.line);
      } else {
        set_fault(w, kWarpMask, fibre, fibre.file, fibre.line,
                  "mask 0x%08x names lane %u, which %s", fibre.mask, lane, where(other));
      }
      return true;
    }
  }
  return false;
}

bool diagnose_barrier(Worker* w, const Block& block) {
  const Fibre* at_barrier = find_waiting(w, block, State::kAtBarrier);
  const Fibre* missing = find_missing(w, block, State::kAtBarrier);
  if (at_barrier == nullptr || missing == nullptr) return false;
  set_fault(w, kBarrierDivergence, *missing, at_barrier->file, at_barrier->line,
            "%u of %u threads wait at this barrier, and thread %u %s", block.n_at_barrier,
            w->n_threads, thread_of(*missing), where(*missing));
  return true;
}

bool diagnose_cluster_barrier(Worker* w) {
  const Fibre* at_barrier = nullptr;
  const Fibre* missing = nullptr;
  for (const Block& block : w->blocks) {
    if (at_barrier == nullptr) at_barrier = find_waiting(w, block, State::kAtClusterBarrier);
    if (missing == nullptr) missing = find_missing(w, block, State::kAtClusterBarrier);
  }
  if (at_barrier == nullptr || missing == nullptr) return false;
  set_fault(w, kBarrierDivergence, *missing, at_barrier->file, at_barrier->line,
            "%u of %zu threads wait at this cluster barrier, and thread %u of the cluster's block "
            "%u %s",
            w->n_at_cluster_barrier, w->n_threads * w->blocks.size(), thread_of(*missing),
            missing->block->rank, where(*missing));
  return true;
}

}  // namespace

void diagnose_stall(Worker* w) {
  for (const Block& block : w->blocks) {
    for (const Fibre& fibre : Threads(w, block)) {
      if (fibre.poll_pc == 0) continue;
      set_fault(w, kDeadlock, fibre, nullptr, 0,
                "waits for an mbarrier, and no other thread of the block can run");
      w->fault.pc = fibre.poll_pc;
      return;
    }
  }
  for (const Block& block : w->blocks) {
    if (diagnose_collectives(w, block) || diagnose_barrier(w, block)) return;
  }
  if (diagnose_cluster_barrier(w)) return;
  const Fibre& first = w->fibres.front();
  set_fault(w, kDeadlock, first, first.file, first.line, "no thread of the block can run");
}

}  // namespace lacuna_simt
