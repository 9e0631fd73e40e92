#include <string.h>

#include "bulk.h"

/*
 * Below this the caches take the copy and libc is the ceiling; above it memory is, and what counts is not to read the
 * lines that are about to be overwritten.
 */
#define STREAM_FROM (4u << 20)

#if defined(__x86_64__)
static inline void copy_string(void *destination, const void *source, uint64_t size)
{
  __asm__ __volatile__("rep movsb" : "+D"(destination), "+S"(source), "+c"(size) : : "memory");
}
#else
static inline void copy_string(void *destination, const void *source, uint64_t size)
{
  memcpy(destination, source, size);
}
#endif

void gpud_copy(void *destination, const void *source, uint64_t size)
{
  if (size >= STREAM_FROM)
    copy_string(destination, source, size);
  else
    memcpy(destination, source, size);
}

void gpud_copy_cached(void *destination, const void *source, uint64_t size) { memcpy(destination, source, size); }
