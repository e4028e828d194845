// SPDX-License-Identifier: MIT OR Apache-2.0
// A CUDA driver without a device: memory is host memory, streams are numbers, a launch runs
// nothing (unless FAKE_RUNS: rehearsal.cc runs it in the SIMT executor). It writes the name of each call that an engine could notice to the file that FAKE_LOG
// names, and keeps a record of every call (record.h). What it claims to be is given by macros; tests/driver.rs compiles it once for each claim.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
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

#include "record.h"

static uintptr_t current(void) { return depth ? contexts[depth - 1] : 0; }

int cuInit(unsigned flags) {
  CALLED("cuInit");
  return flags ? kInvalidValue : FAKE_INIT_RESULT;
}

int cuDriverGetVersion(int* version) {
  CALLED("cuDriverGetVersion");
  return *version = FAKE_VERSION, 0;
}

int cuDeviceGetCount(int* n_devices) {
  CALLED("cuDeviceGetCount");
  return *n_devices = FAKE_DEVICES, 0;
}

int cuDeviceGet(int* device, int ordinal) {
  CALLED("cuDeviceGet %d", ordinal);
  if (ordinal < 0 || ordinal >= FAKE_DEVICES) return kInvalidDevice;
  return *device = ordinal, 0;
}

int cuDeviceGetName(char* name, int n_bytes, int device) {
  CALLED("cuDeviceGetName %d", device);
  return snprintf(name, (size_t)n_bytes, FAKE_NAME " %d", device), 0;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  CALLED("cuDeviceGetAttribute %d of %d", attribute, device);
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

static int retained[FAKE_DEVICES + 1];

int cuDevicePrimaryCtxRetain(uintptr_t* context, int device) {
  note("cuDevicePrimaryCtxRetain");
  CALLED("cuDevicePrimaryCtxRetain %d", device);
  count(kContexts, 1);
  __atomic_add_fetch(&retained[device], 1, __ATOMIC_SEQ_CST);
  return *context = kPrimary + (uintptr_t)device, 0;
}

int cuCtxGetCurrent(uintptr_t* context) {
  const int code = called("cuCtxGetCurrent");
  if (code && fault.mode != kLate) return code;
  return *context = current(), code;
}

int cuCtxPushCurrent_v2(uintptr_t context) {
  const int code = called("cuCtxPushCurrent %#lx", (unsigned long)context);
  if (code && fault.mode != kLate) return code;
  if (depth == kMaxDepth) return kInvalidContext;
  count(kDepth, 1);
  return contexts[depth++] = context, code;
}

int cuCtxSetCurrent(uintptr_t context) {
  CALLED("cuCtxSetCurrent %#lx", (unsigned long)context);
  if (depth == 0) ++depth, count(kDepth, 1);
  return contexts[depth - 1] = context, 0;
}

int cuCtxPopCurrent_v2(uintptr_t* context) {
  const int code = called("cuCtxPopCurrent");
  if (code && fault.mode != kLate) return code;
  if (depth == 0) return kInvalidContext;
  count(kDepth, -1);
  return *context = contexts[--depth], code;
}

#ifndef FAKE_IS_TRUNCATED
// A real driver refuses the calls below where no context is current, and none is that nobody retains.
static int outside(void) {
  const uintptr_t context = current();
  if (context < kPrimary || context >= kPrimary + FAKE_DEVICES) return kInvalidContext;
  return __atomic_load_n(&retained[context - kPrimary], __ATOMIC_SEQ_CST) > 0 ? 0 : kInvalidContext;
}

#ifdef FAKE_RUNS
static void queued(uintptr_t stream) { (void)stream; }
#endif
#include "virtual_memory.h"

int cuDeviceTotalMem_v2(size_t* n_bytes, int device) {
  CALLED("cuDeviceTotalMem %d", device);
  return *n_bytes = (size_t)80 << 30, 0;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
  note("cuDevicePrimaryCtxRelease");
  CALLED("cuDevicePrimaryCtxRelease %d", device);
  if (__atomic_load_n(&retained[device], __ATOMIC_SEQ_CST) == 0) return violation("a context released that nobody retains");
  __atomic_sub_fetch(&retained[device], 1, __ATOMIC_SEQ_CST);
  return count(kContexts, -1), 0;
}

int cuStreamCreate(uintptr_t* stream, unsigned flags) {
  static uintptr_t next = 0x5000;
  note(flags == 1 ? "cuStreamCreate non-blocking" : "cuStreamCreate");
  CALLED("cuStreamCreate %u", flags);
  if (outside()) return outside();
  *stream = __atomic_add_fetch(&next, 0x10, __ATOMIC_SEQ_CST);
#ifndef FAKE_RUNS
  pthread_mutex_lock(&order_lock);
  lines[line_of(*stream)].context = current();
  pthread_mutex_unlock(&order_lock);
#endif
  return count(kStreams, 1), 0;
}

int cuStreamDestroy_v2(uintptr_t stream) {
  note("cuStreamDestroy");
  CALLED("cuStreamDestroy %#lx", (unsigned long)stream);
  if (outside()) return outside();
#ifndef FAKE_RUNS
  if (!forget_line(stream)) return violation("cuStreamDestroy of no stream");
#endif
  return count(kStreams, -1), 0;
}

#ifdef FAKE_RUNS
int cuStreamSynchronize(uintptr_t stream) {
  (void)stream;
  return note("cuStreamSynchronize"), outside();
}
#endif

static int allocate(uint64_t* address, size_t n_bytes, int kind) {
  if (outside()) return outside();
  // A driver's fresh memory is anything but zero.
  void* memory = n_bytes < (size_t)1 << 40 ? aligned_alloc(256, (n_bytes + 255) & ~(size_t)255) : NULL;
  if (!memory) return kOutOfMemory;
  memset(memory, 0xA5, n_bytes);
  *address = (uint64_t)(uintptr_t)memory;
  return add_block(*address, n_bytes, current(), kind), 0;
}

static int release(uint64_t address, int kind) {
  if (outside()) return outside();
  const char* why = end_block(address, current(), kind);
  return why ? violation(why) : 0;
}

int cuMemAlloc_v2(uint64_t* address, size_t n_bytes) {
  note("cuMemAlloc");
  CALLED("cuMemAlloc %zu", n_bytes);
  return allocate(address, n_bytes, kDevice);
}

int cuMemAllocAsync(uint64_t* address, size_t n_bytes, uintptr_t stream) {
  note("cuMemAllocAsync");
  CALLED("cuMemAllocAsync %zu stream %#lx", n_bytes, (unsigned long)stream);
  return queued(stream), allocate(address, n_bytes, kDevice);
}

int cuMemFree_v2(uint64_t address) {
  note("cuMemFree");
  CALLED("cuMemFree");
  return release(address, kDevice);
}

int cuMemFreeAsync(uint64_t address, uintptr_t stream) {
  note("cuMemFreeAsync");
  CALLED("cuMemFreeAsync stream %#lx", (unsigned long)stream);
  return queued(stream), release(address, kDevice);
}

int cuMemHostAlloc(void** address, size_t n_bytes, unsigned flags) {
  uint64_t memory = 0;
  char line[64];
  snprintf(line, sizeof line, "cuMemHostAlloc flags %u", flags);
  note(line);
  CALLED("cuMemHostAlloc %zu flags %u", n_bytes, flags);
  const int code = allocate(&memory, n_bytes, kPinned);
  return *address = (void*)(uintptr_t)memory, code;
}

int cuMemFreeHost(void* address) {
  note("cuMemFreeHost");
  CALLED("cuMemFreeHost");
  return release((uint64_t)(uintptr_t)address, kPinned);
}

// Copies and fills are of memory that is there: allocated, or a range's, which is a crash where nothing is mapped.
static int is_absent(uint64_t address, size_t n_bytes) {
  return !is_block(address, n_bytes) && !range_of(address, n_bytes);
}

// What copies of so many bytes to the host find, in place of what is there: the answer of a kernel that does not run.
static const void* answer;
static size_t answer_bytes;
void fake_answer(const void* bytes, size_t n_bytes) { answer = bytes, answer_bytes = n_bytes; }

int cuMemcpyHtoDAsync_v2(uint64_t target, const void* source, size_t n_bytes, uintptr_t stream) {
  note("cuMemcpyHtoDAsync");
  CALLED("cuMemcpyHtoDAsync %zu stream %#lx", n_bytes, (unsigned long)stream);
  if (outside()) return outside();
  if (is_absent(target, n_bytes)) return violation("cuMemcpyHtoDAsync to no memory");
  return queued(stream), memcpy((void*)(uintptr_t)target, source, n_bytes), 0;
}

int cuMemcpyDtoHAsync_v2(void* target, uint64_t source, size_t n_bytes, uintptr_t stream) {
  note("cuMemcpyDtoHAsync");
  CALLED("cuMemcpyDtoHAsync %zu stream %#lx", n_bytes, (unsigned long)stream);
  if (outside()) return outside();
  if (is_absent(source, n_bytes)) return violation("cuMemcpyDtoHAsync from no memory");
  const void* bytes = answer && answer_bytes == n_bytes ? answer : (const void*)(uintptr_t)source;
  return queued(stream), memcpy(target, bytes, n_bytes), 0;
}

int cuMemsetD8Async(uint64_t target, unsigned char value, size_t n_bytes, uintptr_t stream) {
  note("cuMemsetD8Async");
  CALLED("cuMemsetD8Async %zu stream %#lx", n_bytes, (unsigned long)stream);
  const int code = failure();
  if (code) return code;
  if (is_absent(target, n_bytes)) return violation("cuMemsetD8Async of no memory");
  return queued(stream), memset((void*)(uintptr_t)target, value, n_bytes), 0;
}

#ifndef FAKE_RUNS
// A module is a copy of its text, and a function its name in that.
int cuModuleLoadDataEx(uintptr_t* module, const char* image, unsigned n_options, int* options,
                       void** values) {
  note("cuModuleLoadDataEx");
  CALLED("cuModuleLoadDataEx");
  if (outside()) return outside();
  if (!strstr(image, ".version")) return kInvalidValue;
  for (unsigned idx = 0; FAKE_LOAD_RESULT && idx < n_options; ++idx) {
    // CU_JIT_ERROR_LOG_BUFFER
    if (options[idx] == 5) strcpy(values[idx], "ptxas fatal : the fake says no\n");
  }
  if (FAKE_LOAD_RESULT) return FAKE_LOAD_RESULT;
  char* copy = malloc(strlen(image) + 1);
  if (!copy) return kOutOfMemory;
  *module = (uintptr_t)strcpy(copy, image);
  return count(kModules, 1), 0;
}

int cuModuleGetFunction(uintptr_t* function, uintptr_t module, const char* name) {
  char entry[128];
  CALLED("cuModuleGetFunction %s", name);
  if (outside()) return outside();
  snprintf(entry, sizeof entry, ".entry %s(", name);
  const char* found = strstr((const char*)module, entry);
  if (!found) return kNotFound;
  return *function = (uintptr_t)found + strlen(".entry "), 0;
}

static const char* name_of(uintptr_t function) {
  static _Thread_local char name[64];
  snprintf(name, sizeof name, "%.*s", (int)strcspn((const char*)function, "("), (const char*)function);
  return name;
}
#else
static const char* name_of(uintptr_t function) { return (void)function, ""; }
#endif

int cuModuleUnload(uintptr_t module) {
  note("cuModuleUnload");
  CALLED("cuModuleUnload");
  if (outside()) return outside();
#ifdef FAKE_RUNS
  (void)module;
#else
  free((void*)module);
#endif
  return count(kModules, -1), 0;
}

int cuFuncGetAttribute(int* value, int attribute, uintptr_t function) {
  CALLED("cuFuncGetAttribute %d of %s", attribute, name_of(function));
  // CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
  return *value = attribute == 1 ? 912 : 0, outside();
}

int cuFuncSetAttribute(uintptr_t function, int attribute, int value) {
  char line[64];
  snprintf(line, sizeof line, "cuFuncSetAttribute %d %d", attribute, value);
  note(line);
  CALLED("cuFuncSetAttribute %d of %s: %d", attribute, name_of(function), value);
  // CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, which not every driver has to know.
  return attribute == 14 ? kInvalidValue : outside();
}

#ifndef FAKE_RUNS
int cuLaunchKernel(uintptr_t function, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z,
                   unsigned threads_x, unsigned threads_y, unsigned threads_z,
                   unsigned dynamic_shared_bytes, uintptr_t stream, void** params, void** extra) {
  char line[160];
  snprintf(line, sizeof line,
           "cuLaunchKernel %s blocks %u,%u,%u threads %u,%u,%u shared %u stream %#lx param %#lx",
           name_of(function), blocks_x, blocks_y, blocks_z, threads_x, threads_y, threads_z,
           dynamic_shared_bytes, (unsigned long)stream, (unsigned long)*(uint64_t*)params[0]);
  (void)extra;
  note(line);
  CALLED("cuLaunchKernel %s stream %#lx", name_of(function), (unsigned long)stream);
  return queued(stream), outside();
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
           "cuLaunchKernelEx %s blocks %u,%u,%u threads %u,%u,%u shared %u stream %#lx param %#lx "
           "cluster %u,%u,%u",
           name_of(function), config->blocks[0], config->blocks[1], config->blocks[2],
           config->threads[0], config->threads[1], config->threads[2],
           config->dynamic_shared_bytes, (unsigned long)config->stream,
           (unsigned long)*(uint64_t*)params[0], attribute->value.cluster[0],
           attribute->value.cluster[1], attribute->value.cluster[2]);
  note(line);
  CALLED("cuLaunchKernelEx %s stream %#lx", name_of(function), (unsigned long)config->stream);
  return queued(config->stream), outside();
}
#endif
#endif
