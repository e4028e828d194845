// SPDX-License-Identifier: MIT OR Apache-2.0
// A driver library that tests/driver.rs builds in the shapes a machine can have: -DVERSION,
// -DN_DEVICES, -DMAJOR, -DMINOR and -DINIT set what it answers, -DSTUB leaves most of it out.
#include <stddef.h>
#include <string.h>

int cuInit(unsigned flags) {
  (void)flags;
  return INIT;
}
int cuDriverGetVersion(int *version) {
  *version = VERSION;
  return 0;
}

#ifndef STUB
int cuDeviceGetCount(int *count) {
  *count = N_DEVICES;
  return 0;
}
int cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return ordinal < N_DEVICES ? 0 : 101;
}
int cuDeviceGetName(char *name, int len, int device) {
  (void)device;
  strncpy(name, "Fake GPU", (size_t)len);
  return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  (void)device;
  *bytes = (size_t)8 << 30;
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  *value = attribute == 75 ? MAJOR : attribute == 76 ? MINOR : 1;
  return 0;
}
#define UNUSED(name) \
  int name(void) { return 999; }
UNUSED(cuGetErrorName)
UNUSED(cuGetErrorString)
UNUSED(cuDevicePrimaryCtxRetain)
UNUSED(cuDevicePrimaryCtxRelease_v2)
UNUSED(cuCtxGetCurrent)
UNUSED(cuCtxSetCurrent)
UNUSED(cuStreamCreate)
UNUSED(cuStreamDestroy_v2)
UNUSED(cuStreamSynchronize)
UNUSED(cuMemAllocAsync)
UNUSED(cuMemFreeAsync)
UNUSED(cuMemcpyHtoDAsync_v2)
UNUSED(cuMemcpyDtoHAsync_v2)
UNUSED(cuMemsetD8Async)
UNUSED(cuModuleLoadDataEx)
UNUSED(cuModuleGetFunction)
UNUSED(cuModuleUnload)
UNUSED(cuLaunchKernel)
#endif
