// SPDX-License-Identifier: MIT OR Apache-2.0
// What the compiler calls in a kernel compiled for a checked launch: the names are those of
// ThreadSanitizer's and UndefinedBehaviorSanitizer's runtimes, which are not linked. A
// hook's return address says which line of the kernel called it.
#include <stdlib.h>
#include <string.h>

#include "checker.h"
#include "worker.h"

namespace lacuna_simt {
namespace {

inline void see(const void* address, uint64_t n_bytes, AccessKind kind, bool is_vector, void* pc) {
  Worker* w = worker;
  if (w == nullptr || w->checker == nullptr) return;
  w->checker->access(reinterpret_cast<uint64_t>(address), n_bytes, kind, is_vector,
                     reinterpret_cast<uint64_t>(pc));
}

// One that fails has only read, and releases nothing. A checked launch runs on one thread of the
// machine: what is there now is what the exchange will find.
template <typename T>
int compare_exchange(T* p, T* expected, T value, void* pc) {
  Worker* w = worker;
  if (w != nullptr && w->checker != nullptr) {
    w->checker->require_inside(reinterpret_cast<uint64_t>(p), sizeof(T),
                               reinterpret_cast<uint64_t>(pc));
  }
  const bool succeeds = __atomic_load_n(p, __ATOMIC_RELAXED) == *expected;
  see(p, sizeof(T), succeeds ? AccessKind::kAtomicUpdate : AccessKind::kAtomicRead, true, pc);
  return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

[[noreturn]] void fail_undefined(const char* what, void* pc) {
  worker->checker->fail(kUndefined, reinterpret_cast<uint64_t>(pc), "%s", what);
}

}  // namespace

void copy(void* target, const void* source, size_t n_bytes) {
  void* pc = __builtin_return_address(0);
  see(source, n_bytes, AccessKind::kRead, false, pc);
  see(target, n_bytes, AccessKind::kWrite, false, pc);
  memcpy(target, source, n_bytes);
}

void fill(void* target, int value, size_t n_bytes) {
  see(target, n_bytes, AccessKind::kWrite, false, __builtin_return_address(0));
  memset(target, value, n_bytes);
}

}  // namespace lacuna_simt

using lacuna_simt::AccessKind;

#define LACUNA_HERE __builtin_return_address(0)
#define LACUNA_SIZE(n)                                                                             \
  void __tsan_read##n(void* p) { see(p, n, AccessKind::kRead, true, LACUNA_HERE); }                \
  void __tsan_write##n(void* p) { see(p, n, AccessKind::kWrite, true, LACUNA_HERE); }              \
  void __tsan_volatile_read##n(void* p) { see(p, n, AccessKind::kAtomicRead, true, LACUNA_HERE); } \
  void __tsan_volatile_write##n(void* p) {                                                         \
    see(p, n, AccessKind::kAtomicStore, true, LACUNA_HERE);                                        \
  }                                                                                                \
  void __tsan_unaligned_read##n(void* p) { see(p, n, AccessKind::kRead, false, LACUNA_HERE); }     \
  void __tsan_unaligned_write##n(void* p) { see(p, n, AccessKind::kWrite, false, LACUNA_HERE); }

// The compiler passes a memory order too: that of kernels' atomics is always relaxed.
#define LACUNA_UPDATE(bits, T, name)                                 \
  T __tsan_atomic##bits##_##name(T* p, T value, int) {               \
    see(p, sizeof(T), AccessKind::kAtomicUpdate, true, LACUNA_HERE); \
    return __atomic_##name(p, value, __ATOMIC_RELAXED);              \
  }
#define LACUNA_ATOMIC(bits, T)                                                              \
  LACUNA_UPDATE(bits, T, fetch_add)                                                         \
  LACUNA_UPDATE(bits, T, fetch_sub)                                                         \
  LACUNA_UPDATE(bits, T, fetch_and)                                                         \
  LACUNA_UPDATE(bits, T, fetch_or)                                                          \
  LACUNA_UPDATE(bits, T, fetch_xor)                                                         \
  T __tsan_atomic##bits##_load(const T* p, int) {                                           \
    see(p, sizeof(T), AccessKind::kAtomicRead, true, LACUNA_HERE);                          \
    return __atomic_load_n(p, __ATOMIC_RELAXED);                                            \
  }                                                                                         \
  void __tsan_atomic##bits##_store(T* p, T value, int) {                                    \
    see(p, sizeof(T), AccessKind::kAtomicStore, true, LACUNA_HERE);                         \
    __atomic_store_n(p, value, __ATOMIC_RELAXED);                                           \
  }                                                                                         \
  T __tsan_atomic##bits##_exchange(T* p, T value, int) {                                    \
    see(p, sizeof(T), AccessKind::kAtomicExchange, true, LACUNA_HERE);                      \
    return __atomic_exchange_n(p, value, __ATOMIC_RELAXED);                                 \
  }                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_strong(T* p, T* expected, T value, int, int) { \
    return compare_exchange(p, expected, value, LACUNA_HERE);                               \
  }                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_weak(T* p, T* expected, T value, int, int) {   \
    return compare_exchange(p, expected, value, LACUNA_HERE);                               \
  }

extern "C" {

using lacuna_simt::compare_exchange;
using lacuna_simt::see;

void __tsan_init() {}
LACUNA_SIZE(1)
LACUNA_SIZE(2)
LACUNA_SIZE(4)
LACUNA_SIZE(8)
LACUNA_SIZE(16)
void __tsan_read_range(void* p, size_t n) { see(p, n, AccessKind::kRead, false, LACUNA_HERE); }
void __tsan_write_range(void* p, size_t n) { see(p, n, AccessKind::kWrite, false, LACUNA_HERE); }
LACUNA_ATOMIC(8, uint8_t)
LACUNA_ATOMIC(16, uint16_t)
LACUNA_ATOMIC(32, uint32_t)
LACUNA_ATOMIC(64, uint64_t)

// Each names its own fault; the static data beside it describes types, which the line shows.
void __ubsan_handle_out_of_bounds(void*, void* index) {
  lacuna_simt::worker->checker->fail(
      lacuna_simt::kOutOfBounds, reinterpret_cast<uint64_t>(LACUNA_HERE),
      "index %lld of an array that is not so long", reinterpret_cast<long long>(index));
}
// What gcc knows of the access, of which the rest describes the source.
struct TypeMismatch {
  const char* file;
  uint32_t line;
  uint32_t column;
  const void* type;
  uint8_t alignment_bits;
  // 1 is a store.
  uint8_t kind;
};
void __ubsan_handle_type_mismatch_v1(const TypeMismatch* data, void* pointer) {
  lacuna_simt::worker->checker->misaligned(reinterpret_cast<uint64_t>(pointer),
                                           uint64_t{1} << data->alignment_bits,
                                           data->kind == 1 ? AccessKind::kWrite : AccessKind::kRead,
                                           reinterpret_cast<uint64_t>(LACUNA_HERE));
}
// Overrides the C library's, which ends the process.
[[noreturn]] void __stack_chk_fail() {
  if (lacuna_simt::worker == nullptr || lacuna_simt::worker->checker == nullptr) abort();
  lacuna_simt::worker->checker->fail(
      lacuna_simt::kOutOfBounds, reinterpret_cast<uint64_t>(LACUNA_HERE),
      "something wrote past the end of an array of this function's own");
}
void __ubsan_handle_shift_out_of_bounds(void*, void*, void* distance) {
  lacuna_simt::worker->checker->fail(lacuna_simt::kUndefined,
                                     reinterpret_cast<uint64_t>(LACUNA_HERE),
                                     "a shift by %lld, which its type is not wide enough for",
                                     reinterpret_cast<long long>(distance));
}
void __ubsan_handle_divrem_overflow(void*, void*, void*) {
  lacuna_simt::fail_undefined("a division by zero, or of the least number by -1", LACUNA_HERE);
}
void __ubsan_handle_float_cast_overflow(void*, void*) {
  lacuna_simt::fail_undefined("a number that the integer type cannot hold", LACUNA_HERE);
}
#define LACUNA_OVERFLOW(name)                                                      \
  void __ubsan_handle_##name##_overflow(void*, void*, void*) {                     \
    lacuna_simt::fail_undefined("a signed " #name " that overflows", LACUNA_HERE); \
  }
LACUNA_OVERFLOW(add)
LACUNA_OVERFLOW(sub)
LACUNA_OVERFLOW(mul)
LACUNA_OVERFLOW(negate)

}  // extern "C"
