// SPDX-License-Identifier: MIT OR Apache-2.0
// DFloat11 decode in two phases: codes are counted, and then decoded to where they go.
// src/huffman/reference.rs is the specification.

#include "stream.cuh"

namespace {

struct Shared {
  // Exponents of the block in output order, from the output's last multiple of 8 before it.
  alignas(16) uint8_t exponents[kMaxBlockElements + 8];
  uint32_t is_last_done;
  StreamShared stream;
};

// Two bf16 from two sign-mantissa bytes and two exponents, each pair in bits 15..0.
__device__ uint32_t join_pair(uint32_t sign_mantissa, uint32_t exponents) {
  const uint32_t wide = __byte_perm(sign_mantissa, 0, 0x4140);
  return (wide & 0x00800080u) << 8 | __byte_perm(exponents, 0, 0x4140) << 7 | (wide & 0x007F007Fu);
}

// Joins staged exponents with signs and mantissas, 8 elements a step where addresses allow.
__device__ void write_weights(const HuffmanGroup& group, const StreamBlock& block, uint16_t* output,
                              const Shared& shared) {
  const uint64_t base = block.start / 8 * 8;
  const uint8_t* sign_mantissa = group.sign_mantissa;
  uint64_t vector_start = block.end;
  uint64_t vector_end = block.end;
  if (is_aligned(output, 16) && is_aligned(sign_mantissa, 8)) {
    const uint64_t first = (block.start + 7) / 8 * 8;
    if (first < block.end) {
      vector_start = first;
      vector_end = block.end / 8 * 8;
    }
  }
  for (uint64_t i = vector_start + threadIdx.x * 8; i < vector_end; i += kThreads * 8) {
    const uint2 exponents = *reinterpret_cast<const uint2*>(shared.exponents + (i - base));
    const uint2 bytes = *reinterpret_cast<const uint2*>(sign_mantissa + i);
    // Inner loop: 8 elements a store.
    *reinterpret_cast<uint4*>(output + i) =
        make_uint4(join_pair(bytes.x, exponents.x), join_pair(bytes.x >> 16, exponents.x >> 16),
                   join_pair(bytes.y, exponents.y), join_pair(bytes.y >> 16, exponents.y >> 16));
  }
  for (uint64_t i = block.start + threadIdx.x; i < vector_start; i += kThreads) {
    output[i] = static_cast<uint16_t>(join_pair(sign_mantissa[i], shared.exponents[i - base]));
  }
  for (uint64_t i = vector_end + threadIdx.x; i < block.end; i += kThreads) {
    output[i] = static_cast<uint16_t>(join_pair(sign_mantissa[i], shared.exponents[i - base]));
  }
}

// Decodes one block of a group into `output`, or says why not; on a reason nothing was written.
__device__ StreamReason decode_block(const HuffmanGroup& group, const StreamBlock& block,
                                     uint16_t* output, Shared& shared) {
  const StreamPass pass = count_codes(group, block, shared.stream);
  if (pass.reason != kSound) return pass.reason;

  uint8_t* place = shared.exponents + block.start % 8 + pass.before;
  // Padding of the last block may read as codes: past the last element there is room for them.
  walk_codes(shared.stream, pass.n_lut_rows, pass.limit,
             [&](uint32_t i, uint8_t exponent, uint32_t, uint32_t) { place[i] = exponent; });
  __syncthreads();
  write_weights(group, block, output, shared);
  return kSound;
}

// The last block of a group to get here leaves the state zeroed and, if any block of the group
// was corrupt, nothing but quiet NaNs in its output.
__device__ void finish_group(const HuffmanGroup& group, HuffmanGroupState* state, uint64_t* status,
                             StreamReason reason, uint16_t* output, Shared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    if (reason != kSound) {
      report_block(status, reason);
      atomicExch(&state->corrupt, 1u);
    }
    // The barriers carry one thread's fences to the block's writes and to the last block's reads.
    __threadfence();
    shared.is_last_done = atomicAdd(&state->n_done, 1u) + 1 == group.n_blocks;
    __threadfence();
  }
  __syncthreads();
  if (!shared.is_last_done) return;
  if (atomicAdd(&state->corrupt, 0u) != 0) {
    for (uint64_t i = threadIdx.x; i < group.n_elements; i += kThreads) output[i] = kQuietNan;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    state->n_done = 0;
    state->corrupt = 0;
  }
}

}  // namespace

LACUNA_ENTRY(decode_bf16, HuffmanDecodeParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  if (params.n_groups == 0) return;
  const uint32_t group_idx = find_group(params.groups, params.n_groups, blockIdx.x);
  const HuffmanGroup group = params.groups[group_idx];
  const uint32_t block_idx = blockIdx.x - group.first_block;
  if (block_idx >= group.n_blocks) return;

  uint16_t* output = params.output + group.output_offset;
  const StreamReason reason = decode_block(group, locate_block(group, block_idx), output, shared);
  finish_group(group, params.states + group_idx, params.status, reason, output, shared);
}
