// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef LACUNA_SIMT_SELFTEST_PARAMS_H_
#define LACUNA_SIMT_SELFTEST_PARAMS_H_

#include <stdint.h>

// What every kernel that tests the executor takes; tests/simt.rs and tests/planted.rs mirror it.
struct SelfTestParams {
  const uint32_t* input;
  // `[n]`, every word of it.
  uint32_t* output;
  // `[1024]`, zero before the launch.
  uint32_t* state;
  // `[1024]`, anything.
  uint32_t* workspace;
  uint32_t n;
  uint32_t reserved;
};

// Two kernels of one body, wrong_<name> and right_<name>: `kRight` is all that differs. The lines
// that a fault may name end in `FAULT: <name>`.
#define LACUNA_TWINS(name)                                                  \
  template <bool kRight>                                                    \
  static __forceinline__ void name(const SelfTestParams&);                  \
  LACUNA_ENTRY(wrong_##name, SelfTestParams, 1024) { name<false>(params); } \
  LACUNA_ENTRY(right_##name, SelfTestParams, 1024) { name<true>(params); }  \
  template <bool kRight>                                                    \
  static __forceinline__ void name([[maybe_unused]] const SelfTestParams& params)

#endif  // LACUNA_SIMT_SELFTEST_PARAMS_H_
