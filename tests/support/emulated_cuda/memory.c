/* Blocks of the device's memory, copies, and sharing with other processes. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "emulated_cuda.h"

typedef struct Block { uint8_t* start; size_t size; int file, opened; Handle handle; struct Block* next; } Block;

enum { FREED = 0xa5 };
static const uint64_t MAGIC = 0x6574616c756d65;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Block* blocks;

/* The block that `bytes` bytes from an address on are in, NULL for none. */
static Block* block_of(const void* address, size_t bytes) {
  for (Block* block = blocks; block != NULL; block = block->next)
    if ((uint8_t*)address >= block->start && (uint8_t*)address + bytes <= block->start + block->size) return block;
  return NULL;
}

int is_device(const void* address, size_t bytes) {
  pthread_mutex_lock(&lock);
  int found = block_of(address, bytes) != NULL;
  pthread_mutex_unlock(&lock);
  return found;
}

void* range_start(const void* address) {
  pthread_mutex_lock(&lock);
  Block* block = block_of(address, 1);
  void* start = block == NULL ? NULL : block->start;
  pthread_mutex_unlock(&lock);
  return start;
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

int allocate(void** address, size_t size) {
  int file = size == 0 ? -1 : memfd_create("emulated_cuda", MFD_CLOEXEC);
  if (file < 0) return size == 0 ? INVALID_VALUE : OUT_OF_MEMORY;
  Block* block = ftruncate(file, size) != 0 ? NULL : map_block(file, size, 0);
  if (block == NULL) return close(file), OUT_OF_MEMORY;
  count(&counts()->held, size);
  *address = block->start;
  return SUCCESS;
}

/* Unmap the block that begins at an address: an own one, or one of another process that was opened so many times. */
int let_go(void* address, int opened) {
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

int share(Handle* handle, void* address) {
  pthread_mutex_lock(&lock);
  Block* block = block_of(address, 1);
  int known = block != NULL && !block->opened;
  if (known) *handle = (Handle){.magic = MAGIC, .size = block->size, .process = getpid(), .file = block->file};
  pthread_mutex_unlock(&lock);
  return known ? SUCCESS : INVALID_VALUE;
}

int open_shared(void** address, Handle handle) {
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

int copy(void* target, const void* source, size_t bytes, int kind) {
  int from_device = is_device(source, bytes), to_device = is_device(target, bytes);
  if (kind == DEFAULT) kind = 2 * from_device + to_device;
  else if ((kind == HOST_TO_DEVICE || kind == DEVICE_TO_DEVICE) != to_device) return INVALID_VALUE;
  else if ((kind == DEVICE_TO_HOST || kind == DEVICE_TO_DEVICE) != from_device) return INVALID_VALUE;
  memmove(target, source, bytes);
  int64_t* counters[] = {NULL, &counts()->to_device, &counts()->to_host, &counts()->within};
  if (counters[kind] != NULL) count(counters[kind], bytes);
  return SUCCESS;
}
