// SPDX-License-Identifier: MIT OR Apache-2.0
// Attention of chunks of prompts over the rows of a paged cache that were kept. A block has 16 rows
// of a head's queries for each warp, and goes through the rows that any of them sees, a stage of
// them on chip while the next is on its way. A row's sums are one chain over tiles of 16.
// src/attention/prefill/reference.rs is the specification.

#include "../common/async.cuh"
#include "../common/kv.cuh"
#include "../common/scan.cuh"
#include "sums.cuh"

namespace {

constexpr uint32_t kMostRows = 64;
constexpr int32_t kGreatestPosition = 0x7FFFFFFF;

// Rows of the cache on their way.
struct Stage {
  // Addresses, 0 where there is none.
  uint64_t keys[kMostRows];
  uint64_t values[kMostRows];
  int32_t positions[kMostRows];
};

// Tiles whose products with values are summed apart: a row's sums are too long for tensor cores
// alone, which cut off what does not fit.
constexpr uint32_t kTogether = 2;

struct Shared {
  Stage stages[2];
  int32_t positions[kMostRows];
  // The block's queries.
  uint32_t request;
  uint32_t first_token;
  uint32_t n_queries;
  uint32_t first_row;
  // What makes outputs of each row's sums.
  float scales[kMostRows];
  float reciprocals[kMostRows];
  // Of their positions.
  int32_t least;
  int32_t greatest;
};

__device__ __forceinline__ uint32_t min_of(uint32_t x, uint32_t y) { return x < y ? x : y; }

// Over the lanes of a warp up to its own.
__device__ __forceinline__ uint32_t greatest_up_to(uint32_t value) {
#pragma unroll
  for (uint32_t apart = 1; apart < 32; apart *= 2) {
    const uint32_t before = __shfl_up_sync(0xFFFFFFFFu, value, apart);
    if (threadIdx.x % 32 >= apart) value = max(value, before);
  }
  return value;
}

// Which request's queries a block has, and which of them, by a warp. Requests have whole blocks,
// one after the other; none of them has the last ones of a grid.
__device__ __forceinline__ void find_queries(const AttentionPrefillParams& params, uint32_t n_rows,
                                             Shared& shared) {
  const uint32_t lane = threadIdx.x;
  // Past the tokens it is an end too, and of nothing.
  uint32_t first_start = params.query_starts[0];
  uint32_t n_blocks_before = 0;
  if (lane == 0) shared.n_queries = 0;
  __syncwarp();
  for (uint32_t base = 0; base < params.kv.batch; base += 32) {
    const uint32_t b = base + lane;
    const uint32_t own_end =
        b < params.kv.batch ? min_of(params.query_starts[b + 1], params.n_tokens) : 0;
    const uint32_t end = max(greatest_up_to(own_end), first_start);
    const uint32_t before = __shfl_up_sync(0xFFFFFFFFu, end, 1);
    const uint32_t start = lane == 0 ? first_start : before;
    const uint32_t n_blocks = ((end - start) * params.group + n_rows - 1) / n_rows;
    const uint32_t through = n_blocks_before + scan_warp(n_blocks);
    const uint32_t found = __ballot_sync(0xFFFFFFFFu, blockIdx.x < through);
    if (found != 0) {
      if (lane != static_cast<uint32_t>(__ffs(found)) - 1) return;
      shared.request = b;
      shared.first_token = start;
      shared.n_queries = end - start;
      shared.first_row = (blockIdx.x - (through - n_blocks)) * n_rows;
      return;
    }
    n_blocks_before = __shfl_sync(0xFFFFFFFFu, through, 31);
    first_start = __shfl_sync(0xFFFFFFFFu, end, 31);
  }
}

// The token and query head of a row of the block.
struct QueryRow {
  uint32_t query;
  uint32_t head;
};

__device__ __forceinline__ QueryRow locate_query(const AttentionPrefillParams& params,
                                                 const Shared& shared, uint32_t head, uint32_t r) {
  const uint32_t row = shared.first_row + r;
  QueryRow found;
  found.query = row / params.group;
  found.head = head * params.group + (row - found.query * params.group);
  return found;
}

// Queries of the block and where they stand; zeros past the last.
__device__ __forceinline__ void stage_queries(const AttentionPrefillParams& params, uint32_t head,
                                              uint32_t n_block_rows, uint32_t n_keys,
                                              uint4* queries, Shared& shared) {
  const uint32_t n_chunks = params.kv.row_len / 8;
  const uint32_t n_rows = shared.n_queries * params.group;
  for (uint32_t i = threadIdx.x; i < n_block_rows * n_chunks; i += blockDim.x) {
    const uint32_t r = i / n_chunks;
    const uint32_t chunk = i - r * n_chunks;
    uint4 four = make_uint4(0, 0, 0, 0);
    if (shared.first_row + r < n_rows) {
      const QueryRow row = locate_query(params, shared, head, r);
      const uint64_t token = uint64_t{shared.first_token} + row.query;
      const uint64_t element =
          token * params.query_stride + uint64_t{row.head} * params.kv.row_len + 8 * chunk;
      four = *reinterpret_cast<const uint4*>(params.queries + 2 * element);
    }
    queries[r * pitch_of(params.kv.row_len) + chunk] = four;
  }
  const uint32_t r = threadIdx.x;
  if (r >= n_block_rows || shared.first_row + r >= n_rows) return;
  const uint32_t query = locate_query(params, shared, head, r).query;
  const int32_t position =
      params.query_positions != nullptr
          ? params.query_positions[shared.first_token + query]
          : static_cast<int32_t>(n_keys + query) - static_cast<int32_t>(shared.n_queries);
  shared.positions[r] = position;
  atomicMin(&shared.least, position);
  atomicMax(&shared.greatest, position);
}

__device__ __forceinline__ bool is_near(const AttentionPrefillParams& params, int32_t query,
                                        int32_t key) {
  return params.window == 0 || int64_t{query} - key < params.window;
}

// Where the rows of a stage are, and whether any query may see one: by the first threads.
__device__ __forceinline__ bool locate_rows(const AttentionPrefillParams& params, uint32_t head,
                                            uint32_t first, uint32_t n_stage_rows, uint32_t n_keys,
                                            const Shared& shared, Stage& stage) {
  const uint32_t i = threadIdx.x;
  if (i >= n_stage_rows) return false;
  stage.keys[i] = 0;
  const uint32_t t = first + i;
  if (t >= n_keys) return false;
  const uint64_t element = locate_kv(params.kv, shared.request, t, head);
  if (element == kNoRow) return false;
  const int32_t position = params.key_positions != nullptr
                               ? params.key_positions[shared.request * params.position_stride + t]
                               : static_cast<int32_t>(t);
  if (params.is_causal != 0) {
    if (position > shared.greatest || !is_near(params, shared.least, position)) return false;
  }
  stage.keys[i] = reinterpret_cast<uint64_t>(params.kv.keys + 2 * element);
  stage.values[i] = reinterpret_cast<uint64_t>(params.kv.values + 2 * element);
  stage.positions[i] = position;
  return true;
}

// Begins to copy rows into `n_stage_rows` of keys and then as many of values; zeros where there is
// none.
__device__ __forceinline__ void fetch_rows(const AttentionPrefillParams& params,
                                           uint32_t n_stage_rows, const Stage& stage,
                                           uint4* target) {
  const uint32_t n_chunks = params.kv.row_len / 8;
  const uint32_t pitch = pitch_of(params.kv.row_len);
  for (uint32_t i = threadIdx.x; i < n_stage_rows * n_chunks; i += blockDim.x) {
    const uint32_t row = i / n_chunks;
    const uint32_t chunk = i - row * n_chunks;
    const bool is_there = stage.keys[row] != 0;
    // Nothing is read where nothing is.
    const uint8_t* key = params.queries;
    const uint8_t* value = params.queries;
    if (is_there) {
      key = reinterpret_cast<const uint8_t*>(stage.keys[row]) + 16 * chunk;
      value = reinterpret_cast<const uint8_t*>(stage.values[row]) + 16 * chunk;
    }
    copy_async<16>(target + row * pitch + chunk, key, is_there);
    copy_async<16>(target + (n_stage_rows + row) * pitch + chunk, value, is_there);
  }
}

// Of the sums that the block's warps left on chip, by all threads.
__device__ __forceinline__ void write_rows(const AttentionPrefillParams& params, uint32_t head,
                                           uint32_t n_rows, const uint32_t* words, Shared& shared) {
  const uint32_t d = params.kv.row_len;
  const uint32_t row_words = d + kExtraWords;
  const uint32_t own = threadIdx.x;
  if (own < n_rows) {
    const QueryRow row = locate_query(params, shared, head, own);
    const float* sink = params.sinks != nullptr ? params.sinks + row.head : nullptr;
    const uint32_t* extra = words + own * row_words + d;
    const Finish finish =
        finish_sums(params.logits, static_cast<int32_t>(extra[kGreatestWord]),
                    __uint_as_float(extra[kSumWord]), __uint_as_float(extra[kMassWord]), sink);
    shared.scales[own] = finish.scale;
    shared.reciprocals[own] = finish.reciprocal;
    const uint64_t token = uint64_t{shared.first_token} + row.query;
    if (params.log_sums != nullptr) {
      params.log_sums[token * params.log_sum_token_stride + row.head * params.log_sum_head_stride] =
          finish.log_sum;
    }
  }
  __syncthreads();
  for (uint32_t i = 4 * threadIdx.x; i < n_rows * d; i += 4 * blockDim.x) {
    const uint32_t r = i / d;
    const uint32_t c = i - r * d;
    const uint4 sums = *reinterpret_cast<const uint4*>(words + r * row_words + c);
    const float scale = shared.scales[r];
    const float reciprocal = shared.reciprocals[r];
    const float four[4] = {finish_output(__uint_as_float(sums.x), scale, reciprocal),
                           finish_output(__uint_as_float(sums.y), scale, reciprocal),
                           finish_output(__uint_as_float(sums.z), scale, reciprocal),
                           finish_output(__uint_as_float(sums.w), scale, reciprocal)};
    const QueryRow row = locate_query(params, shared, head, r);
    const uint64_t token = uint64_t{shared.first_token} + row.query;
    store_four(params.outputs, token * params.output_stride + uint64_t{row.head} * d + c,
               params.logits.output_element, four);
  }
}

// `kMostDim` elements of a head at most, and `kBlockRows` rows of queries and of keys.
template <uint32_t kMostDim, uint32_t kBlockRows>
__device__ __forceinline__ void attend(const AttentionPrefillParams& params, uint4* dynamic,
                                       Shared& shared) {
  if (threadIdx.x < 32) find_queries(params, kBlockRows, shared);
  if (threadIdx.x == 0) {
    shared.least = kGreatestPosition;
    shared.greatest = -kGreatestPosition - 1;
  }
  __syncthreads();
  if (shared.n_queries == 0) return;
  if (params.skips != nullptr && params.skips[shared.request] != 0) return;
  const uint32_t head = blockIdx.y;
  const uint32_t n_keys = count_rows(params.kv, shared.request);
  stage_queries(params, head, kBlockRows, n_keys, dynamic, shared);
  __syncthreads();
  const uint32_t pitch = pitch_of(params.kv.row_len);
  const uint32_t warp_row = threadIdx.x / 32 * kRows;
  const uint4* queries = dynamic + warp_row * pitch;
  uint4* stages = dynamic + kBlockRows * pitch;
  const uint32_t n_stage = 2 * kBlockRows * pitch;
  int32_t own[2];
  bool is_row[2];
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t r = warp_row + threadIdx.x % 32 / 4 + half * 8;
    is_row[half] = shared.first_row + r < shared.n_queries * params.group;
    own[half] = is_row[half] ? shared.positions[r] : 0;
  }
  Sums<kMostDim> sums;
  sums.clear();
  // Of rows that have their numbers as positions it is known which are seen.
  uint32_t begin = 0;
  uint32_t end = n_keys;
  if (params.is_causal != 0 && params.key_positions == nullptr) {
    end = shared.greatest < 0 ? 0 : min_of(n_keys, static_cast<uint32_t>(shared.greatest) + 1);
    const int64_t first_seen = int64_t{shared.least} - params.window + 1;
    if (params.window != 0 && first_seen > 0) {
      begin = static_cast<uint32_t>(first_seen) / kBlockRows * kBlockRows;
    }
  }
  uint32_t turn = 0;
  bool has_before = false;
  for (uint32_t first = begin;; first += kBlockRows) {
    // What no query of the block sees is passed over.
    int is_any = 0;
    for (; first < end; first += kBlockRows) {
      const bool is_own =
          locate_rows(params, head, first, kBlockRows, n_keys, shared, shared.stages[turn]);
      is_any = __syncthreads_or(is_own);
      if (is_any) break;
    }
    if (is_any) fetch_rows(params, kBlockRows, shared.stages[turn], stages + turn * n_stage);
    commit_copies();
    if (has_before) {
      wait_copies<1>();
      __syncthreads();
      const Stage& stage = shared.stages[1 - turn];
      const uint4* keys = stages + (1 - turn) * n_stage;
#pragma unroll 1
      for (uint32_t row = 0; row < kBlockRows; row += kTogether * kTile) {
        const auto sees = [&](uint32_t half, uint32_t position) {
          const uint32_t i = row + position;
          if (!is_row[half] || stage.keys[i] == 0) return false;
          if (params.is_causal == 0) return true;
          return stage.positions[i] <= own[half] && is_near(params, own[half], stage.positions[i]);
        };
        const auto bias_of = [](uint32_t) { return 0.0f; };
        sums.template add_tiles<kTogether>(params.logits, params.kv.row_len, queries,
                                           keys + row * pitch, keys + (kBlockRows + row) * pitch,
                                           sees, bias_of);
      }
      __syncthreads();
    }
    if (!is_any) break;
    has_before = true;
    turn = 1 - turn;
  }
  // Nothing is on its way any more, nor read.
  uint32_t* words = reinterpret_cast<uint32_t*>(dynamic);
  const uint32_t n_rows = min_of(kBlockRows, shared.n_queries * params.group - shared.first_row);
  if (warp_row < n_rows) {
    sums.store(words + warp_row * (params.kv.row_len + kExtraWords), n_rows - warp_row,
               params.kv.row_len);
  }
  __syncthreads();
  write_rows(params, head, n_rows, words, shared);
}

}  // namespace

// Head dimensions up to 128.
LACUNA_ENTRY(prefill_128, AttentionPrefillParams, 128) {
  LACUNA_SHARED(Shared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  attend<128, 64>(params, reinterpret_cast<uint4*>(dynamic), shared);
}

// And up to 256.
LACUNA_ENTRY(prefill_256, AttentionPrefillParams, 64) {
  LACUNA_SHARED(Shared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  attend<256, 32>(params, reinterpret_cast<uint4*>(dynamic), shared);
}
