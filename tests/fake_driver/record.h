// SPDX-License-Identifier: MIT OR Apache-2.0
// For driver.c: every call in order, with what matters of its arguments; any call made to fail; and what is alive.
// Functions named fake_ are for tests, which find them by name.

enum { kOnce, kLost, kLate };
enum { kDevice, kPinned, kStreams, kEvents, kModules, kContexts, kRanges, kChunks, kMappings, kDepth, kKinds };

static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER;
static char* record;
static size_t record_len, record_room;
static int is_recording, n_violations, alive[kKinds];
// The n-th call of a name, or of all, from when this was said.
static struct {
  char name[48], struck[48];
  int nth, code, mode, n_calls, n_named;
} fault;

// Fails the nth call (none, where that is 0) named so (or any) by a code. kOnce: it does nothing, and those after it
// are answered again. kLost: the context is lost, and whatever is asked of it from then on fails alike; a thread's stack
// of contexts is the host's. kLate: it has done what it was asked for, and says what an earlier launch did.
void fake_fault(const char* name, int nth, int code, int mode) {
  pthread_mutex_lock(&record_lock);
  memset(&fault, 0, sizeof fault);
  if (name) snprintf(fault.name, sizeof fault.name, "%s", name);
  fault.nth = nth, fault.code = code, fault.mode = mode;
  pthread_mutex_unlock(&record_lock);
}

// Calls since then.
int fake_n_calls(void) { return fault.n_calls; }
// The name of the one that failed, or nothing.
const char* fake_struck(void) { return fault.struck; }

// What is written from now on is what fake_recorded gives, a line for a call, until this is called again.
void fake_record(int is_on) {
  pthread_mutex_lock(&record_lock);
  is_recording = is_on, record_len = 0;
  pthread_mutex_unlock(&record_lock);
}

const char* fake_recorded(void) {
  if (record) record[record_len] = 0;
  return record ? record : "";
}

// Device memory, pinned memory, streams, events, modules, contexts retained, ranges, chunks, mapped chunks, and contexts
// on the stacks of all threads.
void fake_alive(int counts[kKinds]) {
  pthread_mutex_lock(&record_lock);
  memcpy(counts, alive, sizeof alive);
  pthread_mutex_unlock(&record_lock);
}

int fake_violations(void) { return n_violations; }

static void count(int kind, int n) { __atomic_add_fetch(&alive[kind], n, __ATOMIC_SEQ_CST); }

// Every function of the driver begins here: 0, or the code that it is to return.
__attribute__((format(printf, 1, 2))) static int called(const char* format, ...) {
  char line[256], name[48];
  va_list list;
  va_start(list, format);
  vsnprintf(line, sizeof line, format, list);
  va_end(list);
  snprintf(name, sizeof name, "%.*s", (int)strcspn(line, " "), line);
  pthread_mutex_lock(&record_lock);
  if (is_recording) {
    const size_t n = strlen(line);
    if (record_len + n + 2 > record_room) record = realloc(record, record_room = 2 * (record_len + n + 2));
    if (!record) abort();
    memcpy(record + record_len, line, n), record_len += n;
    record[record_len++] = '\n';
  }
  ++fault.n_calls;
  int code = fault.struck[0] && fault.mode == kLost && strncmp(name, "cuCtx", 5) ? fault.code : 0;
  if (!fault.name[0] || !strcmp(fault.name, name)) {
    if (++fault.n_named == fault.nth) strcpy(fault.struck, name), code = fault.code;
  }
  pthread_mutex_unlock(&record_lock);
  return code;
}

#define CALLED(...)                          \
  do {                                       \
    const int struck = called(__VA_ARGS__);  \
    if (struck) return struck;               \
  } while (0)

#ifndef FAKE_IS_TRUNCATED
static int violation(const char* what) {
  char line[160];
  __atomic_add_fetch(&n_violations, 1, __ATOMIC_SEQ_CST);
  snprintf(line, sizeof line, "VIOLATION: %s", what);
  return note(line), kInvalidValue;
}

// Memory that was allocated, and not yet freed.
enum { kMaxBlocks = 1 << 16 };
static struct Block {
  uint64_t address;
  size_t n_bytes;
  uintptr_t context;
  int kind;
} blocks[kMaxBlocks];
static int n_blocks;

static void add_block(uint64_t address, size_t n_bytes, uintptr_t context, int kind) {
  pthread_mutex_lock(&record_lock);
  if (n_blocks == kMaxBlocks) abort();
  blocks[n_blocks++] = (struct Block){address, n_bytes, context, kind};
  ++alive[kind];
  pthread_mutex_unlock(&record_lock);
}

// Ends a block; 0, or why not.
static const char* end_block(uint64_t address, uintptr_t context, int kind) {
  const char* why = "memory freed that is none";
  pthread_mutex_lock(&record_lock);
  for (int idx = 0; idx < n_blocks; ++idx) {
    if (blocks[idx].address != address || blocks[idx].kind != kind) continue;
    why = "memory freed in another context";
    if (blocks[idx].context != context) break;
    free((void*)(uintptr_t)address);
    blocks[idx] = blocks[--n_blocks];
    --alive[kind];
    why = NULL;
    break;
  }
  pthread_mutex_unlock(&record_lock);
  return why;
}

// Whether all of it lies in one block.
static int is_block(uint64_t address, size_t n_bytes) {
  int is_found = 0;
  pthread_mutex_lock(&record_lock);
  for (int idx = 0; idx < n_blocks && !is_found; ++idx) {
    const struct Block* block = &blocks[idx];
    is_found = address >= block->address && address + n_bytes <= block->address + block->n_bytes;
  }
  pthread_mutex_unlock(&record_lock);
  return is_found;
}
#endif
