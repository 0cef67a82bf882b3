/* The runtime, as far as tritonserver and its Python backend call it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emulated_cuda.h"

int cuMemHostAlloc(void** address, size_t size, unsigned flags);
int cuMemGetInfo_v2(size_t* left, size_t* total);

enum { PROPERTIES_BYTES = 1032, TOTAL_MEMORY = 288, MAJOR = 360, MINOR = 364 }; /* cudaDeviceProp of CUDA 12 */

int cudaGetDeviceCount(int* number) { return *number = 1, SUCCESS; }
int cudaGetDevice(int* device) { return *device = 0, SUCCESS; }
int cudaSetDevice(int device) { return device == 0 ? SUCCESS : INVALID_VALUE; }
int cudaGetDeviceProperties_v2(uint8_t* properties, int device) {
  memset(properties, 0, PROPERTIES_BYTES);
  strcpy((char*)properties, "emulated");
  *(size_t*)(properties + TOTAL_MEMORY) = TOTAL;
  return *(int*)(properties + MAJOR) = 9, *(int*)(properties + MINOR) = 0, SUCCESS;
}
int cudaDeviceGetPCIBusId(char* text, int size, int device) { return snprintf(text, size, "0000:00:00.0"), SUCCESS; }
int cudaDeviceCanAccessPeer(int* can, int device, int peer) { return *can = 0, SUCCESS; }
int cudaDeviceEnablePeerAccess(int peer, unsigned flags) { return UNSUPPORTED; }
int cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { return *least = *greatest = 0, SUCCESS; }
const char* cudaGetErrorString(int error) { return "emulated"; }
int cudaGetLastError(void) { return SUCCESS; }
int cudaGetDriverEntryPoint(const char* symbol, void** function, unsigned long long flags, int* found) {
  *function = dlsym(RTLD_DEFAULT, symbol);
  if (found != NULL) *found = *function == NULL;
  return SUCCESS;
}
int cudaMalloc(void** address, size_t size) { return allocate(address, size); }
int cudaMallocManaged(void** address, size_t size, unsigned flags) { return UNSUPPORTED; }
int cudaMemPrefetchAsync(const void* address, size_t bytes, int device, void* stream) { return UNSUPPORTED; }
int cudaFree(void* address) { return address == NULL ? SUCCESS : let_go(address, 0); }
int cudaHostAlloc(void** address, size_t size, unsigned flags) { return cuMemHostAlloc(address, size, flags); }
int cudaFreeHost(void* address) { return free(address), SUCCESS; }
int cudaMemGetInfo(size_t* left, size_t* total) { return cuMemGetInfo_v2(left, total); }
int cudaMemcpy(void* target, const void* source, size_t bytes, int kind) { return copy(target, source, bytes, kind); }
int cudaMemcpyAsync(void* target, const void* source, size_t bytes, int kind, void* stream) {
  return copy(target, source, bytes, kind);
}
int cudaMemcpyPeer(void* target, int target_device, const void* source, int source_device, size_t bytes) {
  return copy(target, source, bytes, DEVICE_TO_DEVICE);
}
int cudaMemset(void* address, int value, size_t bytes) {
  return is_device(address, bytes) ? (memset(address, value, bytes), SUCCESS) : INVALID_VALUE;
}
int cudaIpcGetMemHandle(Handle* handle, void* address) { return share(handle, address); }
int cudaIpcOpenMemHandle(void** address, Handle handle, unsigned flags) { return open_shared(address, handle); }
int cudaIpcCloseMemHandle(void* address) { return let_go(address, 1); }
int cudaStreamCreate(void** stream) { return *stream = malloc(1), SUCCESS; }
int cudaStreamCreateWithPriority(void** stream, unsigned flags, int priority) { return cudaStreamCreate(stream); }
int cudaStreamGetFlags(void* stream, unsigned* flags) { return *flags = 0, SUCCESS; }
int cudaStreamDestroy(void* stream) { return free(stream), SUCCESS; }
int cudaStreamSynchronize(void* stream) { return SUCCESS; }
int cudaLaunchHostFunc(void* stream, void (*function)(void*), void* data) { return function(data), SUCCESS; }
