// SPDX-License-Identifier: MIT OR Apache-2.0
// An accumulator's four words, whatever they are the bits of.
#ifndef LACUNA_MMA_WORDS_CUH_
#define LACUNA_MMA_WORDS_CUH_

#include "../common/kernel.cuh"

// `multiply` adds to four floats.
template <typename Multiply>
__device__ void add_to_floats(uint32_t (&words)[4], Multiply multiply) {
  float d[4];
  for (uint32_t i = 0; i < 4; ++i) d[i] = __uint_as_float(words[i]);
  multiply(d);
  for (uint32_t i = 0; i < 4; ++i) words[i] = __float_as_uint(d[i]);
}

// `multiply` adds to four integers.
template <typename Multiply>
__device__ void add_to_integers(uint32_t (&words)[4], Multiply multiply) {
  int32_t d[4];
  for (uint32_t i = 0; i < 4; ++i) d[i] = static_cast<int32_t>(words[i]);
  multiply(d);
  for (uint32_t i = 0; i < 4; ++i) words[i] = static_cast<uint32_t>(d[i]);
}

// The thread's pair of words `i` of a matrix of eight columns, both loaded and stored at once:
// `row` is the first of its warp's 16.
__device__ __forceinline__ uint64_t locate_pair(uint64_t row, uint32_t i) {
  const uint32_t lane = threadIdx.x % 32;
  return (row + lane / 4 + i * 8) * 4 + lane % 4;
}

__device__ __forceinline__ void load_words(uint32_t (&words)[4], const uint32_t* matrix,
                                           uint64_t row) {
  for (uint32_t i = 0; i < 2; ++i) {
    const uint2 pair = reinterpret_cast<const uint2*>(matrix)[locate_pair(row, i)];
    words[2 * i] = pair.x;
    words[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ void store_words(uint32_t* matrix, uint64_t row,
                                            const uint32_t (&words)[4]) {
  for (uint32_t i = 0; i < 2; ++i) {
    reinterpret_cast<uint2*>(matrix)[locate_pair(row, i)] =
        make_uint2(words[2 * i], words[2 * i + 1]);
  }
}

#endif  // LACUNA_MMA_WORDS_CUH_
