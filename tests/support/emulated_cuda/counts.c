/* Numbers of bytes, in a file that several processes map. */

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "emulated_cuda.h"

Counts* counts(void) {
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

void count(int64_t* counter, int64_t bytes) { __atomic_add_fetch(counter, bytes, __ATOMIC_SEQ_CST); }
