// SPDX-License-Identifier: MIT OR Apache-2.0
// Asynchronous copies: nothing arrives before it is waited for, and then in any order.
#include <string.h>

#include "worker.h"

namespace lacuna_simt {
namespace {

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

void shuffle(std::vector<Copy>* copies, Random* random) {
  for (size_t i = copies->size(); i > 1; --i) {
    std::swap((*copies)[i - 1], (*copies)[random->below(static_cast<uint32_t>(i))]);
  }
}

void check_issue(Worker* w, const Copy& copy, uint64_t pc) {
  if (w->checker == nullptr) return;
  const bool is_bulk = copy.barrier != nullptr;
  const uint32_t n_aligned = is_bulk ? 16 : copy.n_bytes;
  if (address_of(copy.target) % n_aligned != 0 || address_of(copy.source) % n_aligned != 0 ||
      copy.n_bytes % n_aligned != 0) {
    w->checker->fail(kMisaligned, pc,
                     "an asynchronous copy of %u bytes, whose addresses and size are not all "
                     "multiples of %u",
                     copy.n_bytes, n_aligned);
  }
  if (!w->is_shared(address_of(copy.target))) {
    w->checker->fail(kOutOfBounds, pc,
                     "an asynchronous copy to what is not shared memory of the block");
  }
  if (copy.is_valid) w->checker->read_source(address_of(copy.source), copy.n_bytes, pc);
  w->checker->access(address_of(copy.target), copy.n_bytes, AccessKind::kIssueCopy, false, pc);
}

void deliver(Worker* w, const Copy& copy, StampId stamp, uint32_t lane) {
  if (copy.is_valid) {
    memcpy(copy.target, copy.source, copy.n_bytes);
  } else {
    memset(copy.target, 0, copy.n_bytes);
  }
  if (w->checker == nullptr) return;
  // What the thread itself copies is read until now.
  if (copy.is_valid && copy.barrier == nullptr) {
    w->checker->read_source_again(address_of(copy.source), copy.n_bytes, copy.pc);
  }
  w->checker->deliver(address_of(copy.target), copy.n_bytes, stamp, lane, copy.pc);
}

void use_barrier(Worker* w, const uint64_t* barrier, AccessKind kind, uint64_t pc) {
  if (w->checker == nullptr) return;
  if (!w->is_shared(address_of(barrier))) {
    w->checker->fail(kOutOfBounds, pc, "an mbarrier that is not in shared memory of the block");
  }
  w->checker->access(address_of(barrier), 8, kind, true, pc);
}

// Whoever waits for the phase acquires what was released up to its end.
void end_phase(Worker* w, const uint64_t* address, Barrier* barrier) {
  if (barrier->n_missing != 0 || barrier->n_bytes_missing != 0) return;
  if (w->checker != nullptr) {
    barrier->n_releases = w->checker->order().count_releases(address_of(address));
  }
  barrier->n_missing = barrier->n_arrivals;
  barrier->parity ^= 1;
}

}  // namespace

void copy_async(void* target, const void* source, uint32_t n_bytes, bool is_valid) {
  Worker* w = worker;
  const uint64_t pc = reinterpret_cast<uint64_t>(__builtin_return_address(0));
  const Copy copy = {target, source, n_bytes, is_valid, pc, nullptr, w->running->idx};
  check_issue(w, copy, pc);
  w->running->copies.push_back(copy);
}

void commit_copies() {
  Fibre* fibre = worker->running;
  fibre->groups.push_back(fibre->copies.size());
}

void wait_copies(uint32_t n_pending) {
  Worker* w = worker;
  Fibre* fibre = w->running;
  if (fibre->groups.size() <= n_pending) return;
  const size_t n_groups = fibre->groups.size() - n_pending;
  const size_t n_copies = fibre->groups[n_groups - 1];
  std::vector<Copy> ready(fibre->copies.begin(),
                          fibre->copies.begin() + static_cast<ptrdiff_t>(n_copies));
  fibre->copies.erase(fibre->copies.begin(),
                      fibre->copies.begin() + static_cast<ptrdiff_t>(n_copies));
  fibre->groups.erase(fibre->groups.begin(),
                      fibre->groups.begin() + static_cast<ptrdiff_t>(n_groups));
  for (size_t& group : fibre->groups) group -= n_copies;
  shuffle(&ready, &w->random);
  const StampId stamp = w->checker == nullptr ? 0 : w->checker->order().stamp(fibre->idx);
  for (const Copy& copy : ready) deliver(w, copy, stamp, fibre->idx % kWarpSize);
}

void init_barrier(uint64_t* barrier, uint32_t n_arrivals) {
  Worker* w = worker;
  use_barrier(w, barrier, AccessKind::kWrite,
              reinterpret_cast<uint64_t>(__builtin_return_address(0)));
  w->barriers[barrier] = {n_arrivals, n_arrivals, 0, 0, 0};
}

void arrive(uint64_t* barrier, uint32_t n_bytes) {
  Worker* w = worker;
  use_barrier(w, barrier, AccessKind::kAtomicUpdate,
              reinterpret_cast<uint64_t>(__builtin_return_address(0)));
  if (w->checker != nullptr) w->checker->order().release(w->running->idx, address_of(barrier));
  Barrier& state = w->barriers[barrier];
  state.n_missing -= 1;
  state.n_bytes_missing += n_bytes;
  end_phase(w, barrier, &state);
}

void copy_bulk(void* target, const void* source, uint32_t n_bytes, uint64_t* barrier) {
  Worker* w = worker;
  const uint64_t pc = reinterpret_cast<uint64_t>(__builtin_return_address(0));
  const Copy copy = {target, source, n_bytes, true, pc, barrier, w->running->idx};
  check_issue(w, copy, pc);
  w->bulk_copies.push_back(copy);
}

void wait_barrier(uint64_t* barrier, uint32_t parity) {
  Worker* w = worker;
  Fibre* fibre = w->running;
  const uint64_t pc = reinterpret_cast<uint64_t>(__builtin_return_address(0));
  use_barrier(w, barrier, AccessKind::kAtomicRead, pc);
  Barrier& state = w->barriers[barrier];
  w->has_moved = true;
  while (state.parity == parity) {
    std::vector<Copy> ready;
    const auto is_ours = [&](const Copy& copy) { return copy.barrier == barrier; };
    std::copy_if(w->bulk_copies.begin(), w->bulk_copies.end(), std::back_inserter(ready), is_ours);
    w->bulk_copies.erase(std::remove_if(w->bulk_copies.begin(), w->bulk_copies.end(), is_ours),
                         w->bulk_copies.end());
    shuffle(&ready, &w->random);
    for (const Copy& copy : ready) {
      const bool is_checked = w->checker != nullptr;
      const StampId stamp = is_checked ? w->checker->order().release_copy(address_of(barrier)) : 0;
      deliver(w, copy, stamp, 0);
      state.n_bytes_missing -= copy.n_bytes;
    }
    end_phase(w, barrier, &state);
    if (state.parity != parity) break;
    if (fibre->steps_left-- == 0) {
      set_fault(w, kStepBudget, *fibre, nullptr, 0,
                "the barrier still waits for %u arrivals and %lld bytes", state.n_missing,
                static_cast<long long>(state.n_bytes_missing));
      w->fault.pc = pc;
      abandon(w);
    }
    fibre->poll_pc = pc;
    give_way(w);
    fibre->poll_pc = 0;
  }
  if (w->checker != nullptr) {
    w->checker->order().acquire(fibre->idx, address_of(barrier), state.n_releases);
  }
}

bool finish_copies(Worker* w) {
  Fibre* fibre = w->running;
  if (w->checker == nullptr || fibre->copies.empty()) return true;
  set_fault(w, kAsyncCopy, *fibre, nullptr, 0,
            "the thread returns, and has not waited for this copy");
  w->fault.pc = fibre->copies.front().pc;
  return false;
}

bool finish_bulk_copies(Worker* w) {
  if (w->checker == nullptr || w->bulk_copies.empty()) return true;
  const Copy& copy = w->bulk_copies.front();
  set_fault(w, kAsyncCopy, w->fibres[copy.thread], nullptr, 0,
            "the block ends, and no thread has waited for this copy");
  w->fault.pc = copy.pc;
  return false;
}

const Copy* find_copy_from(Worker* w, uint64_t address, uint64_t n_bytes) {
  const auto overlaps = [&](const Copy& copy) {
    const uint64_t source = address_of(copy.source);
    return copy.is_valid && source < address + n_bytes && address < source + copy.n_bytes;
  };
  const auto find = [&](const std::vector<Copy>& copies) {
    const auto found = std::find_if(copies.begin(), copies.end(), overlaps);
    return found == copies.end() ? nullptr : &*found;
  };
  const Copy* found = find(w->bulk_copies);
  if (found != nullptr) return found;
  for (const Block& block : w->blocks) {
    for (const Fibre& fibre : Threads(w, block)) {
      found = find(fibre.copies);
      if (found != nullptr) return found;
    }
  }
  return nullptr;
}

}  // namespace lacuna_simt
