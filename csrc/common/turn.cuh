// SPDX-License-Identifier: MIT OR Apache-2.0
// Keys that are turned by their positions (RoPE); in Rust src/turn.rs.
#ifndef LACUNA_COMMON_TURN_CUH_
#define LACUNA_COMMON_TURN_CUH_

#include "kernel.cuh"

// Not at all; channel `c` with the one half of what is turned further; each even one with the next.
enum Turn : uint32_t { kTurnNone = 0, kTurnHalves = 1, kTurnPairs = 2 };

// Two channels of a key.
__device__ __forceinline__ void turn_by(float cosine, float sine, float& x, float& y) {
  const float turned = __fmaf_rn(-y, sine, __fmul_rn(x, cosine));
  y = __fmaf_rn(x, sine, __fmul_rn(y, cosine));
  x = turned;
}

#endif  // LACUNA_COMMON_TURN_CUH_
