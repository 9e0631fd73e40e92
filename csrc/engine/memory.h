/*
 * What a session may touch: mapped chunks of the window, client regions placed in the window, and the variables of its
 * modules. Sorted and never overlapping, so that a span of a copy is judged with one search.
 */
#ifndef GPUD_MEMORY_H
#define GPUD_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#define GPUD_EXTENT_CHUNK 1u    /* device memory, counted against the session's limit */
#define GPUD_EXTENT_REGION 2u   /* a client region at an address in the window; owner: its number */
#define GPUD_EXTENT_VARIABLE 3u /* a module's variable; owner: the module's id; they have as much again as the chunks */

typedef struct gpud_extent {
  uint64_t address;
  uint64_t size;
  uint32_t kind;
  uint32_t access; /* GPUD_ACCESS_*, seen from the device */
  uint32_t owner;
} gpud_extent;

typedef struct gpud_memory {
  gpud_extent *extents;
  uint32_t count;
  uint32_t capacity;
  uint64_t window_base;
  uint64_t window_size;
  uint64_t limit;     /* bytes of chunks, and as many of variables */
  uint64_t mapped;    /* bytes of chunks now */
  uint64_t variables; /* bytes of variables now */
} gpud_memory;

void gpud_memory_init(gpud_memory *memory, uint64_t window_base, uint64_t window_size, uint64_t limit);
void gpud_memory_clear(gpud_memory *memory);

/* Whether [address, address + size) is a non-empty part of the window, both multiples of `alignment` (a power of two). */
bool gpud_memory_in_window(const gpud_memory *memory, uint64_t address, uint64_t size, uint64_t alignment);
/* 0, -EINVAL (empty, wraps), -EEXIST (overlaps another), -EDQUOT (chunks or variables over the limit), -ENOMEM (of ours). */
int gpud_memory_add(gpud_memory *memory, const gpud_extent *extent);
/* Removes the chunks that make up [address, address + size) exactly. 0, or -ENOENT and nothing is changed. */
int gpud_memory_remove_chunks(gpud_memory *memory, uint64_t address, uint64_t size);
/* Removes all of `kind` that `owner` has. */
void gpud_memory_remove_owned(gpud_memory *memory, uint32_t kind, uint32_t owner);
/* Whether every byte of [address, address + size) may be accessed so; the span may cross adjacent extents. Empty: true. */
bool gpud_memory_covers(const gpud_memory *memory, uint64_t address, uint64_t size, uint32_t access);
/* The extent that has the byte at `address`, or NULL. Good until the next change. */
const gpud_extent *gpud_memory_at(const gpud_memory *memory, uint64_t address);

#endif
