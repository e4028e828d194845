// SPDX-License-Identifier: MIT OR Apache-2.0
// CUDA's names for a kernel compiled by the host compiler. What is missing here does not compile,
// which is better than something that means another thing: `__activemask`, for one, has no
// portable meaning.
#ifndef LACUNA_SIMT_CUDA_H_
#define LACUNA_SIMT_CUDA_H_

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "executor.h"

// What the compiler calls in every basic block, by a name that is the executor's alone: libFuzzer
// brings a function of the usual one.
__asm__(".set __sanitizer_cov_trace_pc, lacuna_simt_step");

#define __device__
#define __host__
#define __global__
// In a section of their own: a kernel's constants, and nothing else of the program's.
#define __constant__ static const __attribute__((section("lacuna_const")))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

// In the kernel's own code, so that a fault's line is the kernel's.
#define LACUNA_INLINE static inline __attribute__((always_inline))

#define threadIdx (lacuna_simt::thread_idx())
#define blockIdx (lacuna_simt::block_idx())
#define blockDim (lacuna_simt::block_dim())
#define gridDim (lacuna_simt::grid_dim())
constexpr int warpSize = 32;

namespace lacuna_simt {
// A vector moves as one access, whatever the host compiler would rather make of its parts. Where
// accesses are checked, a wrong alignment is seen before it can hurt; elsewhere none is assumed.
#ifdef LACUNA_SIMT_CHECKED
#define LACUNA_ALIGNED(n) aligned(n)
#else
#define LACUNA_ALIGNED(n) aligned(1)
#endif
template <int kBytes>
struct Word;
template <>
struct Word<2> {
  typedef uint16_t Type __attribute__((may_alias, LACUNA_ALIGNED(2)));
};
template <>
struct Word<4> {
  typedef uint32_t Type __attribute__((may_alias, LACUNA_ALIGNED(4)));
};
template <>
struct Word<8> {
  typedef uint64_t Type __attribute__((may_alias, LACUNA_ALIGNED(8)));
};
template <>
struct Word<16> {
  typedef uint64_t Type __attribute__((vector_size(16), may_alias, LACUNA_ALIGNED(16)));
};
#undef LACUNA_ALIGNED
template <int kBytes>
__attribute__((always_inline)) static inline void move_vector(void* target, const void* source) {
  using Type = typename Word<kBytes>::Type;
  *static_cast<Type*>(target) = *static_cast<const Type*>(source);
}
}  // namespace lacuna_simt

#define LACUNA_MOVES(name)                                                                    \
  name() = default;                                                                           \
  __forceinline__ name(const name& other) { lacuna_simt::move_vector<kBytes>(this, &other); } \
  __forceinline__ name& operator=(const name& other) {                                        \
    lacuna_simt::move_vector<kBytes>(this, &other);                                           \
    return *this;                                                                             \
  }
#define LACUNA_VECTOR2(name, T)                        \
  struct alignas(2 * sizeof(T)) name {                 \
    enum : int { kBytes = 2 * sizeof(T) };             \
    T x, y;                                            \
    __forceinline__ name(T x_, T y_) : x(x_), y(y_) {} \
    LACUNA_MOVES(name)                                 \
  };                                                   \
  LACUNA_INLINE name make_##name(T x, T y) { return {x, y}; }
#define LACUNA_VECTOR4(name, T)                                                  \
  struct alignas(4 * sizeof(T)) name {                                           \
    enum : int { kBytes = 4 * sizeof(T) };                                       \
    T x, y, z, w;                                                                \
    __forceinline__ name(T x_, T y_, T z_, T w_) : x(x_), y(y_), z(z_), w(w_) {} \
    LACUNA_MOVES(name)                                                           \
  };                                                                             \
  LACUNA_INLINE name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
LACUNA_VECTOR2(uchar2, unsigned char)
LACUNA_VECTOR2(ushort2, unsigned short)
LACUNA_VECTOR2(int2, int)
LACUNA_VECTOR2(uint2, unsigned int)
LACUNA_VECTOR2(float2, float)
LACUNA_VECTOR2(ulonglong2, unsigned long long)
LACUNA_VECTOR4(uchar4, unsigned char)
LACUNA_VECTOR4(ushort4, unsigned short)
LACUNA_VECTOR4(int4, int)
LACUNA_VECTOR4(uint4, unsigned int)
LACUNA_VECTOR4(float4, float)
#undef LACUNA_MOVES
#undef LACUNA_VECTOR2
#undef LACUNA_VECTOR4

// The linker names the ends of the section, in each program and library that has one.
extern "C" {
__attribute__((visibility("hidden"))) extern const char __start_lacuna_const;
__attribute__((visibility("hidden"))) extern const char __stop_lacuna_const;
}
__constant__ char lacuna_some_constant = 0;
static const lacuna_simt::Constants lacuna_constants = {&__start_lacuna_const, &__stop_lacuna_const,
                                                        &lacuna_some_constant};

// Every collective says where it stands: that is the line a fault names.
#define LACUNA_PLACE const char *file = __builtin_FILE(), uint32_t line = __builtin_LINE()
#define LACUNA_PASS_PLACE file, line

LACUNA_INLINE void __syncthreads(LACUNA_PLACE) { lacuna_simt::barrier(false, LACUNA_PASS_PLACE); }
LACUNA_INLINE int __syncthreads_count(int predicate, LACUNA_PLACE) {
  return static_cast<int>(lacuna_simt::barrier(predicate != 0, LACUNA_PASS_PLACE));
}
LACUNA_INLINE int __syncthreads_or(int predicate, LACUNA_PLACE) {
  return lacuna_simt::barrier(predicate != 0, LACUNA_PASS_PLACE) != 0;
}
LACUNA_INLINE int __syncthreads_and(int predicate, LACUNA_PLACE) {
  return lacuna_simt::barrier(predicate == 0, LACUNA_PASS_PLACE) == 0;
}

LACUNA_INLINE void __syncwarp(uint32_t mask = 0xFFFFFFFFu, LACUNA_PLACE) {
  lacuna_simt::collect(lacuna_simt::Op::kSyncWarp, mask, 0, 0, 32, LACUNA_PASS_PLACE);
}
LACUNA_INLINE uint32_t __ballot_sync(uint32_t mask, int predicate, LACUNA_PLACE) {
  return static_cast<uint32_t>(lacuna_simt::collect(lacuna_simt::Op::kBallot, mask, predicate != 0,
                                                    0, 32, LACUNA_PASS_PLACE));
}
LACUNA_INLINE int __any_sync(uint32_t mask, int predicate, LACUNA_PLACE) {
  return static_cast<int>(
      lacuna_simt::collect(lacuna_simt::Op::kAny, mask, predicate != 0, 0, 32, LACUNA_PASS_PLACE));
}
LACUNA_INLINE int __all_sync(uint32_t mask, int predicate, LACUNA_PLACE) {
  return static_cast<int>(
      lacuna_simt::collect(lacuna_simt::Op::kAll, mask, predicate != 0, 0, 32, LACUNA_PASS_PLACE));
}

namespace lacuna_simt {
template <typename T>
LACUNA_INLINE uint64_t to_bits(T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 32 or 64 bits");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}
template <typename T>
LACUNA_INLINE T from_bits(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
template <typename T>
LACUNA_INLINE T collect_as(Op op, uint32_t mask, T value, uint32_t argument, int width,
                           const char* file, uint32_t line) {
  return from_bits<T>(
      collect(op, mask, to_bits(value), argument, static_cast<uint32_t>(width), file, line));
}
}  // namespace lacuna_simt

template <typename T>
LACUNA_INLINE T __shfl_sync(uint32_t mask, T value, int lane, int width = 32, LACUNA_PLACE) {
  return lacuna_simt::collect_as(lacuna_simt::Op::kShuffle, mask, value,
                                 static_cast<uint32_t>(lane), width, LACUNA_PASS_PLACE);
}
template <typename T>
LACUNA_INLINE T __shfl_up_sync(uint32_t mask, T value, uint32_t delta, int width = 32,
                               LACUNA_PLACE) {
  return lacuna_simt::collect_as(lacuna_simt::Op::kShuffleUp, mask, value, delta, width,
                                 LACUNA_PASS_PLACE);
}
template <typename T>
LACUNA_INLINE T __shfl_down_sync(uint32_t mask, T value, uint32_t delta, int width = 32,
                                 LACUNA_PLACE) {
  return lacuna_simt::collect_as(lacuna_simt::Op::kShuffleDown, mask, value, delta, width,
                                 LACUNA_PASS_PLACE);
}
template <typename T>
LACUNA_INLINE T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = 32,
                                LACUNA_PLACE) {
  return lacuna_simt::collect_as(lacuna_simt::Op::kShuffleXor, mask, value,
                                 static_cast<uint32_t>(lane_mask), width, LACUNA_PASS_PLACE);
}
template <typename T>
LACUNA_INLINE uint32_t __match_any_sync(uint32_t mask, T value, LACUNA_PLACE) {
  return static_cast<uint32_t>(lacuna_simt::collect(
      lacuna_simt::Op::kMatchAny, mask, lacuna_simt::to_bits(value), 0, 32, LACUNA_PASS_PLACE));
}
#define LACUNA_REDUCE(name, T, op)                                                              \
  LACUNA_INLINE T name(uint32_t mask, T value, LACUNA_PLACE) {                                  \
    return lacuna_simt::collect_as(lacuna_simt::Op::op, mask, value, 0, 32, LACUNA_PASS_PLACE); \
  }
LACUNA_REDUCE(__reduce_add_sync, uint32_t, kReduceAdd)
LACUNA_REDUCE(__reduce_add_sync, int32_t, kReduceAdd)
LACUNA_REDUCE(__reduce_min_sync, uint32_t, kReduceMin)
LACUNA_REDUCE(__reduce_min_sync, int32_t, kReduceMinSigned)
LACUNA_REDUCE(__reduce_max_sync, uint32_t, kReduceMax)
LACUNA_REDUCE(__reduce_max_sync, int32_t, kReduceMaxSigned)
LACUNA_REDUCE(__reduce_and_sync, uint32_t, kReduceAnd)
LACUNA_REDUCE(__reduce_or_sync, uint32_t, kReduceOr)
LACUNA_REDUCE(__reduce_xor_sync, uint32_t, kReduceXor)
#undef LACUNA_REDUCE

LACUNA_INLINE void __threadfence() { lacuna_simt::fence(lacuna_simt::Scope::kDevice); }
LACUNA_INLINE void __threadfence_block() { lacuna_simt::fence(lacuna_simt::Scope::kBlock); }

namespace lacuna_simt {
// Converts to what the address says: an `int` may be added to a `uint32_t`.
template <typename T>
struct Same {
  using Type = T;
};
template <typename T>
using As = typename Same<T>::Type;
}  // namespace lacuna_simt

// Blocks run on several threads of the machine, so atomics are real ones.
template <typename T>
LACUNA_INLINE T atomicAdd(T* address, lacuna_simt::As<T> value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <typename T>
LACUNA_INLINE T atomicSub(T* address, lacuna_simt::As<T> value) {
  return __atomic_fetch_sub(address, value, __ATOMIC_RELAXED);
}
template <typename T>
LACUNA_INLINE T atomicAnd(T* address, lacuna_simt::As<T> value) {
  return __atomic_fetch_and(address, value, __ATOMIC_RELAXED);
}
template <typename T>
LACUNA_INLINE T atomicOr(T* address, lacuna_simt::As<T> value) {
  return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}
template <typename T>
LACUNA_INLINE T atomicXor(T* address, lacuna_simt::As<T> value) {
  return __atomic_fetch_xor(address, value, __ATOMIC_RELAXED);
}
template <typename T>
LACUNA_INLINE T atomicExch(T* address, lacuna_simt::As<T> value) {
  return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}
template <typename T>
LACUNA_INLINE T atomicCAS(T* address, lacuna_simt::As<T> expected, lacuna_simt::As<T> value) {
  __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
namespace lacuna_simt {
template <typename T, typename Next>
LACUNA_INLINE T update(T* address, Next next) {
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(address, &old, next(old), true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  return old;
}
}  // namespace lacuna_simt
template <typename T>
LACUNA_INLINE T atomicMin(T* address, lacuna_simt::As<T> value) {
  return lacuna_simt::update(address, [&](T old) { return old < value ? old : value; });
}
template <typename T>
LACUNA_INLINE T atomicMax(T* address, lacuna_simt::As<T> value) {
  return lacuna_simt::update(address, [&](T old) { return old > value ? old : value; });
}
LACUNA_INLINE uint32_t atomicInc(uint32_t* address, uint32_t last) {
  return lacuna_simt::update(address, [&](uint32_t old) { return old >= last ? 0 : old + 1; });
}
LACUNA_INLINE uint32_t atomicDec(uint32_t* address, uint32_t last) {
  return lacuna_simt::update(address,
                             [&](uint32_t old) { return old == 0 || old > last ? last : old - 1; });
}

template <typename T>
LACUNA_INLINE T __ldg(const T* address) {
  return *address;
}
LACUNA_INLINE int __popc(uint32_t x) { return __builtin_popcount(x); }
LACUNA_INLINE int __popcll(uint64_t x) { return __builtin_popcountll(x); }
LACUNA_INLINE int __clz(uint32_t x) { return x == 0 ? 32 : __builtin_clz(x); }
LACUNA_INLINE int __clzll(uint64_t x) { return x == 0 ? 64 : __builtin_clzll(x); }
LACUNA_INLINE int __ffs(uint32_t x) { return __builtin_ffs(static_cast<int>(x)); }
LACUNA_INLINE int __ffsll(uint64_t x) { return __builtin_ffsll(static_cast<long long>(x)); }
LACUNA_INLINE uint32_t __brev(uint32_t x) {
  uint32_t reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
LACUNA_INLINE uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t shift) {
  return static_cast<uint32_t>(((uint64_t{high} << 32 | low) << (shift & 31)) >> 32);
}
LACUNA_INLINE uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
  return static_cast<uint32_t>((uint64_t{high} << 32 | low) >> (shift & 31));
}
LACUNA_INLINE uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t choice = selector >> (4 * i) & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (choice & 7))) & 255;
    // Bit 3 of a choice asks for the byte's sign, eight times.
    if (choice & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}
LACUNA_INLINE uint32_t __umulhi(uint32_t x, uint32_t y) {
  return static_cast<uint32_t>(uint64_t{x} * y >> 32);
}
LACUNA_INLINE uint64_t __umul64hi(uint64_t x, uint64_t y) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(x) * y >> 64);
}

template <typename T>
LACUNA_INLINE constexpr T min(T x, T y) {
  return y < x ? y : x;
}
template <typename T>
LACUNA_INLINE constexpr T max(T x, T y) {
  return x < y ? y : x;
}

LACUNA_INLINE float __fadd_rn(float x, float y) { return x + y; }
LACUNA_INLINE float __fsub_rn(float x, float y) { return x - y; }
LACUNA_INLINE float __fmul_rn(float x, float y) { return x * y; }
LACUNA_INLINE float __fdiv_rn(float x, float y) { return x / y; }
LACUNA_INLINE float __fsqrt_rn(float x) { return sqrtf(x); }
LACUNA_INLINE float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
LACUNA_INLINE int32_t __float2int_rn(float x) { return static_cast<int32_t>(rintf(x)); }
LACUNA_INLINE int32_t __float2int_ru(float x) { return static_cast<int32_t>(ceilf(x)); }
LACUNA_INLINE float __int2float_rn(int32_t x) { return static_cast<float>(x); }
LACUNA_INLINE uint64_t __float2ull_rn(float x) { return static_cast<uint64_t>(rintf(x)); }
LACUNA_INLINE float __ull2float_rn(uint64_t x) { return static_cast<float>(x); }
LACUNA_INLINE uint32_t __float_as_uint(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
LACUNA_INLINE float __uint_as_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

#ifdef LACUNA_SIMT_CHECKED
#define memcpy(target, source, n_bytes) lacuna_simt::copy(target, source, n_bytes)
#define memset(target, value, n_bytes) lacuna_simt::fill(target, value, n_bytes)
#endif
// What a GPU's own have no place here for: nobody would see their accesses.
#pragma GCC poison memmove memcmp memchr

#endif  // LACUNA_SIMT_CUDA_H_
