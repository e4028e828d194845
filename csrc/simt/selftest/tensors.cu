// SPDX-License-Identifier: MIT OR Apache-2.0
// Planted defects: tensor cores and the loads of their fragments.

#include "../../common/mma.cuh"
#include "params.h"

namespace {
struct Matrices {
  alignas(16) uint16_t rows[33][8];
};

__forceinline__ void fill(Matrices& matrices, uint32_t n_rows) {
  for (uint32_t i = threadIdx.x; i < n_rows * 8; i += 32) {
    matrices.rows[i / 8][i % 8] = static_cast<uint16_t>(i);
  }
  __syncwarp();
}
}  // namespace

// Each lane's words, of four matrices and of two, transposed.
LACUNA_ENTRY(selftest_transposed, SelfTestParams, 32) {
  LACUNA_SHARED(Matrices, shared);
  fill(shared, 32);
  uint32_t four[4];
  load_matrices_transposed(four, shared.rows[threadIdx.x]);
  uint32_t two[2];
  load_matrices_transposed(two, shared.rows[threadIdx.x % 16]);
  uint32_t* row = params.output + threadIdx.x * 6;
  for (uint32_t i = 0; i < 4; ++i) row[i] = four[i];
  for (uint32_t i = 0; i < 2; ++i) row[4 + i] = two[i];
}

LACUNA_TWINS(product_of_half_a_warp) {
  float d[4] = {0, 0, 0, 0};
  const uint32_t a[4] = {0, 0, 0, 0};
  const uint32_t b[2] = {0, 0};
  if (kRight || threadIdx.x < 16) mma_bf16(d, a, b);  // FAULT: product_of_half_a_warp
  params.output[threadIdx.x] = __float_as_uint(d[0]);
}

LACUNA_TWINS(two_products_at_once) {
  float d[4] = {0, 0, 0, 0};
  const uint32_t a[4] = {0, 0, 0, 0};
  const uint32_t b[2] = {0, 0};
  if (kRight || threadIdx.x < 16) {
    if (!kRight) mma_bf16(d, a, b);  // FAULT: two_products_at_once
  } else {
    mma_f16(d, a, b);  // FAULT: two_products_at_once
  }
  params.output[threadIdx.x] = __float_as_uint(d[0]);
}

// 2^-64 times 2^-64, sixteen times.
LACUNA_TWINS(product_below_the_least) {
  const uint32_t small = kRight ? 0x3F803F80 : 0x1F801F80;
  float d[4] = {0, 0, 0, 0};
  const uint32_t a[4] = {small, small, small, small};
  const uint32_t b[2] = {small, small};
  mma_bf16(d, a, b);  // FAULT: product_below_the_least
  params.output[threadIdx.x] = __float_as_uint(d[0]);
}

LACUNA_TWINS(misaligned_matrix_row) {
  LACUNA_SHARED(Matrices, shared);
  fill(shared, 33);
  uint32_t words[4];
  const uint16_t* row = shared.rows[threadIdx.x] + (kRight ? 0 : 4);
  load_matrices(words, row);  // FAULT: misaligned_matrix_row
  params.output[threadIdx.x] = words[0];
}

LACUNA_TWINS(matrix_row_unwritten) {
  LACUNA_SHARED(Matrices, shared);
  fill(shared, kRight ? 32 : 31);
  uint32_t words[4];
  load_matrices(words, shared.rows[threadIdx.x]);  // FAULT: matrix_row_unwritten
  params.output[threadIdx.x] = words[0];
}

LACUNA_TWINS(matrix_row_in_global) {
  LACUNA_SHARED(Matrices, shared);
  fill(shared, 32);
  uint32_t words[4];
  const void* row = shared.rows[threadIdx.x];
  if (!kRight) row = params.input + threadIdx.x * 4;
  load_matrices(words, row);  // FAULT: matrix_row_in_global
  params.output[threadIdx.x] = words[0];
}

// Rows written by other lanes, and nothing in between.
LACUNA_TWINS(matrix_without_syncwarp) {
  LACUNA_SHARED(Matrices, shared);
  const uint32_t other = 31 - threadIdx.x;
  for (uint32_t i = 0; i < 8; ++i) {
    shared.rows[other][i] = static_cast<uint16_t>(i);  // FAULT: matrix_without_syncwarp
  }
  if (kRight) __syncwarp();
  uint32_t words[4];
  load_matrices(words, shared.rows[threadIdx.x]);  // FAULT: matrix_without_syncwarp
  params.output[threadIdx.x] = words[0];
}
