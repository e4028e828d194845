// SPDX-License-Identifier: MIT OR Apache-2.0
// The picks of a cut, gathered on chip: in the order of the row, or by score.
#ifndef LACUNA_SELECT_GATHER_CUH_
#define LACUNA_SELECT_GATHER_CUH_

#include "search.cuh"

namespace {

// Candidates above the cut, and at it.
struct Found {
  uint32_t n_above;
  uint32_t n_equal;

  __device__ uint32_t n_picked(uint32_t n_most_equal) const {
    return n_above + at_most(n_equal, n_most_equal);
  }
};

__device__ __forceinline__ Found add_found(const Found& one, uint32_t n_above, uint32_t n_equal) {
  return {one.n_above + n_above, one.n_equal + n_equal};
}

struct GatherShared {
  // Of a warp, two tiles by turns, as `count_marks` has them.
  uint32_t of_warps[2][32];
  // What this slice has, above the cut and, from bit 32 on, at it; and what slices before it have.
  uint64_t found;
  Found before;
  // How many the cut takes of all slices.
  uint32_t n_cut;
  // The places that this block's picks have among those of the row.
  uint32_t first;
  uint32_t end;
};

// Places for the picks from `first` on and before `end`, which may be none: their indices; or of
// all picks of a row, which are to be sorted, their keys too, larger ones first and then lower
// indices.
struct Picks {
  unsigned char* work;
  uint32_t first;
  uint32_t end;
  bool have_keys;

  __device__ uint64_t* pairs() const { return reinterpret_cast<uint64_t*>(work); }
  __device__ uint32_t* indices() const { return reinterpret_cast<uint32_t*>(work); }

  __device__ void put(uint32_t place, uint32_t key, uint32_t idx) const {
    if (have_keys) {
      pairs()[place] = uint64_t{key} << 32 | (0xFFFFFFFF - idx);
    } else {
      indices()[place - first] = idx;
    }
  }

  __device__ uint32_t operator[](uint32_t place) const {
    return have_keys ? 0xFFFFFFFF - static_cast<uint32_t>(pairs()[place])
                     : indices()[place - first];
  }
};

// The keys of a vector that are above the cut, a bit for each number, and from bit 16 on those at
// it.
__device__ __forceinline__ uint32_t mark_found(const Vector& vector, uint32_t threshold,
                                               bool is_wide) {
  uint32_t marks = 0;
  visit_vector(vector, is_wide, [&](uint32_t number, uint32_t key) {
    marks |= key > threshold ? 1u << number : key == threshold ? 0x10000u << number : 0;
  });
  return marks;
}

// How many are above and, from bit 16 on, at the cut: a tile has 2^14 at most.
__device__ __forceinline__ uint32_t count_marks(uint32_t marks) {
  return static_cast<uint32_t>(__popc(marks & 0xFFFF) | __popc(marks >> 16) << 16);
}

// The first `n` of some marks.
__device__ __forceinline__ uint32_t take_first(uint32_t marks, uint32_t n) {
  uint32_t rest = marks;
#pragma unroll 1
  for (; rest != 0 && n != 0; --n) rest &= rest - 1;
  return marks ^ rest;
}

// What the slice has, in shared memory after the next barrier. One barrier.
__device__ __forceinline__ void count_found(Keys& keys, uint32_t threshold, uint64_t& found) {
  if (threadIdx.x == 0) found = 0;
  __syncthreads();
  uint32_t n_above = 0;
  uint32_t n_equal = 0;
  const bool is_wide = keys.format.is_wide();
  keys.visit([&](const Vector& vector) {
    const uint32_t n_found = count_marks(mark_found(vector, threshold, is_wide));
    n_above += n_found & 0xFFFF;
    n_equal += n_found >> 16;
  });
  n_above = __reduce_add_sync(0xFFFFFFFFu, n_above);
  n_equal = __reduce_add_sync(0xFFFFFFFFu, n_equal);
  if (threadIdx.x % 32 == 0) atomicAdd(&found, uint64_t{n_equal} << 32 | n_above);
}

// By one warp: where this slice's picks belong, by what all slices have.
__device__ __forceinline__ void find_places(const Team& team, uint32_t n_equal, uint32_t n_places,
                                            bool have_keys, GatherShared& shared) {
  const uint64_t of_lane = team.of_lane(&shared.found);
  const uint64_t through = scan_warp(of_lane);
  const auto unpack = [](uint64_t packed) -> Found {
    return {static_cast<uint32_t>(packed), static_cast<uint32_t>(packed >> 32)};
  };
  if (threadIdx.x == 31) shared.n_cut = unpack(through).n_picked(n_equal);
  if (threadIdx.x != team.rank) return;
  shared.before = unpack(through - of_lane);
  shared.first = shared.before.n_picked(n_equal);
  // Sorted are the picks of all together.
  shared.end = have_keys ? n_places : at_most(unpack(through).n_picked(n_equal), n_places);
}

// Leaves in `work` those that the cut takes and that there are `n_places` for; where they are
// sorted, all blocks in the same. Marks them all from `kept` on, unless it is null. A tile is a
// vector or more of each thread, and a warp's vectors lie together, so that a barrier a tile is
// enough; and one of the team is the last. Who has no others need not know beforehand what slices
// have.
__device__ void gather(const Team& team, Keys& keys, const Cut& cut, uint32_t n_places,
                       bool have_keys, unsigned char* work, uint8_t* kept, GatherShared& shared) {
  constexpr uint32_t kMost = 2;
  const bool is_wide = keys.format.is_wide();
  const uint32_t n_threads = blockDim.x;
  const uint32_t n_each = at_most((keys.n_vectors + n_threads - 1) / n_threads, kMost);
  const uint32_t own = threadIdx.x / 32 * 32 * n_each + threadIdx.x % 32;
  uint32_t n_vectors = keys.n_vectors;
  if (!team.is_alone()) {
    count_found(keys, cut.threshold, shared.found);
    team.barrier();
    if (shared.found == 0 && kept == nullptr) n_vectors = 0;
    if (threadIdx.x < 32) find_places(team, cut.n_equal, n_places, have_keys, shared);
  } else if (threadIdx.x == 0) {
    shared.before = {0, 0};
    shared.first = 0;
    shared.end = n_places;
  }
  Found found = {0, 0};
  uint32_t turn = 0;
  for (uint32_t base = 0; base < n_vectors; base += n_each * n_threads) {
    Vector vectors[kMost];
    uint32_t marks[kMost];
    uint32_t places[kMost];
#pragma unroll
    for (uint32_t u = 0; u < kMost; ++u) {
      // Inner loop: 8 elements a load.
      if (u < n_each) vectors[u] = keys.request(base + own + 32 * u);
    }
    uint32_t of_warp = 0;
#pragma unroll
    for (uint32_t u = 0; u < kMost; ++u) {
      if (u >= n_each) break;
      vectors[u] = keys.keys_of(vectors[u], base + own + 32 * u);
      marks[u] = mark_found(vectors[u], cut.threshold, is_wide);
      const uint32_t n_found = count_marks(marks[u]);
      const uint32_t through = scan_warp(n_found);
      places[u] = of_warp + through - n_found;
      of_warp += __shfl_sync(0xFFFFFFFFu, through, 31);
    }
    const Place<uint32_t> place = scan_warps(of_warp, shared.of_warps[turn]);
    const Found start = add_found(shared.before, found.n_above, found.n_equal);
    const Picks picks = {work, shared.first, shared.end, have_keys};
#pragma unroll
    for (uint32_t u = 0; u < kMost; ++u) {
      if (u >= n_each) break;
      const uint32_t v = base + own + 32 * u;
      const uint32_t n_before = place.before + places[u];
      const Found earlier = add_found(start, n_before & 0xFFFF, n_before >> 16);
      const uint32_t n_equal = cut.n_equal - at_most(earlier.n_equal, cut.n_equal);
      const uint32_t taken = (marks[u] & 0xFFFF) | take_first(marks[u] >> 16, n_equal);
      if (kept != nullptr) {
        // Inner loop: not this way.
        keys.mark(v, taken, kept);
      }
      uint32_t at = earlier.n_picked(cut.n_equal);
      // Few vectors have many.
      for (uint32_t rest = taken; rest != 0 && at < picks.end; rest &= rest - 1) {
        const uint32_t number = static_cast<uint32_t>(__ffs(rest)) - 1;
        picks.put(at, find_key(vectors[u], number, is_wide), keys.index_of(v, number));
        at += 1;
      }
    }
    found = add_found(found, place.all & 0xFFFF, place.all >> 16);
    turn = 1 - turn;
  }
  if (team.is_alone() && threadIdx.x == 0) shared.n_cut = found.n_picked(cut.n_equal);
  team.barrier();
}

// Descending, by a bitonic network; pairs that differ. What is compared within 64 of them is one
// warp's own.
__device__ __forceinline__ void sort_pairs(uint64_t* pairs, uint32_t n) {
  uint32_t n_padded = 2;
  while (n_padded < n) n_padded *= 2;
  for (uint32_t i = n + threadIdx.x; i < n_padded; i += blockDim.x) pairs[i] = 0;
  __syncthreads();
  for (uint32_t size = 2; size <= n_padded; size *= 2) {
    for (uint32_t stride = size / 2; stride != 0; stride /= 2) {
      for (uint32_t pair = threadIdx.x; pair < n_padded / 2; pair += blockDim.x) {
        const uint32_t i = 2 * pair - (pair & (stride - 1));
        const uint64_t one = pairs[i];
        const uint64_t other = pairs[i + stride];
        const bool is_descending = (i & size) == 0;
        if ((one < other) == is_descending) {
          pairs[i] = other;
          pairs[i + stride] = one;
        }
      }
      const uint32_t next_stride = stride > 1 ? stride / 2 : size;
      if (stride > 32 || next_stride > 32) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
}

}  // namespace

#endif  // LACUNA_SELECT_GATHER_CUH_
