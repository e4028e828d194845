// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef LACUNA_SIMT_SELFTEST_PARAMS_H_
#define LACUNA_SIMT_SELFTEST_PARAMS_H_

#include <stdint.h>

// What every kernel that tests the executor takes; tests/simt.rs mirrors it.
struct SelfTestParams {
  const uint32_t* input;
  uint32_t* output;
  uint32_t n;
  uint32_t reserved;
};

#endif  // LACUNA_SIMT_SELFTEST_PARAMS_H_
