// SPDX-License-Identifier: MIT OR Apache-2.0
// Floating-point numbers by their bits, and the one transcendental function of the kernels; in Rust
// src/number.rs and src/element.rs.
#ifndef LACUNA_COMMON_NUMBER_CUH_
#define LACUNA_COMMON_NUMBER_CUH_

#include "kernel.cuh"

// The numbers of `Float` in src/element.rs.
enum FloatKind : uint32_t {
  kFloatBf16 = 0,
  kFloatF16 = 1,
  kFloatF32 = 2,
  kFloatE4m3 = 3,
  kFloatE5m2 = 4
};

__device__ __forceinline__ uint32_t float_bytes(uint32_t kind) {
  return kind == kFloatF32 ? 4 : kind >= kFloatE4m3 ? 1 : 2;
}

__device__ __forceinline__ float from_bf16(uint32_t bits) { return __uint_as_float(bits << 16); }

__device__ __forceinline__ float from_f16(uint32_t bits) {
#ifdef __CUDACC__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<unsigned short>(bits)));
  return value;
#else
  const uint32_t magnitude = bits & 0x7FFF;
  const uint32_t sign = (bits & 0x8000) << 16;
  if (magnitude >= 0x7C00) return __uint_as_float(sign | 0x7F800000 | (magnitude & 0x3FF) << 13);
  // Exact, of subnormal numbers too: 2^-112 times the number whose exponent is read as f32's.
  const float value = __fmul_rn(__uint_as_float(magnitude << 13), 0x1p+112f);
  return __uint_as_float(__float_as_uint(value) | sign);
#endif
}

// The nearest, ties to even; of NaN 0x7FFF.
__device__ __forceinline__ uint32_t to_bf16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FFF;
  return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

__device__ __forceinline__ uint32_t to_f16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FFF;
#ifdef __CUDACC__
  unsigned short half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
#else
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude >= 0x477FF000) return sign | 0x7C00;
  if (magnitude < 0x38800000) {
    // Subnormal: the sum's unit in the last place is that of f16's subnormal numbers.
    const float sum = __fadd_rn(__uint_as_float(magnitude), 0.5f);
    return sign | (__float_as_uint(sum) - 0x3F000000);
  }
  const uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
  return sign | ((rounded - 0x38000000) >> 13);
#endif
}

__device__ __forceinline__ uint32_t to_half(float value, uint32_t kind) {
  return kind == kFloatBf16 ? to_bf16(value) : to_f16(value);
}

// Element `i` of what has elements of this kind, of 16 bits or f32.
__device__ __forceinline__ float load_float(const uint8_t* elements, uint64_t i, uint32_t kind) {
  if (kind == kFloatF32) return reinterpret_cast<const float*>(elements)[i];
  const uint32_t bits = reinterpret_cast<const uint16_t*>(elements)[i];
  return kind == kFloatBf16 ? from_bf16(bits) : from_f16(bits);
}

// The same number, of NaN the one that GPUs make.
__device__ __forceinline__ float canonical(float value) {
  const bool is_nan = (__float_as_uint(value) & 0x7FFFFFFF) > 0x7F800000;
  return is_nan ? __uint_as_float(0x7FFFFFFF) : value;
}

// What `value` becomes as an element of this kind.
__device__ __forceinline__ float round_float(float value, uint32_t kind) {
  if (kind == kFloatF32) return canonical(value);
  return kind == kFloatBf16 ? from_bf16(to_bf16(value)) : from_f16(to_f16(value));
}

__device__ __forceinline__ void store_float(uint8_t* elements, uint64_t i, uint32_t kind,
                                            float value) {
  if (kind == kFloatF32) {
    reinterpret_cast<float*>(elements)[i] = canonical(value);
  } else {
    reinterpret_cast<uint16_t*>(elements)[i] = static_cast<uint16_t>(to_half(value, kind));
  }
}

__device__ __forceinline__ uint32_t to_halves(float low, float high, uint32_t kind) {
  return to_half(high, kind) << 16 | to_half(low, kind);
}

// Elements from `i` on, a multiple of 4.
__device__ __forceinline__ void store_four(uint8_t* elements, uint64_t i, uint32_t kind,
                                           const float (&values)[4]) {
  if (kind == kFloatF32) {
    *reinterpret_cast<float4*>(elements + 4 * i) = make_float4(
        canonical(values[0]), canonical(values[1]), canonical(values[2]), canonical(values[3]));
  } else {
    *reinterpret_cast<uint2*>(elements + 2 * i) =
        make_uint2(to_halves(values[0], values[1], kind), to_halves(values[2], values[3], kind));
  }
}

__device__ __forceinline__ float from_e4m3(uint32_t bits) {
  const uint32_t magnitude = bits & 0x7F;
  if (magnitude == 0x7F) return __uint_as_float(0x7FFFFFFF);
  // As f16 with the same mantissa, an exponent's bias of 15 in place of 7.
  return __fmul_rn(from_f16((bits & 0x80) << 8 | magnitude << 7), 256.0f);
}

__device__ __forceinline__ float from_e5m2(uint32_t bits) { return from_f16(bits << 8 & 0xFF00); }

// Eight fp8 numbers, in the first two words, as f16: of e4m3 1/256 of each.
__device__ __forceinline__ void widen_fp8(uint32_t (&words)[4], uint32_t kind) {
  // Inner loop: not this way.
  words[3] = __byte_perm(words[1], 0, 0x3424);
  words[2] = __byte_perm(words[1], 0, 0x1404);
  words[1] = __byte_perm(words[0], 0, 0x3424);
  words[0] = __byte_perm(words[0], 0, 0x1404);
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    if (kind != kFloatE4m3) break;
    const uint32_t magnitude = words[i] & 0x7F007F00;
    words[i] = (words[i] & 0x80008000) | magnitude >> 1;
    if ((magnitude & 0x7F00) == 0x7F00) words[i] |= 0x7FFF;
    if (magnitude >> 16 == 0x7F00) words[i] |= 0x7FFF0000;
  }
}

// Eight elements of 16 bits, or of 8 that `widen_fp8` made 16.
__device__ __forceinline__ void expand_floats(float (&values)[8], const uint32_t (&words)[4],
                                              uint32_t kind) {
  if (kind == kFloatBf16) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      values[2 * i] = __uint_as_float(words[i] << 16);
      values[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000);
    }
    return;
  }
  const float unit = kind == kFloatE4m3 ? 256.0f : 1.0f;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    // Inner loop: not this way.
    values[2 * i] = __fmul_rn(from_f16(words[i] & 0xFFFF), unit);
    values[2 * i + 1] = __fmul_rn(from_f16(words[i] >> 16), unit);
  }
}

// 2^x of what is not above 0: as the next.
__device__ __forceinline__ float exp2_of_negative(float x) {
  // Adding it leaves the nearest integer in the lowest bits, which conversions would take longer
  // for.
  const float shifted = __fadd_rn(x, 12582912.0f);
  const float f = __fsub_rn(x, __fsub_rn(shifted, 12582912.0f));
  float p = 0x1.444p-13f;
  p = __fmaf_rn(p, f, 0x1.5f48cp-10f);
  p = __fmaf_rn(p, f, 0x1.3b2a1cp-7f);
  p = __fmaf_rn(p, f, 0x1.c6aeccp-5f);
  p = __fmaf_rn(p, f, 0x1.ebfbep-3f);
  p = __fmaf_rn(p, f, 0x1.62e43p-1f);
  p = __fmaf_rn(p, f, 1.0f);
  const float power = __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
  return x >= -125.0f ? power : 0.0f;
}

// 2^x of x from -125 to 0, within 1.01 units in the last place, 1 of 0 and more; 0 of anything
// less, and of NaN. A polynomial on [-1/2, 1/2], where x less its nearest integer is exact.
__device__ __forceinline__ float exp2_of(float x) { return exp2_of_negative(x > 0.0f ? 0.0f : x); }

// The logarithm to base 2 of a normal number above 0: a series of atanh on [sqrt(1/2), sqrt(2)].
__device__ __forceinline__ float log2_of(float x) {
  const uint32_t bits = __float_as_uint(x);
  const int32_t n = static_cast<int32_t>(bits - 0x3F3504F3) >> 23;
  const float m = __uint_as_float(bits - (static_cast<uint32_t>(n) << 23));
  const float z = __fdiv_rn(__fsub_rn(m, 1.0f), __fadd_rn(m, 1.0f));
  const float z2 = __fmul_rn(z, z);
  float p = __uint_as_float(0x3EA4258A);
  p = __fmaf_rn(p, z2, __uint_as_float(0x3ED30BB1));
  p = __fmaf_rn(p, z2, __uint_as_float(0x3F13BB63));
  p = __fmaf_rn(p, z2, __uint_as_float(0x3F76384F));
  p = __fmaf_rn(p, z2, __uint_as_float(0x4038AA3B));
  return __fmaf_rn(p, z, __int2float_rn(n));
}

#endif  // LACUNA_COMMON_NUMBER_CUH_
