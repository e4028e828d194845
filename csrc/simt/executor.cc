// SPDX-License-Identifier: MIT OR Apache-2.0
// Runs a grid: blocks on OS threads, the threads of a block as fibres of one of them. What order
// the threads of a block run in depends on the schedule, the seed and the block alone.
#include "executor.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <system_error>
#include <thread>
#include <vector>

#include "fibre.h"

namespace lacuna_simt {
namespace {

enum Kind : uint32_t {
  kNoFault = 0,
  kBarrierDivergence = 1,
  kWarpMask = 2,
  kDeadlock = 3,
  kStepBudget = 4,
  kSharedMemory = 5,
  kResources = 6,
};

enum Schedule : uint32_t { kInOrder, kReverse, kRandom, kWarpFirst, kLaneLast };

enum class State : uint8_t { kReady, kAtBarrier, kInCollective, kDone };

constexpr uint32_t kWarpSize = 32;
constexpr size_t kMaxStaticShared = 48 * 1024;
constexpr size_t kMaxDynamicShared = 227 * 1024;
// A value that no kernel would compute: reading shared memory before writing it shows.
constexpr int kPoison = 0xCD;

struct Random {
  uint64_t state;
  // SplitMix64.
  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }
};

struct Fibre {
  Context context;
  Dim3 thread_idx;
  uint32_t idx;
  State state;
  uint64_t steps_left;
  // What it waits for, while it waits; then what it got.
  Op op;
  uint32_t mask;
  uint32_t argument;
  uint32_t width;
  uint64_t value;
  const char* file;
  uint32_t line;
};

struct SharedObject {
  const void* key;
  uint8_t* start;
};

struct Worker {
  const LacunaSimtLaunch* launch;
  Stacks stacks;
  std::vector<Fibre> fibres;
  std::vector<uint32_t> order;
  // Lanes of each warp that wait in a collective, and that have returned.
  std::vector<uint32_t> waiting;
  std::vector<uint32_t> returned;
  std::vector<SharedObject> shared_objects;
  std::unique_ptr<uint8_t[]> shared{new uint8_t[kMaxStaticShared + kMaxDynamicShared + 256]};
  size_t shared_bytes;
  Context scheduler;
  Fibre* running;
  Dim3 block_idx;
  Dim3 block_dim;
  Dim3 grid_dim;
  uint32_t n_threads;
  uint32_t n_at_barrier;
  uint32_t n_predicates;
  uint32_t n_done;
  Random random;
  uint64_t steps_to_preemption;
  bool native;
  LacunaSimtFault fault = {};
};

thread_local Worker* worker = nullptr;

uint8_t* align_up(uint8_t* pointer, size_t alignment) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  return pointer + ((alignment - address % alignment) % alignment);
}

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

void enter_fibre() {
  Worker* w = worker;
  w->launch->entry(w->launch->params);
  w = worker;
  Fibre* fibre = w->running;
  fibre->state = State::kDone;
  w->n_done += 1;
  w->returned[fibre->idx / kWarpSize] |= 1u << fibre->idx % kWarpSize;
  for (;;) give_way(w);
}

uint32_t lanes_of_warp(const Worker* w, uint32_t warp) {
  const uint32_t n_lanes = std::min(kWarpSize, w->n_threads - warp * kWarpSize);
  return n_lanes == kWarpSize ? ~0u : (1u << n_lanes) - 1;
}

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
      return lane >= first + fibre.argument ? lane - fibre.argument : lane;
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

// All lanes of `mask` have arrived: gives each its result and lets it run. False on a fault.
bool resolve_collective(Worker* w, const Fibre& last) {
  const uint32_t warp = last.idx / kWarpSize;
  Fibre* lanes = &w->fibres[warp * kWarpSize];
  const uint32_t mask = last.mask;
  uint32_t ballot = 0;
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const Fibre& other = lanes[lane];
    if (other.op != last.op || other.line != last.line || other.mask != mask) {
      set_fault(w, kWarpMask, last, last.file, last.line,
                "lane %u waits for mask 0x%08x here, and lane %u, which it names, for mask 0x%08x "
                "at %s:%u",
                last.idx % kWarpSize, mask, lane, other.mask, other.file, other.line);
      return false;
    }
    if (other.value != 0) ballot |= 1u << lane;
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
        set_fault(w, kWarpMask, fibre, fibre.file, fibre.line,
                  "lane %u reads lane %u, which mask 0x%08x does not name", lane, source, mask);
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

// No thread can run and not all have returned: says why.
void diagnose_stall(Worker* w) {
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
    if (fibre.state == State::kAtBarrier && at_barrier == nullptr) at_barrier = &fibre;
    if (fibre.state != State::kAtBarrier && missing == nullptr) missing = &fibre;
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

void draw_preemption(Worker* w) { w->steps_to_preemption = 1 + w->random.below(200); }

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
  memset(align_up(w->shared.get(), 128), kPoison, launch.dynamic_shared_bytes);
  std::fill(w->waiting.begin(), w->waiting.end(), 0u);
  std::fill(w->returned.begin(), w->returned.end(), 0u);
  for (uint32_t i = 0; i < w->n_threads; ++i) {
    Fibre& fibre = w->fibres[i];
    fibre.idx = i;
    fibre.thread_idx = {i % launch.block[0], i / launch.block[0] % launch.block[1],
                        i / launch.block[0] / launch.block[1]};
    fibre.state = State::kReady;
    fibre.steps_left = launch.step_budget;
    fibre.file = nullptr;
    fibre.line = 0;
    prepare_context(&fibre.context, w->native, w->stacks.stack(i), Stacks::kStackBytes,
                    enter_fibre);
  }
  set_order(w);
  // Only a random schedule interrupts threads between their collectives.
  w->steps_to_preemption = ~uint64_t{0};
  while (w->n_done < w->n_threads) {
    if (launch.schedule == kRandom) shuffle_order(w);
    bool has_run = false;
    for (const uint32_t idx : w->order) {
      Fibre& fibre = w->fibres[idx];
      if (fibre.state != State::kReady) continue;
      has_run = true;
      w->running = &fibre;
      if (launch.schedule == kRandom) draw_preemption(w);
      switch_context(&w->scheduler, &fibre.context, w->native);
      if (w->fault.kind != kNoFault) return;
    }
    if (!has_run) {
      diagnose_stall(w);
      return;
    }
  }
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
    if (w->fault.kind == kNoFault) continue;
    const std::lock_guard<std::mutex> lock(grid->mutex);
    if (block < grid->lowest_fault.load()) {
      grid->lowest_fault.store(block);
      grid->fault = w->fault;
    }
  }
  worker = nullptr;
  return_worker(std::move(owned));
}

}  // namespace

const Dim3& thread_idx() { return worker->running->thread_idx; }
const Dim3& block_idx() { return worker->block_idx; }
const Dim3& block_dim() { return worker->block_dim; }
const Dim3& grid_dim() { return worker->grid_dim; }

void* dynamic_shared() { return align_up(worker->shared.get(), 128); }

void* static_shared(const void* key, size_t n_bytes, size_t alignment) {
  Worker* w = worker;
  for (const SharedObject& object : w->shared_objects) {
    if (object.key == key) return object.start;
  }
  const size_t first = (w->shared_bytes + alignment - 1) / alignment * alignment;
  if (first + n_bytes > kMaxStaticShared) {
    set_fault(w, kSharedMemory, *w->running, nullptr, 0,
              "%zu bytes of static shared memory, and a block has 49152", first + n_bytes);
    w->fault.pc = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    abandon(w);
  }
  uint8_t* start = align_up(w->shared.get(), 128) + kMaxDynamicShared + first;
  memset(start, kPoison, n_bytes);
  w->shared_bytes = first + n_bytes;
  w->shared_objects.push_back({key, start});
  return start;
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
  const uint32_t n_predicates = w->n_predicates;
  for (const Fibre& other : w->fibres) {
    if (other.line == line && strcmp(other.file, file) == 0) continue;
    set_fault(w, kBarrierDivergence, other, other.file, other.line,
              "thread %u waits at this barrier, and thread %u at the one at %s:%u", other.idx,
              fibre->idx, file, line);
    abandon(w);
  }
  w->n_at_barrier = 0;
  w->n_predicates = 0;
  for (Fibre& other : w->fibres) {
    other.value = n_predicates;
    other.state = State::kReady;
  }
  return n_predicates;
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
  const uint32_t gone = mask & (w->returned[warp] | ~lanes_of_warp(w, warp));
  if (gone != 0) {
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
  if ((w->waiting[warp] & mask) == mask) {
    if (!resolve_collective(w, *fibre)) abandon(w);
  } else {
    give_way(w);
  }
  return fibre->value;
}

}  // namespace lacuna_simt

// The compiler calls this in every basic block of a kernel: a thread's steps.
extern "C" void __sanitizer_cov_trace_pc() {
  using namespace lacuna_simt;
  Worker* w = worker;
  if (w == nullptr) return;
  Fibre* fibre = w->running;
  if (fibre->steps_left-- == 0) {
    set_fault(w, kStepBudget, *fibre, nullptr, 0, "the thread took more than %llu steps",
              static_cast<unsigned long long>(w->launch->step_budget));
    w->fault.pc = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    abandon(w);
  }
  if (--w->steps_to_preemption == 0) {
    draw_preemption(w);
    give_way(w);
  }
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
  const size_t n_workers = std::min<uint64_t>(std::max<uint32_t>(launch->n_workers, 1), n_blocks);
  std::vector<std::thread> threads;
  try {
    for (size_t i = 1; i < n_workers; ++i) threads.emplace_back(run_worker, &grid);
  } catch (const std::system_error&) {
    // Fewer workers do the same blocks.
  }
  run_worker(&grid);
  for (std::thread& thread : threads) thread.join();
  *fault = grid.fault;
}
