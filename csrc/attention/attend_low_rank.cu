// SPDX-License-Identifier: MIT OR Apache-2.0
// Attention over rows of which some have no keys: those are made on chip, and never written.
// src/attention/low_rank/reference.rs is the specification.

#include "attend.cuh"

// Head dimensions up to 128, by two warps, since the basis is on chip too.
LACUNA_ENTRY(attend_low_rank, AttentionLowRankParams, 64) {
  LACUNA_SHARED(Shared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  const MadeKeys maker = {params.low_rank};
  attend<128>(params.attend, maker, reinterpret_cast<uint4*>(dynamic), shared);
}
