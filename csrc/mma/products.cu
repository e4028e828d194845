// SPDX-License-Identifier: MIT OR Apache-2.0
// One product per warp, by one instruction: what a device's tensor cores answer, for src/mma.rs to
// be held against; and fragments by the same loads that other kernels use.

#include "../common/mma.cuh"
#include "params.h"

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

// Where the lane's half of row `i` of the d tile starts, in elements.
__device__ uint64_t locate_pair(uint32_t i) {
  const uint32_t lane = threadIdx.x;
  return uint64_t{blockIdx.x} * 128 + (lane / 4 + i * 8) * 8 + lane % 4 * 2;
}

__device__ void multiply_floats(uint32_t operand, float (&d)[4], const uint32_t (&a)[4],
                                const uint32_t (&b)[2]) {
  switch (operand) {
    case 0:
      mma_bf16(d, a, b);
      break;
    case 1:
      mma_f16(d, a, b);
      break;
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
    case 2:
      mma_e4m3(d, a, b);
      break;
    case 3:
      mma_e5m2(d, a, b);
      break;
#endif
    default:
      break;
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
  uint32_t bits[4];
  for (uint32_t i = 0; i < 4; ++i) bits[i] = params.c[locate_pair(i / 2) + i % 2];
  if (params.operand >= 4) {
    int32_t d[4];
    for (uint32_t i = 0; i < 4; ++i) d[i] = static_cast<int32_t>(bits[i]);
    if (params.operand == 4) {
      mma_s8(d, a, b);
    } else {
      mma_u8(d, a, b);
    }
    for (uint32_t i = 0; i < 4; ++i) bits[i] = static_cast<uint32_t>(d[i]);
  } else {
    float d[4];
    for (uint32_t i = 0; i < 4; ++i) d[i] = __uint_as_float(bits[i]);
    multiply_floats(params.operand, d, a, b);
    for (uint32_t i = 0; i < 4; ++i) bits[i] = __float_as_uint(d[i]);
  }
  for (uint32_t i = 0; i < 4; ++i) params.d[locate_pair(i / 2) + i % 2] = bits[i];
}
