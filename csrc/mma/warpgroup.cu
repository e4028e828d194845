// SPDX-License-Identifier: MIT OR Apache-2.0
// One product per warpgroup, by one `wgmma`: what Hopper's tensor cores answer that way, fp8
// included, for src/mma.rs to be held against.

#include "params.h"
#include "wgmma.cuh"
#include "words.cuh"

namespace {

__device__ void multiply(uint32_t operand, uint32_t (&words)[4], const uint32_t (&a)[4],
                         const WgmmaColumns& b) {
  switch (operand) {
    case 0:
      return add_to_floats(words, [&](float(&d)[4]) { wgmma_bf16(d, a, b); });
    case 1:
      return add_to_floats(words, [&](float(&d)[4]) { wgmma_f16(d, a, b); });
    case 2:
      return add_to_floats(words, [&](float(&d)[4]) { wgmma_e4m3(d, a, b); });
    case 3:
      return add_to_floats(words, [&](float(&d)[4]) { wgmma_e5m2(d, a, b); });
    case 4:
      return add_to_integers(words, [&](int32_t(&d)[4]) { wgmma_s8(d, a, b); });
    case 5:
      return add_to_integers(words, [&](int32_t(&d)[4]) { wgmma_u8(d, a, b); });
    default:
      return;
  }
}

}  // namespace

LACUNA_ENTRY(wgmma_products, MmaProductsParams, 128) {
  LACUNA_SHARED(WgmmaColumns, columns);
  if (blockIdx.x >= params.n_products) return;
  if (threadIdx.x < 16) {
    const uint4* b = reinterpret_cast<const uint4*>(params.b) + uint64_t{blockIdx.x} * 16;
    uint8_t* target = columns.halves[threadIdx.x % 2][threadIdx.x / 2];
    *reinterpret_cast<uint4*>(target) = b[threadIdx.x];
    publish_columns();
  }
  __syncthreads();
  const uint64_t row = uint64_t{blockIdx.x} * 64 + threadIdx.x / 32 * 16;
  const uint32_t lane = threadIdx.x % 32;
  uint32_t a[4];
  for (uint32_t i = 0; i < 4; ++i) {
    a[i] = params.a[(row + lane / 4 + i % 2 * 8) * 8 + lane % 4 + i / 2 * 4];
  }
  uint32_t words[4];
  load_words(words, params.c, row);
  multiply(params.operand, words, a, columns);
  store_words(params.d, row, words);
}
