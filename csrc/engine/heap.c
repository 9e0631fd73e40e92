#include "heap.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>

#define UNITS ((uint32_t)(GPUD_HEAP_SIZE / GPUD_HEAP_UNIT))
#define FREE 0x80000000u
#define FIRST 0x40000000u
#define SIZE(word) ((word) & ~(FREE | FIRST))
#define NONE UINT32_MAX
#define MAPPED (GPUD_HEAP_SIZE + 3ull * UNITS * sizeof(uint32_t))

_Static_assert(GPUD_HEAP_SIZE / GPUD_HEAP_UNIT < 1ull << GPUD_HEAP_BINS, "a bin for every size");

/* Pieces of 2^bin units and more, fewer than twice that. */
static uint32_t bin_of(uint32_t units) { return 31u - (uint32_t)__builtin_clz(units); }

static void mark(gpud_heap *heap, uint32_t first, uint32_t units, uint32_t state)
{
  heap->size[first + units - 1] = units | state;
  heap->size[first] = units | state | FIRST;
}

/* The piece is no more: units that are neither end of one have no size. */
static void unmark(gpud_heap *heap, uint32_t first, uint32_t units)
{
  heap->size[first] = 0;
  heap->size[first + units - 1] = 0;
}

static void link_free(gpud_heap *heap, uint32_t first, uint32_t units)
{
  uint32_t *bin = &heap->bins[bin_of(units)];
  mark(heap, first, units, FREE);
  heap->next[first] = *bin;
  heap->previous[first] = NONE;
  if (*bin != NONE)
    heap->previous[*bin] = first;
  *bin = first;
}

static void unlink_free(gpud_heap *heap, uint32_t first, uint32_t units)
{
  uint32_t next = heap->next[first];
  uint32_t previous = heap->previous[first];
  if (next != NONE)
    heap->previous[next] = previous;
  if (previous != NONE)
    heap->next[previous] = next;
  else
    heap->bins[bin_of(units)] = next;
}

static bool make(gpud_heap *heap)
{
  void *at = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED)
    return false;
  heap->bytes = at;
  heap->size = (uint32_t *)(void *)(heap->bytes + GPUD_HEAP_SIZE);
  heap->next = heap->size + UNITS;
  heap->previous = heap->next + UNITS;
  for (uint32_t i = 0; i < GPUD_HEAP_BINS; i++)
    heap->bins[i] = NONE;
  link_free(heap, 0, UNITS);
  return true;
}

/* The first piece that is large enough: in the bin of its own size if one is there, else in one where all are. */
static uint32_t find(const gpud_heap *heap, uint32_t units)
{
  uint32_t bin = bin_of(units);
  for (uint32_t at = heap->bins[bin]; at != NONE; at = heap->next[at])
    if (SIZE(heap->size[at]) >= units)
      return at;
  while (++bin < GPUD_HEAP_BINS)
    if (heap->bins[bin] != NONE)
      return heap->bins[bin];
  return NONE;
}

void *gpud_heap_take(gpud_heap *heap, uint64_t size)
{
  if (size == 0 || size > GPUD_HEAP_SIZE)
    return NULL;
  uint32_t units = (uint32_t)((size + GPUD_HEAP_UNIT - 1) / GPUD_HEAP_UNIT);
  void *pointer = NULL;
  gpud_lock_acquire(&heap->lock);
  uint32_t first = heap->bytes || make(heap) ? find(heap, units) : NONE;
  if (first != NONE) {
    uint32_t found = SIZE(heap->size[first]);
    unlink_free(heap, first, found);
    unmark(heap, first, found);
    if (found > units)
      link_free(heap, first + units, found - units);
    mark(heap, first, units, 0);
    pointer = heap->bytes + (size_t)first * GPUD_HEAP_UNIT;
  }
  gpud_lock_release(&heap->lock);
  return pointer;
}

/* The first unit of a piece that is taken, or NONE. */
static uint32_t taken(const gpud_heap *heap, uint64_t offset)
{
  if (offset >= GPUD_HEAP_SIZE || offset % GPUD_HEAP_UNIT)
    return NONE;
  uint32_t first = (uint32_t)(offset / GPUD_HEAP_UNIT);
  return (heap->size[first] & (FIRST | FREE)) == FIRST ? first : NONE;
}

int gpud_heap_give(gpud_heap *heap, void *pointer)
{
  gpud_lock_acquire(&heap->lock);
  uint64_t offset = (uint64_t)(uintptr_t)pointer - (uint64_t)(uintptr_t)heap->bytes;
  uint32_t first = heap->bytes ? taken(heap, offset) : NONE;
  if (first == NONE) {
    gpud_lock_release(&heap->lock);
    return -EINVAL;
  }
  uint32_t units = SIZE(heap->size[first]);
  uint32_t behind = first + units;
  unmark(heap, first, units);
  if (behind < UNITS && heap->size[behind] & FREE) {
    uint32_t more = SIZE(heap->size[behind]);
    unlink_free(heap, behind, more);
    unmark(heap, behind, more);
    units += more;
  }
  if (first > 0 && heap->size[first - 1] & FREE) {
    uint32_t more = SIZE(heap->size[first - 1]);
    first -= more;
    unlink_free(heap, first, more);
    unmark(heap, first, more);
    units += more;
  }
  link_free(heap, first, units);
  gpud_lock_release(&heap->lock);
  return 0;
}

void gpud_heap_clear(gpud_heap *heap)
{
  if (heap->bytes)
    munmap(heap->bytes, MAPPED);
  heap->bytes = NULL;
}
