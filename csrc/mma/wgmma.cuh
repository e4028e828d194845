// SPDX-License-Identifier: MIT OR Apache-2.0
// One warpgroup's matrix products, d += a * b, by `wgmma` of compute capability 9.0. All 128
// threads take part, of four warps of which the first is a multiple of four. Warp w of them holds
// rows 16 w to 16 w + 15 of d and a, 64 in all, as fragments of common/mma.cuh; b lies in shared
// memory once for all. A product has been waited for when its function returns.
#ifndef LACUNA_MMA_WGMMA_CUH_
#define LACUNA_MMA_WGMMA_CUH_

#include "../common/mma.cuh"

// Eight columns of 32 bytes: the first 16 bytes of each, then the others.
struct alignas(16) WgmmaColumns {
  uint8_t halves[2][8][16];
};

#ifdef __CUDACC__

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// By whoever wrote columns, before the barrier after which they are multiplied: `wgmma` reads
// shared memory by another way than a thread's own accesses.
__device__ __forceinline__ void publish_columns() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The PTX ISA's matrix descriptor, without a swizzle: 128 bytes to the next 16 of each column, and
// 256 to the next eight columns, of which there are none.
__device__ __forceinline__ uint64_t describe(const WgmmaColumns& columns) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(&columns));
  return (address & 0x3FFFF) >> 4 | uint64_t{128 >> 4} << 16 | uint64_t{256 >> 4} << 32;
}

#define LACUNA_WGMMA(name, shape, types, T, letter, scales)                                      \
  __device__ __forceinline__ void name(T(&d)[4], const uint32_t(&a)[4], const WgmmaColumns& b) { \
    asm volatile(                                                                                \
        "{\n .reg .pred is_added;\n setp.eq.u32 is_added, 0, 0;\n"                               \
        " wgmma.fence.sync.aligned;\n"                                                           \
        " wgmma.mma_async.sync.aligned." shape "." types                                         \
        " {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, is_added" scales                                     \
        ";\n"                                                                                    \
        " wgmma.commit_group.sync.aligned;\n"                                                    \
        " wgmma.wait_group.sync.aligned 0;\n}"                                                   \
        : "+" letter(d[0]), "+" letter(d[1]), "+" letter(d[2]), "+" letter(d[3])                 \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(describe(b))                           \
        : "memory");                                                                             \
  }
LACUNA_WGMMA(wgmma_bf16, "m64n8k16", "f32.bf16.bf16", float, "f", ", 1, 1, 0")
LACUNA_WGMMA(wgmma_f16, "m64n8k16", "f32.f16.f16", float, "f", ", 1, 1, 0")
LACUNA_WGMMA(wgmma_e4m3, "m64n8k32", "f32.e4m3.e4m3", float, "f", ", 1, 1")
LACUNA_WGMMA(wgmma_e5m2, "m64n8k32", "f32.e5m2.e5m2", float, "f", ", 1, 1")
LACUNA_WGMMA(wgmma_s8, "m64n8k32", "s32.s8.s8", int32_t, "r", "")
LACUNA_WGMMA(wgmma_u8, "m64n8k32", "s32.u8.u8", int32_t, "r", "")
#undef LACUNA_WGMMA

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

#else

// The executor has one way to shared memory, and takes each warp's rows for themselves.
__forceinline__ void publish_columns() {}

#define LACUNA_WGMMA(name, T, multiply)                                                    \
  __forceinline__ void name(T(&d)[4], const uint32_t(&a)[4], const WgmmaColumns& b,        \
                            LACUNA_PLACE) {                                                \
    const uint32_t lane = threadIdx.x % 32;                                                \
    uint32_t words[2];                                                                     \
    for (uint32_t half = 0; half < 2; ++half) {                                            \
      words[half] = reinterpret_cast<const uint32_t*>(b.halves[half][lane / 4])[lane % 4]; \
    }                                                                                      \
    multiply(d, a, words, LACUNA_PASS_PLACE);                                              \
  }
LACUNA_WGMMA(wgmma_bf16, float, mma_bf16)
LACUNA_WGMMA(wgmma_f16, float, mma_f16)
LACUNA_WGMMA(wgmma_e4m3, float, mma_e4m3)
LACUNA_WGMMA(wgmma_e5m2, float, mma_e5m2)
LACUNA_WGMMA(wgmma_s8, int32_t, mma_s8)
LACUNA_WGMMA(wgmma_u8, int32_t, mma_u8)
#undef LACUNA_WGMMA

#endif  // __CUDACC__

#endif  // LACUNA_MMA_WGMMA_CUH_
