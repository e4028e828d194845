// SPDX-License-Identifier: MIT OR Apache-2.0
// What happened before what, by CUDA's memory model: barriers order a block or a cluster,
// __syncwarp the lanes it names, and a fence before an atomic releases what a fence after a later
// atomic on the same address acquires. Fence and atomic may be of two threads with a barrier
// between them: fences are sequentially consistent. Shuffles and votes order nothing.
//
// Clusters of a checked launch run one after the other, and a block without one is its own: an
// access of another cluster is in one that has ended. Threads and warps are counted in their
// cluster, whole warps for each block.
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
  // Shared memory of all clusters has the same addresses.
  void begin_launch(uint64_t shared_start, uint64_t shared_bytes, uint32_t n_blocks,
                    uint32_t n_warps);
  void begin_blocks(uint32_t first);
  // A thread of this block of the cluster is the one that all else is said of.
  void enter(uint32_t rank) {
    own_ = &blocks_[rank];
    first_of_epoch_ = own_->first_of_epoch;
  }
  void at_barrier(uint32_t rank);
  void at_cluster_barrier();
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
  StampId first_of_cluster() const { return first_of_cluster_; }
  // Of the accesses since the last barrier of all blocks.
  StampId first_of_cluster_epoch() const { return first_of_cluster_epoch_; }
  // Whether a barrier stands between the access and what the thread's block does now.
  bool is_before_barrier(StampId stamp) const {
    return stamp >= first_of_cluster_ &&
           (stamp < first_of_cluster_epoch_ ||
            (stamp < first_of_epoch_ && at(stamp).block == own_->idx));
  }
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
  // As its block counts it.
  uint32_t warp_of(StampId stamp) const { return at(stamp).warp % n_warps_; }
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
  // Releases `from` to `n` of a log, as a thread of the block `holder` has them; where that is
  // said, those of that block alone.
  struct Known {
    Log* log;
    uint32_t from;
    uint32_t n;
    uint32_t holder;
    bool same_block_only;
  };
  using KnownSet = std::vector<Known>;
  using SharedSet = std::shared_ptr<const KnownSet>;
  // What the fences of a block's threads have seen, and others' before the cluster's last barrier.
  struct Fences {
    // Of each block of the cluster, the latest epoch of any.
    std::vector<StampId> first_of_epoch;
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
    StampId first_of_cluster_epoch;
    // The atomics themselves: of one thread, and nothing of its warp in between.
    StampId first_atomic;
    StampId last_atomic;
    bool same_block_only;
    uint32_t synced[kWarpSize];
    // Fences before the block's last barrier; null for none.
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
  struct Block {
    uint32_t idx;
    StampId first_of_epoch;
    uint32_t n_barriers;
    // What every thread of the block knows since a barrier, and will know at its next fence.
    SharedSet known;
    KnownSet pending;
    uint32_t pending_version;
    // Whether any thread has acquired anything since the last barrier.
    bool has_known;
    // Fences so far, and those before the last barrier.
    Fences fences;
    bool has_new_fences;
    std::shared_ptr<const Fences> barrier_fences;
  };
  // An answer that stays true for the thread until its cluster ends.
  struct Answer {
    StampId stamp;
    uint32_t thread;
    uint32_t lane;
    uint32_t block;
  };

  // The lanes that the thread has not met since.
  uint32_t drop_synced(StampId stamp, uint32_t lanes, uint32_t thread) const;
  bool is_before_here(StampId stamp, uint32_t lanes, uint32_t thread);
  const Stamp& at(StampId stamp) const { return stamps_[stamp - first_of_launch()]; }
  bool is_releasing(uint32_t thread) const;
  void bump(uint32_t warp);
  StampId add_stamp(uint32_t warp);
  uint64_t version_of(uint32_t thread) const {
    return uint64_t{threads_[thread].n_fences} << 32 | own_->n_barriers;
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
  void follow(const Log& log, const Known& known);
  bool hands_on(const Log& log, const Known& known, StampId stamp, uint32_t lane) const;
  bool covers(const Record& record, StampId stamp, uint32_t lane) const;
  bool is_atomic_of(const Log& log, const std::vector<uint32_t>& records, const Known& known,
                    StampId stamp, uint32_t lane) const;

  // What a block's threads have come to know: for all of them at its next barrier.
  void gather(Block* block, KnownSet* known, KnownSet* pending);
  void give(Block* block, const KnownSet& pending);

  StampId next_ = 1;
  StampId first_of_cluster_ = 1;
  StampId first_of_cluster_epoch_ = 1;
  // Of the thread's block.
  StampId first_of_epoch_ = 1;
  // Of each block.
  uint32_t n_warps_ = 1;
  std::vector<Block> blocks_;
  Block* own_ = nullptr;
  std::vector<Stamp> stamps_;
  std::vector<Warp> warps_;
  std::vector<Thread> threads_;
  uint64_t shared_start_ = 0;
  uint64_t shared_bytes_ = 0;
  std::unordered_map<uint64_t, std::unique_ptr<Log>> logs_;
  std::unordered_map<uint64_t, std::unique_ptr<Log>> shared_logs_;
  // Of clusters that have ended: what is known of them is still asked for.
  std::vector<std::unique_ptr<Log>> ended_logs_;
  KnownSet leads_;
  struct Seen {
    uint32_t from;
    uint32_t n;
  };
  std::unordered_map<uint64_t, Seen> seen_;
  // A power of two.
  static constexpr size_t kNumAnswers = 4096;
  std::vector<Answer> answers_;
};

}  // namespace lacuna_simt

#endif  // LACUNA_SIMT_ORDER_H_
