// SPDX-License-Identifier: MIT OR Apache-2.0
// What a kernel file is written with, on either executor: an entry with one parameter struct by
// value, and shared memory as one named struct.
#ifndef LACUNA_COMMON_KERNEL_CUH_
#define LACUNA_COMMON_KERNEL_CUH_

#include "../device_ptr.h"

#ifdef __CUDACC__

#define LACUNA_ENTRY(name, Params, n_threads)             \
  extern "C" __global__ void __launch_bounds__(n_threads) \
      name(const __grid_constant__ Params params)
#define LACUNA_SHARED(Type, name) __shared__ Type name
#define LACUNA_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

#else

#include "../simt/cuda.h"

// Compiled twice: once as it is, and once with every access reported to the executor.
#ifdef LACUNA_SIMT_CHECKED
#define LACUNA_DEFINE_ENTRY(name, Params)                          \
  extern "C" void lacuna_simt_checked_##name(const void* params) { \
    name##_begin();                                                \
    name##_body(*static_cast<const Params*>(params));              \
  }
#else
#define LACUNA_DEFINE_ENTRY(name, Params)                                       \
  extern "C" void lacuna_simt_checked_##name(const void* params);               \
  extern "C" void lacuna_simt_##name(const void* params, uint32_t is_checked) { \
    if (is_checked != 0) return lacuna_simt_checked_##name(params);             \
    name##_begin();                                                             \
    name##_body(*static_cast<const Params*>(params));                           \
  }
#endif
#define LACUNA_ENTRY(name, Params, n_threads)                                   \
  static void name##_body(const Params&);                                       \
  LACUNA_INLINE void name##_begin() {                                           \
    lacuna_simt::begin_thread(n_threads, lacuna_constants, __FILE__, __LINE__); \
  }                                                                             \
  LACUNA_DEFINE_ENTRY(name, Params)                                             \
  static void name##_body([[maybe_unused]] const Params& params)
// The address of a variable of its own is the key: every thread of a block gets the same memory.
#define LACUNA_SHARED(Type, name)             \
  static const char lacuna_key_of_##name = 0; \
  Type& name = *static_cast<Type*>(           \
      lacuna_simt::static_shared(&lacuna_key_of_##name, sizeof(Type), alignof(Type), #name))
#define LACUNA_DYNAMIC_SHARED(name) \
  unsigned char* const name = static_cast<unsigned char*>(lacuna_simt::dynamic_shared())

#endif  // __CUDACC__

#endif  // LACUNA_COMMON_KERNEL_CUH_
