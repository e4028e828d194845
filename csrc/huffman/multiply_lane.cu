// SPDX-License-Identifier: MIT OR Apache-2.0
// Matrices of lanes times up to 64 inputs: an entry for so many row tiles of 16 in a block, and so
// many inputs.

#include "multiply_lane.cuh"

LACUNA_ENTRY(multiply_lane_1x8, HuffmanMultiplyLaneParams, kProductThreads) {
  LACUNA_DYNAMIC_SHARED(chains);
  multiply_rows<1, 1>(params, reinterpret_cast<float*>(chains));
}

LACUNA_ENTRY(multiply_lane_2x8, HuffmanMultiplyLaneParams, kProductThreads) {
  LACUNA_DYNAMIC_SHARED(chains);
  multiply_rows<2, 1>(params, reinterpret_cast<float*>(chains));
}

LACUNA_ENTRY(multiply_lane_4x8, HuffmanMultiplyLaneParams, kProductThreads) {
  LACUNA_DYNAMIC_SHARED(chains);
  multiply_rows<4, 1>(params, reinterpret_cast<float*>(chains));
}

LACUNA_ENTRY(multiply_lane_4x16, HuffmanMultiplyLaneParams, kProductThreads) {
  LACUNA_DYNAMIC_SHARED(chains);
  multiply_rows<4, 2>(params, reinterpret_cast<float*>(chains));
}

LACUNA_ENTRY(multiply_lane_2x32, HuffmanMultiplyLaneParams, kProductThreads) {
  LACUNA_DYNAMIC_SHARED(chains);
  multiply_rows<2, 4>(params, reinterpret_cast<float*>(chains));
}

LACUNA_ENTRY(multiply_lane_2x64, HuffmanMultiplyLaneParams, kProductThreads) {
  LACUNA_DYNAMIC_SHARED(chains);
  multiply_rows<2, 8>(params, reinterpret_cast<float*>(chains));
}
