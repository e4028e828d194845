// SPDX-License-Identifier: MIT OR Apache-2.0
// One warp's matrix products, d += a * b, and the loads that bring their fragments. All 32 lanes
// take part. With `group = lane / 4` and `pair = lane % 4`, as the PTX ISA numbers them:
//
//   d, 16 x 8 of 32 bits    d[0..2]: row group,     columns 2 pair, 2 pair + 1;   d[2..4]: row
//   group + 8 a, 16 x 16 of 16 bits   a[0]: row group, columns 2 pair, 2 pair + 1;   a[1]: row
//   group + 8;
//                           a[2], a[3]: the same rows, columns + 8
//   b, 16 x 8 of 16 bits    b[0]: rows 2 pair, 2 pair + 1, column group;   b[1]: rows + 8
//   a, 16 x 32 of 8 bits    a[0]: row group, columns 4 pair to 4 pair + 3;   a[1]: row group + 8;
//                           a[2], a[3]: the same rows, columns + 16
//   b, 32 x 8 of 8 bits     b[0]: rows 4 pair to 4 pair + 3, column group;   b[1]: rows + 16
//
// The lowest column (of a) or row (of b) is in the lowest bits.
#ifndef LACUNA_COMMON_MMA_CUH_
#define LACUNA_COMMON_MMA_CUH_

#include "kernel.cuh"

#ifdef __CUDACC__

#define LACUNA_MMA(name, shape, types, T, letter)                                                \
  __device__ __forceinline__ void name(T(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2]) { \
    asm volatile("mma.sync.aligned." shape ".row.col." types                                     \
                 " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                        \
                 : "+" letter(d[0]), "+" letter(d[1]), "+" letter(d[2]), "+" letter(d[3])        \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));            \
  }
LACUNA_MMA(mma_bf16, "m16n8k16", "f32.bf16.bf16.f32", float, "f")
LACUNA_MMA(mma_f16, "m16n8k16", "f32.f16.f16.f32", float, "f")
LACUNA_MMA(mma_s8, "m16n8k32", "s32.s8.s8.s32", int32_t, "r")
LACUNA_MMA(mma_u8, "m16n8k32", "s32.u8.u8.s32", int32_t, "r")
LACUNA_MMA(mma_u8_s8, "m16n8k32", "s32.u8.s8.s32", int32_t, "r")
#if __CUDA_ARCH__ >= 890
LACUNA_MMA(mma_e4m3, "m16n8k32", "f32.e4m3.e4m3.f32", float, "f")
LACUNA_MMA(mma_e5m2, "m16n8k32", "f32.e5m2.e5m2.f32", float, "f")
#endif
#undef LACUNA_MMA

// Loads 8 x 8 matrices of 16-bit elements from shared memory: lane 8 i + r gives the address of row
// r of matrix i, a multiple of 16; the lane's word i is then of matrix i, row `group`, columns 2
// pair and 2 pair + 1; transposed, of column `group`, rows 2 pair and 2 pair + 1.
__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&words)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices(uint32_t (&words)[2], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(words[0]), "=r"(words[1])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&words)[2], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(words[0]), "=r"(words[1])
               : "r"(address)
               : "memory");
}

#else

#define LACUNA_MMA(name, T, kind)                                                   \
  __forceinline__ void name(T(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2], \
                            LACUNA_PLACE) {                                         \
    lacuna_simt::multiply(lacuna_simt::MmaKind::kind, d, a, b, LACUNA_PASS_PLACE);  \
  }
LACUNA_MMA(mma_bf16, float, kBf16)
LACUNA_MMA(mma_f16, float, kF16)
LACUNA_MMA(mma_e4m3, float, kE4m3)
LACUNA_MMA(mma_e5m2, float, kE5m2)
LACUNA_MMA(mma_s8, int32_t, kS8)
LACUNA_MMA(mma_u8, int32_t, kU8)
LACUNA_MMA(mma_u8_s8, int32_t, kU8S8)
#undef LACUNA_MMA

// The lanes' words are their own: what the executor writes there is no access of the kernel.
template <uint32_t kWords>
__forceinline__ void load_matrices(uint32_t (&words)[kWords], const void* row, LACUNA_PLACE) {
  lacuna_simt::load_matrices(words, kWords, row, false, LACUNA_PASS_PLACE);
}
template <uint32_t kWords>
__forceinline__ void load_matrices_transposed(uint32_t (&words)[kWords], const void* row,
                                              LACUNA_PLACE) {
  lacuna_simt::load_matrices(words, kWords, row, true, LACUNA_PASS_PLACE);
}

#endif  // __CUDACC__

#endif  // LACUNA_COMMON_MMA_CUH_
