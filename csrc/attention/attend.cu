// SPDX-License-Identifier: MIT OR Apache-2.0
// Attention over rows as they are stored. src/attention/attend/reference.rs is the specification.

#include "attend.cuh"

// Head dimensions up to 128, by one or two sets of four warps.
LACUNA_ENTRY(attend_128, AttentionAttendParams, 256) {
  LACUNA_SHARED(Shared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  attend<128, StoredKeys>(params, {}, reinterpret_cast<uint4*>(dynamic), shared);
}

// And up to 256, by sets of two.
LACUNA_ENTRY(attend_256, AttentionAttendParams, 128) {
  LACUNA_SHARED(Shared, shared);
  LACUNA_DYNAMIC_SHARED(dynamic);
  attend<256, StoredKeys>(params, {}, reinterpret_cast<uint4*>(dynamic), shared);
}
