#include "memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void gpud_memory_init(gpud_memory *memory, uint64_t window_base, uint64_t window_size, uint64_t limit)
{
  *memory = (gpud_memory){.window_base = window_base, .window_size = window_size, .limit = limit};
}

void gpud_memory_clear(gpud_memory *memory)
{
  free(memory->extents);
  *memory = (gpud_memory){0};
}

bool gpud_memory_in_window(const gpud_memory *memory, uint64_t address, uint64_t size, uint64_t alignment)
{
  if (size == 0 || ((address | size) & (alignment - 1)))
    return false;
  if (address < memory->window_base)
    return false;
  uint64_t offset = address - memory->window_base;
  return offset < memory->window_size && size <= memory->window_size - offset;
}

/* The first extent that ends after `address`; memory->count where there is none. */
static uint32_t first_ending_after(const gpud_memory *memory, uint64_t address)
{
  uint32_t low = 0;
  uint32_t high = memory->count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    const gpud_extent *extent = &memory->extents[middle];
    if (extent->address + (extent->size - 1) < address)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static int make_room(gpud_memory *memory)
{
  if (memory->count < memory->capacity)
    return 0;
  uint32_t capacity = memory->capacity ? memory->capacity * 2 : 64;
  gpud_extent *extents = realloc(memory->extents, capacity * sizeof *extents);
  if (!extents)
    return -ENOMEM;
  memory->extents = extents;
  memory->capacity = capacity;
  return 0;
}

/* What such an extent is counted in; NULL: a region, of which the session's owner keeps count. */
static uint64_t *counter_of(gpud_memory *memory, uint32_t kind)
{
  switch (kind) {
  case GPUD_EXTENT_CHUNK:
    return &memory->mapped;
  case GPUD_EXTENT_VARIABLE:
    return &memory->variables;
  default:
    return NULL;
  }
}

int gpud_memory_add(gpud_memory *memory, const gpud_extent *extent)
{
  if (extent->size == 0 || extent->address > UINT64_MAX - (extent->size - 1))
    return -EINVAL;
  uint32_t at = first_ending_after(memory, extent->address);
  uint64_t last = extent->address + (extent->size - 1);
  if (at < memory->count && memory->extents[at].address <= last)
    return -EEXIST;
  uint64_t *counter = counter_of(memory, extent->kind);
  if (counter && extent->size > memory->limit - *counter)
    return -EDQUOT;
  int rc = make_room(memory);
  if (rc)
    return rc;
  memmove(&memory->extents[at + 1], &memory->extents[at], (memory->count - at) * sizeof *extent);
  memory->extents[at] = *extent;
  memory->count++;
  if (counter)
    *counter += extent->size;
  return 0;
}

int gpud_memory_remove_chunks(gpud_memory *memory, uint64_t address, uint64_t size)
{
  uint32_t first = first_ending_after(memory, address);
  uint32_t end = first;
  uint64_t found = 0;
  while (end < memory->count && found < size) {
    const gpud_extent *extent = &memory->extents[end];
    if (extent->kind != GPUD_EXTENT_CHUNK || extent->address != address + found)
      break;
    found += extent->size;
    end++;
  }
  if (size == 0 || found != size)
    return -ENOENT;
  memmove(&memory->extents[first], &memory->extents[end], (memory->count - end) * sizeof *memory->extents);
  memory->count -= end - first;
  memory->mapped -= size;
  return 0;
}

void gpud_memory_remove_owned(gpud_memory *memory, uint32_t kind, uint32_t owner)
{
  uint64_t *counter = counter_of(memory, kind);
  uint32_t kept = 0;
  for (uint32_t i = 0; i < memory->count; i++) {
    const gpud_extent *extent = &memory->extents[i];
    if (extent->kind != kind || extent->owner != owner)
      memory->extents[kept++] = *extent;
    else if (counter)
      *counter -= extent->size;
  }
  memory->count = kept;
}

bool gpud_memory_covers(const gpud_memory *memory, uint64_t address, uint64_t size, uint32_t access)
{
  if (size == 0)
    return true;
  if (address > UINT64_MAX - (size - 1))
    return false;
  uint64_t last = address + (size - 1);
  for (uint32_t i = first_ending_after(memory, address); i < memory->count; i++) {
    const gpud_extent *extent = &memory->extents[i];
    if (extent->address > address || (extent->access & access) != access)
      return false;
    uint64_t extent_last = extent->address + (extent->size - 1);
    if (extent_last >= last)
      return true;
    address = extent_last + 1;
  }
  return false;
}

const gpud_extent *gpud_memory_at(const gpud_memory *memory, uint64_t address)
{
  uint32_t at = first_ending_after(memory, address);
  return at < memory->count && memory->extents[at].address <= address ? &memory->extents[at] : NULL;
}
