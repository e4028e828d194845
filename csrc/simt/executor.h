// SPDX-License-Identifier: MIT OR Apache-2.0
// The SIMT executor's two faces: the C ABI that src/simt.rs calls, and what a kernel compiled by
// the host compiler calls (through cuda.h, which gives it CUDA's names).
#ifndef LACUNA_SIMT_EXECUTOR_H_
#define LACUNA_SIMT_EXECUTOR_H_

#include <stddef.h>
#include <stdint.h>

extern "C" {

// Memory that a launch may touch.
typedef struct LacunaSimtRegion {
  uint64_t start;
  uint64_t n_bytes;
  const char* name;
  // The numbers of Role in src/region.rs.
  uint32_t role;
  uint32_t reserved;
} LacunaSimtRegion;

// What the accesses of one instruction of a kernel came to.
typedef struct LacunaSimtSite {
  uint64_t pc;
  // The numbers of Space and Direction in src/simt/counters.rs.
  uint32_t space;
  uint32_t direction;
  uint64_t n_requests;
  uint64_t n_bytes;
  // 32-byte sectors of global memory, or ways of shared memory's banks, summed over requests.
  uint64_t n_units;
  uint64_t most_units;
} LacunaSimtSite;

typedef struct LacunaSimtTotals {
  uint64_t n_barriers;
  uint64_t n_collectives;
  uint64_t n_atomics;
} LacunaSimtTotals;

typedef struct LacunaSimtLaunch {
  void (*entry)(const void* params, uint32_t is_checked);
  const void* params;
  uint64_t params_bytes;
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t dynamic_shared_bytes;
  // Blocks of a cluster, along x: 1 to kMaxClusterBlocks, and a divisor of grid[0].
  uint32_t cluster_blocks;
  // The numbers of Schedule and Fibres in src/simt.rs.
  uint32_t schedule;
  uint32_t fibres;
  uint32_t n_workers;
  uint64_t seed;
  uint64_t step_budget;
  // The bits of Checks in src/simt/checks.rs.
  uint32_t checks;
  // Budgets of one request, counted only with the counters on; 0 is none.
  uint32_t most_sectors;
  uint32_t most_conflict_ways;
  // Of mma.h: 0 is Ampere's model, 1 Hopper's.
  uint32_t mma_model;
  // What each byte of outputs and workspace is before the launch, and of shared memory before a
  // block.
  uint32_t fill;
  const LacunaSimtRegion* regions;
  uint64_t n_regions;
  // Called for every instruction that touched memory, with the counters on.
  void (*on_site)(void* context, const LacunaSimtSite* site);
  void* context;
  LacunaSimtTotals* totals;
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
  // The other access of a race; 0 where there is none.
  uint64_t other_pc;
  char message[256];
} LacunaSimtFault;

void lacuna_simt_launch(const LacunaSimtLaunch* launch, LacunaSimtFault* fault);

}  // extern "C"

namespace lacuna_simt {

constexpr uint32_t kWarpSize = 32;
constexpr uint32_t kMaxClusterBlocks = 16;

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
  // What common/mma.cuh names: all lanes' values at once.
  kJoint,
};

// The first four as Operand in mma.h.
// Of two letters the second is that of `b`.
enum class MmaKind : uint32_t { kBf16, kF16, kE4m3, kE5m2, kS8, kU8, kU8S8 };
void multiply(MmaKind kind, void* d, const uint32_t* a, const uint32_t* b, const char* file,
              uint32_t line);
void load_matrices(uint32_t* words, uint32_t n_words, const void* row, bool is_transposed,
                   const char* file, uint32_t line);

// By value: what the executor keeps is not the kernel's memory.
Dim3 thread_idx();
Dim3 block_idx();
Dim3 block_dim();
Dim3 grid_dim();

// The constants of a program or library; `some` is one of them, or there would be none.
struct Constants {
  const void* start;
  const void* end;
  const void* some;
};

// What every thread calls first: the most threads of a block that its kernel is compiled for, and
// the constants that it may read.
void begin_thread(uint32_t n_threads, const Constants& constants, const char* file, uint32_t line);

void* static_shared(const void* key, size_t n_bytes, size_t alignment, const char* name);
void* dynamic_shared();

enum class Scope : uint32_t { kBlock, kDevice };
void fence(Scope scope);

// What common/cluster.cuh names. The address is one of shared memory of the calling block, and what
// is returned is the same place in another block of its cluster.
uint32_t cluster_rank();
uint32_t cluster_n_blocks();
void cluster_barrier(const char* file, uint32_t line);
uint64_t map_shared(uint64_t address, uint32_t rank);

// What common/async.cuh names; an mbarrier is known by its address.
void copy_async(void* target, const void* source, uint32_t n_bytes, bool is_valid);
void commit_copies();
void wait_copies(uint32_t n_pending);
void init_barrier(uint64_t* barrier, uint32_t n_arrivals);
void arrive(uint64_t* barrier, uint32_t n_bytes);
void copy_bulk(void* target, const void* source, uint32_t n_bytes, uint64_t* barrier);
void wait_barrier(uint64_t* barrier, uint32_t parity);

// memcpy and memset for checked kernels: the compiler does not report calls of those.
void copy(void* target, const void* source, size_t n_bytes);
void fill(void* target, int value, size_t n_bytes);

// Threads of the block that gave a nonzero predicate; all of them have arrived.
uint32_t barrier(bool predicate, const char* file, uint32_t line);
// `argument` is the lane, delta or lane mask of a shuffle; `width` its segment.
uint64_t collect(Op op, uint32_t mask, uint64_t value, uint32_t argument, uint32_t width,
                 const char* file, uint32_t line);

}  // namespace lacuna_simt

#endif  // LACUNA_SIMT_EXECUTOR_H_
