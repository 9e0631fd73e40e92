/*
 * The heap that kernels allocate from while they run: malloc, free, new and delete of device code. One for a session, of fixed size,
 * made when it is first used. What is allocated stays until a kernel frees it or the session ends.
 *
 * Who holds which bytes is written elsewhere, not between them: a kernel that writes past its own bytes spoils other kernels' only.
 */
#ifndef GPUD_HEAP_H
#define GPUD_HEAP_H

#include <stdint.h>

#include "lock.h"

#define GPUD_HEAP_SIZE (8ull << 20) /* CUDA's default */
#define GPUD_HEAP_UNIT 16u          /* allocations are so aligned */
#define GPUD_HEAP_BINS 20u

typedef struct gpud_heap {
  gpud_lock lock;
  unsigned char *bytes; /* NULL: not used yet */
  /* Of each unit. A piece, free or not, has its size (and whether it is free) at its first and its last unit, others have 0; */
  uint32_t *size;
  /* free ones are in the list of their bin, by their first unit. */
  uint32_t *next;
  uint32_t *previous;
  uint32_t bins[GPUD_HEAP_BINS];
} gpud_heap;

/* 16-aligned; NULL: there is no room (or nothing was asked for). Any thread. */
void *gpud_heap_take(gpud_heap *heap, uint64_t size);
/* 0; -EINVAL: it is not what gpud_heap_take gave, or was given back before. */
int gpud_heap_give(gpud_heap *heap, void *pointer);
/* Everything is given back, and its memory to the system. Nothing may be running. */
void gpud_heap_clear(gpud_heap *heap);

#endif
