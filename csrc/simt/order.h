// SPDX-License-Identifier: MIT OR Apache-2.0
// What happened before what, by CUDA's memory model: barriers order a block, __syncwarp the lanes
// it names, and a fence before an atomic releases what a fence after a later atomic on the same
// address acquires. Fence and atomic may be of two threads with a barrier between them: fences are
// sequentially consistent. Shuffles and votes order nothing.
//
// Blocks of a checked launch run one after the other, so an access of another block is in a block
// that has ended.
#ifndef LACUNA_SIMT_ORDER_H_
#define LACUNA_SIMT_ORDER_H_

#include <stdint.h>

#include <memory>
#include <unordered_map>
#include <vector>

#include "executor.h"

namespace lacuna_simt {

// Names the accesses that one warp makes between two events that order something. 0 names none;
// later stamps are greater.
using StampId = uint32_t;

class Order {
 public:
  void begin_launch();
  void begin_block(uint32_t block, uint32_t n_threads);
  void at_barrier();
  void at_sync(uint32_t warp, uint32_t lanes);
  void at_fence(uint32_t thread, Scope scope);
  // Around an atomic access of `thread`; one that only reads releases nothing.
  void begin_atomic(uint32_t thread, uint64_t address, bool writes);
  void end_atomic(uint32_t thread);
  // What an mbarrier does: an arrival releases, and a wait acquires, without a fence.
  void release(uint32_t thread, uint64_t address);
  void acquire(uint32_t thread, uint64_t address);
  // The stamp of an access that no thread makes, and that those see who acquire from `address`.
  StampId release_copy(uint64_t address);

  StampId stamp(uint32_t thread);
  StampId first_of_launch() const { return 1; }
  StampId first_of_block() const { return first_of_block_; }
  // Of the accesses since the last barrier.
  StampId first_of_epoch() const { return first_of_epoch_; }
  // Whether every access that `lanes` made under this stamp is this thread's own or before what it
  // does now.
  bool is_before(StampId stamp, uint32_t lanes, uint32_t thread) const {
    const bool is_before_barrier = stamp >= first_of_block_ && stamp < first_of_epoch_;
    return is_before_barrier || is_before_here(stamp, lanes, thread);
  }
  uint32_t block_of(StampId stamp) const { return at(stamp).block; }
  uint32_t warp_of(StampId stamp) const { return at(stamp).warp; }
  bool is_copy(StampId stamp) const { return at(stamp).warp == kNoWarp; }

 private:
  struct Stamp {
    uint32_t block;
    uint32_t warp;
    uint32_t event;
  };
  struct Log;
  // A pseudo-warp: copies that the hardware makes.
  static constexpr uint32_t kNoWarp = ~0u;
  // The first `n` releases of a log.
  struct Known {
    Log* log;
    uint32_t n;
    bool same_block_only;
  };
  // What the fences of a block's threads have seen.
  struct Fences {
    // The latest epoch of any.
    StampId first_of_epoch;
    // Of each thread, the event of its last; 0 for none.
    std::vector<uint32_t> events;
  };
  // What a thread knows at a fence, and hands on.
  struct Record {
    uint32_t block;
    uint32_t warp;
    uint32_t lane;
    StampId first_of_epoch;
    // The atomic itself.
    StampId atomic;
    bool same_block_only;
    uint32_t synced[kWarpSize];
    // Fences of the block before its last barrier; null for none.
    std::shared_ptr<const Fences> fences;
    std::vector<Known> known;
  };
  // The releases on one address, in the order of its atomics.
  struct Log {
    std::vector<Record> records;
    std::unordered_map<uint32_t, std::vector<uint32_t>> of_block;
    // Records that hand on what they acquired elsewhere.
    std::vector<uint32_t> nested;
  };
  struct Warp {
    StampId stamp;
    uint32_t event;
    // The last event at which the row's lane met the column's.
    uint32_t synced[kWarpSize][kWarpSize];
  };
  struct Thread {
    std::unique_ptr<Record> fence;
    std::vector<Known> pending;
    std::vector<Known> known;
  };

  // The same where no barrier is in between.
  bool is_before_here(StampId stamp, uint32_t lanes, uint32_t thread) const;
  const Stamp& at(StampId stamp) const { return stamps_[stamp - first_of_launch()]; }
  bool is_releasing(uint32_t thread) const;
  void bump(uint32_t warp);
  StampId add_stamp(uint32_t warp);
  Record snapshot(uint32_t thread, bool same_block_only) const;
  void append(uint64_t address, Record record);
  bool is_known(const std::vector<Known>& known, StampId stamp, uint32_t lane,
                std::vector<const Log*>& visited) const;
  bool covers(const Record& record, StampId stamp, uint32_t lane) const;

  StampId next_ = 1;
  StampId first_of_block_ = 1;
  StampId first_of_epoch_ = 1;
  uint32_t block_ = 0;
  std::vector<Stamp> stamps_;
  std::vector<Warp> warps_;
  std::vector<Thread> threads_;
  // What every thread of the block knows since a barrier, and will know at its next fence.
  std::vector<Known> block_known_;
  std::vector<Known> block_pending_;
  bool has_known_ = false;
  // Fences so far, and those before the last barrier.
  Fences fences_;
  bool has_new_fences_ = false;
  std::shared_ptr<const Fences> block_fences_;
  std::unordered_map<uint64_t, Log> logs_;
};

}  // namespace lacuna_simt

#endif  // LACUNA_SIMT_ORDER_H_
