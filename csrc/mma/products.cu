// SPDX-License-Identifier: MIT OR Apache-2.0
// One product per warp, by one `mma.sync`: what a device's tensor cores answer, for src/mma.rs to
// be held against; and fragments by the same loads that other kernels use.

#include "../common/mma.cuh"
#include "params.h"
#include "words.cuh"

namespace {

constexpr uint32_t kRowBytes = 32;

struct Tiles {
  alignas(16) uint8_t a[16 * kRowBytes];
  alignas(16) uint8_t b[8 * kRowBytes];
};

__device__ void load_tiles(const MmaProductsParams& params, Tiles& tiles) {
  const uint32_t lane = threadIdx.x;
  const uint4* a = reinterpret_cast<const uint4*>(params.a) + uint64_t{blockIdx.x} * 32;
  const uint4* b = reinterpret_cast<const uint4*>(params.b) + uint64_t{blockIdx.x} * 16;
  reinterpret_cast<uint4*>(tiles.a)[lane] = a[lane];
  if (lane < 16) reinterpret_cast<uint4*>(tiles.b)[lane] = b[lane];
  __syncwarp();
}

__device__ void multiply(uint32_t operand, uint32_t (&words)[4], const uint32_t (&a)[4],
                         const uint32_t (&b)[2]) {
  switch (operand) {
    case 0:
      return add_to_floats(words, [&](float(&d)[4]) { mma_bf16(d, a, b); });
    case 1:
      return add_to_floats(words, [&](float(&d)[4]) { mma_f16(d, a, b); });
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
    case 2:
      return add_to_floats(words, [&](float(&d)[4]) { mma_e4m3(d, a, b); });
    case 3:
      return add_to_floats(words, [&](float(&d)[4]) { mma_e5m2(d, a, b); });
#endif
    case 4:
      return add_to_integers(words, [&](int32_t(&d)[4]) { mma_s8(d, a, b); });
    case 5:
      return add_to_integers(words, [&](int32_t(&d)[4]) { mma_u8(d, a, b); });
    case 6:
      return add_to_integers(words, [&](int32_t(&d)[4]) { mma_u8_s8(d, a, b); });
    default:
      return;
  }
}

}  // namespace

LACUNA_ENTRY(mma_products, MmaProductsParams, 32) {
  LACUNA_SHARED(Tiles, tiles);
  if (blockIdx.x >= params.n_products) return;
  load_tiles(params, tiles);
  const uint32_t lane = threadIdx.x;
  uint32_t a[4];
  uint32_t b[2];
  load_matrices(a, tiles.a + (lane % 16) * kRowBytes + lane / 16 * 16);
  load_matrices(b, tiles.b + (lane % 8) * kRowBytes + lane / 8 % 2 * 16);
  const uint64_t row = uint64_t{blockIdx.x} * 16;
  uint32_t words[4];
  load_words(words, params.c, row);
  multiply(params.operand, words, a, b);
  store_words(params.d, row, words);
}
