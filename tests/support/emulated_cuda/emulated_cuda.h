/* One GPU that is not there: memory, copies and sharing of CUDA's driver and runtime, for tests on a machine without.

   Device memory is memory of the host, in files without a name, so that another process really maps what it opens by a
   handle. Everything is done when a call returns: what needs a stream's order or a wait is not tested by this. Copies
   check that device addresses are some, and freed memory is filled with FREED before it goes, which its readers in
   other processes see. Numbers of bytes are added to the file named by EMULATED_CUDA_COUNTS. Kernels cannot be run.

   Preloaded, it takes the place of libcudart.so.12 for the functions of runtime.c, with its symbol version. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, UNSUPPORTED = 801 };
enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2, DEVICE_TO_DEVICE = 3, DEFAULT = 4 }; /* cudaMemcpyKind */
static const size_t TOTAL = (size_t)64 << 30;

typedef struct { uint64_t magic, size; int32_t process, file; uint8_t rest[40]; } Handle; /* 64 bytes */
typedef struct { int64_t to_device, to_host, within, held, opened; } Counts;

/* counts.c: those of all processes that have the same file. */
Counts* counts(void);
void count(int64_t* counter, int64_t bytes);

/* memory.c. All but the first two return an error. */
int is_device(const void* address, size_t bytes);
void* range_start(const void* address); /* NULL for no device address */
int allocate(void** address, size_t size);
int let_go(void* address, int opened); /* an own block, or one that was opened: of another process */
int share(Handle* handle, void* address);
int open_shared(void** address, Handle handle);
int copy(void* target, const void* source, size_t bytes, int kind);
