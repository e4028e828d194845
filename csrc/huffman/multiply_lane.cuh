// SPDX-License-Identifier: MIT OR Apache-2.0
// Matrices of lanes times a few inputs, the weights expanded in registers on their way into tensor
// cores. A block has some row tiles, and each of its eight warps a chain of their columns.
// src/huffman/lane/format.md says in which order is added up.
#ifndef LACUNA_HUFFMAN_MULTIPLY_LANE_CUH_
#define LACUNA_HUFFMAN_MULTIPLY_LANE_CUH_

#include "../common/mma.cuh"
#include "../common/number.cuh"
#include "lane.cuh"
#include "params.h"

constexpr uint32_t kChains = 8;
constexpr uint32_t kProductThreads = 32 * kChains;
// Inputs of one product of a tensor core.
constexpr uint32_t kInputs = 8;
constexpr uint32_t kHalfSteps = kTileSteps / 2;
constexpr uint32_t kHalfColumns = kTileColumns / 2;
constexpr uint32_t kMostEscapes = kTileWeights;
// log2(e), what is left of it, and ln(2).
constexpr float kLog2E = 0x1.715476p+0f;
constexpr float kLog2ERest = 0x1.4ae0bep-26f;
constexpr float kLn2 = 0x1.62e43p-1f;

// A lane's part of half a tile: low bytes of four steps, and their words of slots and signs.
struct HalfTile {
  uint4 low[2];
  uint4 high;
};

// Its part of the inputs there: the operands of two steps.
template <uint32_t kInputTiles>
struct PairInputs {
  uint4 words[kInputTiles];
};

// The planes of a matrix, from a lane's part on.
struct LanePlanes {
  const HuffmanLane* planes;
  const uint8_t* low;
  const uint8_t* high;
};

// A row tile that a warp multiplies.
struct RowTile {
  uint2 palette;
  // Its first tile.
  uint32_t first;
  // The headers of 32 tiles, one a lane: where escapes begin; how many there are, and in which
  // steps.
  uint32_t firsts;
  uint32_t marks;
};

// Which rows a block has: the matrix of row tile `tile` of the block, and its number there.
struct BlockRows {
  uint32_t matrix;
  uint32_t first_tile;
};

template <uint32_t kRowTiles>
__device__ __forceinline__ BlockRows find_rows(const HuffmanMultiplyLaneParams& params) {
  uint32_t matrix = 0;
  for (uint32_t i = 1; i < params.n_matrices; ++i) {
    if (blockIdx.x >= params.matrices[i].first_block) matrix = i;
  }
  const uint32_t n_tiles = params.is_gated ? kRowTiles / 2 : kRowTiles;
  return {matrix, (blockIdx.x - params.matrices[matrix].first_block) * n_tiles};
}

__device__ __forceinline__ LanePlanes find_planes(const HuffmanLane& planes) {
  const uint32_t at = threadIdx.x % 32 * 16;
  return {&planes, planes.low + at, reinterpret_cast<const uint8_t*>(planes.high) + at};
}

// Past a matrix's last row tile it is that one again, and nobody looks at what comes of it.
__device__ __forceinline__ RowTile find_row_tile(const HuffmanLane& planes, uint32_t tile) {
  const uint32_t last = (planes.n_rows - 1) / kTileRows;
  const uint32_t row_tile = tile < last ? tile : last;
  return {read_palette(planes.palettes, row_tile), row_tile * planes.tiles_per_row, 0, 0};
}

// A half of one of the row's tiles.
__device__ __forceinline__ HalfTile load_half(const LanePlanes& planes, const RowTile& row,
                                              uint32_t half) {
  const uint64_t tile = row.first + half / 2;
  const uint32_t part = half % 2;
  const uint8_t* low = planes.low + tile * kTileWeights + part * (kTileWeights / 2);
  const uint8_t* high = planes.high + tile * (kTileWeights / 2) + part * (kTileWeights / 4);
  HalfTile loaded;
  loaded.low[0] = *reinterpret_cast<const uint4*>(low);
  loaded.low[1] = *reinterpret_cast<const uint4*>(low + 512);
  // Way of products: here.
  loaded.high = *reinterpret_cast<const uint4*>(high);
  return loaded;
}

// The input that a lane reads of each tile of them; past the last one it is that one again, and
// nobody looks at what comes of it.
template <uint32_t kInputTiles>
struct InputRows {
  uint32_t rows[kInputTiles];
};

template <uint32_t kInputTiles>
__device__ __forceinline__ InputRows<kInputTiles> find_inputs(uint32_t n_inputs) {
  const uint32_t lane = threadIdx.x % 32;
  InputRows<kInputTiles> found;
#pragma unroll
  for (uint32_t tile = 0; tile < kInputTiles; ++tile) {
    const uint32_t row = min(tile * kInputs + lane / 4, n_inputs - 1);
    // What comes of a shuffle is kept, and not computed again at each load.
    found.rows[tile] = __shfl_sync(0xFFFFFFFFu, row, static_cast<int>(lane));
  }
  return found;
}

// Of pair `pair` of the half's steps.
template <uint32_t kInputTiles>
__device__ __forceinline__ PairInputs<kInputTiles> load_inputs(
    const HuffmanMultiplyLaneParams& params, const InputRows<kInputTiles>& inputs, uint32_t half,
    uint32_t pair) {
  const uint32_t first = half * kHalfColumns + pair * 32;
  const uint32_t column = first + threadIdx.x % 4 * 8;
  const auto* x = reinterpret_cast<const uint8_t*>(params.x + column);
  const auto load = [&](uint32_t tile) {
    // One multiplication of 32 bits to an address of 64.
    const uint8_t* at = x + uint64_t{inputs.rows[tile]} * (2 * params.x_stride);
    return *reinterpret_cast<const uint4*>(at);
  };
  PairInputs<kInputTiles> loaded;
  if (first + 32 <= params.n_columns) {
#pragma unroll
    for (uint32_t tile = 0; tile < kInputTiles; ++tile) loaded.words[tile] = load(tile);
    return loaded;
  }
  // Past the last column are zeros. A branch of its own: the choice would cost the others as much
  // as their loads.
#pragma unroll
  for (uint32_t tile = 0; tile < kInputTiles; ++tile) {
    loaded.words[tile] = column < params.n_columns ? load(tile) : make_uint4(0, 0, 0, 0);
  }
  return loaded;
}

__device__ __forceinline__ uint32_t word_of(const uint4& words, uint32_t i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

// A lane's weights of half a tile.
struct HalfFragments {
  uint32_t a[kHalfSteps][4];
};

__device__ __forceinline__ HalfFragments expand_half(const RowTile& row, const HalfTile& weights) {
  HalfFragments fragments;
#pragma unroll
  for (uint32_t step = 0; step < kHalfSteps; ++step) {
    const uint4& both = weights.low[step / 2];
    const uint2 low = step % 2 == 0 ? make_uint2(both.x, both.y) : make_uint2(both.z, both.w);
    expand_step(fragments.a[step], row.palette, word_of(weights.high, step), low);
  }
  return fragments;
}

// Replaces a lane's weights that are escapes of the tile. All lanes take part.
__device__ __forceinline__ void patch_half(HalfFragments& fragments, const HuffmanLane& planes,
                                           uint32_t half, uint32_t first, uint32_t mark) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t n_there = first < planes.n_escapes ? planes.n_escapes - first : 0;
  const uint32_t n_told = min(mark & 0xFFFF, kMostEscapes);
  const uint32_t count = min(n_told, n_there);
  for (uint32_t at = 0; at < count; at += 32) {
    const uint32_t n_here = min(count - at, 32u);
    const uint32_t own = lane < n_here ? planes.escapes[uint64_t{first} + at + lane] : 0;
    for (uint32_t i = 0; i < n_here; ++i) {
      const uint32_t escape = __shfl_sync(0xFFFFFFFFu, own, static_cast<int>(i));
      const uint32_t step = escape >> 24 & 7;
      if ((escape >> 19 & 31) != lane || (mark >> (16 + step) & 1) == 0) continue;
      const uint32_t digits = escape >> 16 & 1 ? 0x5410 : 0x3254;
      // Its register in the half; another half's is none of these.
      const uint32_t place = (step - half % 2 * kHalfSteps) * 4 + (escape >> 17 & 3);
#pragma unroll
      for (uint32_t r = 0; r < 4 * kHalfSteps; ++r) {
        uint32_t& weights = fragments.a[r / 4][r % 4];
        if (place == r) weights = __byte_perm(weights, escape, digits);
      }
    }
  }
}

// Multiplies a row's weights of two steps by their inputs.
template <uint32_t kInputTiles>
__device__ __forceinline__ void multiply_pair(float (&sums)[kInputTiles][4],
                                              const HalfFragments& fragments, uint32_t pair,
                                              const PairInputs<kInputTiles>& inputs) {
#pragma unroll
  for (uint32_t step = 0; step < 2; ++step) {
#pragma unroll
    for (uint32_t tile = 0; tile < kInputTiles; ++tile) {
      const uint4& x = inputs.words[tile];
      const uint32_t b[2] = {step == 0 ? x.x : x.z, step == 0 ? x.y : x.w};
      // Way of products: 8 elements a product.
      mma_bf16(sums[tile], fragments.a[2 * pair + step], b);
    }
  }
}

// g / (1 + e^-g), of NaN NaN. The exponent's rounding is made good by a factor near 1.
__device__ __forceinline__ float silu(float g) {
  const float size = __uint_as_float(__float_as_uint(g) & 0x7FFFFFFF);
  const float exponent = __fmul_rn(size, kLog2E);
  const float rest = __fmaf_rn(size, kLog2ERest, __fmaf_rn(size, kLog2E, -exponent));
  float power = exp2_of(-exponent);
  power = power == 0.0f ? 0.0f : __fmaf_rn(power, __fmul_rn(rest, -kLn2), power);
  const float numerator = g < 0.0f ? __fmul_rn(g, power) : g;
  return __fdiv_rn(numerator, __fadd_rn(1.0f, power));
}

// Floats of one input in a chain's sums: so far apart that those of a fragment are in 32 banks.
template <uint32_t kRowTiles>
struct Stride {
  enum : uint32_t { kRows = kRowTiles * kTileRows, kFloats = kRows + 4 };
};

// A warp's chain of its block's row tiles.
template <uint32_t kRowTiles, uint32_t kInputTiles>
__device__ __forceinline__ void multiply_chain(const HuffmanMultiplyLaneParams& params,
                                               float (&sums)[kRowTiles][kInputTiles][4]) {
  const BlockRows block = find_rows<kRowTiles>(params);
  // Of a gated product the second half of the row tiles are the other matrix's.
  const LanePlanes first = find_planes(params.matrices[block.matrix].planes);
  const LanePlanes second = find_planes(params.matrices[params.is_gated].planes);
  const auto matrix_of = [&](uint32_t r) {
    const bool is_second = params.is_gated && r >= kRowTiles / 2;
    return LanePlanes{is_second ? second.planes : first.planes, is_second ? second.low : first.low,
                      is_second ? second.high : first.high};
  };
#pragma unroll
  for (uint32_t i = 0; i < kRowTiles * kInputTiles * 4; ++i) {
    sums[i / (kInputTiles * 4)][i / 4 % kInputTiles][i % 4] = 0.0f;
  }
  const uint32_t n_tiles = params.matrices[0].planes.tiles_per_row;
  const uint32_t chain = threadIdx.x / 32;
  const uint32_t begin = static_cast<uint32_t>(uint64_t{chain} * n_tiles / kChains);
  const uint32_t end = static_cast<uint32_t>(uint64_t{chain + 1} * n_tiles / kChains);
  if (begin == end) return;
  RowTile rows[kRowTiles];
#pragma unroll
  for (uint32_t r = 0; r < kRowTiles; ++r) {
    const bool is_second = params.is_gated && r >= kRowTiles / 2;
    rows[r] =
        find_row_tile(*matrix_of(r).planes, block.first_tile + (is_second ? r - kRowTiles / 2 : r));
  }

  const InputRows<kInputTiles> own_inputs = find_inputs<kInputTiles>(params.n_inputs);

  // Of many inputs there is no room for the next half's: they come from the cache when they are
  // needed.
  constexpr bool kIsAhead = kInputTiles <= 2;
  HalfTile weights[2][kRowTiles];
  PairInputs<kInputTiles> inputs[2][2];
#pragma unroll
  for (uint32_t pair = 0; pair < 2 && kIsAhead; ++pair) {
    inputs[0][pair] = load_inputs(params, own_inputs, 2 * begin, pair);
  }
#pragma unroll
  for (uint32_t r = 0; r < kRowTiles; ++r) {
    weights[0][r] = load_half(matrix_of(r), rows[r], 2 * begin);
  }
  for (uint32_t tile = begin; tile < end; ++tile) {
    const uint32_t in_marks = (tile - begin) % 32;
    if (in_marks == 0) {
      const uint32_t own = tile + threadIdx.x % 32;
#pragma unroll
      for (uint32_t r = 0; r < kRowTiles; ++r) {
        const uint64_t* headers = matrix_of(r).planes->headers + rows[r].first;
        const uint64_t header = own < end ? headers[own] : 0;
        rows[r].firsts = static_cast<uint32_t>(header);
        rows[r].marks = static_cast<uint32_t>(header >> 32);
      }
    }
#pragma unroll
    for (uint32_t part = 0; part < 2; ++part) {
      const uint32_t half = 2 * tile + part;
      if (half + 1 < 2 * end) {
#pragma unroll
        for (uint32_t pair = 0; pair < 2 && kIsAhead; ++pair) {
          inputs[1 - part][pair] = load_inputs(params, own_inputs, half + 1, pair);
        }
#pragma unroll
        for (uint32_t r = 0; r < kRowTiles; ++r) {
          weights[1 - part][r] = load_half(matrix_of(r), rows[r], half + 1);
        }
      }
      HalfFragments fragments[kRowTiles];
#pragma unroll
      for (uint32_t r = 0; r < kRowTiles; ++r) {
        // Way of products: here.
        fragments[r] = expand_half(rows[r], weights[part][r]);
        const uint32_t mark = __shfl_sync(0xFFFFFFFFu, rows[r].marks, static_cast<int>(in_marks));
        if ((mark >> (16 + part * kHalfSteps) & 15) != 0) {
          const uint32_t first =
              __shfl_sync(0xFFFFFFFFu, rows[r].firsts, static_cast<int>(in_marks));
          patch_half(fragments[r], *matrix_of(r).planes, half, first, mark);
        }
#pragma unroll
        for (uint32_t pair = 0; pair < 2 && kIsAhead; ++pair) {
          multiply_pair(sums[r], fragments[r], pair, inputs[part][pair]);
        }
      }
#pragma unroll
      for (uint32_t pair = 0; pair < 2 && !kIsAhead; ++pair) {
        const PairInputs<kInputTiles> now = load_inputs(params, own_inputs, half, pair);
#pragma unroll
        for (uint32_t r = 0; r < kRowTiles; ++r) {
          multiply_pair(sums[r], fragments[r], pair, now);
        }
      }
    }
  }
}

template <uint32_t kRowTiles, uint32_t kInputTiles>
__device__ __forceinline__ float add_chains(const float* chains, uint32_t input, uint32_t row) {
  constexpr uint32_t kStride = Stride<kRowTiles>::kFloats;
  constexpr uint32_t kChainStride = kInputTiles * kInputs * kStride;
  float sum = chains[input * kStride + row];
#pragma unroll
  for (uint32_t chain = 1; chain < kChains; ++chain) {
    sum = __fadd_rn(sum, chains[chain * kChainStride + input * kStride + row]);
  }
  return sum;
}

// A block's outputs, of its chains' sums.
template <uint32_t kRowTiles, uint32_t kInputTiles>
__device__ __forceinline__ void write_outputs(const HuffmanMultiplyLaneParams& params,
                                              const float* chains) {
  const BlockRows block = find_rows<kRowTiles>(params);
  const HuffmanFactor& factor = params.matrices[block.matrix];
  constexpr uint32_t kRows = Stride<kRowTiles>::kRows;
  const uint32_t n_rows = params.is_gated ? kRows / 2 : kRows;
  const uint32_t kind = params.output_kind;
  for (uint32_t i = threadIdx.x; i < n_rows * params.n_inputs; i += kProductThreads) {
    const uint32_t input = i / n_rows;
    const uint32_t in_block = i - input * n_rows;
    const uint32_t row = block.first_tile * kTileRows + in_block;
    if (row >= factor.planes.n_rows) continue;
    float value = add_chains<kRowTiles, kInputTiles>(chains, input, in_block);
    if (factor.bias != nullptr) value = __fadd_rn(value, load_float(factor.bias, row, kind));
    if (params.is_gated) {
      float gated = add_chains<kRowTiles, kInputTiles>(chains, input, in_block + n_rows);
      const uint8_t* bias = params.matrices[1].bias;
      if (bias != nullptr) gated = __fadd_rn(gated, load_float(bias, row, kind));
      value = __fmul_rn(silu(value), gated);
    }
    if (factor.residual != nullptr) {
      const uint64_t at = input * factor.residual_stride + row;
      value = __fadd_rn(value, load_float(factor.residual, at, kind));
    }
    store_float(factor.output, input * factor.output_stride + row, kind, value);
  }
}

// The whole of a block: `chains` has a float for each chain, input and `kStride` rows.
template <uint32_t kRowTiles, uint32_t kInputTiles>
__device__ __forceinline__ void multiply_rows(const HuffmanMultiplyLaneParams& params,
                                              float* chains) {
  constexpr uint32_t kStride = Stride<kRowTiles>::kFloats;
  float sums[kRowTiles][kInputTiles][4];
  multiply_chain<kRowTiles, kInputTiles>(params, sums);
  const uint32_t lane = threadIdx.x % 32;
  float* own = chains + threadIdx.x / 32 * (kInputTiles * kInputs * kStride);
#pragma unroll
  for (uint32_t r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (uint32_t tile = 0; tile < kInputTiles; ++tile) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t input = tile * kInputs + lane % 4 * 2 + i % 2;
        const uint32_t row = r * kTileRows + lane / 4 + i / 2 * 8;
        own[input * kStride + row] = sums[r][tile][i];
      }
    }
  }
  __syncthreads();
  write_outputs<kRowTiles, kInputTiles>(params, chains);
}

#endif  // LACUNA_HUFFMAN_MULTIPLY_LANE_CUH_
