// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef LACUNA_MMA_PARAMS_H_
#define LACUNA_MMA_PARAMS_H_

#include "../device_ptr.h"

/// Products of small matrices, each by one `mma.sync` of a warp: `d = a * b + c`.
typedef struct MmaProductsParams {
  /// `[n_products, 16, 32]` bytes: rows of 16 elements of 16 bits or 32 of 8 bits. 16-byte aligned.
  DEVICE_PTR(const uint32_t) a;
  /// `[n_products, 8, 32]` bytes: columns, as `a` has rows. 16-byte aligned.
  DEVICE_PTR(const uint32_t) b;
  /// `[n_products, 16, 8]` f32, or i32 for integers; as bits. 8-byte aligned.
  DEVICE_PTR(const uint32_t) c;
  /// `[n_products, 16, 8]`, out: as `c`.
  DEVICE_PTR(uint32_t) d;
  /// Products; one thread block each.
  uint32_t n_products;
  /// The element type of `a` and `b`: 0 bf16, 1 f16, 2 e4m3, 3 e5m2, 4 i8, 5 u8. An image for a
  /// device without fp8 leaves `d = c` for 2 and 3.
  uint32_t operand;
} MmaProductsParams;

/// Products of small matrices, each by one `wgmma` of a warpgroup: `d = a * b + c`.
typedef struct WgmmaProductsParams {
  /// `[n_products, 64, 32]` bytes: rows of 16 elements of 16 bits or 32 of 8 bits.
  DEVICE_PTR(const uint32_t) a;
  /// `[n_products, 8, 32]` bytes: columns, as `a` has rows. 16-byte aligned.
  DEVICE_PTR(const uint32_t) b;
  /// `[n_products, 64, 8]` f32, or i32 for integers; as bits. 8-byte aligned.
  DEVICE_PTR(const uint32_t) c;
  /// `[n_products, 64, 8]`, out: as `c`.
  DEVICE_PTR(uint32_t) d;
  /// Products; one thread block each.
  uint32_t n_products;
  /// The element type of `a` and `b`, as `MmaProductsParams` numbers them.
  uint32_t operand;
} WgmmaProductsParams;

#endif  // LACUNA_MMA_PARAMS_H_
