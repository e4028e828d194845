// SPDX-License-Identifier: MIT OR Apache-2.0
// Does what its input says, step by step: tests/races/ has the other side of it.

#include "../../common/cluster.cuh"
#include "params.h"

namespace {
enum Kind : uint32_t {
  kNothing,
  kRead,
  kWrite,
  kVolatileRead,
  kVolatileWrite,
  kAdd,
  kExchange,
  kCompareAndSwap,
  kFence,
  kBlockFence,
  kSyncWarp,
  kMeet,
  kBarrier,
  kClusterBarrier,
};

constexpr uint32_t kMostSteps = 256;

struct Step {
  uint32_t kind;
  // A thread; of what a warp does together, its first.
  uint32_t thread;
  // Those who do it together.
  uint32_t lanes;
  // 0 is global memory, and n shared memory of the block that is n - 1 further in the cluster.
  uint32_t shared;
  uint32_t offset;
  uint32_t n_bytes;
  uint32_t value;
  uint32_t expected_low;
  uint32_t expected_high;
};

struct alignas(16) Piece {
  uint8_t bytes[16];
};

template <typename T>
__forceinline__ uint32_t access(uint8_t* address, const Step& step) {
  T* place = reinterpret_cast<T*>(address);
  switch (step.kind) {
    case kRead:
      return static_cast<uint32_t>(*place);
    case kWrite:
      *place = static_cast<T>(step.value);
      return 0;
    case kVolatileRead:
      return static_cast<uint32_t>(*static_cast<volatile T*>(place));
    case kVolatileWrite:
      *static_cast<volatile T*>(place) = static_cast<T>(step.value);
      return 0;
    case kAdd:
      return static_cast<uint32_t>(atomicAdd(place, static_cast<T>(step.value)));
    case kExchange:
      return static_cast<uint32_t>(atomicExch(place, static_cast<T>(step.value)));
    default: {
      const uint64_t expected = uint64_t{step.expected_high} << 32 | step.expected_low;
      return static_cast<uint32_t>(
          atomicCAS(place, static_cast<T>(expected), static_cast<T>(step.value)));
    }
  }
}
}  // namespace

LACUNA_ENTRY(selftest_script, SelfTestParams, 128) {
  LACUNA_SHARED(Piece, piece);
  const uint32_t first = blockIdx.x * params.reserved;
  const Step* steps = reinterpret_cast<const Step*>(params.input) + first;
  // Written at the end: what each access is next to is what the script says.
  uint32_t found[kMostSteps];
  for (uint32_t i = 0; i < params.reserved; ++i) {
    const Step& step = steps[i];
    if (step.kind == kBarrier) {
      __syncthreads();
    } else if (step.kind == kClusterBarrier) {
      cluster_barrier();
    } else if (step.kind == kSyncWarp || step.kind == kMeet) {
      const bool is_of_warp = threadIdx.x / 32 == step.thread / 32;
      if (!is_of_warp || !(step.lanes >> threadIdx.x % 32 & 1)) continue;
      if (step.kind == kSyncWarp) {
        __syncwarp(step.lanes);
      } else {
        __ballot_sync(step.lanes, 1);
      }
    } else if (threadIdx.x == step.thread) {
      uint8_t* start = reinterpret_cast<uint8_t*>(params.state);
      if (step.shared != 0) {
        const uint32_t rank = cluster_rank() + step.shared - 1;
        start = of_block(piece.bytes, rank % cluster_n_blocks());
      }
      found[i] = 0;
      if (step.kind == kFence) {
        __threadfence();
      } else if (step.kind == kBlockFence) {
        __threadfence_block();
      } else if (step.kind != kNothing && step.n_bytes == 4) {
        found[i] = access<uint32_t>(start + step.offset, step);
      } else if (step.kind != kNothing) {
        found[i] = access<unsigned long long>(start + step.offset, step);
      }
    }
  }
  if (cluster_n_blocks() > 1) cluster_barrier();
  for (uint32_t i = 0; i < params.reserved; ++i) {
    if (steps[i].kind < kSyncWarp && threadIdx.x == steps[i].thread) {
      params.output[first + i] = found[i];
    }
  }
}
