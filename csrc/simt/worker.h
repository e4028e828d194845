// SPDX-License-Identifier: MIT OR Apache-2.0
// What one OS thread runs a block with, or the blocks of a cluster; shared by the executor's own
// files.
#ifndef LACUNA_SIMT_WORKER_H_
#define LACUNA_SIMT_WORKER_H_

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <unordered_map>
#include <vector>

#include "checker.h"
#include "executor.h"
#include "fibre.h"

namespace lacuna_simt {

enum Kind : uint32_t {
  kNoFault = 0,
  kBarrierDivergence = 1,
  kWarpMask = 2,
  kDeadlock = 3,
  kStepBudget = 4,
  kSharedMemory = 5,
  kResources = 6,
  kOutOfBounds = 7,
  kMisaligned = 8,
  kWriteToInput = 9,
  kRace = 10,
  kUnwrittenRead = 11,
  kUnwrittenOutput = 12,
  kAsyncCopy = 13,
  kUndefined = 14,
  kBankConflict = 15,
  kSectors = 16,
  kUnsettled = 17,
  kAbsentBlock = 18,
};

enum Schedule : uint32_t { kInOrder, kReverse, kRandom, kWarpFirst, kLaneLast };

enum class State : uint8_t { kReady, kAtBarrier, kAtClusterBarrier, kInCollective, kDone };

constexpr size_t kMaxStaticShared = 48 * 1024;
constexpr size_t kMaxDynamicShared = 227 * 1024;

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

// An asynchronous copy that has not arrived.
struct Copy {
  void* target;
  const void* source;
  uint32_t n_bytes;
  // Else zeros arrive.
  bool is_valid;
  uint64_t pc;
  // Null where the thread itself waits for it.
  uint64_t* barrier;
  // Whose it is, by its place in `fibres`.
  uint32_t thread;
};

// What an mbarrier holds.
struct Barrier {
  uint32_t n_arrivals;
  uint32_t n_missing;
  int64_t n_bytes_missing;
  uint32_t parity;
  // Arrivals and copies up to the end of the last phase.
  uint32_t n_releases;
};

// A block that runs, alone or as one of a cluster.
struct Block {
  Dim3 idx;
  // In its cluster.
  uint32_t rank;
  // In `fibres`, the first of its threads.
  uint32_t first;
  uint32_t n_at_barrier;
  uint32_t n_predicates;
  uint32_t n_done;
  // The blocks of whose shared memory it asked for an address.
  uint32_t mapped;
};

struct Fibre {
  Context context;
  const uint8_t* stack;
  // Where the kernel's frames end, and the executor's are.
  const void* frames_end;
  Dim3 thread_idx;
  Block* block;
  // In `fibres`: its number in the block, and whole warps for each block of the cluster before.
  uint32_t idx;
  State state;
  uint64_t steps_left;
  // What it waits for, while it waits; then what it got.
  Op op;
  uint32_t mask;
  uint32_t argument;
  uint32_t width;
  uint64_t value;
  void (*joint)(void* const* values);
  const char* file;
  uint32_t line;
  // Where it asks for an mbarrier's phase again and again; else 0.
  uint64_t poll_pc;
  std::vector<Copy> copies;
  // Copies up to the end of each committed group.
  std::vector<size_t> groups;
};

// At the same place in every block of a cluster.
struct SharedObject {
  const void* key;
  // In the first block.
  uint8_t* start;
  size_t n_bytes;
  const char* name;
};

inline uint8_t* align_up(uint8_t* pointer, size_t alignment) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  return pointer + ((alignment - address % alignment) % alignment);
}

struct Worker {
  const LacunaSimtLaunch* launch;
  Stacks stacks;
  // Where the threads of a block are no whole warps, some before the next block's never run.
  std::vector<Fibre> fibres;
  std::vector<uint32_t> order;
  // Those of a cluster; else one.
  std::vector<Block> blocks;
  // Lanes of each warp that wait in a collective, and that have returned; warps are counted in
  // their cluster.
  std::vector<uint32_t> waiting;
  std::vector<uint32_t> returned;
  std::vector<SharedObject> shared_objects;
  // Dynamic shared memory, then static objects, each after a zone that belongs to none.
  static constexpr size_t kZoneBytes = 256;
  static constexpr size_t kMaxZones = 64;
  static constexpr size_t kSharedBytes =
      kMaxDynamicShared + kMaxStaticShared + kMaxZones * kZoneBytes;
  // From one block's to the next one's of the cluster: the same alignment in each.
  static constexpr size_t kSharedStride = (kSharedBytes + 4095) / 4096 * 4096;
  // As many blocks' as were ever asked for at once.
  std::unique_ptr<uint8_t[]> shared;
  size_t n_shared = 0;
  uint8_t* shared_start() const { return align_up(shared.get(), kZoneBytes); }
  uint8_t* shared_start(uint32_t rank) const { return shared_start() + rank * kSharedStride; }
  size_t all_shared_bytes() const { return (blocks.size() - 1) * kSharedStride + kSharedBytes; }
  // Of the running thread's block.
  bool is_shared(uint64_t address) const {
    return address - reinterpret_cast<uint64_t>(shared_start(block->rank)) < kSharedBytes;
  }
  size_t shared_bytes;
  Constants constants;
  std::vector<Copy> bulk_copies;
  std::unordered_map<const uint64_t*, Barrier> barriers;
  Context scheduler;
  Fibre* running;
  // The running thread's.
  Block* block;
  Dim3 block_dim;
  Dim3 grid_dim;
  // Of each block.
  uint32_t n_threads;
  uint32_t n_warps;
  uint32_t n_at_cluster_barrier;
  // Cluster barriers so far.
  uint32_t n_cluster_barriers;
  // Whether any thread did anything in this round but look at an mbarrier again.
  bool has_moved;
  Random random;
  // Basic blocks that the running thread gets before it gives way, and how many of them are left.
  uint64_t turn_steps;
  uint64_t turn_steps_left;
  bool native;
  LacunaSimtFault fault = {};
  LacunaSimtTotals totals;
  // Null in a launch without checks.
  Checker* checker = nullptr;
  // Kept for the next checked launch.
  std::unique_ptr<Checker> idle_checker;
};

extern thread_local Worker* worker;

// The threads of one block.
class Threads {
 public:
  Threads(Worker* w, const Block& block)
      : begin_(&w->fibres[block.first]), end_(begin_ + w->n_threads) {}
  Fibre* begin() const { return begin_; }
  Fibre* end() const { return end_; }

 private:
  Fibre* begin_;
  Fibre* end_;
};

// As its block counts it.
inline uint32_t thread_of(const Fibre& fibre) { return fibre.idx - fibre.block->first; }

// Lanes of a warp that exist.
inline uint32_t lanes_of_warp(const Worker* w, uint32_t warp) {
  const uint32_t n_lanes = std::min(kWarpSize, w->n_threads - warp % w->n_warps * kWarpSize);
  return n_lanes == kWarpSize ? ~0u : (1u << n_lanes) - 1;
}

inline bool is_at(const Fibre& fibre, const char* file, uint32_t line) {
  return fibre.line == line && strcmp(fibre.file, file) == 0;
}

// And those of a mask that never did, or no longer.
inline uint32_t lanes_gone(const Worker* w, uint32_t warp, uint32_t mask) {
  return mask & (w->returned[warp] | ~lanes_of_warp(w, warp));
}

// The first fault of a block counts.
__attribute__((format(printf, 6, 7))) void set_fault(Worker* w, Kind kind, const Fibre& fibre,
                                                     const char* file, uint32_t line,
                                                     const char* format, ...);
// Runs the blocks of a cluster, of which this is the first; else one block.
void run_blocks(Worker* w, uint64_t first);
void give_way(Worker* w);
// The scheduler sees the fault and runs no fibre of the block again.
[[noreturn]] void abandon(Worker* w);
// False on a fault: the thread has copies that it did not wait for.
bool finish_copies(Worker* w);
// The same of the block's bulk copies.
bool finish_bulk_copies(Worker* w);
// One that has not arrived and reads some of these bytes; null where there is none.
const Copy* find_copy_from(Worker* w, uint64_t address, uint64_t n_bytes);
// A collective of all 32 lanes: `joint` sees what each brought. `what` is the same for all.
void collect_jointly(void (*joint)(void* const* values), uint32_t what, void* own, const char* file,
                     uint32_t line);
// Lets threads meet whom only threads that have returned are missing from. False where there are
// none, or on a fault.
bool meet_without_returned(Worker* w);
bool meet_at_cluster_barrier(Worker* w);
// A warp of which some lanes are at a barrier and others have returned is a bug on most GPUs.
bool has_torn_warp(const Worker* w, const Block& block);
// Whether all threads of the block that have not returned wait where this one does; else a fault.
bool are_at_one_place(Worker* w, const Fibre& last);
// No thread can get on and not all have returned: says why.
void diagnose_stall(Worker* w);

}  // namespace lacuna_simt

#endif  // LACUNA_SIMT_WORKER_H_
