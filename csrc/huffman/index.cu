// SPDX-License-Identifier: MIT OR Apache-2.0
// The index of DFloat11 groups, and whether they are sound: decode_bf16's two walks, of which the
// second writes where codes begin. src/huffman/indexed/reference.rs is the specification.

#include "granule.cuh"
#include "stream.cuh"

namespace {

constexpr uint32_t kPackThreads = 256;

// What a verdict is raised to.
constexpr uint32_t kUnfit = 1;
constexpr uint32_t kCorrupt = 2;

__device__ void write_entry(const HuffmanIndexTarget& target, uint32_t entry, uint64_t bit) {
  target.starts[entry] = static_cast<uint32_t>(bit);
  if (entry % kTileGranules == 0) {
    target.tile_bytes[entry / kTileGranules] = static_cast<uint32_t>(bit / 8);
  }
}

}  // namespace

LACUNA_ENTRY(index_stream, HuffmanIndexParams, kThreads) {
  LACUNA_SHARED(StreamShared, shared);
  const uint32_t group_idx = find_group(params.groups, params.n_groups, blockIdx.x);
  const HuffmanGroup group = params.groups[group_idx];
  const uint32_t block_idx = blockIdx.x - group.first_block;
  if (block_idx >= group.n_blocks) return;

  const StreamBlock block = locate_block(group, block_idx);
  const StreamPass pass = count_codes(group, block, shared);
  if (pass.reason != kSound) {
    if (threadIdx.x != 0) return;
    report_block(params.status, pass.reason);
    atomicMax(params.verdicts + group_idx, kCorrupt);
    return;
  }
  const HuffmanIndexTarget target = params.targets[group_idx];
  const uint64_t chunk_bit = block.first_byte * 8 + threadIdx.x * kChunkBits;
  const uint64_t first = block.start + pass.before;
  walk_codes(shared, pass.n_lut_rows, pass.limit,
             [&](uint32_t i, uint8_t, uint32_t begin, uint32_t n_bits) {
               const uint64_t weight = first + i;
               // Padding may read as codes.
               if (weight >= group.n_elements) return;
               const uint64_t bit = chunk_bit + begin;
               if (weight % kGranuleWeights == 0) {
                 write_entry(target, static_cast<uint32_t>(weight / kGranuleWeights), bit);
               }
               if (weight + 1 != group.n_elements) return;
               write_entry(target, target.n_entries - 1, bit + n_bits);
               if (bit + n_bits > group.n_code_bytes * 8) {
                 atomicMax(params.verdicts + group_idx, kUnfit);
               }
             });
}

LACUNA_ENTRY(pack_index, HuffmanPackIndexParams, kPackThreads) {
  const uint32_t group_idx = find_group(params.targets, params.n_groups, blockIdx.x);
  const HuffmanIndexTarget target = params.targets[group_idx];
  const uint32_t entry = (blockIdx.x - target.first_block) * kPackThreads + threadIdx.x;
  if (entry >= target.n_entries) return;
  const uint32_t n_bits = target.starts[entry] - target.tile_bytes[entry / kTileGranules] * 8;
  if (n_bits > 0xFFFFu) atomicMax(params.verdicts + group_idx, kUnfit);
  target.granule_bits[entry] = static_cast<uint16_t>(n_bits);
}
