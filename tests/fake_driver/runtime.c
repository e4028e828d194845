// SPDX-License-Identifier: MIT OR Apache-2.0
// What examples/c/cuda_*.c ask of the CUDA runtime, over the fake driver: the real one needs more of a driver than that has. `cargo xtask capi`.
#include <stddef.h>
#include <stdint.h>

int cuInit(unsigned flags);
int cuDeviceGetCount(int* count);
int cuDevicePrimaryCtxRetain(uintptr_t* context, int device);
int cuCtxSetCurrent(uintptr_t context);
int cuCtxGetCurrent(uintptr_t* context);
int cuStreamCreate(uintptr_t* stream, unsigned flags);
int cuStreamDestroy_v2(uintptr_t stream);
int cuStreamSynchronize(uintptr_t stream);
int cuStreamBeginCapture_v2(uintptr_t stream, int mode);
int cuStreamEndCapture(uintptr_t stream, void** graph);
int cuStreamIsCapturing(uintptr_t stream, int* status);
int cuGraphInstantiateWithFlags(void** executable, const void* graph, unsigned long long flags);
int cuGraphLaunch(const void* executable, uintptr_t stream);
int cuGraphDestroy(void* graph);
int cuGraphExecDestroy(void* executable);
int cuMemAlloc_v2(uint64_t* address, size_t n_bytes);
int cuMemFree_v2(uint64_t address);
int cuMemcpyHtoDAsync_v2(uint64_t target, const void* source, size_t n_bytes, uintptr_t stream);
int cuMemcpyDtoHAsync_v2(void* target, uint64_t source, size_t n_bytes, uintptr_t stream);
int cuMemsetD8Async(uint64_t target, unsigned char value, size_t n_bytes, uintptr_t stream);

enum { kInvalidValue = 1, kCaptureUnsupported = 900 };

static uintptr_t context;

int cudaGetDeviceCount(int* count) {
  const int code = cuInit(0);
  return code ? code : cuDeviceGetCount(count);
}

int cudaSetDevice(int device) {
  const int code = cuDevicePrimaryCtxRetain(&context, device);
  return code ? code : cuCtxSetCurrent(context);
}

// Device 0, as long as nobody leaves another context current.
int cudaGetDevice(int* device) {
  uintptr_t now = 0;
  const int code = cuCtxGetCurrent(&now);
  return *device = now == context ? 0 : -1, code;
}

int cudaStreamCreateWithFlags(uintptr_t* stream, unsigned flags) {
  return cuStreamCreate(stream, flags);
}
int cudaStreamDestroy(uintptr_t stream) { return cuStreamDestroy_v2(stream); }
int cudaStreamSynchronize(uintptr_t stream) { return cuStreamSynchronize(stream); }
int cudaStreamBeginCapture(uintptr_t stream, int mode) {
  return cuStreamBeginCapture_v2(stream, mode);
}
int cudaStreamEndCapture(uintptr_t stream, void** graph) {
  return cuStreamEndCapture(stream, graph);
}
int cudaGraphInstantiateWithFlags(void** executable, const void* graph, unsigned long long flags) {
  return cuGraphInstantiateWithFlags(executable, graph, flags);
}
int cudaGraphLaunch(const void* executable, uintptr_t stream) {
  return cuGraphLaunch(executable, stream);
}
int cudaGraphDestroy(void* graph) { return cuGraphDestroy(graph); }
int cudaGraphExecDestroy(void* executable) { return cuGraphExecDestroy(executable); }

int cudaMalloc(void** memory, size_t n_bytes) {
  uint64_t address = 0;
  const int code = cuMemAlloc_v2(&address, n_bytes);
  return *memory = (void*)(uintptr_t)address, code;
}

int cudaFree(void* memory) { return cuMemFree_v2((uintptr_t)memory); }

// Copies and fills are done when they are asked for, so that none may be captured.
static int uncaptured(uintptr_t stream) {
  int status = 0;
  const int code = cuStreamIsCapturing(stream, &status);
  return code ? code : status ? kCaptureUnsupported : 0;
}

int cudaMemcpyAsync(void* target, const void* source, size_t n_bytes, int kind, uintptr_t stream) {
  const int code = uncaptured(stream);
  if (code) return code;
  switch (kind) {
    case 1: return cuMemcpyHtoDAsync_v2((uintptr_t)target, source, n_bytes, stream);
    case 2: return cuMemcpyDtoHAsync_v2(target, (uintptr_t)source, n_bytes, stream);
    default: return kInvalidValue;
  }
}

int cudaMemsetAsync(void* target, int value, size_t n_bytes, uintptr_t stream) {
  const int code = uncaptured(stream);
  return code ? code : cuMemsetD8Async((uintptr_t)target, (unsigned char)value, n_bytes, stream);
}

const char* cudaGetErrorName(int code) {
  return code ? "(an error of the fake driver)" : "cudaSuccess";
}
const char* cudaGetErrorString(int code) { return cudaGetErrorName(code); }
