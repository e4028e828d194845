// SPDX-License-Identifier: MIT OR Apache-2.0
// The driver's virtual memory, for driver.c: reserved addresses are pages that nobody may touch, a chunk is a file in
// memory, and mapping is mapping, so that whoever touches what is not mapped or not allowed is a crash. It holds its
// caller to the protocol: a call that breaks it is noted as a VIOLATION and refused. Any call can be made to fail.
#include <sys/mman.h>
#include <unistd.h>

#ifndef FAKE_GRANULARITY
#define FAKE_GRANULARITY (2 << 20)
#endif

enum { kMaxRanges = 256, kMaxChunks = 4096, kNotReady = 600 };

struct Range {
  uint64_t address;
  size_t n_bytes;
};
struct Chunk {
  int file;
  uint64_t handle;
  size_t n_bytes;
  uint64_t address;
  int is_allowed, is_old;
};

static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;
static struct Range ranges[kMaxRanges];
// A handle's is that of its number, round after round; a file of 0 is none.
static struct Chunk chunks[kMaxChunks];
static int n_chunks_made, n_calls, fail_at, fail_code, free_chunks = kMaxChunks;
static int is_held, blocked_call, is_blocked;
enum { kUnmap = 1, kQuery = 2 };
static _Thread_local int capture_mode;

// What tests ask and set; they find these by name.
void fake_fail(int at, int code) { n_calls = 0, fail_at = at, fail_code = code; }
void fake_leave_chunks(int n) { free_chunks = n; }
void fake_hold_events(int held) { is_held = held; }
int fake_calls(void) { return n_calls; }
void fake_block(int call) { __atomic_store_n(&blocked_call, call, __ATOMIC_SEQ_CST); }
int fake_is_blocked(void) { return __atomic_load_n(&is_blocked, __ATOMIC_SEQ_CST); }

// Here a thread stands in a call for as long as a test looks at what others may do meanwhile.
static void stand(int call) {
  while (__atomic_load_n(&blocked_call, __ATOMIC_SEQ_CST) == call) {
    __atomic_store_n(&is_blocked, 1, __ATOMIC_SEQ_CST);
    usleep(200);
  }
  __atomic_store_n(&is_blocked, 0, __ATOMIC_SEQ_CST);
}

// Ranges, chunks, mapped chunks, violations.
void fake_balance(int counts[4]) {
  pthread_mutex_lock(&memory_lock);
  memset(counts, 0, 4 * sizeof *counts);
  for (int idx = 0; idx < kMaxRanges; ++idx) counts[0] += ranges[idx].n_bytes != 0;
  for (int idx = 0; idx < kMaxChunks; ++idx) {
    counts[1] += chunks[idx].file != 0;
    counts[2] += chunks[idx].file != 0 && chunks[idx].address != 0;
  }
  counts[3] = n_violations;
  pthread_mutex_unlock(&memory_lock);
}

// Whether this call is the one that fails: 0, or its code. Every call that can comes here once.
static int failure(void) {
  if (outside()) return outside();
  return __atomic_add_fetch(&n_calls, 1, __ATOMIC_SEQ_CST) == fail_at ? fail_code : 0;
}

#ifndef FAKE_RUNS
#include "order.h"
#endif

// What a lost context takes with it, of addresses and what is mapped there.
void fake_bury(void) {
  pthread_mutex_lock(&memory_lock);
  for (int idx = 0; idx < kMaxChunks; ++idx) {
    if (!chunks[idx].file) continue;
    if (chunks[idx].address) munmap((void*)(uintptr_t)chunks[idx].address, chunks[idx].n_bytes), count(kMappings, -1);
    close(chunks[idx].file), count(kChunks, -1);
    chunks[idx].file = 0;
  }
  for (int idx = 0; idx < kMaxRanges; ++idx) {
    if (ranges[idx].n_bytes) count(kRanges, -1);
    ranges[idx].n_bytes = 0;
  }
  pthread_mutex_unlock(&memory_lock);
}

static struct Range* range_of(uint64_t address, size_t n_bytes) {
  for (int idx = 0; idx < kMaxRanges; ++idx) {
    struct Range* range = &ranges[idx];
    const uint64_t end = range->address + range->n_bytes;
    if (range->n_bytes && address >= range->address && address + n_bytes <= end) return range;
  }
  return NULL;
}

static struct Chunk* chunk_at(uint64_t address) {
  for (int idx = 0; idx < kMaxChunks; ++idx) {
    struct Chunk* chunk = &chunks[idx];
    if (!chunk->file || !chunk->address) continue;
    if (address >= chunk->address && address < chunk->address + chunk->n_bytes) return chunk;
  }
  return NULL;
}

static struct Chunk* chunk_of(uint64_t handle) {
  struct Chunk* chunk = &chunks[handle % kMaxChunks];
  return chunk->file && chunk->handle == handle ? chunk : NULL;
}

static void note_place(const char* call, uint64_t address, size_t n_bytes, uint64_t handle) {
  char line[160];
  const struct Range* range = range_of(address, 1);
  int n = snprintf(line, sizeof line, "%s %llu+%zu", call,
                   (unsigned long long)(range ? address - range->address : address) / FAKE_GRANULARITY,
                   n_bytes / FAKE_GRANULARITY);
  if (handle) snprintf(line + n, sizeof line - (size_t)n, " chunk %llu", (unsigned long long)handle);
  note(line);
}

struct Location {
  int type, id;
};
struct Properties {
  int type, handle_types;
  struct Location location;
  void* win32;
  unsigned char flags[8];
};
struct Access {
  struct Location location;
  int flags;
};

static int is_ours(struct Location location) { return location.type == 1 && location.id == 0; }

static int check_properties(const struct Properties* properties) {
  static const unsigned char none[8];
  return properties->type == 1 && properties->handle_types == 0 && is_ours(properties->location) &&
                 !properties->win32 && !memcmp(properties->flags, none, sizeof none)
             ? 0
             : violation("properties of no device memory");
}

int cuMemGetAllocationGranularity(size_t* n_bytes, const struct Properties* properties, int option) {
  CALLED("cuMemGetAllocationGranularity");
  note("cuMemGetAllocationGranularity");
  const int code = failure();
  if (code) return code;
  if (option != 0) return violation("not the least granularity");
  return *n_bytes = FAKE_GRANULARITY, check_properties(properties);
}

int cuMemAddressReserve(uint64_t* address, size_t n_bytes, size_t alignment, uint64_t wish,
                        unsigned long long flags) {
  CALLED("cuMemAddressReserve %zu", n_bytes);
  pthread_mutex_lock(&memory_lock);
  int code = failure(), idx = 0;
  note("cuMemAddressReserve");
  while (idx < kMaxRanges && ranges[idx].n_bytes) ++idx;
  if (code == 0 && (n_bytes == 0 || n_bytes % FAKE_GRANULARITY || alignment || wish || flags)) {
    code = violation("cuMemAddressReserve of no whole chunks");
  }
  if (code == 0 && idx == kMaxRanges) code = kOutOfMemory;
  if (code == 0) {
    // One granule more, to begin where one does. It is never given back: nothing may come to lie where something was.
    void* memory = mmap(NULL, n_bytes + FAKE_GRANULARITY, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      code = kOutOfMemory;
    } else {
      const uint64_t start = (uint64_t)(uintptr_t)memory + FAKE_GRANULARITY - 1;
      *address = start - start % FAKE_GRANULARITY;
      ranges[idx] = (struct Range){*address, n_bytes};
      count(kRanges, 1);
    }
  }
  pthread_mutex_unlock(&memory_lock);
  return code;
}

int cuMemAddressFree(uint64_t address, size_t n_bytes) {
  CALLED("cuMemAddressFree %zu", n_bytes);
  pthread_mutex_lock(&memory_lock);
  int code = failure();
  struct Range* range = range_of(address, n_bytes);
  note("cuMemAddressFree");
  if (code == 0 && (!range || range->address != address || range->n_bytes != n_bytes)) {
    code = violation("cuMemAddressFree of no reservation");
  }
  for (int idx = 0; code == 0 && idx < kMaxChunks; ++idx) {
    if (chunks[idx].file && chunks[idx].address && range_of(chunks[idx].address, 1) == range) {
      code = violation("cuMemAddressFree of mapped addresses");
    }
  }
  if (code == 0) *range = (struct Range){0, 0}, count(kRanges, -1);
  pthread_mutex_unlock(&memory_lock);
  return code;
}

int cuMemCreate(uint64_t* handle, size_t n_bytes, const struct Properties* properties,
                unsigned long long flags) {
  CALLED("cuMemCreate %zu", n_bytes);
  pthread_mutex_lock(&memory_lock);
  int code = failure(), n_made = 0;
  for (int idx = 0; idx < kMaxChunks; ++idx) n_made += chunks[idx].file != 0;
  if (code == 0) code = check_properties(properties);
  if (code == 0 && (n_bytes == 0 || n_bytes % FAKE_GRANULARITY || flags)) {
    code = violation("cuMemCreate of no whole chunk");
  }
  if (code == 0 && (n_made >= free_chunks || n_made == kMaxChunks)) code = kOutOfMemory;
  if (code == 0) {
    const int file = memfd_create("chunk", 0);
    if (file <= 0 || ftruncate(file, (off_t)n_bytes)) {
      code = kOutOfMemory;
    } else {
      do {
        ++n_chunks_made;
      } while (chunks[n_chunks_made % kMaxChunks].file);
      *handle = (uint64_t)n_chunks_made;
      chunks[*handle % kMaxChunks] = (struct Chunk){file, *handle, n_bytes, 0, 0, 0};
      count(kChunks, 1);
    }
  }
  note(code ? "cuMemCreate refused" : "cuMemCreate");
  pthread_mutex_unlock(&memory_lock);
  return code;
}

int cuMemRelease(uint64_t handle) {
  CALLED("cuMemRelease");
  pthread_mutex_lock(&memory_lock);
  int code = failure();
  struct Chunk* chunk = chunk_of(handle);
  char line[64];
  snprintf(line, sizeof line, "cuMemRelease chunk %llu", (unsigned long long)handle);
  note(line);
  if (code == 0 && !chunk) code = violation("cuMemRelease of no chunk");
  if (code == 0 && chunk->address) code = violation("cuMemRelease of a mapped chunk");
  if (code == 0) close(chunk->file), chunk->file = 0, count(kChunks, -1);
  pthread_mutex_unlock(&memory_lock);
  return code;
}

int cuMemMap(uint64_t address, size_t n_bytes, size_t offset, uint64_t handle, unsigned long long flags) {
  CALLED("cuMemMap %zu", n_bytes);
  pthread_mutex_lock(&memory_lock);
  int code = failure();
  struct Chunk* chunk = chunk_of(handle);
  note_place("cuMemMap", address, n_bytes, handle);
  if (code == 0 && !range_of(address, n_bytes)) code = violation("cuMemMap where nothing is reserved");
  if (code == 0 && (!chunk || chunk->n_bytes != n_bytes || offset || flags)) {
    code = violation("cuMemMap of no whole chunk");
  }
  if (code == 0 && (address % FAKE_GRANULARITY || n_bytes % FAKE_GRANULARITY)) {
    code = violation("cuMemMap of no granule");
  }
  if (code == 0 && chunk->address) code = violation("cuMemMap of a chunk that is mapped");
  for (size_t at = 0; code == 0 && at < n_bytes; at += FAKE_GRANULARITY) {
    if (chunk_at(address + at)) code = violation("cuMemMap where a chunk is");
  }
  if (code == 0) chunk->address = address, chunk->is_allowed = 0, count(kMappings, 1);
  pthread_mutex_unlock(&memory_lock);
  return code;
}

int cuMemSetAccess(uint64_t address, size_t n_bytes, const struct Access* access, size_t n) {
  CALLED("cuMemSetAccess %zu", n_bytes);
  pthread_mutex_lock(&memory_lock);
  int code = failure();
  note_place("cuMemSetAccess", address, n_bytes, 0);
  // CU_MEM_ACCESS_FLAGS_PROT_READWRITE
  if (code == 0 && (n != 1 || !is_ours(access->location) || access->flags != 3)) {
    code = violation("cuMemSetAccess for another device");
  }
  for (uint64_t at = address; code == 0 && at < address + n_bytes;) {
    struct Chunk* chunk = chunk_at(at);
    if (!chunk || chunk->address != at || at + chunk->n_bytes > address + n_bytes) {
      code = violation("cuMemSetAccess of what is not mapped whole");
      break;
    }
    if (chunk->is_allowed) {
      code = violation("cuMemSetAccess of what is allowed");
      break;
    }
    mmap((void*)(uintptr_t)at, chunk->n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
         chunk->file, 0);
    // A driver's fresh memory is anything but zero: NaN, whatever the type.
    if (!chunk->is_old) memset((void*)(uintptr_t)at, 0xFF, chunk->n_bytes);
    chunk->is_allowed = chunk->is_old = 1;
    at += chunk->n_bytes;
  }
  pthread_mutex_unlock(&memory_lock);
  return code;
}

int cuMemUnmap(uint64_t address, size_t n_bytes) {
  CALLED("cuMemUnmap %zu", n_bytes);
  stand(kUnmap);
  pthread_mutex_lock(&memory_lock);
  int code = failure();
  struct Chunk* chunk = chunk_at(address);
  note_place("cuMemUnmap", address, n_bytes, 0);
  if (code == 0 && (!chunk || chunk->address != address || chunk->n_bytes != n_bytes)) {
    code = violation("cuMemUnmap of no whole mapping");
  }
  if (code == 0) {
    mmap((void*)(uintptr_t)address, n_bytes, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    chunk->address = 0;
    count(kMappings, -1);
  }
  pthread_mutex_unlock(&memory_lock);
  return code;
}

int cuThreadExchangeStreamCaptureMode(int* mode) {
  CALLED("cuThreadExchangeStreamCaptureMode %d", *mode);
  const int before = capture_mode;
  capture_mode = *mode;
  note(*mode == 2 ? "cuThreadExchangeStreamCaptureMode relaxed" : "cuThreadExchangeStreamCaptureMode");
  return *mode = before, 0;
}

#ifndef FAKE_RUNS
int cuEventQuery(uintptr_t event) {
  CALLED("cuEventQuery");
  (void)event;
  note("cuEventQuery");
  // Whoever asks while a graph is captured elsewhere spoils it, but for threads that said they are not part of it.
  if (capture_mode != 2) return violation("cuEventQuery by a thread that minds captures");
  const int code = failure();
  if (code) return code;
  const int answer = is_held ? kNotReady : 0;
  stand(kQuery);
  return answer;
}

int cuEventSynchronize(uintptr_t event) {
  CALLED("cuEventSynchronize");
  (void)event;
  note("cuEventSynchronize");
  return failure();
}

int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t n_bytes, uintptr_t stream) {
  CALLED("cuMemcpyDtoDAsync %zu stream %#lx", n_bytes, (unsigned long)stream);
  char line[64];
  snprintf(line, sizeof line, "cuMemcpyDtoDAsync %zu", n_bytes);
  note(line);
  const int code = failure();
  if (code) return code;
  if (!is_block(target, n_bytes) || !is_block(source, n_bytes)) return violation("cuMemcpyDtoDAsync of no memory");
  queued(stream);
  return memcpy((void*)(uintptr_t)target, (const void*)(uintptr_t)source, n_bytes), 0;
}
#endif
