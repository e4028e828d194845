// SPDX-License-Identifier: MIT OR Apache-2.0
// Runs a grid: its blocks, or clusters of them, on OS threads.
#include <stdio.h>
#include <string.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <system_error>
#include <thread>
#include <vector>

#include "executor.h"
#include "worker.h"

namespace lacuna_simt {
namespace {

// Of all workers that run clusters.
constexpr uint32_t kMaxFibres = 16384;

struct Grid {
  const LacunaSimtLaunch* launch;
  // Blocks, or clusters of them. They run in the order `first + i * stride`, modulo their number,
  // which has no common divisor with the stride.
  uint64_t n_units;
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

// Of a worker lent to a launch. False where the system has no memory left.
bool make_room(Worker* w) {
  const uint32_t n_blocks = w->launch->cluster_blocks;
  w->n_warps = (w->n_threads + kWarpSize - 1) / kWarpSize;
  w->blocks.assign(n_blocks, {});
  for (uint32_t rank = 0; rank < n_blocks; ++rank) {
    w->blocks[rank].rank = rank;
    w->blocks[rank].first = rank * w->n_warps * kWarpSize;
  }
  w->block = &w->blocks[0];
  const uint32_t n_fibres = w->blocks.back().first + w->n_threads;
  w->fibres.resize(n_fibres);
  w->fibres[0].block = w->block;
  w->waiting.resize(n_blocks * w->n_warps);
  w->returned.resize(n_blocks * w->n_warps);
  if (n_blocks > w->n_shared) {
    w->shared.reset(new uint8_t[n_blocks * Worker::kSharedStride + Worker::kZoneBytes]);
    w->n_shared = n_blocks;
  }
  return w->stacks.reserve(n_fibres);
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
  const bool has_stacks = make_room(w);
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
    if (next >= grid->n_units) break;
    const uint64_t unit = static_cast<uint64_t>(
        (grid->first + static_cast<unsigned __int128>(next) * grid->stride) % grid->n_units);
    // Blocks below the faulty one still run: the lowest fault is the one reported, whichever
    // worker was faster.
    if (unit > grid->lowest_fault.load()) continue;
    w->fault = LacunaSimtFault();
    if (has_stacks) {
      run_blocks(w, unit * launch.cluster_blocks);
    } else {
      set_fault(w, kResources, w->fibres[0], nullptr, 0, "no memory for %zu fibres",
                w->fibres.size());
    }
    if (w->checker != nullptr) w->checker->settle(&w->fault);
    if (w->fault.kind == kNoFault) continue;
    for (size_t i = 0; has_stacks && i < w->fibres.size(); ++i) {
      forget_frames(w->stacks.stack(i), Stacks::kStackBytes);
    }
    const std::lock_guard<std::mutex> lock(grid->mutex);
    if (unit < grid->lowest_fault.load()) {
      grid->lowest_fault.store(unit);
      grid->fault = w->fault;
    }
  }
  finish_launch(w, grid);
  worker = nullptr;
  return_worker(std::move(owned));
}

// What was in an output or a workspace is no part of what the launch leaves.
void fill_regions(const LacunaSimtLaunch& launch) {
  for (uint64_t i = 0; i < launch.n_regions; ++i) {
    const LacunaSimtRegion& region = launch.regions[i];
    const Role role = static_cast<Role>(region.role);
    if (region.n_bytes == 0 || (role != Role::kOutput && role != Role::kWorkspace)) continue;
    memset(reinterpret_cast<void*>(region.start), static_cast<int>(launch.fill), region.n_bytes);
  }
}

}  // namespace
}  // namespace lacuna_simt

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
  const uint32_t n_together = launch->cluster_blocks;
  if (n_together == 0 || n_together > kMaxClusterBlocks || launch->grid[0] % n_together != 0) {
    fault->kind = kResources;
    snprintf(fault->message, sizeof fault->message,
             "clusters of %u blocks, of which there are %u in x; a cluster has 1 to %u", n_together,
             launch->grid[0], kMaxClusterBlocks);
    return;
  }
  fill_regions(*launch);
  Grid grid;
  grid.launch = launch;
  const uint64_t n_units =
      uint64_t{launch->grid[0]} * launch->grid[1] * launch->grid[2] / n_together;
  grid.n_units = n_units;
  if (launch->schedule == kReverse) {
    grid.first = n_units - 1;
    grid.stride = n_units - 1;
  }
  if (launch->schedule == kRandom) {
    Random random = {launch->seed};
    grid.first = random.next() % n_units;
    do {
      grid.stride = 1 + random.next() % n_units;
    } while (std::gcd(grid.stride, n_units) != 1);
  }
  // A checked launch runs block after block, or cluster after cluster: what it finds is then the
  // same every time.
  uint32_t n_allowed = launch->checks != 0 ? 1 : std::max<uint32_t>(launch->n_workers, 1);
  // Each stack is two of the mappings of which the system allows a process 65,530.
  const uint32_t n_threads = launch->block[0] * launch->block[1] * launch->block[2];
  if (n_together > 1) {
    n_allowed = std::min(n_allowed, std::max(kMaxFibres / (n_together * n_threads), 1u));
  }
  const size_t n_workers = std::min<uint64_t>(n_allowed, n_units);
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
