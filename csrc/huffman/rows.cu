// SPDX-License-Identifier: MIT OR Apache-2.0
// Rows of an indexed group by their numbers: a warp decodes the granules that a row, or 4,096
// weights of it, has a part in. src/huffman/indexed/reference.rs is the specification.

#include "indexed.cuh"

namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kThreads = kWarps * 32;
// Weights that a lane joins at once.
constexpr uint32_t kVector = 8;

struct RowShared {
  alignas(16) uint8_t codes[kStagedBytes];
  alignas(16) uint8_t exponents[kTileGranules * kRowBytes];
};

struct Shared {
  alignas(16) uint32_t table[kTableEntries];
  RowShared warps[kWarps];
};

// What a span has of a row.
struct Part {
  uint32_t first_granule;
  // Weights before the row's, up to its end, and of all granules.
  uint32_t begin;
  uint32_t end;
  uint32_t n_weights;
};

__device__ __forceinline__ Part find_part(const HuffmanRowsParams& params, uint64_t row_first,
                                          uint64_t first_granule) {
  const uint64_t first = first_granule * kGranuleWeights;
  const uint64_t row_end = row_first + params.row_len - first;
  Part part;
  part.first_granule = static_cast<uint32_t>(first_granule);
  part.begin = row_first > first ? static_cast<uint32_t>(row_first - first) : 0;
  part.end = row_end < kTileWeights ? static_cast<uint32_t>(row_end) : kTileWeights;
  const uint32_t whole = (part.end + kGranuleWeights - 1) / kGranuleWeights * kGranuleWeights;
  const uint64_t n_left = params.group.n_elements - first;
  part.n_weights = n_left < whole ? static_cast<uint32_t>(n_left) : whole;
  return part;
}

__device__ __forceinline__ void fill(uint16_t* output, uint32_t n, uint16_t value) {
  for (uint32_t i = threadIdx.x % 32; i < n; i += 32) output[i] = value;
}

__device__ __forceinline__ const uint8_t* find_exponent(const uint8_t* exponents, uint32_t i) {
  return exponents + i / kGranuleWeights * kRowBytes + i % kGranuleWeights;
}

// Joins a part's exponents with signs and mantissas, 8 a step where all begin at multiples of it.
__device__ __forceinline__ void write_part(const uint8_t* exponents, const uint8_t* sign_mantissa,
                                           const Part& part, uint16_t* output) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t n = part.end - part.begin;
  const bool is_aligned = part.begin % kVector == 0 && reinterpret_cast<uint64_t>(output) % 16 == 0;
  const uint32_t n_joined = is_aligned ? n / kVector * kVector : 0;
#pragma unroll 4
  for (uint32_t i = lane * kVector; i < n_joined; i += 32 * kVector) {
    const uint32_t* words =
        reinterpret_cast<const uint32_t*>(find_exponent(exponents, part.begin + i));
    const uint2 bytes = *reinterpret_cast<const uint2*>(sign_mantissa + part.begin + i);
    const uint2 first = join_four(words[0], bytes.x);
    const uint2 second = join_four(words[1], bytes.y);
    // Inner loop: 8 elements a store.
    *reinterpret_cast<uint4*>(output + i) = make_uint4(first.x, first.y, second.x, second.y);
  }
  for (uint32_t i = n_joined + lane; i < n; i += 32) {
    const uint32_t at = part.begin + i;
    output[i] = join_one(*find_exponent(exponents, at), sign_mantissa[at]);
  }
}

__device__ __forceinline__ void decode_part(const HuffmanRowsParams& params, const uint32_t* table,
                                            const Part& part, RowShared& warp, uint16_t* output) {
  const HuffmanIndexedGroup& group = params.group;
  const uint32_t n_granules = (part.n_weights + kGranuleWeights - 1) / kGranuleWeights;
  const Span span = find_span(group, part.first_granule, n_granules);
  stage_codes(group, span, warp.codes);
  wait_copies<0>();
  __syncwarp();
  // Way of a tile: not here.
  const TileReason reason =
      decode_span(group, table, span, part.n_weights, warp.codes, warp.exponents);
  __syncwarp();
  if (reason == kSound) {
    const uint8_t* sign_mantissa =
        group.sign_mantissa + uint64_t{part.first_granule} * kGranuleWeights;
    write_part(warp.exponents, sign_mantissa, part, output);
  } else {
    fill(output, part.end - part.begin, kQuietNan);
    report_tile(params.status, group.first_tile + part.first_granule / kTileGranules, reason);
  }
}

}  // namespace

LACUNA_ENTRY(decode_rows, HuffmanRowsParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  stage_table(params.group, kThreads, shared.table);
  RowShared& warp = shared.warps[threadIdx.x / 32];
  // A walk that strays reads what it finds there; that is never used.
  for (uint32_t i = threadIdx.x % 32; i < kStagedBytes / 16; i += 32) {
    reinterpret_cast<uint4*>(warp.codes)[i] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();

  const uint64_t n_spans = uint64_t{params.n_rows} * params.row_spans;
  const uint64_t begin = uint64_t{blockIdx.x} * params.block_spans;
  const uint64_t block_end = begin + params.block_spans;
  const uint64_t end = block_end < n_spans ? block_end : n_spans;
  for (uint64_t i = begin + threadIdx.x / 32; i < end; i += kWarps) {
    const uint64_t place = i / params.row_spans;
    const uint64_t span_idx = i - place * params.row_spans;
    const uint32_t row = params.rows[place];
    uint16_t* output = params.output + place * params.output_stride;
    if (row >= params.n_matrix_rows) {
      const uint64_t first = span_idx * kTileWeights;
      if (params.fills_zeros == 0 || first >= params.row_len) continue;
      const uint32_t n = params.row_len - static_cast<uint32_t>(first);
      fill(output + first, n < kTileWeights ? n : kTileWeights, 0);
      continue;
    }
    const uint64_t row_first = params.first_element + uint64_t{row} * params.row_len;
    const uint64_t first_granule = row_first / kGranuleWeights + span_idx * kTileGranules;
    // Rows that begin with a granule may have a span less than others.
    if (first_granule * kGranuleWeights >= row_first + params.row_len) continue;
    const Part part = find_part(params, row_first, first_granule);
    const uint64_t at = first_granule * kGranuleWeights + part.begin - row_first;
    decode_part(params, shared.table, part, warp, output + at);
  }
}
