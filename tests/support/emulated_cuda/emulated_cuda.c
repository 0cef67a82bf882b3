/* One GPU that is not there: memory, copies and sharing of CUDA's driver and runtime, for tests on a machine without.

   Device memory is memory of the host, in files without a name, so that another process really maps what it opens by a
   handle. Everything is done when a call returns: what needs a stream's order or a wait is not tested by this. Copies
   check that device addresses are some, and freed memory is filled with FREED before it goes, which its readers in
   other processes see. Numbers of bytes are added to the file named by EMULATED_CUDA_COUNTS. Kernels cannot be run.

   Preloaded, it takes the place of libcudart.so.12 for the functions below, of which it has the symbol version. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, UNSUPPORTED = 801 };
enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2, DEVICE_TO_DEVICE = 3, DEFAULT = 4 }; /* cudaMemcpyKind */
enum { RANGE_START = 11 };                                                          /* CUpointer_attribute */
enum { FREED = 0xa5 };
static const size_t TOTAL = (size_t)64 << 30;

typedef struct { uint64_t magic, size; int32_t process, file; uint8_t rest[40]; } Handle; /* 64 bytes */
static const uint64_t MAGIC = 0x6574616c756d65;

typedef struct Block { uint8_t* start; size_t size; int file, opened; Handle handle; struct Block* next; } Block;
typedef struct { int64_t to_device, to_host, within, held, opened; } Counts;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Block* blocks;

static Counts* counts(void) {
  static pthread_mutex_t finding = PTHREAD_MUTEX_INITIALIZER;
  static char known[4096];
  static Counts own, *found = &own;
  const char* path = getenv("EMULATED_CUDA_COUNTS");
  pthread_mutex_lock(&finding);
  if (path != NULL && strncmp(path, known, sizeof known) != 0) { /* tests of one process have a file each */
    int file = open(path, O_RDWR | O_CLOEXEC);
    void* mapped = file < 0 ? MAP_FAILED : mmap(NULL, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    found = mapped == MAP_FAILED ? &own : mapped;
    if (file >= 0) close(file);
    snprintf(known, sizeof known, "%s", path);
  }
  Counts* result = found;
  pthread_mutex_unlock(&finding);
  return result;
}

static void count(int64_t* counter, int64_t bytes) { __atomic_add_fetch(counter, bytes, __ATOMIC_SEQ_CST); }

/* The block that `bytes` bytes from an address on are in, NULL for none. */
static Block* block_of(const void* address, size_t bytes) {
  for (Block* block = blocks; block != NULL; block = block->next)
    if ((uint8_t*)address >= block->start && (uint8_t*)address + bytes <= block->start + block->size) return block;
  return NULL;
}

static int is_device(const void* address, size_t bytes) {
  pthread_mutex_lock(&lock);
  int found = block_of(address, bytes) != NULL;
  pthread_mutex_unlock(&lock);
  return found;
}

static Block* map_block(int file, size_t size, int opened) {
  void* start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (start == MAP_FAILED) return NULL;
  Block* block = calloc(1, sizeof(Block));
  *block = (Block){.start = start, .size = size, .file = file, .opened = opened};
  pthread_mutex_lock(&lock);
  block->next = blocks;
  blocks = block;
  pthread_mutex_unlock(&lock);
  return block;
}

static int allocate(void** address, size_t size) {
  int file = size == 0 ? -1 : memfd_create("emulated_cuda", MFD_CLOEXEC);
  if (file < 0) return size == 0 ? INVALID_VALUE : OUT_OF_MEMORY;
  Block* block = ftruncate(file, size) != 0 ? NULL : map_block(file, size, 0);
  if (block == NULL) return close(file), OUT_OF_MEMORY;
  count(&counts()->held, size);
  *address = block->start;
  return SUCCESS;
}

/* Unmap the block that begins at an address: an own one, or one of another process that was opened so many times. */
static int let_go(void* address, int opened) {
  pthread_mutex_lock(&lock);
  Block** place = &blocks;
  while (*place != NULL && (*place)->start != address) place = &(*place)->next;
  Block* block = *place;
  int fits = block != NULL && (block->opened > 0) == opened;
  int last = fits && (!opened || --block->opened == 0);
  if (last) *place = block->next;
  pthread_mutex_unlock(&lock);
  if (!last) return fits ? SUCCESS : INVALID_VALUE;
  if (!opened) {
    memset(block->start, FREED, block->size);
    count(&counts()->held, -(int64_t)block->size);
  }
  munmap(block->start, block->size);
  close(block->file);
  free(block);
  return SUCCESS;
}

static int share(Handle* handle, void* address) {
  pthread_mutex_lock(&lock);
  Block* block = block_of(address, 1);
  int known = block != NULL && !block->opened;
  if (known) *handle = (Handle){.magic = MAGIC, .size = block->size, .process = getpid(), .file = block->file};
  pthread_mutex_unlock(&lock);
  return known ? SUCCESS : INVALID_VALUE;
}

static int open_shared(void** address, Handle handle) {
  if (getenv("EMULATED_CUDA_REFUSES_SHARING") != NULL) return UNSUPPORTED;
  if (handle.magic != MAGIC) return INVALID_HANDLE;
  if (handle.process == getpid()) return INVALID_CONTEXT;
  pthread_mutex_lock(&lock);
  Block* block = blocks;
  while (block != NULL && !(block->opened && memcmp(&block->handle, &handle, sizeof handle) == 0)) block = block->next;
  if (block != NULL) ++block->opened;
  pthread_mutex_unlock(&lock);
  if (block == NULL) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", handle.process, handle.file);
    int file = open(path, O_RDWR | O_CLOEXEC);
    struct stat found;
    if (file < 0 || fstat(file, &found) != 0 || (uint64_t)found.st_size != handle.size) return INVALID_HANDLE;
    block = map_block(file, handle.size, 1);
    if (block == NULL) return OUT_OF_MEMORY;
    block->handle = handle;
  }
  count(&counts()->opened, 1);
  *address = block->start;
  return SUCCESS;
}

static int copy(void* target, const void* source, size_t bytes, int kind) {
  int from_device = is_device(source, bytes), to_device = is_device(target, bytes);
  if (kind == DEFAULT) kind = 2 * from_device + to_device;
  else if ((kind == HOST_TO_DEVICE || kind == DEVICE_TO_DEVICE) != to_device) return INVALID_VALUE;
  else if ((kind == DEVICE_TO_HOST || kind == DEVICE_TO_DEVICE) != from_device) return INVALID_VALUE;
  memmove(target, source, bytes);
  int64_t* counters[] = {NULL, &counts()->to_device, &counts()->to_host, &counts()->within};
  if (counters[kind] != NULL) count(counters[kind], bytes);
  return SUCCESS;
}

/* The driver. Addresses are 64-bit numbers. */

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
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = &blocks, SUCCESS; }
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
int cuPointerGetAttribute(uint64_t* value, int attribute, uint64_t address) {
  pthread_mutex_lock(&lock);
  Block* block = attribute == RANGE_START ? block_of(at(address), 1) : NULL;
  if (block != NULL) *value = (uintptr_t)block->start;
  pthread_mutex_unlock(&lock);
  return block != NULL ? SUCCESS : INVALID_VALUE;
}

/* The runtime, as far as tritonserver and its Python backend call it. */

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
