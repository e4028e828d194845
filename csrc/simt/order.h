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

// What an atomic access does with the value that was there.
enum class Exchange : uint8_t { kReads, kStores, kReplaces };

class Order {
 public:
  // Shared memory of all blocks has the same addresses.
  void begin_launch(uint64_t shared_start, uint64_t shared_bytes);
  void begin_block(uint32_t block, uint32_t n_threads);
  void at_barrier();
  void at_sync(uint32_t warp, uint32_t lanes);
  void at_fence(uint32_t thread, Scope scope);
  // Around an atomic access of `thread`.
  void begin_atomic(uint32_t thread, uint64_t address, Exchange exchange);
  void end_atomic(uint32_t thread);
  // What an mbarrier does: an arrival releases, and a wait acquires the first `n` arrivals and
  // copies, without a fence.
  void release(uint32_t thread, uint64_t address);
  void acquire(uint32_t thread, uint64_t address, uint32_t n);
  uint32_t count_releases(uint64_t address);
  // The stamp of an access that no thread makes, and that those see who acquire from `address`.
  StampId release_copy(uint64_t address);

  StampId stamp(uint32_t thread);
  StampId first_of_launch() const { return 1; }
  StampId first_of_block() const { return first_of_block_; }
  // Of the accesses since the last barrier.
  StampId first_of_epoch() const { return first_of_epoch_; }
  // Whether every access that `lanes` made under this stamp is this thread's own or before what it
  // does now.
  bool is_before(StampId stamp, uint32_t lanes, uint32_t thread) {
    return is_before_barrier(stamp) || is_before_here(stamp, lanes, thread);
  }
  // The same, but asked only of barriers and of the thread's own warp: quick, and no where it is
  // yes for another reason.
  bool is_plainly_before(StampId stamp, uint32_t lanes, uint32_t thread) const {
    return is_before_barrier(stamp) || drop_synced(stamp, lanes, thread) == 0;
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
  // Releases `from` to `n` of a log; where that is said, those of the own block alone.
  struct Known {
    Log* log;
    uint32_t from;
    uint32_t n;
    bool same_block_only;
  };
  using KnownSet = std::vector<Known>;
  using SharedSet = std::shared_ptr<const KnownSet>;
  // What the fences of a block's threads have seen.
  struct Fences {
    // The latest epoch of any.
    StampId first_of_epoch;
    // Of each thread, the event up to which any has seen it; 0 for none.
    std::vector<uint32_t> events;
    // What their threads knew.
    KnownSet known;
  };
  // What a thread knows at a fence, and hands on.
  struct Record {
    uint32_t block;
    uint32_t warp;
    uint32_t lane;
    StampId first_of_epoch;
    // The atomics themselves: of one thread, and nothing of its warp in between.
    StampId first_atomic;
    StampId last_atomic;
    bool same_block_only;
    uint32_t synced[kWarpSize];
    // Fences of the block before its last barrier; null for none.
    std::shared_ptr<const Fences> fences;
    KnownSet known;
    SharedSet block_known;
    // The same as long as the thread hands on the same.
    uint64_t version;
  };
  // The records of one thread in a log, in order: those for all, and those for its block. A later
  // one hands on all that an earlier one does, but for the atomic itself.
  struct Writer {
    uint32_t block;
    std::vector<uint32_t> for_all;
    std::vector<uint32_t> for_block;
    bool is_nested;
  };
  // The releases on one address, in the order of its atomics.
  struct Log {
    std::vector<Record> records;
    // Those before were overwritten by a store.
    uint32_t first_valid = 0;
    // Those before were seen by another thread than their own.
    uint32_t n_seen = 0;
    std::vector<Writer> writers;
    // By block and thread.
    std::unordered_map<uint64_t, uint32_t> writer_of;
    std::unordered_map<uint32_t, std::vector<uint32_t>> writers_of_block;
    // Writers that hand on what they acquired elsewhere.
    std::vector<uint32_t> nested;
  };
  struct Warp {
    StampId stamp;
    uint32_t event;
    // The last event at which the row's lane met the column's.
    uint32_t synced[kWarpSize][kWarpSize];
  };
  struct Thread {
    // What its last fence of each scope hands on.
    std::unique_ptr<Record> device_fence;
    std::unique_ptr<Record> block_fence;
    uint32_t n_fences = 0;
    // What its next fence acquires.
    KnownSet pending;
    KnownSet known;
    // The version of what the block has pending that its fences have acquired, by scope.
    uint32_t acquired[2] = {0, 0};
  };
  // Something known, and the block of whoever knows it.
  struct Lead {
    Known known;
    uint32_t holder;
  };
  // An answer that stays true for the thread until its block ends.
  struct Answer {
    StampId stamp;
    uint32_t thread;
    uint32_t lane;
    uint32_t block;
  };

  bool is_before_barrier(StampId stamp) const {
    return stamp >= first_of_block_ && stamp < first_of_epoch_;
  }
  // The lanes that the thread has not met since.
  uint32_t drop_synced(StampId stamp, uint32_t lanes, uint32_t thread) const;
  bool is_before_here(StampId stamp, uint32_t lanes, uint32_t thread);
  const Stamp& at(StampId stamp) const { return stamps_[stamp - first_of_launch()]; }
  bool is_releasing(uint32_t thread) const;
  void bump(uint32_t warp);
  StampId add_stamp(uint32_t warp);
  uint64_t version_of(uint32_t thread) const {
    return uint64_t{threads_[thread].n_fences} << 32 | n_barriers_;
  }
  Record snapshot(uint32_t thread, bool same_block_only) const;
  static bool holds(const KnownSet& set, const Known& known);
  static void merge(KnownSet* set, const Known& known);
  static void merge(KnownSet* set, const KnownSet& other) {
    for (const Known& known : other) merge(set, known);
  }
  Log* find_log(uint64_t address);
  Log* make_log(uint64_t address);
  void append(Log* log, uint32_t thread, Record record);
  void release_with(Log* log, uint32_t thread, const Record& fence, StampId atomic);
  bool is_known(uint32_t thread, StampId stamp, uint32_t lane);
  void follow(const Log& log, const Known& known, uint32_t holder);
  bool hands_on(const Log& log, const Known& known, uint32_t holder, StampId stamp,
                uint32_t lane) const;
  bool covers(const Record& record, StampId stamp, uint32_t lane) const;
  bool is_atomic_of(const Log& log, const std::vector<uint32_t>& records, const Known& known,
                    StampId stamp, uint32_t lane) const;

  StampId next_ = 1;
  StampId first_of_block_ = 1;
  StampId first_of_epoch_ = 1;
  uint32_t block_ = 0;
  uint32_t n_barriers_ = 0;
  std::vector<Stamp> stamps_;
  std::vector<Warp> warps_;
  std::vector<Thread> threads_;
  // What every thread of the block knows since a barrier, and will know at its next fence.
  SharedSet block_known_;
  KnownSet block_pending_;
  uint32_t pending_version_ = 0;
  // Whether any thread has acquired anything since the last barrier.
  bool has_known_ = false;
  // Fences so far, and those before the last barrier.
  Fences fences_;
  bool has_new_fences_ = false;
  std::shared_ptr<const Fences> block_fences_;
  uint64_t shared_start_ = 0;
  uint64_t shared_bytes_ = 0;
  std::unordered_map<uint64_t, std::unique_ptr<Log>> logs_;
  std::unordered_map<uint64_t, std::unique_ptr<Log>> shared_logs_;
  // Of blocks that have ended: what is known of them is still asked for.
  std::vector<std::unique_ptr<Log>> ended_logs_;
  std::vector<Lead> leads_;
  struct Seen {
    uint32_t from;
    uint32_t n;
  };
  std::unordered_map<uint64_t, Seen> seen_;
  std::vector<Answer> answers_;
};

}  // namespace lacuna_simt

#endif  // LACUNA_SIMT_ORDER_H_
