// SPDX-License-Identifier: MIT OR Apache-2.0
// What the blocks of a cluster do together.
#include "worker.h"

namespace lacuna_simt {
namespace {

// All threads of the cluster have arrived that have not returned: lets them run. False on a fault.
bool resolve_cluster_barrier(Worker* w) {
  for (const Block& block : w->blocks) {
    const Threads threads(w, block);
    const auto is_there = [](const Fibre& fibre) { return fibre.state != State::kDone; };
    const Fibre* first = std::find_if(threads.begin(), threads.end(), is_there);
    // Blocks may arrive from different lines, as what they do may depend on their rank.
    if (first != threads.end() && !are_at_one_place(w, *first)) return false;
  }
  w->totals.n_barriers += w->blocks.size();
  w->n_cluster_barriers += 1;
  w->n_at_cluster_barrier = 0;
  if (w->checker != nullptr) w->checker->at_cluster_barrier();
  for (const Block& block : w->blocks) {
    for (Fibre& fibre : Threads(w, block)) {
      if (fibre.state != State::kDone) fibre.state = State::kReady;
    }
  }
  return true;
}

}  // namespace

bool meet_at_cluster_barrier(Worker* w) {
  size_t n_there = w->n_at_cluster_barrier;
  if (n_there == 0) return false;
  for (const Block& block : w->blocks) n_there += block.n_done;
  if (n_there < w->n_threads * w->blocks.size()) return false;
  for (const Block& block : w->blocks) {
    if (has_torn_warp(w, block)) return false;
  }
  return resolve_cluster_barrier(w);
}

void cluster_barrier(const char* file, uint32_t line) {
  Worker* w = worker;
  Fibre* fibre = w->running;
  fibre->file = file;
  fibre->line = line;
  fibre->state = State::kAtClusterBarrier;
  w->n_at_cluster_barrier += 1;
  if (w->n_at_cluster_barrier < w->n_threads * w->blocks.size()) {
    give_way(w);
  } else if (!resolve_cluster_barrier(w)) {
    abandon(w);
  }
}

uint32_t cluster_rank() { return worker->block->rank; }

uint32_t cluster_n_blocks() { return static_cast<uint32_t>(worker->blocks.size()); }

// Always checked: what comes of it would be memory of this program's.
uint64_t map_shared(uint64_t address, uint32_t rank) {
  Worker* w = worker;
  const size_t n_blocks = w->blocks.size();
  if (rank >= n_blocks || !w->is_shared(address)) {
    if (rank >= n_blocks) {
      set_fault(w, kOutOfBounds, *w->running, nullptr, 0,
                "asks for shared memory of block %u of a cluster that has %zu", rank, n_blocks);
    } else {
      set_fault(w, kOutOfBounds, *w->running, nullptr, 0,
                "asks where another block has what is no shared memory of this block");
    }
    w->fault.pc = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    abandon(w);
  }
  w->block->mapped |= 1u << rank;
  return address + (uint64_t{rank} - w->block->rank) * Worker::kSharedStride;
}

}  // namespace lacuna_simt
