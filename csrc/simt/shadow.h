// SPDX-License-Identifier: MIT OR Apache-2.0
// What is remembered of each piece of memory: who wrote it last, and who has read it since.
#ifndef LACUNA_SIMT_SHADOW_H_
#define LACUNA_SIMT_SHADOW_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "order.h"

namespace lacuna_simt {

// What the accesses in a slot do.
enum class Sharing : uint8_t { kReads, kAtomicReads, kAtomicWrites };

// Accesses of one warp under one stamp.
struct Slot {
  StampId stamp;
  uint32_t lanes;
  uint32_t site : 26;
  uint32_t sharing : 3;
  // Of an access, in bytes, by its logarithm.
  uint32_t size : 3;
};

struct Cell {
  StampId write;
  uint32_t write_site;
  uint8_t write_lane;
  bool is_atomic;
  // An asynchronous copy will write it.
  bool is_in_flight;
  bool has_atomic_writes;
  // Reads and atomics since the last write.
  Slot slots[2];
  // Where more of them are, by its number, and whose it was then; 0 is nowhere.
  uint32_t more;
  uint32_t generation;
};

// What one warp read of a cell, as a slot of `generation`.
struct Reading {
  StampId stamp;
  uint32_t lanes;
  uint32_t site;
  uint32_t generation;
};

// The slots that a cell has no room for; the readings are in arrays by warp, since a warp reads
// many cells in a row.
struct MoreSlots {
  uint32_t generation;
  // Of the readings.
  StampId newest;
  std::vector<Slot> others;
};

// Memory for cells and their slots, all given up at once.
class Arena {
 public:
  Cell* allocate(size_t n_cells) {
    if (n_cells > n_left_) {
      if (n_used_ == blocks_.size()) blocks_.emplace_back(new Cell[kBlockCells]);
      next_ = blocks_[n_used_++].get();
      n_left_ = kBlockCells;
    }
    Cell* cells = next_;
    next_ += n_cells;
    n_left_ -= n_cells;
    return cells;
  }
  bool has_more(const Cell& cell) const {
    return cell.more != 0 && cell.generation >= first_generation_ &&
           more_[cell.more - 1].generation == cell.generation;
  }
  // What was in it counts for nothing.
  void add_more(Cell* cell) {
    if (!free_.empty()) {
      cell->more = free_.back();
      free_.pop_back();
    } else {
      if (n_more_ == more_.size()) more_.emplace_back();
      cell->more = ++n_more_;
    }
    cell->generation = next_generation_++;
    MoreSlots& slots = more_[cell->more - 1];
    slots.generation = cell->generation;
    slots.newest = 0;
    slots.others.clear();
  }
  void drop_more(Cell* cell) {
    if (has_more(*cell)) {
      more_[cell->more - 1].generation = 0;
      free_.push_back(cell->more);
    }
    cell->more = 0;
  }
  MoreSlots& more(const Cell& cell) { return more_[cell.more - 1]; }
  // Grown where it is first asked for; of another generation, it counts for nothing.
  Reading& reading(const Cell& cell, uint32_t warp) {
    std::vector<Reading>& of_warp = readings_[warp];
    if (of_warp.size() < cell.more) of_warp.resize(std::max<size_t>(more_.size(), cell.more));
    return of_warp[cell.more - 1];
  }
  // A cell in two has its slots in two.
  void copy(const Cell& from, Cell* to) {
    *to = from;
    to->more = 0;
    if (!has_more(from)) return;
    add_more(to);
    more(*to).newest = more(from).newest;
    more(*to).others = more(from).others;
    for (uint32_t warp = 0; warp < readings_.size(); ++warp) {
      if (readings_[warp].size() < from.more) continue;
      const Reading found = readings_[warp][from.more - 1];
      if (found.generation != from.generation) continue;
      Reading& own = reading(*to, warp);
      own = found;
      own.generation = to->generation;
    }
  }
  // Whatever more cells had, nobody asks for again; the cells stay.
  void forget_more() {
    first_generation_ = next_generation_;
    free_.clear();
    n_more_ = 0;
  }
  // For readings of so many warps.
  void reset(uint32_t n_warps) {
    if (readings_.size() < n_warps) readings_.resize(n_warps);
    n_used_ = 0;
    n_left_ = 0;
    forget_more();
  }

 private:
  static constexpr size_t kBlockCells = 1 << 14;
  std::vector<std::unique_ptr<Cell[]>> blocks_;
  size_t n_used_ = 0;
  size_t n_left_ = 0;
  Cell* next_ = nullptr;
  std::vector<MoreSlots> more_;
  std::vector<uint32_t> free_;
  uint32_t n_more_ = 0;
  uint32_t next_generation_ = 1;
  uint32_t first_generation_ = 1;
  std::vector<std::vector<Reading>> readings_;
};

// Forgets who used the cell: a write comes after all of them.
inline void start_anew(Cell* cell, Arena* arena) {
  arena->drop_more(cell);
  *cell = {};
}

// One cell per 16 bytes, until a smaller access asks for more; then for all of its 256 bytes.
class Shadow {
 public:
  static constexpr uint32_t kCoarsest = 4;
  static constexpr size_t kChunkBytes = 256;

  void reset(size_t n_bytes) {
    chunks_.assign((n_bytes + kChunkBytes - 1) / kChunkBytes, {nullptr, kCoarsest});
  }

  // Calls `visit(cell)` for each cell of the bytes until one returns false.
  template <typename Visit>
  bool visit(Arena* arena, size_t offset, size_t n_bytes, Visit visit) {
    const uint32_t fine = static_cast<uint32_t>(
        __builtin_ctzll(static_cast<uint64_t>(offset | n_bytes) | 1u << kCoarsest));
    const size_t end = offset + n_bytes;
    while (offset < end) {
      Chunk& chunk = chunks_[offset / kChunkBytes];
      if (chunk.cells == nullptr) {
        // Most accesses are alike: the first says how fine the chunk will be.
        chunk.shift = fine;
        const size_t n_cells = kChunkBytes >> fine;
        chunk.cells = arena->allocate(n_cells);
        memset(static_cast<void*>(chunk.cells), 0, n_cells * sizeof(Cell));
      } else if (chunk.shift > fine) {
        split(arena, &chunk, fine);
      }
      const size_t chunk_end = (offset / kChunkBytes + 1) * kChunkBytes;
      const size_t last = chunk_end < end ? chunk_end : end;
      for (; offset < last; offset += size_t{1} << chunk.shift) {
        if (!visit(chunk.cells[offset % kChunkBytes >> chunk.shift])) return false;
      }
    }
    return true;
  }

  // The first byte from `offset` on that nothing wrote under a stamp from `first` on; `n_bytes`
  // where there is none.
  size_t find_unwritten(size_t n_bytes, StampId first) const {
    for (size_t offset = 0; offset < n_bytes;) {
      const Chunk& chunk = chunks_[offset / kChunkBytes];
      if (chunk.cells == nullptr) return offset;
      const Cell& cell = chunk.cells[offset % kChunkBytes >> chunk.shift];
      if (cell.write < first) return offset;
      offset += size_t{1} << chunk.shift;
    }
    return n_bytes;
  }

 private:
  struct Chunk {
    Cell* cells;
    uint32_t shift;
  };

  static void split(Arena* arena, Chunk* chunk, uint32_t fine) {
    const size_t n_cells = kChunkBytes >> fine;
    Cell* cells = arena->allocate(n_cells);
    const uint32_t n_parts = chunk->shift - fine;
    for (size_t i = 0; i < n_cells; ++i) arena->copy(chunk->cells[i >> n_parts], &cells[i]);
    *chunk = {cells, fine};
  }

  std::vector<Chunk> chunks_;
};

}  // namespace lacuna_simt

#endif  // LACUNA_SIMT_SHADOW_H_
