// SPDX-License-Identifier: MIT OR Apache-2.0
// What a list sends to 32 neighbouring rows, in the list's order, found by a block that has those
// rows.
#ifndef LACUNA_SELECT_TILES_CUH_
#define LACUNA_SELECT_TILES_CUH_

#include "../common/kernel.cuh"

constexpr uint32_t kTileThreads = 512;
constexpr uint32_t kTileWarps = kTileThreads / 32;
constexpr uint32_t kTile = 32;
// Places that a block remembers; of more, each warp looks through the list again.
constexpr uint32_t kFound = 4096;
constexpr uint32_t kAllLanes = 0xFFFFFFFF;
constexpr uint32_t kNone = 0xFFFFFFFF;

struct TileFinds {
  // Of what goes to the tile: its place in the list, and which of the tile's rows.
  uint32_t places[kFound];
  uint8_t tile_rows[kFound];
  uint32_t n_found[kTileWarps];
};

// How many of a list's `n` go to the tile; the first `kFound` are remembered. `find` says of a
// place to which of the tile's rows; a number past them of those that do not, and of places past
// the list.
template <typename Find>
__device__ uint32_t find_places(uint32_t n, const Find& find, TileFinds& finds) {
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lanes_before = (1u << threadIdx.x % 32) - 1;
  uint32_t n_found = 0;
  for (uint32_t base = 0; base < n; base += kTileThreads) {
    const uint32_t place = base + threadIdx.x;
    const uint32_t tile_row = find(place);
    const uint32_t found = __ballot_sync(kAllLanes, tile_row < kTile);
    if (threadIdx.x % 32 == 0) finds.n_found[warp] = static_cast<uint32_t>(__popc(found));
    __syncthreads();
    uint32_t at = n_found + static_cast<uint32_t>(__popc(found & lanes_before));
    for (uint32_t other = 0; other < kTileWarps; ++other) {
      const uint32_t n_own = finds.n_found[other];
      n_found += n_own;
      if (other < warp) at += n_own;
    }
    if (tile_row < kTile && at < kFound) {
      finds.places[at] = place;
      finds.tile_rows[at] = static_cast<uint8_t>(tile_row);
    }
    __syncthreads();
  }
  return n_found;
}

// By a warp: the places that go to one of the tile's rows, in their order.
template <typename Find, typename Visit>
__device__ void visit_places(uint32_t n, uint32_t n_found, uint32_t tile_row, const Find& find,
                             const TileFinds& finds, const Visit& visit) {
  const uint32_t lane = threadIdx.x % 32;
  const bool is_remembered = n_found <= kFound;
  const uint32_t n_looked_at = is_remembered ? n_found : n;
  for (uint32_t first = 0; first < n_looked_at; first += 32) {
    uint32_t place = first + lane;
    uint32_t goes_to = kNone;
    if (!is_remembered) {
      goes_to = find(place);
    } else if (place < n_found) {
      goes_to = finds.tile_rows[place];
      place = finds.places[place];
    }
    uint32_t found = __ballot_sync(kAllLanes, goes_to == tile_row);
    while (found != 0) {
      const int next = __ffs(found) - 1;
      found &= found - 1;
      visit(__shfl_sync(kAllLanes, place, next));
    }
  }
}

#endif  // LACUNA_SELECT_TILES_CUH_
