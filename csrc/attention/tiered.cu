// SPDX-License-Identifier: MIT OR Apache-2.0
// Attention over tiered pages, and rows as they are stored. src/attention/tiered/reference.rs is
// the specification.

#include "tiered.cuh"

#define LACUNA_ATTEND_TIERED(entry, head_dim)                                  \
  LACUNA_ENTRY(entry, AttentionTieredParams, 128) {                            \
    LACUNA_SHARED(TieredShared, shared);                                       \
    LACUNA_DYNAMIC_SHARED(dynamic);                                            \
    attend_tiers<head_dim>(params, reinterpret_cast<uint4*>(dynamic), shared); \
  }

LACUNA_ATTEND_TIERED(attend_tiered_64, 64)
LACUNA_ATTEND_TIERED(attend_tiered_128, 128)
LACUNA_ATTEND_TIERED(attend_tiered_256, 256)
