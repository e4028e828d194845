// SPDX-License-Identifier: MIT OR Apache-2.0
// Runs a grid: blocks on OS threads, the threads of a block as fibres of one of them. What order
// the threads of a block run in depends on the schedule, the seed and the block alone.
#include "executor.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <system_error>
#include <thread>
#include <vector>

#include "worker.h"

namespace lacuna_simt {

thread_local Worker* worker = nullptr;

namespace {

enum Schedule : uint32_t { kInOrder, kReverse, kRandom, kWarpFirst, kLaneLast };

// A value that no kernel would compute: reading shared memory before writing it shows.
constexpr int kPoison = 0xCD;

__attribute__((noinline)) void run_entry(Worker* w) {
  w->running->frames_end = __builtin_frame_address(0);
  w->launch->entry(w->launch->params, w->checker != nullptr);
}

void enter_fibre() {
  run_entry(worker);
  Worker* w = worker;
  if (!finish_copies(w)) abandon(w);
  Fibre* fibre = w->running;
  fibre->state = State::kDone;
  w->n_done += 1;
  w->returned[fibre->idx / kWarpSize] |= 1u << fibre->idx % kWarpSize;
  for (;;) give_way(w);
}

void shuffle_order(Worker* w) {
  for (uint32_t i = w->n_threads; i > 1; --i) {
    std::swap(w->order[i - 1], w->order[w->random.below(i)]);
  }
}

void set_order(Worker* w) {
  const uint32_t n = w->n_threads;
  w->order.clear();
  for (uint32_t i = 0; i < n; ++i) w->order.push_back(i);
  switch (w->launch->schedule) {
    case kReverse:
      std::reverse(w->order.begin(), w->order.end());
      break;
    case kWarpFirst: {
      const uint32_t warp = w->random.below((n + kWarpSize - 1) / kWarpSize);
      std::stable_partition(w->order.begin(), w->order.end(),
                            [&](uint32_t i) { return i / kWarpSize == warp; });
      break;
    }
    case kLaneLast: {
      const uint32_t lane = w->random.below(std::min(n, kWarpSize));
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

void run_block(Worker* w, uint64_t block) {
  const LacunaSimtLaunch& launch = *w->launch;
  w->block_idx = {static_cast<uint32_t>(block % launch.grid[0]),
                  static_cast<uint32_t>(block / launch.grid[0] % launch.grid[1]),
                  static_cast<uint32_t>(block / launch.grid[0] / launch.grid[1])};
  w->random.state = launch.seed ^ (block * 0xD1342543DE82EF95u);
  w->n_at_barrier = 0;
  w->n_predicates = 0;
  w->n_done = 0;
  w->shared_bytes = 0;
  w->shared_objects.clear();
  w->bulk_copies.clear();
  w->barriers.clear();
  if (launch.dynamic_shared_bytes > 0) {
    memset(w->shared_start(), kPoison, launch.dynamic_shared_bytes);
    w->shared_objects.push_back(
        {nullptr, w->shared_start(), launch.dynamic_shared_bytes, "dynamic shared memory"});
  }
  std::fill(w->waiting.begin(), w->waiting.end(), 0u);
  std::fill(w->returned.begin(), w->returned.end(), 0u);
  for (uint32_t i = 0; i < w->n_threads; ++i) {
    Fibre& fibre = w->fibres[i];
    fibre.idx = i;
    fibre.stack = w->stacks.stack(i);
    fibre.thread_idx = {i % launch.block[0], i / launch.block[0] % launch.block[1],
                        i / launch.block[0] / launch.block[1]};
    fibre.state = State::kReady;
    fibre.steps_left = launch.step_budget;
    fibre.file = nullptr;
    fibre.poll_pc = 0;
    fibre.copies.clear();
    fibre.groups.clear();
    fibre.line = 0;
    prepare_context(&fibre.context, w->native, w->stacks.stack(i), Stacks::kStackBytes,
                    enter_fibre);
  }
  if (w->checker != nullptr) w->checker->begin_block(block);
  set_order(w);
  while (w->n_done < w->n_threads) {
    if (launch.schedule == kRandom) shuffle_order(w);
    w->has_moved = false;
    for (const uint32_t idx : w->order) {
      Fibre& fibre = w->fibres[idx];
      if (fibre.state != State::kReady) continue;
      w->running = &fibre;
      begin_turn(w);
      switch_context(&w->scheduler, &fibre.context, w->native);
      end_turn(w);
      if (w->fault.kind != kNoFault) return;
      w->has_moved |= fibre.poll_pc == 0;
    }
    // Else all that ran were polling before, and still are.
    if (w->has_moved || meet_without_returned(w)) continue;
    if (w->fault.kind == kNoFault) diagnose_stall(w);
    return;
  }
  if (w->checker != nullptr && finish_bulk_copies(w)) w->checker->end_block();
}

struct Grid {
  const LacunaSimtLaunch* launch;
  uint64_t n_blocks;
  // Blocks run in the order `first + i * stride`, modulo their number, which has no common divisor
  // with the stride.
  uint64_t first = 0;
  uint64_t stride = 1;
  std::atomic<size_t> next{0};
  std::atomic<uint64_t> lowest_fault{~uint64_t{0}};
  std::mutex mutex;
  LacunaSimtFault fault = {};
  LacunaSimtTotals totals = {};
};

// Stacks are dear to map: workers outlive their launches and are lent to the next.
std::mutex idle_mutex;
std::vector<std::unique_ptr<Worker>>& idle_workers() {
  static std::vector<std::unique_ptr<Worker>> workers;
  return workers;
}

std::unique_ptr<Worker> borrow_worker() {
  const std::lock_guard<std::mutex> lock(idle_mutex);
  auto& idle = idle_workers();
  if (idle.empty()) return std::unique_ptr<Worker>(new Worker());
  std::unique_ptr<Worker> last = std::move(idle.back());
  idle.pop_back();
  return last;
}

void return_worker(std::unique_ptr<Worker> lent) {
  const std::lock_guard<std::mutex> lock(idle_mutex);
  idle_workers().push_back(std::move(lent));
}

// What can be said once every block has ended.
void finish_launch(Worker* w, Grid* grid) {
  const std::lock_guard<std::mutex> lock(grid->mutex);
  grid->totals.n_barriers += w->totals.n_barriers;
  grid->totals.n_collectives += w->totals.n_collectives;
  grid->totals.n_atomics += w->totals.n_atomics;
  if (w->checker == nullptr || grid->fault.kind != kNoFault) return;
  w->fault = LacunaSimtFault();
  if (!w->checker->end_launch()) {
    grid->fault = w->fault;
    return;
  }
  if (w->checker->has(kCounters)) w->checker->counters().report(*grid->launch);
}

void run_worker(Grid* grid) {
  std::unique_ptr<Worker> owned = borrow_worker();
  Worker* w = owned.get();
  const LacunaSimtLaunch& launch = *grid->launch;
  w->launch = &launch;
  w->n_threads = launch.block[0] * launch.block[1] * launch.block[2];
  w->block_dim = {launch.block[0], launch.block[1], launch.block[2]};
  w->grid_dim = {launch.grid[0], launch.grid[1], launch.grid[2]};
  w->native = launch.fibres == 0 && has_native_switch();
  const uint32_t n_warps = (w->n_threads + kWarpSize - 1) / kWarpSize;
  w->fibres.resize(w->n_threads);
  w->waiting.resize(n_warps);
  w->returned.resize(n_warps);
  const bool has_stacks = w->stacks.reserve(w->n_threads);
  w->totals = {};
  w->checker = nullptr;
  if (launch.checks != 0) {
    if (w->idle_checker == nullptr) w->idle_checker.reset(new Checker(w));
    w->checker = w->idle_checker.get();
    w->checker->begin_launch(launch);
  }
  worker = w;
  for (;;) {
    const size_t next = grid->next.fetch_add(1);
    if (next >= grid->n_blocks) break;
    const uint64_t block = static_cast<uint64_t>(
        (grid->first + static_cast<unsigned __int128>(next) * grid->stride) % grid->n_blocks);
    // Blocks below the faulty one still run: the lowest fault is the one reported, whichever
    // worker was faster.
    if (block > grid->lowest_fault.load()) continue;
    w->fault = LacunaSimtFault();
    if (has_stacks) {
      run_block(w, block);
    } else {
      set_fault(w, kResources, Fibre(), nullptr, 0, "no memory for %u fibres", w->n_threads);
    }
    if (w->checker != nullptr) w->checker->settle(&w->fault);
    if (w->fault.kind == kNoFault) continue;
    const std::lock_guard<std::mutex> lock(grid->mutex);
    if (block < grid->lowest_fault.load()) {
      grid->lowest_fault.store(block);
      grid->fault = w->fault;
    }
  }
  finish_launch(w, grid);
  worker = nullptr;
  return_worker(std::move(owned));
}

}  // namespace

__attribute__((format(printf, 6, 7))) void set_fault(Worker* w, Kind kind, const Fibre& fibre,
                                                     const char* file, uint32_t line,
                                                     const char* format, ...) {
  LacunaSimtFault& fault = w->fault;
  fault.kind = kind;
  fault.block[0] = w->block_idx.x;
  fault.block[1] = w->block_idx.y;
  fault.block[2] = w->block_idx.z;
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
Dim3 block_idx() { return worker->block_idx; }
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

void* dynamic_shared() { return worker->shared_start(); }

void* static_shared(const void* key, size_t n_bytes, size_t alignment, const char* name) {
  Worker* w = worker;
  size_t n_objects = 0;
  for (const SharedObject& object : w->shared_objects) {
    if (object.key == key) return object.start;
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
  memset(start, kPoison, n_bytes);
  w->shared_bytes = first + n_bytes;
  w->shared_objects.push_back({key, start, n_bytes, name});
  return start;
}

void fence(Scope scope) {
  Worker* w = worker;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (w->checker != nullptr) w->checker->order().at_fence(w->running->idx, scope);
}

}  // namespace lacuna_simt

// The compiler calls this in every basic block of a kernel: a thread's steps.
extern "C" void __sanitizer_cov_trace_pc() {
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

extern "C" void lacuna_simt_launch(const LacunaSimtLaunch* launch, LacunaSimtFault* fault) {
  using namespace lacuna_simt;
  *fault = LacunaSimtFault();
  if (launch->dynamic_shared_bytes > kMaxDynamicShared) {
    fault->kind = kSharedMemory;
    snprintf(fault->message, sizeof fault->message,
             "%u bytes of dynamic shared memory, and a block can have %zu",
             launch->dynamic_shared_bytes, kMaxDynamicShared);
    return;
  }
  Grid grid;
  grid.launch = launch;
  const uint64_t n_blocks = uint64_t{launch->grid[0]} * launch->grid[1] * launch->grid[2];
  grid.n_blocks = n_blocks;
  if (launch->schedule == kReverse) {
    grid.first = n_blocks - 1;
    grid.stride = n_blocks - 1;
  }
  if (launch->schedule == kRandom) {
    Random random = {launch->seed};
    grid.first = random.next() % n_blocks;
    do {
      grid.stride = 1 + random.next() % n_blocks;
    } while (std::gcd(grid.stride, n_blocks) != 1);
  }
  // A checked launch runs block after block: what it finds is then the same every time.
  const uint32_t n_allowed = launch->checks != 0 ? 1 : std::max<uint32_t>(launch->n_workers, 1);
  const size_t n_workers = std::min<uint64_t>(n_allowed, n_blocks);
  std::vector<std::thread> threads;
  try {
    for (size_t i = 1; i < n_workers; ++i) threads.emplace_back(run_worker, &grid);
  } catch (const std::system_error&) {
    // Fewer workers do the same blocks.
  }
  run_worker(&grid);
  for (std::thread& thread : threads) thread.join();
  *fault = grid.fault;
  if (launch->totals != nullptr) *launch->totals = grid.totals;
}
