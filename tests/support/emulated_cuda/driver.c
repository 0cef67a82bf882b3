/* The driver. Addresses are 64-bit numbers. */

#include <stdlib.h>
#include <string.h>

#include "emulated_cuda.h"

enum { RANGE_START = 11 }; /* CUpointer_attribute */
static char context_of_the_device;

typedef struct { size_t x, y; unsigned kind; const void* host; uint64_t device; void* array; size_t pitch; } Side;
typedef struct { Side source, target; size_t width, height; } Copy2D;

static void* at(uint64_t address) { return (void*)(uintptr_t)address; }

int cuInit(unsigned flags) { return SUCCESS; }
int cuDeviceGet(int* device, int number) { return *device = number, number == 0 ? SUCCESS : INVALID_VALUE; }
int cuDeviceGetAttribute(int* value, int attribute, int device) { return *value = attribute == 75 ? 9 : 0, SUCCESS; }
int cuDeviceGetUuid_v2(uint8_t* uuid, int device) {
  const char* text = getenv("EMULATED_CUDA_UUID");
  memset(uuid, 0, 16);
  return memcpy(uuid, text != NULL ? text : "emulated", strnlen(text != NULL ? text : "emulated", 16)), SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = &context_of_the_device, SUCCESS; }
int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) { return *flags = 0, *active = 1, SUCCESS; }
int cuCtxSetCurrent(void* context) { return SUCCESS; }
int cuGetErrorString(int error, const char** text) { return *text = "emulated", SUCCESS; }
int cuMemAlloc_v2(uint64_t* address, size_t size) {
  void* start = NULL;
  int status = allocate(&start, size);
  return *address = (uintptr_t)start, status;
}
int cuMemFree_v2(uint64_t address) { return let_go(at(address), 0); }
int cuMemGetInfo_v2(size_t* left, size_t* total) { return *total = TOTAL, *left = TOTAL - counts()->held, SUCCESS; }
int cuMemHostAlloc(void** address, size_t size, unsigned flags) {
  return (*address = aligned_alloc(4096, (size + 4095) / 4096 * 4096)) != NULL ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void* stream) {
  return is_device(at(address), bytes) ? (memset(at(address), value, bytes), SUCCESS) : INVALID_VALUE;
}
int cuMemcpyHtoDAsync_v2(uint64_t target, const void* source, size_t bytes, void* stream) {
  return copy(at(target), source, bytes, HOST_TO_DEVICE);
}
int cuMemcpyDtoHAsync_v2(void* target, uint64_t source, size_t bytes, void* stream) {
  return copy(target, at(source), bytes, DEVICE_TO_HOST);
}
int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t bytes, void* stream) {
  return copy(at(target), at(source), bytes, DEVICE_TO_DEVICE);
}
int cuMemcpy2DAsync_v2(const Copy2D* plan, void* stream) {
  int status = SUCCESS;
  for (size_t row = 0; row < plan->height && status == SUCCESS; ++row)
    status = copy(at(plan->target.device + row * plan->target.pitch), at(plan->source.device + row * plan->source.pitch),
                  plan->width, DEVICE_TO_DEVICE);
  return status;
}
int cuIpcGetMemHandle(Handle* handle, uint64_t address) { return share(handle, at(address)); }
int cuIpcOpenMemHandle_v2(uint64_t* address, Handle handle, unsigned flags) {
  void* start = NULL;
  int status = open_shared(&start, handle);
  return *address = (uintptr_t)start, status;
}
int cuIpcCloseMemHandle(uint64_t address) { return let_go(at(address), 1); }
int cuStreamCreate(void** stream, unsigned flags) { return *stream = malloc(1), SUCCESS; }
int cuStreamDestroy_v2(void* stream) { return free(stream), SUCCESS; }
int cuStreamSynchronize(void* stream) { return SUCCESS; }
int cuEventCreate(void** event, unsigned flags) { return *event = malloc(1), SUCCESS; }
int cuEventRecord(void* event, void* stream) { return SUCCESS; }
int cuEventSynchronize(void* event) { return SUCCESS; }
int cuPointerGetAttribute(uint64_t* value, int attribute, uint64_t address) {
  void* start = attribute == RANGE_START ? range_start(at(address)) : NULL;
  if (start != NULL) *value = (uintptr_t)start;
  return start != NULL ? SUCCESS : INVALID_VALUE;
}
