// SPDX-License-Identifier: MIT OR Apache-2.0
// What orders the work of streams, for driver.c: how much of each stream's work is known to be before what comes next
// in each, by events, waits and the host's. Events and streams are held to their contexts, and captures to their rules.

enum { kMaxStreams = 256, kMaxEvents = 512, kUnsupported = 900, kIsolation = 905 };
// No stream is called so.
static const uintptr_t kGone = UINTPTR_MAX;

struct Line {
  uintptr_t stream, context;
  // What is queued, and of each stream what is before whatever is queued next; this one's own included.
  uint64_t seen[kMaxStreams];
  int is_captured;
};
struct Event {
  uintptr_t context;
  int is_alive, is_recorded, is_captured;
  uintptr_t stream;
  uint64_t seen[kMaxStreams];
};

static pthread_mutex_t order_lock = PTHREAD_MUTEX_INITIALIZER;
static struct Line lines[kMaxStreams];
static struct Event events[kMaxEvents];
static uint64_t host_seen[kMaxStreams];
static int n_lines, n_events, broken_code;

static int line_of(uintptr_t stream) {
  for (int idx = 0; idx < n_lines; ++idx) {
    if (lines[idx].stream == stream) return idx;
  }
  int idx = 0;
  while (idx < n_lines && lines[idx].stream != kGone) ++idx;
  if (idx == kMaxStreams) abort();
  if (idx == n_lines) ++n_lines;
  lines[idx] = (struct Line){.stream = stream, .is_captured = stream == kCaptured};
  return idx;
}

// Its place is another's from now on; 0 where there is none.
static int forget_line(uintptr_t stream) {
  pthread_mutex_lock(&order_lock);
  int idx = 0;
  while (idx < n_lines && lines[idx].stream != stream) ++idx;
  const int is_known = idx < n_lines;
  if (is_known) {
    lines[idx].stream = kGone;
    host_seen[idx] = 0;
    for (int other = 0; other < n_lines; ++other) lines[other].seen[idx] = 0;
    for (int event = 0; event < n_events; ++event) events[event].seen[idx] = 0;
  }
  pthread_mutex_unlock(&order_lock);
  return is_known;
}

static void merge(uint64_t* into, const uint64_t* from) {
  for (int idx = 0; idx < kMaxStreams; ++idx) {
    if (from[idx] > into[idx]) into[idx] = from[idx];
  }
}

// Something is queued.
static void queued(uintptr_t stream) {
  pthread_mutex_lock(&order_lock);
  const int idx = line_of(stream);
  merge(lines[idx].seen, host_seen);
  ++lines[idx].seen[idx];
  pthread_mutex_unlock(&order_lock);
}

// Whether all that is queued in one stream is before whatever comes next in another.
int fake_is_ordered(uintptr_t before, uintptr_t after) {
  pthread_mutex_lock(&order_lock);
  const int first = line_of(before), second = line_of(after);
  const uint64_t n = lines[first].seen[first];
  const int is_ordered = lines[second].seen[first] >= n || host_seen[first] >= n;
  pthread_mutex_unlock(&order_lock);
  return is_ordered;
}

int fake_events(void) {
  int n_alive = 0;
  for (int idx = 0; idx < n_events; ++idx) n_alive += events[idx].is_alive;
  return n_alive;
}

// From now on waiting for a stream fails.
void fake_break_streams(int code) { broken_code = code; }

int cuEventCreate(uintptr_t* event, unsigned flags) {
  CALLED("cuEventCreate %u", flags);
  // CU_EVENT_DISABLE_TIMING
  note(flags == 2 ? "cuEventCreate untimed" : "cuEventCreate");
  const int code = failure();
  if (code) return code;
  pthread_mutex_lock(&order_lock);
  int idx = 0;
  while (idx < n_events && events[idx].is_alive) ++idx;
  if (idx == kMaxEvents) abort();
  if (idx == n_events) ++n_events;
  events[idx] = (struct Event){.context = current(), .is_alive = 1};
  *event = 0x6000 + (uintptr_t)idx;
  count(kEvents, 1);
  pthread_mutex_unlock(&order_lock);
  return 0;
}

static struct Event* event_of(uintptr_t event) {
  const uintptr_t idx = event - 0x6000;
  return idx < (uintptr_t)n_events && events[idx].is_alive ? &events[idx] : NULL;
}

int cuEventDestroy_v2(uintptr_t event) {
  CALLED("cuEventDestroy");
  struct Event* known = event_of(event);
  note("cuEventDestroy");
  if (!known) return violation("cuEventDestroy of no event");
  known->is_alive = 0, count(kEvents, -1);
  return outside();
}

int cuEventRecord(uintptr_t event, uintptr_t stream) {
  CALLED("cuEventRecord stream %#lx", (unsigned long)stream);
  struct Event* known = event_of(event);
  char line[64];
  snprintf(line, sizeof line, "cuEventRecord stream %#lx", (unsigned long)stream);
  note(line);
  const int code = failure();
  if (code) return code;
  if (!known) return violation("cuEventRecord of no event");
  pthread_mutex_lock(&order_lock);
  const struct Line* from = &lines[line_of(stream)];
  const int is_of_context = known->context == current() && (!from->context || from->context == current());
  if (is_of_context) {
    known->is_recorded = 1, known->is_captured = from->is_captured, known->stream = stream;
    memcpy(known->seen, from->seen, sizeof known->seen);
  }
  pthread_mutex_unlock(&order_lock);
  return is_of_context ? 0 : violation("cuEventRecord in another context than its stream's");
}

int cuStreamWaitEvent(uintptr_t stream, uintptr_t event, unsigned flags) {
  CALLED("cuStreamWaitEvent stream %#lx", (unsigned long)stream);
  const struct Event* known = event_of(event);
  char line[96];
  snprintf(line, sizeof line, "cuStreamWaitEvent stream %#lx for %#lx", (unsigned long)stream,
           (unsigned long)(known ? known->stream : 0));
  note(line);
  int code = failure();
  if (code) return code;
  if (!known || !known->is_recorded || flags) return violation("cuStreamWaitEvent for nothing");
  pthread_mutex_lock(&order_lock);
  struct Line* to = &lines[line_of(stream)];
  if (to->context && to->context != current()) code = violation("cuStreamWaitEvent in another context");
  if (code == 0 && to->is_captured && !known->is_captured) code = kIsolation;
  if (code == 0) {
    to->is_captured |= known->is_captured;
    merge(to->seen, known->seen);
  }
  pthread_mutex_unlock(&order_lock);
  return code;
}

int cuStreamSynchronize(uintptr_t stream) {
  CALLED("cuStreamSynchronize %#lx", (unsigned long)stream);
  note("cuStreamSynchronize");
  if (outside()) return outside();
  if (broken_code) return broken_code;
  pthread_mutex_lock(&order_lock);
  // The stream that is captured from the start is let through, so that tests can set things up on it.
  const int idx = line_of(stream), is_captured = lines[idx].is_captured && stream != kCaptured;
  if (!is_captured) merge(host_seen, lines[idx].seen);
  pthread_mutex_unlock(&order_lock);
  return is_captured ? kUnsupported : 0;
}

int cuStreamIsCapturing(uintptr_t stream, int* status) {
  CALLED("cuStreamIsCapturing %#lx", (unsigned long)stream);
  pthread_mutex_lock(&order_lock);
  *status = lines[line_of(stream)].is_captured;
  pthread_mutex_unlock(&order_lock);
  return 0;
}
