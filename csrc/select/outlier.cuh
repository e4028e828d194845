// SPDX-License-Identifier: MIT OR Apache-2.0
// Means of keys, and how far the keys point away from them. A warp has a summary, and holds its
// keys on chip, so that they are read once where they fit.
#ifndef LACUNA_SELECT_OUTLIER_CUH_
#define LACUNA_SELECT_OUTLIER_CUH_

#include "../common/async.cuh"
#include "../common/dot.cuh"
#include "summary.cuh"

namespace {

constexpr uint32_t kAllLanes = 0xFFFFFFFF;

// A warp's part of the dynamic shared memory: multiples of 16 bytes.
struct Chunk {
  // Sums of the channels, those of a vector `row_len / 8` apart; and what they come to, in 16 bits.
  float* sums;
  uint8_t* mean;
  // Of each staged row, the element where it is in the pool.
  uint64_t* places;
  uint8_t* keys;
};

__device__ Chunk find_chunk(const SelectSummarizeParams& params, unsigned char* dynamic) {
  const uint32_t row_len = params.keys.row_len;
  const uint32_t n_bytes = float_bytes(params.keys.element);
  const uint32_t n_chunk_bytes = 6 * row_len + params.n_staged * (8 + row_len * n_bytes);
  unsigned char* own = dynamic + threadIdx.x / 32 * n_chunk_bytes;
  Chunk chunk;
  chunk.sums = reinterpret_cast<float*>(own);
  chunk.mean = own + 4 * row_len;
  chunk.places = reinterpret_cast<uint64_t*>(own + 6 * row_len);
  chunk.keys = own + 6 * row_len + 8 * params.n_staged;
  return chunk;
}

// Brings the task's rows `first..first + n` on chip; returns how many of them are there.
__device__ uint32_t stage_keys(const LacunaKvView& kv, const Task& task, uint32_t first, uint32_t n,
                               const Chunk& chunk) {
  const uint32_t lane = threadIdx.x % 32;
  uint32_t n_here = 0;
  for (uint32_t base = 0; base < n; base += 32) {
    const uint32_t i = base + lane;
    const uint64_t at = i < n ? locate_kv(kv, task.b, first + i, task.h) : kNoRow;
    if (i < n) chunk.places[i] = at;
    n_here += static_cast<uint32_t>(__popc(__ballot_sync(kAllLanes, at != kNoRow)));
  }
  __syncwarp();
  const uint32_t n_vectors = kv.row_len / 8;
  for (uint32_t i = lane; i < n * n_vectors; i += 32) {
    const uint32_t row = i / n_vectors;
    const uint64_t at = chunk.places[row];
    if (at == kNoRow) continue;
    const uint64_t element = at + 8 * (i - row * n_vectors);
    if (kv.element >= kFloatE4m3) {
      copy_async<8>(chunk.keys + 8 * i, kv.keys + element);
    } else {
      copy_async<16>(chunk.keys + 16 * i, kv.keys + 2 * element);
    }
  }
  commit_copies();
  wait_copies<0>();
  __syncwarp();
  return n_here;
}

// Adds the staged rows to the sums; a lane has every 32nd vector.
__device__ void add_keys(const LacunaKvView& kv, uint32_t n, bool is_first, const Chunk& chunk) {
  const uint32_t n_vectors = kv.row_len / 8;
  for (uint32_t v = threadIdx.x % 32; v < n_vectors; v += 32) {
    float sums[8];
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) sums[i] = is_first ? 0.0f : chunk.sums[i * n_vectors + v];
    for (uint32_t row = 0; row < n; ++row) {
      if (chunk.places[row] == kNoRow) continue;
      uint32_t words[4];
      float values[8];
      load_kv(words, chunk.keys, 8 * (row * n_vectors + v), kv.element);
      expand_floats(values, words, kv.element);
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) sums[i] = __fadd_rn(sums[i], values[i]);
    }
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) chunk.sums[i * n_vectors + v] = sums[i];
  }
}

__device__ void store_means(const SelectSummarizeParams& params, const Task& task, uint32_t n_here,
                            const Chunk& chunk) {
  const float share = __fdiv_rn(1.0f, static_cast<float>(n_here));
  const uint32_t n_vectors = params.keys.row_len / 8;
  for (uint32_t v = threadIdx.x % 32; v < n_vectors; v += 32) {
    uint32_t bits[8];
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      bits[i] = to_half(__fmul_rn(chunk.sums[i * n_vectors + v], share), params.summaries.element);
    }
    store_row(chunk.mean, 8 * v, bits);
    store_row(params.rows, task.at + 8 * v, bits);
  }
}

__device__ void load_mean(float (&mean)[8], const Chunk& chunk, uint32_t v, uint32_t kind) {
  uint32_t words[4];
  load_kv(words, chunk.mean, 8 * v, kind);
  expand_floats(mean, words, kind);
}

__device__ float measure_mean(const SelectSummarizeParams& params, const Chunk& chunk) {
  float square = 0.0f;
  for (uint32_t v = threadIdx.x % 8; v < params.keys.row_len / 8; v += 8) {
    float mean[8];
    load_mean(mean, chunk, v, params.summaries.element);
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) square = __fmaf_rn(mean[i], mean[i], square);
  }
  return __fsqrt_rn(add_over_lanes(square));
}

// The least cosine of the mean and those of the staged rows that eight lanes take, every fourth;
// infinity without one.
__device__ float find_least(const SelectSummarizeParams& params, uint32_t n, float norm_of_mean,
                            const Chunk& chunk) {
  const LacunaKvView& kv = params.keys;
  const uint32_t n_vectors = kv.row_len / 8;
  const float infinity = __uint_as_float(0x7F800000);
  float least = infinity;
  for (uint32_t base = 0; base < n; base += 4) {
    const uint32_t row = base + threadIdx.x % 32 / 8;
    const bool is_here = row < n && chunk.places[row] != kNoRow;
    float across = 0.0f;
    float square = 0.0f;
    for (uint32_t v = threadIdx.x % 8; is_here && v < n_vectors; v += 8) {
      uint32_t words[4];
      float key[8];
      float mean[8];
      load_kv(words, chunk.keys, 8 * (row * n_vectors + v), kv.element);
      expand_floats(key, words, kv.element);
      load_mean(mean, chunk, v, params.summaries.element);
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) {
        across = __fmaf_rn(mean[i], key[i], across);
        square = __fmaf_rn(key[i], key[i], square);
      }
    }
    across = add_over_lanes(across);
    const float norms = __fmul_rn(norm_of_mean, __fsqrt_rn(add_over_lanes(square)));
    if (!is_here) continue;
    // A key without a direction is at right angles; what is no number is as far away as can be.
    float cosine = norms == 0.0f ? 0.0f : __fdiv_rn(across, norms);
    if (!(norms < infinity)) cosine = -infinity;
    least = cosine < least ? cosine : least;
  }
  return least;
}

__device__ void summarize_chunks(const SelectSummarizeParams& params, const Span& span, uint32_t b,
                                 unsigned char* dynamic) {
  const LacunaKvView& keys = params.keys;
  const Chunk chunk = find_chunk(params, dynamic);
  const uint32_t n_warps = blockDim.x / 32;
  Cursor cursor(keys.n_heads, blockIdx.x * n_warps + threadIdx.x / 32, gridDim.x * n_warps);
  for (; cursor.idx < span.n; cursor.advance()) {
    const uint32_t h = cursor.column;
    const Task task = find_task(params, span, b, h, span.first + cursor.idx);
    float least = __uint_as_float(0x7F800000);
    if (task.at != kNoRow) {
      const uint32_t n = task.end - task.first;
      uint32_t n_here = 0;
      for (uint32_t i = 0; i < n || i == 0; i += params.n_staged) {
        const uint32_t n_now = n - i < params.n_staged ? n - i : params.n_staged;
        n_here += stage_keys(keys, task, task.first + i, n_now, chunk);
        add_keys(keys, n_now, i == 0, chunk);
        __syncwarp();
      }
      store_means(params, task, n_here, chunk);
      __syncwarp();
      const float norm_of_mean = measure_mean(params, chunk);
      for (uint32_t i = 0; i < n; i += params.n_staged) {
        const uint32_t n_now = n - i < params.n_staged ? n - i : params.n_staged;
        if (n > params.n_staged) stage_keys(keys, task, task.first + i, n_now, chunk);
        const float found = find_least(params, n_now, norm_of_mean, chunk);
        least = found < least ? found : least;
        __syncwarp();
      }
    }
    for (uint32_t delta = 16; delta >= 8; delta /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, least, delta);
      least = other < least ? other : least;
    }
    if (threadIdx.x % 32 == 0) {
      const uint64_t row = (uint64_t{b} * keys.n_heads + h) * params.outlier_stride;
      params.outliers[row + span.first + cursor.idx] = __fsub_rn(0.0f, least);
    }
  }
}

}  // namespace

#endif  // LACUNA_SELECT_OUTLIER_CUH_
