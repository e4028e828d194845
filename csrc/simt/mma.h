// SPDX-License-Identifier: MIT OR Apache-2.0
// What a tensor core answers: the twin of src/mma.rs, which says where the rule is from. The two
// are held against each other bit for bit in tests/mma.rs.
#ifndef LACUNA_SIMT_MMA_H_
#define LACUNA_SIMT_MMA_H_

#include <stdint.h>

namespace lacuna_simt {

enum class Operand : uint32_t { kBf16, kF16, kE4m3, kE5m2 };

// How one kind of operand is added up.
struct MmaUnit {
  int32_t fraction_bits;
  // Products of one step.
  uint32_t chunk;
  int32_t result_fraction;
};

struct MmaModel {
  MmaUnit half;
  MmaUnit fp8;
};
constexpr MmaModel kAmpere = {{24, 8, 23}, {13, 16, 13}};
constexpr MmaModel kHopper = {{25, 16, 23}, {13, 32, 13}};

struct MmaAnswer {
  uint32_t bits;
  // Whether the published models agree on it.
  bool is_settled;
};

// c + a[0] * b[0] + ... + a[n - 1] * b[n - 1].
MmaAnswer dot_add(MmaModel model, Operand operand, const uint16_t* a, const uint16_t* b, uint32_t n,
                  uint32_t c);

}  // namespace lacuna_simt

#endif  // LACUNA_SIMT_MMA_H_
