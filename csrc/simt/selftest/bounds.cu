// SPDX-License-Identifier: MIT OR Apache-2.0
// Planted defects: addresses, alignment, memory that nothing wrote, what C++ leaves undefined.

#include "../../common/kernel.cuh"
#include "params.h"

namespace {
struct TwoArrays {
  uint32_t first[32];
  uint32_t second[32];
};

struct Words {
  uint32_t words[64];
};

struct alignas(16) TwoVectors {
  uint32_t words[8];
};

__constant__ uint32_t kDeviceWords[32] = {1, 2, 3, 4, 5, 6, 7, 8};
const uint32_t kHostWords[32] = {1, 2, 3, 4, 5, 6, 7, 8};

// What the compiler cannot know.
__forceinline__ uint32_t read_zero(const SelfTestParams& params) { return params.state[1]; }

__noinline__ void count_up(uint32_t* words, uint32_t n_words) {
  for (uint32_t i = 0; i < n_words; ++i) words[i] = i;  // FAULT: local_array_far_overrun
}
}  // namespace

// Both twins of this file have a copy, which C++ calls the same function.
template <uint32_t kFirst>
__device__ __noinline__ uint32_t read_after(const uint32_t* words, uint32_t idx) {
  return words[kFirst + idx];  // FAULT: past_end_in_a_template
}

LACUNA_TWINS(global_past_by_one) {
  const uint32_t first = kRight ? 0 : 1;
  if (threadIdx.x == 0) params.output[0] = 1;
  if (threadIdx.x >= first) {
    params.output[threadIdx.x + first] = 1;  // FAULT: global_past_by_one
  }
}

LACUNA_TWINS(global_before) {
  const int32_t idx = static_cast<int32_t>(threadIdx.x) - (kRight ? 0 : 1);
  params.output[threadIdx.x] = params.input[idx];  // FAULT: global_before
}

// 0 - 1 in 32 bits, then an address in 64.
LACUNA_TWINS(global_past_by_2_to_32) {
  const uint32_t idx = threadIdx.x + read_zero(params) - (kRight ? 0 : 1);
  params.output[threadIdx.x] = params.input[idx];  // FAULT: global_past_by_2_to_32
}

LACUNA_TWINS(global_null) {
  const uint32_t* pointer = kRight ? params.input : nullptr;
  params.output[threadIdx.x] = pointer[threadIdx.x + read_zero(params)];  // FAULT: global_null
}

// The last 16 bytes that an address can name: the sum of address and size is 0.
LACUNA_TWINS(global_end_of_memory) {
  const uint64_t last = ~uint64_t{0} - 15;
  const uint4* pointer = reinterpret_cast<const uint4*>(params.input);
  if (!kRight) pointer = reinterpret_cast<const uint4*>(last + read_zero(params));
  const uint4 four = *pointer;  // FAULT: global_end_of_memory
  params.output[threadIdx.x] = four.x;
}

LACUNA_TWINS(past_end_in_a_template) {
  params.output[threadIdx.x] = read_after < kRight ? 992 : 993 > (params.input, threadIdx.x);
}

LACUNA_TWINS(vector_past_end) {
  const uint4 four = {1, 2, 3, 4};
  if (threadIdx.x < params.n - 4) params.output[threadIdx.x] = 1;
  if (threadIdx.x != 31) return;
  uint32_t* target = params.output + params.n - (kRight ? 4 : 3);
  memcpy(target, &four, sizeof four);  // FAULT: vector_past_end
}

// A constant of the program that is none of the kernel's.
LACUNA_TWINS(host_constant) {
  const uint32_t* words = kRight ? kDeviceWords : kHostWords;
  if (read_zero(params) != 0) words = params.input;
  params.output[threadIdx.x] = words[threadIdx.x];  // FAULT: host_constant
}

LACUNA_TWINS(constant_past_end) {
  const uint32_t* words = kDeviceWords + params.input[kRight ? 0 : 1023] * 16 - 16;
  params.output[threadIdx.x] = words[threadIdx.x % 16];  // FAULT: constant_past_end
}

// The last parameter's neighbour.
LACUNA_TWINS(past_the_parameters) {
  struct Pair {
    uint32_t words[2];
  };
  const uint32_t* last = kRight ? &params.n : &params.reserved;
  const Pair pair = *reinterpret_cast<const Pair*>(last);  // FAULT: past_the_parameters
  params.output[threadIdx.x] = pair.words[0] + pair.words[1];
}

LACUNA_TWINS(wild_index) {
  uint32_t idx = params.input[threadIdx.x] * 0x9E3779B9u;
  if (kRight) idx %= 32;
  params.output[threadIdx.x] = params.input[idx];  // FAULT: wild_index
}

LACUNA_TWINS(atomic_outside) {
  params.output[threadIdx.x] = 1;
  atomicAdd(params.state + (kRight ? 1023 : 1024), 1u);  // FAULT: atomic_outside
}

LACUNA_TWINS(write_to_input) {
  uint32_t* target = kRight ? params.output : const_cast<uint32_t*>(params.input);
  params.output[threadIdx.x] = 1;
  target[threadIdx.x] = 1;  // FAULT: write_to_input
}

LACUNA_TWINS(shared_past_by_one) {
  LACUNA_DYNAMIC_SHARED(bytes);
  uint32_t* words = reinterpret_cast<uint32_t*>(bytes);
  // The launch gives 64 bytes.
  if (threadIdx.x < 16) words[threadIdx.x + (kRight ? 0 : 1)] = 1;  // FAULT: shared_past_by_one
  params.output[threadIdx.x] = 1;
}

LACUNA_TWINS(shared_object_into_next) {
  LACUNA_SHARED(Words, shared);
  LACUNA_SHARED(TwoArrays, behind);
  behind.first[threadIdx.x] = 0;
  uint32_t* words = shared.words + threadIdx.x;
  words[kRight ? 32 : 64] = 1;  // FAULT: shared_object_into_next
  params.output[threadIdx.x] = behind.first[threadIdx.x];
}

LACUNA_TWINS(shared_array_into_next) {
  LACUNA_SHARED(TwoArrays, shared);
  const uint32_t idx = threadIdx.x + read_zero(params) + (kRight ? 0 : 1);
  shared.first[idx] = 1;  // FAULT: shared_array_into_next
  shared.second[threadIdx.x] = 2;
  params.output[threadIdx.x] = shared.second[threadIdx.x];
}

LACUNA_TWINS(local_array_past_end) {
  uint32_t values[4] = {1, 2, 3, 4};
  const uint32_t idx = threadIdx.x % 4 + read_zero(params) + (kRight ? 0 : 1);
  params.output[threadIdx.x] = values[idx];  // FAULT: local_array_past_end
}

LACUNA_TWINS(local_array_overrun) {  // FAULT: local_array_overrun
  uint32_t values[8];
  count_up(values, read_zero(params) + (kRight ? 8 : 12));
  params.output[threadIdx.x] = values[threadIdx.x % 8];
}

LACUNA_TWINS(local_array_far_overrun) {
  uint32_t values[8];
  count_up(values, read_zero(params) + (kRight ? 8 : 4096));
  params.output[threadIdx.x] = values[threadIdx.x % 8];
}

LACUNA_TWINS(copy_past_4_gib) {
  const uint64_t n_bytes = (uint64_t{read_zero(params)} + (kRight ? 0 : 1)) << 32 | 128;
  if (threadIdx.x == 0) memcpy(params.output, params.input, n_bytes);  // FAULT: copy_past_4_gib
}

LACUNA_TWINS(misaligned_float4) {
  const uint32_t* words = params.input + (kRight ? 0 : 1);
  const float4* vectors = reinterpret_cast<const float4*>(words);
  const float4 four = vectors[threadIdx.x];  // FAULT: misaligned_float4
  params.output[threadIdx.x] = __float_as_uint(four.y);
}

LACUNA_TWINS(misaligned_shared_pair) {
  LACUNA_SHARED(Words, shared);
  uint32_t* words = shared.words + (kRight ? 0 : 1);
  if (threadIdx.x < 31) {
    reinterpret_cast<uint2*>(words)[threadIdx.x] = {1, 2};  // FAULT: misaligned_shared_pair
  }
  params.output[threadIdx.x] = 1;
}

LACUNA_TWINS(misaligned_struct) {
  LACUNA_SHARED(TwoVectors, shared);
  const uint32_t* words = params.input + (kRight ? 4 : 1);
  if (threadIdx.x == 0)
    shared = *reinterpret_cast<const TwoVectors*>(words);  // FAULT: misaligned_struct
  __syncthreads();
  params.output[threadIdx.x] = shared.words[threadIdx.x % 8];
}

LACUNA_TWINS(misaligned_local) {
  alignas(4) uint8_t bytes[64];
  for (uint32_t i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>(i);
  const uint32_t offset = params.input[threadIdx.x] % 8 * 4 + (kRight ? 0 : 1);
  // FAULT: misaligned_local
  params.output[threadIdx.x] = *reinterpret_cast<const uint32_t*>(bytes + offset);
}

LACUNA_TWINS(shared_read_before_write) {
  LACUNA_SHARED(Words, shared);
  if (kRight) shared.words[threadIdx.x] = 1;
  shared.words[threadIdx.x] += 1;  // FAULT: shared_read_before_write
  params.output[threadIdx.x] = shared.words[threadIdx.x];
}

LACUNA_TWINS(shared_tail_unwritten) {
  LACUNA_SHARED(Words, shared);
  if (kRight || threadIdx.x < 31) shared.words[threadIdx.x] = 1;
  __syncthreads();
  params.output[threadIdx.x] = shared.words[31 - threadIdx.x];  // FAULT: shared_tail_unwritten
}

LACUNA_TWINS(output_read_before_write) {
  if (kRight) params.output[threadIdx.x] = 0;
  params.output[threadIdx.x] += 1;  // FAULT: output_read_before_write
}

LACUNA_TWINS(workspace_not_cleared) {
  if (kRight) params.workspace[threadIdx.x] = 0;
  params.output[threadIdx.x] = params.workspace[threadIdx.x];  // FAULT: workspace_not_cleared
}

LACUNA_TWINS(atomic_on_unwritten) {
  params.output[threadIdx.x] = 1;
  if (kRight) atomicExch(params.workspace + threadIdx.x, 0u);
  atomicAdd(params.workspace + threadIdx.x, 1u);  // FAULT: atomic_on_unwritten
}

LACUNA_TWINS(output_tail_unwritten) {  // FAULT: output_tail_unwritten
  if (kRight || threadIdx.x < 31) params.output[threadIdx.x] = 1;
}

LACUNA_TWINS(output_half_unwritten) {  // FAULT: output_half_unwritten
  uint16_t* halves = reinterpret_cast<uint16_t*>(params.output);
  halves[threadIdx.x * 2] = 1;
  if (kRight) halves[threadIdx.x * 2 + 1] = 1;
}

LACUNA_TWINS(shift_by_width) {
  const uint32_t distance = (kRight ? 31 : 32) + read_zero(params);
  params.output[threadIdx.x] = params.input[threadIdx.x] >> distance;  // FAULT: shift_by_width
}

LACUNA_TWINS(division_by_zero) {
  const uint32_t divisor = read_zero(params) + (kRight ? 1 : 0);
  params.output[threadIdx.x] = params.input[threadIdx.x] / divisor;  // FAULT: division_by_zero
}

LACUNA_TWINS(float_past_int) {
  const float value = kRight ? 1e6f : 1e30f;
  const float scaled = value * static_cast<float>(1 + read_zero(params));
  params.output[threadIdx.x] =
      static_cast<uint32_t>(static_cast<int32_t>(scaled));  // FAULT: float_past_int
}

LACUNA_TWINS(signed_overflow) {
  const int32_t value = static_cast<int32_t>(read_zero(params) + (kRight ? 1 : 0x7FFFFFFF));
  params.output[threadIdx.x] = static_cast<uint32_t>(value + 1);  // FAULT: signed_overflow
}

LACUNA_TWINS(bank_conflict) {
  LACUNA_DYNAMIC_SHARED(bytes);
  uint32_t* words = reinterpret_cast<uint32_t*>(bytes);
  words[threadIdx.x * (kRight ? 33 : 32)] = 1;  // FAULT: bank_conflict
  params.output[threadIdx.x] = 1;
}

LACUNA_TWINS(strided_global) {
  const uint32_t stride = kRight ? 1 : 8;
  params.output[threadIdx.x] = params.input[threadIdx.x * stride];  // FAULT: strided_global
}
