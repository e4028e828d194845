// SPDX-License-Identifier: MIT OR Apache-2.0
// What the accesses of a launch cost: the n-th accesses of a warp's lanes at one instruction,
// counted from the last barrier, are one request. Of a loop without one, so many are kept open, and
// the lanes are let come as far as each other before those are closed.
#ifndef LACUNA_SIMT_COUNTERS_H_
#define LACUNA_SIMT_COUNTERS_H_

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "executor.h"

namespace lacuna_simt {

// Distributed is shared memory of another block of the cluster.
enum class Space : uint8_t { kGlobal, kShared, kDistributed };
constexpr uint32_t kNumSpaces = 3;
enum class Direction : uint8_t { kRead, kWrite, kAtomic };

// An instruction of a kernel that touches memory.
struct Site {
  uint64_t pc;
  // The region it touched last.
  uint32_t region;
};

// Sites by address: an open table.
class Sites {
 public:
  uint32_t find(uint64_t pc) {
    if (slots_.empty()) grow();
    const size_t mask = slots_.size() - 1;
    for (size_t i = hash(pc) & mask;; i = (i + 1) & mask) {
      const uint32_t idx = slots_[i];
      if (idx == 0) return add(pc, i);
      if (sites_[idx - 1].pc == pc) return idx - 1;
    }
  }
  Site& operator[](uint32_t idx) { return sites_[idx]; }
  size_t size() const { return sites_.size(); }

 private:
  static size_t hash(uint64_t pc) { return pc * 0x9E3779B97F4A7C15u >> 40; }
  uint32_t add(uint64_t pc, size_t slot) {
    sites_.push_back({pc, 0});
    slots_[slot] = static_cast<uint32_t>(sites_.size());
    if (sites_.size() * 2 > slots_.size()) grow();
    return static_cast<uint32_t>(sites_.size() - 1);
  }
  void grow() {
    slots_.assign(slots_.empty() ? 1024 : slots_.size() * 2, 0);
    const size_t mask = slots_.size() - 1;
    for (uint32_t idx = 0; idx < sites_.size(); ++idx) {
      size_t i = hash(sites_[idx].pc) & mask;
      while (slots_[i] != 0) i = (i + 1) & mask;
      slots_[i] = idx + 1;
    }
  }

  // Indices plus one.
  std::vector<uint32_t> slots_;
  std::vector<Site> sites_;
};

// A request over its site's budget.
struct Overrun {
  uint64_t pc;
  Space space;
  uint32_t warp;
  uint64_t n_units;
};

class Counters {
 public:
  void begin_launch(uint32_t most_sectors, uint32_t most_conflict_ways, uint32_t n_warps);
  // Of the thread's accesses at this instruction, as many are open as there may be.
  bool is_full(uint32_t site, Space space, uint32_t thread) const {
    return n_open(site, space, thread) == kMostOpen;
  }
  // Accesses of a thread that are in an open request.
  uint32_t n_open(uint32_t site, Space space, uint32_t thread) const {
    const uint32_t idx = site * kNumSpaces + static_cast<uint32_t>(space);
    if (idx >= tallies_.size() || !tallies_[idx].is_open) return 0;
    return tallies_[idx].n_done[thread];
  }
  // Closes the requests of the thread's warp at this instruction.
  void make_room(uint32_t site, Space space, uint32_t thread);
  void add(uint32_t site, uint64_t pc, Space space, Direction direction, uint32_t thread,
           uint64_t address, uint32_t n_bytes);
  // At a barrier of these warps, and at the end: their lanes have made all their accesses.
  void flush(uint32_t first_warp, uint32_t end_warp);
  // The first request over a budget, if any.
  const Overrun* overrun() const { return has_overrun_ ? &overrun_ : nullptr; }
  void report(const LacunaSimtLaunch& launch) const;

 private:
  static constexpr uint32_t kMostOpen = 512;
  struct Request {
    uint32_t lanes;
    uint32_t n_bytes;
    uint64_t addresses[32];
  };
  struct Tally {
    LacunaSimtSite totals = {};
    // Accesses of each thread in open requests.
    std::vector<uint32_t> n_done;
    // Of each warp.
    std::vector<std::vector<Request>> requests;
    bool is_open = false;
  };

  void close(Tally* tally, uint32_t warp, const Request& request);
  void close_all(Tally* tally, uint32_t warp);

  // By site, then by space: one instruction may touch any.
  std::vector<Tally> tallies_;
  std::vector<uint32_t> open_;
  // Of a cluster, or of a block without one.
  uint32_t n_warps_ = 0;
  uint32_t most_sectors_ = 0;
  uint32_t most_conflict_ways_ = 0;
  bool has_overrun_ = false;
  Overrun overrun_ = {};
};

}  // namespace lacuna_simt

#endif  // LACUNA_SIMT_COUNTERS_H_
