// SPDX-License-Identifier: MIT OR Apache-2.0
#include "mma.h"

#include <algorithm>

namespace lacuna_simt {
namespace {

constexpr uint32_t kNan = 0x7FFFFFFF;
constexpr uint32_t kInfinity = 0x7F800000;
constexpr uint32_t kSign = 0x80000000;
constexpr int32_t kF32Fraction = 23;
constexpr int32_t kF32MinExponent = -126;
// No finite term takes part.
constexpr int32_t kNone = INT32_MIN;

enum class Class : uint8_t { kFinite, kInfinite, kNan };

// significand * 2^(exponent - n_fraction), where it is finite.
struct Number {
  Class kind;
  bool is_negative;
  int64_t significand;
  int32_t exponent;
  int32_t n_fraction;
};

Number read(uint32_t bits, int32_t n_exponent, int32_t n_fraction) {
  const bool is_negative = (bits >> (n_exponent + n_fraction) & 1) != 0;
  const int32_t largest = (1 << n_exponent) - 1;
  const int32_t field = static_cast<int32_t>(bits >> n_fraction) & largest;
  const int64_t fraction = bits & ((uint32_t{1} << n_fraction) - 1);
  if (field == largest) {
    return {fraction != 0 ? Class::kNan : Class::kInfinite, is_negative, 0, 0, 0};
  }
  const int64_t leading = field == 0 ? 0 : int64_t{1} << n_fraction;
  return {Class::kFinite, is_negative, leading | fraction, std::max(field, 1) - largest / 2,
          n_fraction};
}

// The largest exponent holds numbers too; only its last fraction is NaN.
Number read_e4m3(uint32_t bits) {
  const bool is_negative = (bits & 0x80) != 0;
  if ((bits & 0x7F) == 0x7F) return {Class::kNan, is_negative, 0, 0, 0};
  if ((bits & 0x78) == 0x78) return {Class::kFinite, is_negative, 8 | (bits & 7), 8, 3};
  return read(bits & 0xFF, 4, 3);
}

Number read(Operand operand, uint16_t bits) {
  switch (operand) {
    case Operand::kBf16:
      return read(bits, 8, 7);
    case Operand::kF16:
      return read(bits, 5, 10);
    case Operand::kE4m3:
      return read_e4m3(bits);
    default:
      return read(bits & 0xFF, 5, 2);
  }
}

bool is_fp8(Operand operand) { return operand == Operand::kE4m3 || operand == Operand::kE5m2; }

bool is_zero(const Number& x) { return x.kind == Class::kFinite && x.significand == 0; }

Number multiply(const Number& x, const Number& y) {
  const bool is_negative = x.is_negative != y.is_negative;
  if (x.kind == Class::kFinite && y.kind == Class::kFinite) {
    return {Class::kFinite, is_negative, x.significand * y.significand, x.exponent + y.exponent,
            x.n_fraction + y.n_fraction};
  }
  const bool is_nan = x.kind == Class::kNan || y.kind == Class::kNan || is_zero(x) || is_zero(y);
  return {is_nan ? Class::kNan : Class::kInfinite, is_negative, 0, 0, 0};
}

// In units of 2^(largest - fraction_bits), truncated toward zero.
int64_t align(const Number& x, int32_t largest, int32_t fraction_bits) {
  if (x.significand == 0) return 0;
  const int32_t n_right = x.n_fraction - fraction_bits + (largest - x.exponent);
  int64_t magnitude = 0;
  if (n_right < 0) {
    magnitude = x.significand << -n_right;
  } else if (n_right < 64) {
    magnitude = x.significand >> n_right;
  }
  return x.is_negative ? -magnitude : magnitude;
}

// sum * 2^exponent as an f32 of which `n_fraction` bits are kept, truncated toward zero; too large
// is infinity.
uint32_t round_toward_zero(int64_t sum, int32_t exponent, int32_t n_fraction) {
  if (sum == 0) return 0;
  const uint32_t sign = sum < 0 ? kSign : 0;
  const uint64_t magnitude = sum < 0 ? uint64_t{0} - static_cast<uint64_t>(sum) : sum;
  const int32_t leading = 63 - __builtin_clzll(magnitude) + exponent;
  if (leading > 127) return sign | kInfinity;
  const int32_t top = std::max(leading, kF32MinExponent);
  const int32_t shift = top - n_fraction - exponent;
  uint64_t significand = 0;
  if (shift < 0) {
    significand = magnitude << -shift;
  } else if (shift < 64) {
    significand = magnitude >> shift;
  }
  // A normal number's leading bit is the lowest of the exponent.
  const uint32_t field = static_cast<uint32_t>(top + 126);
  const uint32_t fraction = static_cast<uint32_t>(significand) << (kF32Fraction - n_fraction);
  return sign | ((field << kF32Fraction) + fraction);
}

MmaAnswer step(const MmaUnit& unit, Operand operand, const uint16_t* a, const uint16_t* b,
               uint32_t n, uint32_t c) {
  const auto term = [&](uint32_t i) {
    return i < n ? multiply(read(operand, a[i]), read(operand, b[i])) : read(c, 8, kF32Fraction);
  };
  bool has_nan = false;
  bool has_infinity[2] = {false, false};
  int32_t largest = kNone;
  for (uint32_t i = 0; i <= n; ++i) {
    const Number x = term(i);
    has_nan |= x.kind == Class::kNan;
    has_infinity[x.is_negative] |= x.kind == Class::kInfinite;
    if (x.significand != 0) largest = std::max(largest, x.exponent);
  }
  if (has_nan || (has_infinity[0] && has_infinity[1])) return {kNan, true};
  if (has_infinity[0]) return {kInfinity, true};
  if (has_infinity[1]) return {kSign | kInfinity, true};
  if (largest == kNone) return {0, true};
  int64_t sum = 0;
  for (uint32_t i = 0; i <= n; ++i) sum += align(term(i), largest, unit.fraction_bits);
  return {round_toward_zero(sum, largest - unit.fraction_bits, unit.result_fraction),
          largest >= kF32MinExponent};
}

}  // namespace

MmaAnswer dot_add(MmaModel model, Operand operand, const uint16_t* a, const uint16_t* b, uint32_t n,
                  uint32_t c) {
  const MmaUnit& unit = is_fp8(operand) ? model.fp8 : model.half;
  MmaAnswer sum = {c, !is_fp8(operand) || (c & ~kSign) == 0};
  for (uint32_t first = 0; first < n; first += unit.chunk) {
    const uint32_t n_products = std::min(unit.chunk, n - first);
    const MmaAnswer next = step(unit, operand, a + first, b + first, n_products, sum.bits);
    sum = {next.bits, next.is_settled && sum.is_settled};
  }
  return sum;
}

}  // namespace lacuna_simt

// For src/simt.rs: bit 32 says that the answer is settled.
extern "C" uint64_t lacuna_simt_dot_add(uint32_t is_hopper, uint32_t operand, const uint16_t* a,
                                        const uint16_t* b, uint32_t n, uint32_t c) {
  using namespace lacuna_simt;
  const MmaModel model = is_hopper != 0 ? kHopper : kAmpere;
  const MmaAnswer answer = dot_add(model, static_cast<Operand>(operand), a, b, n, c);
  return uint64_t{answer.is_settled} << 32 | answer.bits;
}
