// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef LACUNA_MMA_PARAMS_H_
#define LACUNA_MMA_PARAMS_H_

#include "../device_ptr.h"

/// Products of small matrices, `d = a * b + c`, each by one instruction: `mma.sync` of a warp,
/// where `a` has m = 16 rows, or `wgmma` of a warpgroup, where it has 64.
typedef struct MmaProductsParams {
  /// `[n_products, m, 32]` bytes: rows of 16 elements of 16 bits or 32 of 8 bits. 16-byte aligned.
  DEVICE_PTR(const uint32_t) a;
  /// `[n_products, 8, 32]` bytes: columns, as `a` has rows. 16-byte aligned.
  DEVICE_PTR(const uint32_t) b;
  /// `[n_products, m, 8]` f32, or i32 for integers; as bits. 8-byte aligned.
  DEVICE_PTR(const uint32_t) c;
  /// `[n_products, m, 8]`, out: as `c`.
  DEVICE_PTR(uint32_t) d;
  /// Products; one thread block each.
  uint32_t n_products;
  /// The element type of `a` and `b`: 0 bf16, 1 f16, 2 e4m3, 3 e5m2, 4 i8, 5 u8; 6 u8 and i8, which
  /// `wgmma` does not have. An image for a device without fp8 leaves `d = c` for 2 and 3.
  uint32_t operand;
} MmaProductsParams;

#endif  // LACUNA_MMA_PARAMS_H_
