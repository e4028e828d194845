// SPDX-License-Identifier: MIT OR Apache-2.0
// What probes attend to, token by token: the column sums of attention that a fused kernel never
// has. A tile's keys are read once for all probes. src/select/mass/reference.rs is the
// specification.

#include "../common/last.cuh"
#include "lanes.cuh"
#include "softmax.cuh"

namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kGroups = kThreads / kDotLanes;
// Rows that a group of lanes multiplies at once, and has on chip.
constexpr uint32_t kRows = 4;
constexpr uint32_t kSlots = 16;
constexpr uint32_t kStagedBytes = kSlots * kSlotBytes * kThreads;
// Queries whose scores are on chip at once, each with its own length of row, no multiple of 32.
constexpr uint32_t kChunk = 16;
constexpr uint32_t kPitch = kTile + 8;

struct Shared {
  float scores[kChunk * kPitch];
  SelectSoftmax softmaxes[kChunk];
  uint32_t n_visible[kChunk];
  // Whether this block is the last of its head.
  uint32_t is_last;
};

// A block's tile.
struct Tile {
  uint32_t b;
  uint32_t first_row;
  uint32_t n_rows;
  uint32_t n_all_tiles;
  // Queries of a head of keys: every probe's group.
  uint32_t n_queries;
};

__device__ Tile locate_tile(const SelectMassParams& params) {
  Tile tile;
  tile.b = blockIdx.z;
  const uint32_t n_all = min_of(count_rows(params.kv, tile.b), params.n);
  tile.first_row = blockIdx.x * params.tile;
  tile.n_rows = n_all > tile.first_row ? min_of(n_all - tile.first_row, params.tile) : 0;
  tile.n_all_tiles = (n_all + params.tile - 1) / params.tile;
  tile.n_queries = params.n_probes * params.group;
  return tile;
}

// `n` queries of a head from the `first` on, and how many tokens of the tile each sees.
__device__ void stage_probes(const SelectMassParams& params, const Tile& tile, uint32_t head,
                             uint32_t first, uint32_t n, float* queries, Shared& shared) {
  const uint32_t d = params.kv.row_len;
  for (uint32_t q = 0; q < n; ++q) {
    const uint32_t probe = (first + q) / params.group;
    const uint32_t q_head = head * params.group + (first + q) % params.group;
    const uint64_t start =
        tile.b * params.request_stride + probe * params.probe_stride + uint64_t{q_head} * d;
    for (uint32_t i = threadIdx.x; i < d; i += kThreads) {
      queries[q * query_pitch(d) + place_query(i)] =
          load_float(params.probes, start + i, params.query_element);
    }
  }
  if (threadIdx.x < n) {
    const uint32_t probe = (first + threadIdx.x) / params.group;
    const uint32_t n_seen = params.n_visible[uint64_t{tile.b} * params.n_probes + probe];
    shared.n_visible[threadIdx.x] =
        n_seen > tile.first_row ? min_of(n_seen - tile.first_row, tile.n_rows) : 0;
  }
}

// `n` staged queries against the rows that this lane has on chip, from row `base` of the tile on;
// what a query does not see scores -inf.
__device__ void score_rows(const SelectMassParams& params, const RowLane& lane, uint32_t absent,
                           uint32_t base, uint32_t n_here, uint32_t n, const float* queries,
                           Shared& shared) {
  const uint32_t first = first_dot<kQueries * kRows>(threadIdx.x % kDotLanes);
  for (uint32_t q = 0; q < n; q += kQueries) {
    for (uint32_t done = 0; done < lane.n_rows; done += kRows) {
      float products[kQueries * kRows];
      const uint32_t n_left = n_here > done ? min_of(n_here - done, kRows) : 0;
      multiply_rows<false, kRows>(lane, params.kv.element, done * lane.n_each, n_left,
                                  queries + q * query_pitch(lane.head_dim), min_of(kQueries, n - q),
                                  products);
      add_lanes(products);
#pragma unroll
      for (uint32_t i = 0; i < kQueries * kRows / kDotLanes; ++i) {
        const uint32_t query = q + (first + i) / kRows;
        const uint32_t r = (first + i) % kRows;
        if (query >= n || r >= n_left) continue;
        const bool is_seen =
            base + done + r < shared.n_visible[query] && (absent >> (done + r) & 1) == 0;
        const float score = __fmul_rn(products[i], params.kv.key_scale);
        shared.scores[query * kPitch + base + done + r] =
            is_seen ? canonical(score) : minus_infinity();
      }
    }
  }
}

// Scores a head's queries against the tile, whose rows are then on chip, 16 at a time, and gives
// each 16 to `take`, after a barrier; the next one stands between its end and the next 16 scores.
// Of a tile without rows nothing.
template <typename Take>
__device__ void score_probes(const SelectMassParams& params, const Tile& tile, uint32_t head,
                             unsigned char* dynamic, Shared& shared, Take take) {
  if (tile.n_rows == 0) return;
  const RowLane lane =
      locate_lane(params.kv.row_len, false, params.tile / kGroups, kSlots, 1, dynamic);
  float* queries = reinterpret_cast<float*>(dynamic + kStagedBytes);
  const uint32_t base = threadIdx.x / kDotLanes * lane.n_rows;
  const uint32_t n_here = base < tile.n_rows ? min_of(lane.n_rows, tile.n_rows - base) : 0;
  const uint32_t absent =
      fetch_rows(params.kv, tile.b, head, lane, 0, tile.first_row + base, n_here);
  wait_copies<0>();
  for (uint32_t first = 0; first < tile.n_queries; first += kChunk) {
    const uint32_t n = min_of(kChunk, tile.n_queries - first);
    stage_probes(params, tile, head, first, n, queries, shared);
    __syncthreads();
    score_rows(params, lane, absent, base, n_here, n, queries, shared);
    __syncthreads();
    take(first, n);
  }
}

}  // namespace

// The softmaxes of every probe and head: a block has a tile of a head of keys.
LACUNA_ENTRY(probe_rows, SelectMassParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  if (params.skips != nullptr && params.skips[blockIdx.z] != 0) return;
  const Tile tile = locate_tile(params);
  if (tile.n_rows == 0 && blockIdx.x != 0) return;
  const uint32_t head = blockIdx.y;
  const uint64_t first_query = (uint64_t{tile.b} * params.kv.n_heads + head) * tile.n_queries;
  SelectPartialSoftmax* partials = params.partial_softmaxes + first_query * params.n_tiles;
  score_probes(params, tile, head, dynamic, shared, [&](uint32_t first, uint32_t n) {
    for (uint32_t q = threadIdx.x / 32; q < n; q += kWarps) {
      const SelectPartialSoftmax partial =
          sum_tile(shared.scores + q * kPitch, tile.n_rows, params.softmax_scale);
      if (threadIdx.x % 32 == 0) {
        partials[uint64_t{first + q} * params.n_tiles + blockIdx.x] = partial;
      }
    }
  });
  // A request without rows has one block.
  const uint32_t n_blocks = tile.n_all_tiles == 0 ? 1 : tile.n_all_tiles;
  uint32_t* ticket = params.tickets + tile.b * params.kv.n_heads + head;
  if (!is_last_block(ticket, n_blocks, shared.is_last)) return;
  for (uint32_t q = threadIdx.x / 32; q < tile.n_queries; q += kWarps) {
    const SelectSoftmax softmax =
        merge_partials(partials + uint64_t{q} * params.n_tiles, tile.n_all_tiles);
    if (threadIdx.x % 32 == 0) params.softmaxes[first_query + q] = softmax;
  }
}

// The masses: a block has a tile of the heads of keys that are added, a thread one of its tokens.
LACUNA_ENTRY(column_mass, SelectMassParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  if (params.skips != nullptr && params.skips[blockIdx.z] != 0) return;
  const Tile tile = locate_tile(params);
  if (tile.n_rows == 0) return;
  float mass = 0.0f;
  uint32_t n_seeing = 0;
  for (uint32_t i = 0; i < params.n_heads_together; ++i) {
    const uint32_t head = blockIdx.y * params.n_heads_together + i;
    const SelectSoftmax* softmaxes =
        params.softmaxes + (uint64_t{tile.b} * params.kv.n_heads + head) * tile.n_queries;
    score_probes(params, tile, head, dynamic, shared, [&](uint32_t first, uint32_t n) {
      if (threadIdx.x < n) shared.softmaxes[threadIdx.x] = softmaxes[first + threadIdx.x];
      __syncthreads();
      for (uint32_t q = 0; q < n && threadIdx.x < tile.n_rows; ++q) {
        mass = add_vote(mass, shared.scores[q * kPitch + threadIdx.x], shared.softmaxes[q],
                        params.softmax_scale, 0);
        const bool is_once = i == 0 && (first + q) % params.group == 0;
        n_seeing += is_once && threadIdx.x < shared.n_visible[q];
      }
      __syncthreads();
    });
  }
  if (threadIdx.x >= tile.n_rows) return;
  const uint32_t t = tile.first_row + threadIdx.x;
  mass = __fmul_rn(mass, params.mass_scale);
  if (params.is_per_probe != 0) {
    mass = n_seeing == 0 ? 0.0f : __fdiv_rn(mass, __int2float_rn(static_cast<int32_t>(n_seeing)));
  }
  const uint64_t row = uint64_t{tile.b} * gridDim.y + blockIdx.y;
  params.masses[row * params.mass_stride + t] = mass;
}
