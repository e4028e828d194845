// SPDX-License-Identifier: MIT OR Apache-2.0
// The rest of driver.c, compiled with FAKE_RUNS: launches run in the SIMT executor, graphs are
// lists of launches, and events tell the time. With it, what is written for a GPU is rehearsed to
// the bit on a machine without one: `cargo xtask rehearse`.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "../../csrc/simt/executor.h"

namespace {

enum { kInvalidValue = 1, kInvalidPtx = 218, kNotFound = 500, kLaunchFailed = 719 };
enum { kNotSupported = 801, kNotCaptured = 902 };

using Step = std::function<int()>;
using Steps = std::vector<Step>;

struct Module {
  std::string text;
};
struct Function {
  void (*entry)(const void* params, uint32_t is_checked);
  size_t params_bytes;
};
struct Event {
  timespec time;
};

std::mutex captures_lock;
std::map<uintptr_t, Steps> captures;

// What a stream does: now, or when its graph is launched.
int queue(uintptr_t stream, Step step) {
  std::unique_lock<std::mutex> lock(captures_lock);
  const auto capture = captures.find(stream);
  if (capture != captures.end()) return capture->second.push_back(std::move(step)), 0;
  lock.unlock();
  return step();
}

// Of cuda.h.
struct Attribute {
  int id;
  char pad[4];
  union {
    char pad[64];
    uint32_t cluster[3];
  } value;
};
struct Config {
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t dynamic_shared_bytes;
  uintptr_t stream;
  const Attribute* attributes;
  uint32_t n_attributes;
};

int run(const Function& function, const std::vector<uint64_t>& params, const Config& config,
        uint32_t cluster_blocks) {
  LacunaSimtTotals totals = {};
  LacunaSimtLaunch launch = {};
  launch.entry = function.entry;
  launch.params = params.data();
  launch.params_bytes = function.params_bytes;
  memcpy(launch.grid, config.grid, sizeof launch.grid);
  memcpy(launch.block, config.block, sizeof launch.block);
  launch.dynamic_shared_bytes = config.dynamic_shared_bytes;
  launch.cluster_blocks = cluster_blocks;
  launch.n_workers = 2;
  launch.step_budget = uint64_t{1} << 26;
  launch.mma_model = 1;
  launch.fill = 0xCD;
  launch.totals = &totals;
  LacunaSimtFault fault;
  lacuna_simt_launch(&launch, &fault);
  if (fault.kind == 0) return 0;
  fprintf(stderr, "rehearsal: %s\n", fault.message);
  return kLaunchFailed;
}

}  // namespace

extern "C" {

int cuStreamIsCapturing(uintptr_t stream, int* status) {
  const std::lock_guard<std::mutex> lock(captures_lock);
  return *status = static_cast<int>(captures.count(stream)), 0;
}

int cuStreamBeginCapture_v2(uintptr_t stream, int) {
  const std::lock_guard<std::mutex> lock(captures_lock);
  return captures[stream].clear(), 0;
}

int cuStreamEndCapture(uintptr_t stream, Steps** graph) {
  const std::lock_guard<std::mutex> lock(captures_lock);
  const auto capture = captures.find(stream);
  if (capture == captures.end()) return kNotCaptured;
  *graph = new Steps(std::move(capture->second));
  captures.erase(capture);
  return 0;
}

int cuGraphInstantiateWithFlags(Steps** executable, const Steps* graph, unsigned long long) {
  return *executable = new Steps(*graph), 0;
}

int cuGraphDestroy(Steps* graph) { return delete graph, 0; }
int cuGraphExecDestroy(Steps* executable) { return delete executable, 0; }

int cuGraphLaunch(const Steps* executable, uintptr_t) {
  for (const Step& step : *executable) {
    if (const int code = step()) return code;
  }
  return 0;
}

int cuEventCreate(Event** event, unsigned) { return *event = new Event(), 0; }
int cuEventDestroy_v2(Event* event) { return delete event, 0; }
int cuEventQuery(Event*) { return 0; }
int cuEventSynchronize(Event*) { return 0; }

// What is not captured has run. A graph here is one stream's list.
int cuStreamWaitEvent(uintptr_t stream, Event*, unsigned) {
  const std::lock_guard<std::mutex> lock(captures_lock);
  return captures.count(stream) ? kNotSupported : 0;
}

int cuEventRecord(Event* event, uintptr_t) { return clock_gettime(CLOCK_MONOTONIC, &event->time); }

int cuEventElapsedTime(float* milliseconds, const Event* start, const Event* end) {
  const double seconds = static_cast<double>(end->time.tv_sec - start->time.tv_sec);
  const double nanoseconds = static_cast<double>(end->time.tv_nsec - start->time.tv_nsec);
  return *milliseconds = static_cast<float>(seconds * 1e3 + nanoseconds * 1e-6), 0;
}

int cuDeviceGetPCIBusId(char* text, int n_bytes, int) {
  return snprintf(text, static_cast<size_t>(n_bytes), "0000:00:00.0"), 0;
}

int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t n_bytes, uintptr_t stream) {
  return queue(stream, [=] {
    memcpy(reinterpret_cast<void*>(target), reinterpret_cast<const void*>(source), n_bytes);
    return 0;
  });
}

int cuModuleLoadDataEx(Module** module, const char* image, unsigned, int*, void**) {
  if (strstr(image, ".version") == nullptr) return kInvalidValue;
  return *module = new Module{image}, 0;
}

// Of other people's kernels, none is in the executor.
int cuModuleLoadData(Module**, const void*) { return kInvalidPtx; }

int cuModuleGetFunction(Function** function, const Module* module, const char* name) {
  const std::string param = std::string(name) + "_param_0[";
  const size_t at = module->text.find(param);
  void* entry = dlsym(RTLD_DEFAULT, ("lacuna_simt_" + std::string(name)).c_str());
  if (at == std::string::npos || entry == nullptr) return kNotFound;
  const size_t params_bytes = strtoul(&module->text[at + param.size()], nullptr, 10);
  *function = new Function{reinterpret_cast<void (*)(const void*, uint32_t)>(entry), params_bytes};
  return 0;
}

int cuLaunchKernelEx(const Config* config, const Function* function, void** params, void** extra) {
  if (extra != nullptr || config->n_attributes > 1) return kNotSupported;
  uint32_t cluster_blocks = 1;
  if (config->n_attributes == 1) {
    const Attribute& attribute = config->attributes[0];
    const uint32_t (&cluster)[3] = attribute.value.cluster;
    // CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    if (attribute.id != 4 || cluster[1] != 1 || cluster[2] != 1) return kNotSupported;
    cluster_blocks = cluster[0];
  }
  // The driver copies the parameter before it returns.
  std::vector<uint64_t> copy((function->params_bytes + 7) / 8);
  memcpy(copy.data(), params[0], function->params_bytes);
  return queue(config->stream, [=, copy = std::move(copy), config = *config] {
    return run(*function, copy, config, cluster_blocks);
  });
}

int cuLaunchKernel(const Function* function, unsigned blocks_x, unsigned blocks_y,
                   unsigned blocks_z, unsigned threads_x, unsigned threads_y, unsigned threads_z,
                   unsigned dynamic_shared_bytes, uintptr_t stream, void** params, void** extra) {
  const Config config = {{blocks_x, blocks_y, blocks_z},
                         {threads_x, threads_y, threads_z},
                         dynamic_shared_bytes,
                         stream,
                         nullptr,
                         0};
  return cuLaunchKernelEx(&config, function, params, extra);
}

}  // extern "C"
