// SPDX-License-Identifier: MIT OR Apache-2.0
// Runs a block, or the blocks of a cluster: their threads as fibres of one OS thread. What order
// they run in depends on the schedule, the seed and the block alone.
#include "executor.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "worker.h"

namespace lacuna_simt {

thread_local Worker* worker = nullptr;

namespace {

__attribute__((noinline)) void run_entry(Worker* w) {
  w->running->frames_end = __builtin_frame_address(0);
  w->launch->entry(w->launch->params, w->checker != nullptr);
}

void enter_fibre() {
  begin_context(&worker->scheduler);
  run_entry(worker);
  Worker* w = worker;
  if (!finish_copies(w)) abandon(w);
  Fibre* fibre = w->running;
  if (w->checker != nullptr && w->blocks.size() > 1) w->checker->at_return();
  fibre->state = State::kDone;
  fibre->block->n_done += 1;
  w->returned[fibre->idx / kWarpSize] |= 1u << fibre->idx % kWarpSize;
  for (;;) give_way(w);
}

void shuffle_order(Worker* w) {
  for (uint32_t i = static_cast<uint32_t>(w->order.size()); i > 1; --i) {
    std::swap(w->order[i - 1], w->order[w->random.below(i)]);
  }
}

void set_order(Worker* w) {
  w->order.clear();
  for (const Block& block : w->blocks) {
    for (uint32_t i = 0; i < w->n_threads; ++i) w->order.push_back(block.first + i);
  }
  switch (w->launch->schedule) {
    case kReverse:
      std::reverse(w->order.begin(), w->order.end());
      break;
    case kWarpFirst: {
      const uint32_t warp = w->random.below(static_cast<uint32_t>(w->waiting.size()));
      std::stable_partition(w->order.begin(), w->order.end(),
                            [&](uint32_t i) { return i / kWarpSize == warp; });
      break;
    }
    case kLaneLast: {
      const uint32_t lane = w->random.below(std::min(w->n_threads, kWarpSize));
      std::stable_partition(w->order.begin(), w->order.end(),
                            [&](uint32_t i) { return i % kWarpSize != lane; });
      break;
    }
    default:
      break;
  }
}

// Only a random schedule interrupts threads that get anywhere; any other, those that may be waiting
// for a thread that it has not let run.
constexpr uint64_t kPatience = 2000;

// One counter for what a thread may do now and may do at all: it is counted in every basic block.
void begin_turn(Worker* w) {
  const bool is_random = w->launch->schedule == kRandom;
  const uint64_t n_steps = is_random ? 1 + w->random.below(200) : kPatience;
  w->turn_steps = w->turn_steps_left = std::min(n_steps - 1, w->running->steps_left) + 1;
}

void end_turn(Worker* w) {
  uint64_t& steps_left = w->running->steps_left;
  steps_left -= std::min(steps_left, w->turn_steps - w->turn_steps_left);
}

Dim3 block_idx_of(const LacunaSimtLaunch& launch, uint64_t block) {
  return {static_cast<uint32_t>(block % launch.grid[0]),
          static_cast<uint32_t>(block / launch.grid[0] % launch.grid[1]),
          static_cast<uint32_t>(block / launch.grid[0] / launch.grid[1])};
}

void begin_block(Worker* w, Block* block) {
  const LacunaSimtLaunch& launch = *w->launch;
  block->n_at_barrier = 0;
  block->n_predicates = 0;
  block->n_done = 0;
  block->mapped = 0;
  if (launch.dynamic_shared_bytes > 0) {
    memset(w->shared_start(block->rank), static_cast<int>(launch.fill),
           launch.dynamic_shared_bytes);
  }
  for (uint32_t i = 0; i < w->n_threads; ++i) {
    const uint32_t idx = block->first + i;
    Fibre& fibre = w->fibres[idx];
    fibre.block = block;
    fibre.idx = idx;
    fibre.stack = w->stacks.stack(idx);
    fibre.thread_idx = {i % launch.block[0], i / launch.block[0] % launch.block[1],
                        i / launch.block[0] / launch.block[1]};
    fibre.state = State::kReady;
    fibre.steps_left = launch.step_budget;
    fibre.file = nullptr;
    fibre.poll_pc = 0;
    fibre.copies.clear();
    fibre.groups.clear();
    fibre.line = 0;
    prepare_context(&fibre.context, w->native, w->stacks.stack(idx), Stacks::kStackBytes,
                    enter_fibre);
  }
}

bool have_returned(const Worker* w) {
  return std::all_of(w->blocks.begin(), w->blocks.end(),
                     [&](const Block& block) { return block.n_done == w->n_threads; });
}

}  // namespace

void run_blocks(Worker* w, uint64_t first) {
  const LacunaSimtLaunch& launch = *w->launch;
  const bool is_cluster = w->blocks.size() > 1;
  w->random.state = launch.seed ^ (first * 0xD1342543DE82EF95u);
  w->n_at_cluster_barrier = 0;
  w->n_cluster_barriers = 0;
  w->shared_bytes = 0;
  w->shared_objects.clear();
  w->bulk_copies.clear();
  w->barriers.clear();
  if (launch.dynamic_shared_bytes > 0) {
    w->shared_objects.push_back(
        {nullptr, w->shared_start(), launch.dynamic_shared_bytes, "dynamic shared memory"});
  }
  std::fill(w->waiting.begin(), w->waiting.end(), 0u);
  std::fill(w->returned.begin(), w->returned.end(), 0u);
  for (Block& block : w->blocks) {
    block.idx = block_idx_of(launch, first + block.rank);
    begin_block(w, &block);
  }
  w->block = &w->blocks[0];
  if (w->checker != nullptr) w->checker->begin_blocks(first);
  set_order(w);
  while (!have_returned(w)) {
    if (launch.schedule == kRandom) shuffle_order(w);
    w->has_moved = false;
    for (const uint32_t idx : w->order) {
      Fibre& fibre = w->fibres[idx];
      if (fibre.state != State::kReady) continue;
      w->running = &fibre;
      w->block = fibre.block;
      if (is_cluster && w->checker != nullptr) w->checker->order().enter(fibre.block->rank);
      begin_turn(w);
      switch_context(&w->scheduler, &fibre.context, w->native);
      end_turn(w);
      if (w->fault.kind != kNoFault) return;
      w->has_moved |= fibre.poll_pc == 0;
    }
    // Else all that ran were polling before, and still are; but what one block of a cluster waits
    // for, another may.
    if (w->has_moved && !is_cluster) continue;
    const bool has_met = meet_without_returned(w);
    if (w->fault.kind != kNoFault) return;
    if (w->has_moved || has_met) continue;
    diagnose_stall(w);
    return;
  }
  if (w->checker != nullptr && finish_bulk_copies(w)) w->checker->end_blocks();
}

__attribute__((format(printf, 6, 7))) void set_fault(Worker* w, Kind kind, const Fibre& fibre,
                                                     const char* file, uint32_t line,
                                                     const char* format, ...) {
  LacunaSimtFault& fault = w->fault;
  fault.kind = kind;
  fault.block[0] = fibre.block->idx.x;
  fault.block[1] = fibre.block->idx.y;
  fault.block[2] = fibre.block->idx.z;
  fault.thread[0] = fibre.thread_idx.x;
  fault.thread[1] = fibre.thread_idx.y;
  fault.thread[2] = fibre.thread_idx.z;
  fault.file = file;
  fault.line = line;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(fault.message, sizeof fault.message, format, arguments);
  va_end(arguments);
}

void give_way(Worker* w) { switch_context(&w->running->context, &w->scheduler, w->native); }

// The scheduler sees the fault and runs no fibre of the block again.
[[noreturn]] void abandon(Worker* w) {
  for (;;) give_way(w);
}

Dim3 thread_idx() { return worker->running->thread_idx; }
Dim3 block_idx() { return worker->block->idx; }
Dim3 block_dim() { return worker->block_dim; }
Dim3 grid_dim() { return worker->grid_dim; }

void begin_thread(uint32_t n_threads, const Constants& constants, const char* file, uint32_t line) {
  Worker* w = worker;
  w->constants = constants;
  if (w->n_threads <= n_threads) return;
  set_fault(w, kResources, *w->running, file, line,
            "a block of %u threads, and the kernel is compiled for %u", w->n_threads, n_threads);
  abandon(w);
}

void* dynamic_shared() { return worker->shared_start(worker->block->rank); }

void* static_shared(const void* key, size_t n_bytes, size_t alignment, const char* name) {
  Worker* w = worker;
  size_t n_objects = 0;
  for (const SharedObject& object : w->shared_objects) {
    if (object.key == key) return object.start + w->block->rank * Worker::kSharedStride;
    n_objects += object.key != nullptr;
  }
  const size_t first = (w->shared_bytes + alignment - 1) / alignment * alignment;
  const size_t n_dynamic = w->launch->dynamic_shared_bytes;
  if (first + n_bytes > kMaxStaticShared || first + n_bytes + n_dynamic > kMaxDynamicShared ||
      n_objects == Worker::kMaxZones) {
    set_fault(w, kSharedMemory, *w->running, nullptr, 0,
              "%zu bytes of static shared memory in %zu objects, of which a block has 49152, and "
              "with %zu of dynamic it has %zu",
              first + n_bytes, n_objects + 1, n_dynamic, kMaxDynamicShared);
    w->fault.pc = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    abandon(w);
  }
  const SharedObject* last = n_objects == 0 ? nullptr : &w->shared_objects.back();
  uint8_t* end =
      last == nullptr ? w->shared_start() + kMaxDynamicShared : last->start + last->n_bytes;
  uint8_t* start = align_up(end + Worker::kZoneBytes, alignment);
  if (start + n_bytes > w->shared_start() + Worker::kSharedBytes) {
    set_fault(w, kSharedMemory, *w->running, nullptr, 0,
              "no room for %zu bytes of static shared memory, aligned to %zu", n_bytes, alignment);
    w->fault.pc = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    abandon(w);
  }
  for (const Block& block : w->blocks) {
    memset(start + block.rank * Worker::kSharedStride, static_cast<int>(w->launch->fill), n_bytes);
  }
  w->shared_bytes = first + n_bytes;
  w->shared_objects.push_back({key, start, n_bytes, name});
  return start + w->block->rank * Worker::kSharedStride;
}

void fence(Scope scope) {
  Worker* w = worker;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (w->checker != nullptr) w->checker->order().at_fence(w->running->idx, scope);
}

}  // namespace lacuna_simt

// The compiler calls this in every basic block of a kernel (cuda.h): a thread's steps.
extern "C" void lacuna_simt_step() {
  using namespace lacuna_simt;
  Worker* w = worker;
  if (w == nullptr) return;
  Fibre* fibre = w->running;
  if (static_cast<const uint8_t*>(__builtin_frame_address(0)) < fibre->stack + Stacks::kOwnBytes) {
    set_fault(w, kResources, *fibre, nullptr, 0,
              "the thread's variables and calls take more than %zu bytes of local memory",
              Stacks::kLocalBytes);
    w->fault.pc = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    abandon(w);
  }
  if (--w->turn_steps_left != 0) return;
  if (w->turn_steps > fibre->steps_left) {
    set_fault(w, kStepBudget, *fibre, nullptr, 0, "the thread took more than %llu steps",
              static_cast<unsigned long long>(w->launch->step_budget));
    w->fault.pc = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    abandon(w);
  }
  give_way(w);
}
