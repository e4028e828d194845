// SPDX-License-Identifier: MIT OR Apache-2.0
// The picks of a cut, gathered on chip: in the order of the row, or by score.
#ifndef LACUNA_SELECT_GATHER_CUH_
#define LACUNA_SELECT_GATHER_CUH_

#include "search.cuh"

struct GatherShared {
  // Of a warp, two tiles by turns, as `pack_found` has them.
  uint32_t of_warps[2][32];
  Found found;
};

// Places for the first `n_most` picks: their indices, or where they are to be sorted their keys
// too, larger ones first and then lower indices.
struct Picks {
  unsigned char* work;
  uint32_t n_most;
  bool have_keys;

  __device__ uint64_t* pairs() const { return reinterpret_cast<uint64_t*>(work); }
  __device__ uint32_t* indices() const { return reinterpret_cast<uint32_t*>(work); }

  __device__ void put(uint32_t place, uint32_t key, uint32_t idx) const {
    if (place >= n_most) return;
    if (have_keys) {
      pairs()[place] = uint64_t{key} << 32 | (0xFFFFFFFF - idx);
    } else {
      indices()[place] = idx;
    }
  }

  __device__ uint32_t operator[](uint32_t place) const {
    return have_keys ? 0xFFFFFFFF - static_cast<uint32_t>(pairs()[place]) : indices()[place];
  }
};

// Keys above the cut and, from bit 16 on, keys at it: a tile has 2^15 at most.
template <typename Format>
__device__ __forceinline__ uint32_t pack_found(const Vector& vector, uint32_t threshold) {
  uint32_t n_found = 0;
#pragma unroll
  for (uint32_t e = 0; e < Format::kOfVector; ++e) {
    const uint32_t key = element_of<Format>(vector, e);
    n_found += key > threshold ? 1 : key == threshold ? 0x10000 : 0;
  }
  return n_found;
}

template <typename Format>
__device__ Found count_found(Keys<Format>& keys, uint32_t threshold) {
  Found found = {0, 0};
  keys.template visit<2>([&](const Vector& vector) {
    const uint32_t n_found = pack_found<Format>(vector, threshold);
    found.n_above += n_found & 0xFFFF;
    found.n_equal += n_found >> 16;
  });
  return found;
}

// How many the cut takes; the first of them by index are left in `picks`. A tile is a vector or
// more of each thread, and a warp's vectors lie together, so that a barrier a tile is enough.
template <typename Format, typename Team>
__device__ uint32_t gather(const Team& team, Keys<Format>& keys, const Cut& cut, const Picks& picks,
                           GatherShared& shared) {
  constexpr uint32_t kMost = 4;
  const uint32_t n_threads = blockDim.x;
  const uint32_t n_each = at_most((keys.n_vectors + n_threads - 1) / n_threads, kMost);
  const uint32_t own = threadIdx.x / 32 * 32 * n_each + threadIdx.x % 32;
  const Found start = team.find_before([&] { return count_found(keys, cut.threshold); });
  Found found = {0, 0};
  uint32_t turn = 0;
  for (uint32_t base = 0; base < keys.n_vectors; base += n_each * n_threads) {
    Vector vectors[kMost];
    uint32_t places[kMost];
#pragma unroll
    for (uint32_t u = 0; u < kMost; ++u) {
      if (u < n_each) vectors[u] = keys.request(base + own + 32 * u);
    }
    uint32_t of_warp = 0;
#pragma unroll
    for (uint32_t u = 0; u < kMost; ++u) {
      if (u >= n_each) break;
      vectors[u] = keys.keys_of(vectors[u], base + own + 32 * u);
      const uint32_t n_found = pack_found<Format>(vectors[u], cut.threshold);
      const uint32_t through = scan_warp(n_found);
      places[u] = of_warp + through - n_found;
      of_warp += __shfl_sync(0xFFFFFFFFu, through, 31);
    }
    const Place<uint32_t> place = scan_warps(OneBlock{}, of_warp, shared.of_warps[turn]);
#pragma unroll
    for (uint32_t u = 0; u < kMost; ++u) {
      if (u >= n_each) break;
      const uint32_t n_before = place.before + places[u];
      uint32_t n_above = start.n_above + found.n_above + (n_before & 0xFFFF);
      uint32_t n_equal = start.n_equal + found.n_equal + (n_before >> 16);
#pragma unroll
      for (uint32_t e = 0; e < Format::kOfVector; ++e) {
        const uint32_t key = element_of<Format>(vectors[u], e);
        const bool is_equal = key == cut.threshold;
        if (key > cut.threshold || (is_equal && n_equal < cut.n_equal)) {
          picks.put(n_above + at_most(n_equal, cut.n_equal), key,
                    keys.index_of(base + own + 32 * u, e));
        }
        n_above += key > cut.threshold ? 1 : 0;
        n_equal += is_equal ? 1 : 0;
      }
    }
    found.n_above += place.all & 0xFFFF;
    found.n_equal += place.all >> 16;
    turn = 1 - turn;
  }
  if (threadIdx.x == 0) shared.found = found;
  team.barrier();
  found = team.total(shared.found);
  return found.n_above + at_most(found.n_equal, cut.n_equal);
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

#endif  // LACUNA_SELECT_GATHER_CUH_
