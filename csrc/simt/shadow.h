// SPDX-License-Identifier: MIT OR Apache-2.0
// What is remembered of each piece of memory: who wrote it last, and who has read it since.
#ifndef LACUNA_SIMT_SHADOW_H_
#define LACUNA_SIMT_SHADOW_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <memory>
#include <vector>

#include "order.h"

namespace lacuna_simt {

// Of the accesses in a slot; the greater conflicts with more.
enum class Sharing : uint8_t { kAtomicReads, kReads, kAtomics };

// Accesses of one warp under one stamp.
struct Slot {
  StampId stamp;
  uint32_t lanes;
  uint32_t site;
};

struct Cell {
  StampId write;
  uint32_t write_site;
  uint8_t write_lane;
  bool is_atomic;
  // An asynchronous copy will write it.
  bool is_in_flight;
  Sharing sharing;
  // Of two warps: a write by any third conflicts with one of them.
  Slot slots[2];
};

// Memory for cells, all given up at once.
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
  void reset() {
    n_used_ = 0;
    n_left_ = 0;
  }

 private:
  static constexpr size_t kBlockCells = 1 << 14;
  std::vector<std::unique_ptr<Cell[]>> blocks_;
  size_t n_used_ = 0;
  size_t n_left_ = 0;
  Cell* next_ = nullptr;
};

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
    for (size_t i = 0; i < n_cells; ++i) cells[i] = chunk->cells[i >> n_parts];
    *chunk = {cells, fine};
  }

  std::vector<Chunk> chunks_;
};

}  // namespace lacuna_simt

#endif  // LACUNA_SIMT_SHADOW_H_
