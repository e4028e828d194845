// SPDX-License-Identifier: MIT OR Apache-2.0
// A CUDA driver without a device: memory is host memory, streams are numbers, a launch runs
// nothing (unless FAKE_RUNS: rehearsal.cc runs it in the SIMT executor). It writes the name of each call that an engine could notice to the file that FAKE_LOG
// names. What it claims to be is given by macros; tests/driver.rs compiles it once for each claim.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef FAKE_VERSION
#define FAKE_VERSION 12040
#endif
#ifndef FAKE_INIT_RESULT
#define FAKE_INIT_RESULT 0
#endif
#ifndef FAKE_DEVICES
#define FAKE_DEVICES 1
#endif
#ifndef FAKE_MAJOR
#define FAKE_MAJOR 8
#endif
#ifndef FAKE_MINOR
#define FAKE_MINOR 0
#endif
#ifndef FAKE_POOLS
#define FAKE_POOLS 1
#endif
#ifndef FAKE_NAME
#define FAKE_NAME "Fake"
#endif
#ifndef FAKE_L2
#define FAKE_L2 (40 << 20)
#endif
#ifndef FAKE_VIRTUAL_MEMORY
#define FAKE_VIRTUAL_MEMORY 1
#endif
#ifndef FAKE_LOAD_RESULT
#define FAKE_LOAD_RESULT 0
#endif

enum { kInvalidValue = 1, kOutOfMemory = 2, kInvalidDevice = 101, kInvalidContext = 201 };
enum { kNotFound = 500 };
enum { kPrimary = 0x1000, kMaxDepth = 8 };
// The one stream that says it is being captured.
enum { kCaptured = 0xCA };

static _Thread_local uintptr_t contexts[kMaxDepth];
static _Thread_local int depth;

static void note(const char* call) {
  const char* path = getenv("FAKE_LOG");
  FILE* file = path ? fopen(path, "a") : NULL;
  if (file) {
    fprintf(file, "%s\n", call);
    fclose(file);
  }
}

static uintptr_t current(void) { return depth ? contexts[depth - 1] : 0; }
int cuInit(unsigned flags) { return flags ? kInvalidValue : FAKE_INIT_RESULT; }
int cuDriverGetVersion(int* version) { return *version = FAKE_VERSION, 0; }
int cuDeviceGetCount(int* count) { return *count = FAKE_DEVICES, 0; }

int cuDeviceGet(int* device, int ordinal) {
  if (ordinal < 0 || ordinal >= FAKE_DEVICES) return kInvalidDevice;
  return *device = ordinal, 0;
}

int cuDeviceGetName(char* name, int n_bytes, int device) {
  return snprintf(name, (size_t)n_bytes, FAKE_NAME " %d", device), 0;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  (void)device;
  switch (attribute) {
    case 16: return *value = 108, 0;
    case 36: return *value = 1215000, 0;
    case 37: return *value = 5120, 0;
    case 38: return *value = FAKE_L2, 0;
    case 75: return *value = FAKE_MAJOR, 0;
    case 76: return *value = FAKE_MINOR, 0;
    case 97: return *value = 166912, 0;
    case 102: return *value = FAKE_VIRTUAL_MEMORY, 0;
    case 115: return *value = FAKE_POOLS, 0;
    default: return kInvalidValue;
  }
}

int cuDevicePrimaryCtxRetain(uintptr_t* context, int device) {
  return note("cuDevicePrimaryCtxRetain"), *context = kPrimary + (uintptr_t)device, 0;
}

int cuCtxGetCurrent(uintptr_t* context) { return *context = current(), 0; }

int cuCtxPushCurrent_v2(uintptr_t context) {
  if (depth == kMaxDepth) return kInvalidContext;
  return contexts[depth++] = context, 0;
}

int cuCtxSetCurrent(uintptr_t context) {
  if (depth == 0) ++depth;
  return contexts[depth - 1] = context, 0;
}

int cuCtxPopCurrent_v2(uintptr_t* context) {
  if (depth == 0) return kInvalidContext;
  return *context = contexts[--depth], 0;
}

#ifndef FAKE_IS_TRUNCATED
// A real driver refuses the calls below where no context is current.
static int outside(void) {
  return current() >= kPrimary && current() < kPrimary + FAKE_DEVICES ? 0 : kInvalidContext;
}

#ifdef FAKE_RUNS
static void queued(uintptr_t stream) { (void)stream; }
#endif
#include "virtual_memory.h"

int cuDeviceTotalMem_v2(size_t* n_bytes, int device) {
  (void)device;
  return *n_bytes = (size_t)80 << 30, 0;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
  (void)device;
  return note("cuDevicePrimaryCtxRelease"), 0;
}

int cuStreamCreate(uintptr_t* stream, unsigned flags) {
  static uintptr_t next = 0x5000;
  if (outside()) return outside();
  note(flags == 1 ? "cuStreamCreate non-blocking" : "cuStreamCreate");
  *stream = next += 0x10;
#ifndef FAKE_RUNS
  pthread_mutex_lock(&order_lock);
  lines[line_of(*stream)].context = current();
  pthread_mutex_unlock(&order_lock);
#endif
  return 0;
}

int cuStreamDestroy_v2(uintptr_t stream) {
  (void)stream;
  return note("cuStreamDestroy"), outside();
}

#ifdef FAKE_RUNS
int cuStreamSynchronize(uintptr_t stream) {
  (void)stream;
  return note("cuStreamSynchronize"), outside();
}
#endif

static int allocate(uint64_t* address, size_t n_bytes) {
  // A driver's fresh memory is anything but zero.
  void* memory = n_bytes < (size_t)1 << 40 ? aligned_alloc(256, (n_bytes + 255) & ~(size_t)255) : NULL;
  if (!memory) return kOutOfMemory;
  memset(memory, 0xA5, n_bytes);
  return *address = (uint64_t)(uintptr_t)memory, outside();
}

int cuMemAlloc_v2(uint64_t* address, size_t n_bytes) {
  return note("cuMemAlloc"), allocate(address, n_bytes);
}

int cuMemAllocAsync(uint64_t* address, size_t n_bytes, uintptr_t stream) {
  queued(stream);
  return note("cuMemAllocAsync"), allocate(address, n_bytes);
}

int cuMemFree_v2(uint64_t address) {
  return note("cuMemFree"), free((void*)(uintptr_t)address), outside();
}

int cuMemFreeAsync(uint64_t address, uintptr_t stream) {
  queued(stream);
  return note("cuMemFreeAsync"), free((void*)(uintptr_t)address), outside();
}

enum { kMaxPinned = 64 };
static struct {
  uint64_t address;
  uintptr_t context;
} pinned[kMaxPinned];

int cuMemHostAlloc(void** address, size_t n_bytes, unsigned flags) {
  uint64_t memory = 0;
  char line[64];
  snprintf(line, sizeof line, "cuMemHostAlloc flags %u", flags);
  note(line);
  const int code = allocate(&memory, n_bytes);
  for (int idx = 0; code == 0 && idx < kMaxPinned; ++idx) {
    if (pinned[idx].address) continue;
    pinned[idx].address = memory, pinned[idx].context = current();
    break;
  }
  return *address = (void*)(uintptr_t)memory, code;
}

int cuMemFreeHost(void* address) {
  note("cuMemFreeHost");
  for (int idx = 0; idx < kMaxPinned; ++idx) {
    if (pinned[idx].address != (uint64_t)(uintptr_t)address) continue;
    if (pinned[idx].context != current()) return violation("cuMemFreeHost in another context");
    pinned[idx].address = 0;
  }
  return free(address), outside();
}

int cuMemcpyHtoDAsync_v2(uint64_t target, const void* source, size_t n_bytes, uintptr_t stream) {
  queued(stream);
  note("cuMemcpyHtoDAsync");
  return memcpy((void*)(uintptr_t)target, source, n_bytes), outside();
}

int cuMemcpyDtoHAsync_v2(void* target, uint64_t source, size_t n_bytes, uintptr_t stream) {
  queued(stream);
  note("cuMemcpyDtoHAsync");
  return memcpy(target, (const void*)(uintptr_t)source, n_bytes), outside();
}

int cuMemsetD8Async(uint64_t target, unsigned char value, size_t n_bytes, uintptr_t stream) {
  queued(stream);
  note("cuMemsetD8Async");
  const int code = failure();
  if (code) return code;
  return memset((void*)(uintptr_t)target, value, n_bytes), 0;
}

#ifndef FAKE_RUNS
int cuModuleLoadDataEx(uintptr_t* module, const char* image, unsigned n_options, int* options,
                       void** values) {
  note("cuModuleLoadDataEx");
  if (!strstr(image, ".version")) return kInvalidValue;
  for (unsigned idx = 0; FAKE_LOAD_RESULT && idx < n_options; ++idx) {
    // CU_JIT_ERROR_LOG_BUFFER
    if (options[idx] == 5) strcpy(values[idx], "ptxas fatal : the fake says no\n");
  }
  char* copy = malloc(strlen(image) + 1);
  if (!copy) return kOutOfMemory;
  *module = (uintptr_t)strcpy(copy, image);
  return FAKE_LOAD_RESULT ? FAKE_LOAD_RESULT : outside();
}

int cuModuleGetFunction(uintptr_t* function, uintptr_t module, const char* name) {
  char entry[128];
  snprintf(entry, sizeof entry, ".entry %s(", name);
  if (!strstr((const char*)module, entry)) return kNotFound;
  return *function = 0x8000, outside();
}

#endif

int cuModuleUnload(uintptr_t module) {
  (void)module;
  return note("cuModuleUnload"), outside();
}

int cuFuncGetAttribute(int* value, int attribute, uintptr_t function) {
  (void)function;
  // CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
  return *value = attribute == 1 ? 912 : 0, outside();
}

int cuFuncSetAttribute(uintptr_t function, int attribute, int value) {
  char line[64];
  (void)function;
  snprintf(line, sizeof line, "cuFuncSetAttribute %d %d", attribute, value);
  note(line);
  // CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, which not every driver has to know.
  return attribute == 14 ? kInvalidValue : outside();
}

#ifndef FAKE_RUNS
int cuLaunchKernel(uintptr_t function, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z,
                   unsigned threads_x, unsigned threads_y, unsigned threads_z,
                   unsigned dynamic_shared_bytes, uintptr_t stream, void** params, void** extra) {
  char line[160];
  snprintf(line, sizeof line,
           "cuLaunchKernel %#lx blocks %u,%u,%u threads %u,%u,%u shared %u stream %#lx param %#lx",
           (unsigned long)function, blocks_x, blocks_y, blocks_z, threads_x, threads_y, threads_z,
           dynamic_shared_bytes, (unsigned long)stream, (unsigned long)*(uint64_t*)params[0]);
  (void)extra;
  queued(stream);
  return note(line), outside();
}

// Of cuda.h, for one attribute.
struct Attribute {
  int id;
  char pad[4];
  union {
    char pad[64];
    unsigned cluster[3];
  } value;
};
struct Config {
  unsigned blocks[3];
  unsigned threads[3];
  unsigned dynamic_shared_bytes;
  uintptr_t stream;
  const struct Attribute* attributes;
  unsigned n_attributes;
};

int cuLaunchKernelEx(const struct Config* config, uintptr_t function, void** params, void** extra) {
  char line[200];
  const struct Attribute* attribute = config->attributes;
  // CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
  if (extra || config->n_attributes != 1 || attribute->id != 4) return kInvalidValue;
  snprintf(line, sizeof line,
           "cuLaunchKernelEx %#lx blocks %u,%u,%u threads %u,%u,%u shared %u stream %#lx param %#lx "
           "cluster %u,%u,%u",
           (unsigned long)function, config->blocks[0], config->blocks[1], config->blocks[2],
           config->threads[0], config->threads[1], config->threads[2],
           config->dynamic_shared_bytes, (unsigned long)config->stream,
           (unsigned long)*(uint64_t*)params[0], attribute->value.cluster[0],
           attribute->value.cluster[1], attribute->value.cluster[2]);
  queued(config->stream);
  return note(line), outside();
}
#endif
#endif
