#include "spare.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4 /* Linux 5.7 */
#endif

static void *pointer(uint64_t address) { return (void *)(uintptr_t)address; }

/* DONTUNMAP: a hole, even for a moment, could be where another thread's memory is mapped next. */
static bool move(uint64_t to, uint64_t from)
{
  int flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
  return mremap(pointer(from), GPUD_GRANULE, GPUD_GRANULE, flags, pointer(to)) != MAP_FAILED;
}

static uint64_t slot(const gpud_spare *spare, uint32_t i) { return spare->area + (uint64_t)i * GPUD_GRANULE; }

int gpud_spare_open(gpud_spare *spare, uint32_t capacity, uint32_t warm)
{
  *spare = (gpud_spare){.reserved_size = ((uint64_t)capacity + 1) * GPUD_GRANULE};
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void *at = mmap(NULL, spare->reserved_size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (at == MAP_FAILED)
    return -ENOMEM;
  spare->reserved = at;
  spare->area = ((uint64_t)(uintptr_t)at + GPUD_GRANULE - 1) / GPUD_GRANULE * GPUD_GRANULE;
  madvise(pointer(spare->area), (uint64_t)capacity * GPUD_GRANULE, MADV_HUGEPAGE);
  spare->capacity = capacity;
  while (spare->count < warm && madvise(pointer(slot(spare, spare->count)), GPUD_GRANULE, MADV_POPULATE_WRITE) == 0)
    spare->count++;
  return 0;
}

void gpud_spare_close(gpud_spare *spare)
{
  if (spare->reserved)
    munmap(spare->reserved, spare->reserved_size);
  *spare = (gpud_spare){0};
}

uint64_t gpud_spare_take(gpud_spare *spare, uint64_t address, uint64_t size)
{
  uint64_t taken = 0;
  while (taken < size && spare->count > 0 && move(address + taken, slot(spare, spare->count - 1))) {
    spare->count--;
    taken += GPUD_GRANULE;
  }
  return taken;
}

uint64_t gpud_spare_give(gpud_spare *spare, uint64_t address, uint64_t size)
{
  uint64_t given = 0;
  while (given < size && spare->count < spare->capacity) {
    memset(pointer(address + given), 0, GPUD_GRANULE);
    if (!move(slot(spare, spare->count), address + given)) {
      spare->capacity = 0; /* this kernel cannot */
      break;
    }
    spare->count++;
    given += GPUD_GRANULE;
  }
  return given;
}
