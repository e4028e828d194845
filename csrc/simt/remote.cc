// SPDX-License-Identifier: MIT OR Apache-2.0
// Distributed shared memory is there from when all blocks of a cluster have begun, of which only a
// barrier of the cluster tells, to when the block returns whose it is: each access must be before
// something that a thread of that block does.
#include "checker.h"
#include "worker.h"

namespace lacuna_simt {

void Checker::note_remote(uint32_t rank, uint64_t pc) {
  if (!has(kAccesses)) return;
  const uint32_t thread = w_->running->idx;
  if (w_->blocks[rank].n_done == w_->n_threads) {
    fail(kAbsentBlock, pc, "uses shared memory of block %u of the cluster, which has returned",
         rank);
  }
  if (w_->n_cluster_barriers == 0 && early_.kind == kNoFault) {
    const LacunaSimtFault kept = w_->fault;
    set_fault(w_, kAbsentBlock, *w_->running, nullptr, 0,
              "uses shared memory of block %u of the cluster before any cluster barrier: the block "
              "may not have begun",
              rank);
    w_->fault.pc = pc;
    early_ = w_->fault;
    w_->fault = kept;
  }
  if (!has(kRaces)) return;
  const StampId stamp = order_.stamp(thread);
  const uint64_t key = uint64_t{stamp} << 32 | rank;
  const auto placed = remote_of_.emplace(key, remotes_.size());
  if (placed.second) remotes_.push_back({stamp, 0, rank, thread, pc});
  remotes_[placed.first->second].lanes |= 1u << thread % kWarpSize;
}

void Checker::at_return() {
  const uint32_t thread = w_->running->idx;
  for (Remote& remote : remotes_) {
    if (remote.rank != w_->block->rank) continue;
    for (uint32_t rest = remote.lanes; rest != 0; rest &= rest - 1) {
      const uint32_t lane = rest & -rest;
      if (order_.is_before(remote.stamp, lane, thread)) remote.lanes &= ~lane;
    }
  }
}

void Checker::forget_remotes() {
  for (Remote& remote : remotes_) {
    if (w_->blocks[remote.rank].n_done < w_->n_threads) remote.lanes = 0;
  }
  const auto is_told = [](const Remote& remote) { return remote.lanes == 0; };
  remotes_.erase(std::remove_if(remotes_.begin(), remotes_.end(), is_told), remotes_.end());
  // Later accesses are under other stamps.
  remote_of_.clear();
}

bool Checker::are_remotes_right() {
  if (early_.kind != kNoFault) {
    w_->fault = early_;
    return false;
  }
  for (const Remote& remote : remotes_) {
    if (remote.lanes == 0) continue;
    set_fault(
        w_, kAbsentBlock, w_->fibres[remote.thread], nullptr, 0,
        "uses shared memory of block %u of the cluster, and nothing keeps that from returning "
        "before",
        remote.rank);
    w_->fault.pc = remote.pc;
    return false;
  }
  return true;
}

}  // namespace lacuna_simt
