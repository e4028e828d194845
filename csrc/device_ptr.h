// SPDX-License-Identifier: MIT OR Apache-2.0
// A pointer to device memory, in a struct that both sides of a launch read: typed in the kernel,
// a 64-bit address in Rust, where dereferencing it would be a mistake.
#ifndef LACUNA_DEVICE_PTR_H_
#define LACUNA_DEVICE_PTR_H_

#ifdef __CUDACC_RTC__
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef int int32_t;
typedef long long int64_t;
#else
#include <stdint.h>
#endif

#ifdef LACUNA_BINDGEN
#define DEVICE_PTR(T) uint64_t
#else
#define DEVICE_PTR(T) T*
#endif

#endif  // LACUNA_DEVICE_PTR_H_
