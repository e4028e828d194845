// SPDX-License-Identifier: MIT OR Apache-2.0
// Attention over tiered pages, and rows as they are stored: an entry for each dimension of heads.
// src/attention/tiered/reference.rs is the specification.

#include "tiered.cuh"

LACUNA_ENTRY(attend_tiered_64, AttentionTieredParams, 128) {
  LACUNA_SHARED(TieredShared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  attend_tiers<64>(params, reinterpret_cast<uint4*>(dynamic), shared);
}

LACUNA_ENTRY(attend_tiered_128, AttentionTieredParams, 128) {
  LACUNA_SHARED(TieredShared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  attend_tiers<128>(params, reinterpret_cast<uint4*>(dynamic), shared);
}

LACUNA_ENTRY(attend_tiered_256, AttentionTieredParams, 128) {
  LACUNA_SHARED(TieredShared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  attend_tiers<256>(params, reinterpret_cast<uint4*>(dynamic), shared);
}
