// SPDX-License-Identifier: MIT OR Apache-2.0
// Sees every access of a checked launch before it happens, and stops the thread that makes a wrong
// one. Kernels compiled for it call it through the hooks in hooks.cc.
#ifndef LACUNA_SIMT_CHECKER_H_
#define LACUNA_SIMT_CHECKER_H_

#include <stddef.h>
#include <stdint.h>

#include <unordered_map>
#include <vector>

#include "counters.h"
#include "executor.h"
#include "order.h"
#include "shadow.h"

namespace lacuna_simt {

struct Worker;

// The bits of Checks in src/simt/checks.rs.
enum Check : uint32_t {
  kAccesses = 1,
  kRaces = 2,
  kUnwritten = 4,
  kCounters = 8,
  kSettled = 16,
};

enum class Role : uint32_t { kInput, kOutput, kInOut, kWorkspace };

enum class AccessKind : uint8_t {
  kRead,
  kWrite,
  kAtomicRead,
  // A store, which ends what others released before.
  kAtomicStore,
  // An exchange: what was there may be what nothing wrote.
  kAtomicExchange,
  kAtomicUpdate,
  // The destination of an asynchronous copy, when the copy is issued.
  kIssueCopy,
};

inline const char* name_of(AccessKind kind) {
  switch (kind) {
    case AccessKind::kRead:
    case AccessKind::kAtomicRead:
      return "reads";
    case AccessKind::kWrite:
      return "writes";
    case AccessKind::kIssueCopy:
      return "copies to";
    default:
      return "updates";
  }
}

inline bool writes(AccessKind kind) {
  return kind != AccessKind::kRead && kind != AccessKind::kAtomicRead;
}

inline bool is_atomic(AccessKind kind) {
  return kind == AccessKind::kAtomicRead || kind == AccessKind::kAtomicStore ||
         kind == AccessKind::kAtomicExchange || kind == AccessKind::kAtomicUpdate;
}

inline bool reads(AccessKind kind) {
  return kind == AccessKind::kRead || kind == AccessKind::kAtomicRead ||
         kind == AccessKind::kAtomicUpdate;
}

class Checker {
 public:
  explicit Checker(Worker* worker) : w_(worker) {}

  bool has(Check check) const { return (checks_ & check) != 0; }
  Order& order() { return order_; }
  Counters& counters() { return counters_; }

  void begin_launch(const LacunaSimtLaunch& launch);
  // Of a cluster, or one block.
  void begin_blocks(uint64_t first);
  void at_barrier(uint32_t rank);
  void at_cluster_barrier();
  // The running thread, of a cluster, returns.
  void at_return();
  // False on a fault.
  bool end_blocks();
  bool end_launch();

  // A read of what nothing had written comes before what it led to; but a write that nothing orders
  // after it makes the two a race.
  void settle(LacunaSimtFault* fault) const;

  // Returns where the access is right; else the thread ends here.
  void access(uint64_t address, uint64_t n_bytes, AccessKind kind, bool is_vector, uint64_t pc);
  // The source of an asynchronous copy, when the copy is issued and when it has been waited for.
  void read_source(uint64_t address, uint32_t n_bytes, uint64_t pc);
  void read_source_again(uint64_t address, uint32_t n_bytes, uint64_t pc);
  // An address that is no multiple of `n_bytes`, of which the access has at least so many.
  void misaligned(uint64_t address, uint64_t n_bytes, AccessKind kind, uint64_t pc);
  // Returns where the access may be tried, whatever it will be.
  void require_inside(uint64_t address, uint32_t n_bytes, uint64_t pc);
  // An asynchronous copy has written `n_bytes` of shared memory; nothing is checked.
  void deliver(uint64_t address, uint32_t n_bytes, StampId stamp, uint32_t lane, uint64_t pc);
  [[noreturn]] void fail(uint32_t kind, uint64_t pc, const char* format, ...)
      __attribute__((format(printf, 4, 5)));

 private:
  struct Region {
    uint64_t start;
    uint64_t end;
    Role role;
    const char* name;
    uint32_t shadow;
  };
  // What an access is in.
  struct Place {
    Space space;
    const char* name;
    // Where the shadow starts, and what is named.
    uint64_t base;
    uint64_t start;
    Role role;
    Shadow* shadow;
    // Of shared memory: whose, in the cluster.
    uint32_t rank;
  };

  bool is_in_fibre(uint64_t address) const;
  void check_local(uint64_t address, uint64_t n_bytes, AccessKind kind, uint64_t pc);
  // Whether an access is to what belongs to the thread or the launch alone, and is right.
  bool is_own(uint64_t address, uint64_t n_bytes, AccessKind kind, uint64_t pc);
  // False for constants, of which nothing else is asked.
  bool find(uint64_t address, uint64_t n_bytes, AccessKind kind, uint32_t site, uint64_t pc,
            Place* place);
  void find_shared(uint64_t address, uint64_t n_bytes, uint64_t pc, Place* place);
  // The address is as in the cluster's first block.
  [[noreturn]] void fail_outside_shared(uint64_t address, uint64_t n_bytes, uint64_t pc);
  bool find_global(uint64_t address, uint64_t n_bytes, AccessKind kind, uint32_t site, uint64_t pc,
                   Place* place);
  void wait_for_lanes(uint32_t site, Space space);
  // After a write.
  void check_sources(const Place& place, uint64_t address, uint64_t n_bytes, uint64_t pc);
  [[noreturn]] void fail_misaligned(const char* name, uint64_t address, uint64_t n_bytes,
                                    AccessKind kind, uint64_t pc);
  [[noreturn]] void fail_outside(uint64_t address, uint64_t n_bytes, AccessKind kind, uint64_t pc);
  // An access to another block's shared memory, otherwise right.
  void note_remote(uint32_t rank, uint64_t pc);
  // Those that the threads of their block, but for those that have returned, are told of now.
  void forget_remotes();
  // False on a fault.
  bool are_remotes_right();
  void note_unwritten(const Place& place, uint64_t address, uint32_t n_bytes, uint64_t pc);
  // One access of the running thread, to one cell.
  struct Access {
    const Place& place;
    uint64_t address;
    uint32_t n_bytes;
    AccessKind kind;
    uint32_t site;
    StampId stamp;
    uint32_t thread;
    uint64_t pc;
    Arena* arena;
  };
  void check_cell(Cell* cell, const Access& access);
  void check_slot(Slot* slot, StampId first, const Access& access);
  void check_more(const Cell& cell, StampId first, const Access& access);
  void add_slot(Cell* cell, StampId first, const Access& access);
  bool is_replaceable(const Slot& slot, const Slot& own, StampId first, uint32_t thread);
  [[noreturn]] void fail_race(const Access& access, const char* other, StampId stamp, uint32_t lane,
                              uint32_t site);

  Worker* w_;
  uint32_t checks_ = 0;
  // The first read of memory that nothing had written.
  LacunaSimtFault unwritten_ = {};
  bool is_unwritten_shared_ = false;
  uint64_t all_shared_bytes_ = 0;
  // The first access to another block's shared memory before the cluster's first barrier.
  LacunaSimtFault early_ = {};
  // Accesses of one warp, under one stamp, to the shared memory of block `rank`, of which no thread
  // of that block has been told before it returned.
  struct Remote {
    StampId stamp;
    uint32_t lanes;
    uint32_t rank;
    // Of the first.
    uint32_t thread;
    uint64_t pc;
  };
  std::vector<Remote> remotes_;
  // By stamp and rank.
  std::unordered_map<uint64_t, size_t> remote_of_;
  Order order_;
  Counters counters_;
  Sites sites_;
  // By address.
  std::vector<Region> regions_;
  // The sources of these blocks' asynchronous copies that something could write, from first to
  // last.
  uint64_t first_source_ = ~uint64_t{0};
  uint64_t sources_end_ = 0;
  std::vector<Shadow> shadows_;
  Arena arena_;
  Shadow shared_;
  Arena shared_arena_;
};

}  // namespace lacuna_simt

#endif  // LACUNA_SIMT_CHECKER_H_
