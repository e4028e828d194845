// SPDX-License-Identifier: MIT OR Apache-2.0
// Attention over tiered pages, and rows as they are stored: heads of 64, an entry for up to 4 of a
// head's rows of queries and one for up to 8. src/attention/tiered/reference.rs is the
// specification.

#include "tiered.cuh"

LACUNA_ENTRY(attend_tiered_64x4, AttentionTieredParams, 128) {
  LACUNA_SHARED(TieredShared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  attend_tiers<64, 4>(params, reinterpret_cast<uint4*>(dynamic), shared);
}

LACUNA_ENTRY(attend_tiered_64x8, AttentionTieredParams, 128) {
  LACUNA_SHARED(TieredShared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  attend_tiers<64, 8>(params, reinterpret_cast<uint4*>(dynamic), shared);
}
