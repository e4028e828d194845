// SPDX-License-Identifier: MIT OR Apache-2.0
// The SIMT executor's two faces: the C ABI that src/simt.rs calls, and what a kernel compiled by
// the host compiler calls (through cuda.h, which gives it CUDA's names).
#ifndef LACUNA_SIMT_EXECUTOR_H_
#define LACUNA_SIMT_EXECUTOR_H_

#include <stddef.h>
#include <stdint.h>

extern "C" {

typedef struct LacunaSimtLaunch {
  void (*entry)(const void* params);
  const void* params;
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t dynamic_shared_bytes;
  // The numbers of Schedule and Fibres in src/simt.rs.
  uint32_t schedule;
  uint32_t fibres;
  uint32_t n_workers;
  uint64_t seed;
  uint64_t step_budget;
} LacunaSimtLaunch;

typedef struct LacunaSimtFault {
  // The numbers of FaultKind in src/simt.rs; 0 is none.
  uint32_t kind;
  uint32_t block[3];
  uint32_t thread[3];
  uint32_t line;
  // Null where only `pc` is known.
  const char* file;
  uint64_t pc;
  char message[256];
} LacunaSimtFault;

void lacuna_simt_launch(const LacunaSimtLaunch* launch, LacunaSimtFault* fault);

}  // extern "C"

namespace lacuna_simt {

struct Dim3 {
  uint32_t x, y, z;
};

enum class Op : uint32_t {
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kBallot,
  kAny,
  kAll,
  kMatchAny,
  kReduceAdd,
  kReduceMin,
  kReduceMax,
  kReduceMinSigned,
  kReduceMaxSigned,
  kReduceAnd,
  kReduceOr,
  kReduceXor,
  kSyncWarp,
};

const Dim3& thread_idx();
const Dim3& block_idx();
const Dim3& block_dim();
const Dim3& grid_dim();

void* static_shared(const void* key, size_t n_bytes, size_t alignment);
void* dynamic_shared();

// Threads of the block that gave a nonzero predicate; all of them have arrived.
uint32_t barrier(bool predicate, const char* file, uint32_t line);
// `argument` is the lane, delta or lane mask of a shuffle; `width` its segment.
uint64_t collect(Op op, uint32_t mask, uint64_t value, uint32_t argument, uint32_t width,
                 const char* file, uint32_t line);

}  // namespace lacuna_simt

#endif  // LACUNA_SIMT_EXECUTOR_H_
