#include "region_table.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "bootstrap.h"
#include "bulk.h"
#include "segment.h"

int gpud_region_table_init(gpud_region_table *table, int client)
{
  table->views = NULL;
  if (!client) {
    table->views = calloc(GPUD_MAX_REGIONS, sizeof *table->views);
    if (!table->views)
      return -ENOMEM;
  }
  pthread_rwlock_init(&table->lock, NULL);
  return 0;
}

/* NULL where no such region is. Under the lock. */
static gpud_region_view *find(gpud_region_table *table, uint32_t region)
{
  if (!table->views || region >= GPUD_MAX_REGIONS || table->views[region].size == 0)
    return NULL;
  return &table->views[region];
}

static void unmap(gpud_region_view *view)
{
  gpud_segment segment = {.fd = -1, .base = view->pointer, .size = view->size};
  gpud_segment_close(&segment, view->address != 0);
  *view = (gpud_region_view){0};
}

void gpud_region_table_close(gpud_region_table *table)
{
  for (uint32_t i = 0; table->views && i < GPUD_MAX_REGIONS; i++)
    if (table->views[i].size != 0)
      unmap(&table->views[i]);
  free(table->views);
  pthread_rwlock_destroy(&table->lock);
}

int gpud_region_table_add(gpud_region_table *table, const gpud_msg_region_add *add, int fd)
{
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  int rc = 0;
  pthread_rwlock_wrlock(&table->lock);
  if (!table->views || add->region >= GPUD_MAX_REGIONS)
    rc = -EINVAL;
  else if (table->views[add->region].size != 0)
    rc = -EEXIST;
  else if (add->size == 0 || add->size % page != 0 || add->address % page != 0 || add->size > SIZE_MAX - add->address)
    rc = -EPERM;
  if (rc != 0) {
    gpud_bootstrap_discard(fd);
  } else {
    gpud_segment segment;
    void *address = (void *)(uintptr_t)add->address;
    rc = gpud_segment_open(&segment, fd, add->size, address, (add->access & GPUD_ACCESS_WRITE) != 0);
    if (rc == 0) {
      close(segment.fd); /* the mapping is enough, and descriptors are few */
      table->views[add->region] = (gpud_region_view){
        .size = add->size, .access = add->access, .pointer = segment.base, .address = add->address};
    }
  }
  pthread_rwlock_unlock(&table->lock);
  return rc;
}

int gpud_region_table_drop(gpud_region_table *table, uint32_t region)
{
  pthread_rwlock_wrlock(&table->lock);
  gpud_region_view *view = find(table, region);
  if (view)
    unmap(view);
  pthread_rwlock_unlock(&table->lock);
  return view ? 0 : -ENOENT;
}

int gpud_region_table_view(gpud_region_table *table, uint32_t region, gpud_region_view *view)
{
  pthread_rwlock_rdlock(&table->lock);
  gpud_region_view *found = find(table, region);
  if (found)
    *view = *found;
  pthread_rwlock_unlock(&table->lock);
  return found ? 0 : -ENOENT;
}

/* Where [offset, offset + size) of a region lies here, if `access` allows. Under the lock. */
static int locate(gpud_region_table *table, uint32_t region, uint64_t offset, uint64_t size, uint32_t access,
                  char **pointer)
{
  gpud_region_view *view = find(table, region);
  if (!view)
    return -ENOENT;
  if (offset > view->size || size > view->size - offset)
    return -ERANGE;
  if ((view->access & access) == 0)
    return -EACCES;
  *pointer = (char *)view->pointer + offset;
  return 0;
}

int gpud_region_table_read(gpud_region_table *table, uint32_t region, uint64_t offset, void *destination, uint64_t size)
{
  char *pointer;
  pthread_rwlock_rdlock(&table->lock);
  int rc = locate(table, region, offset, size, GPUD_ACCESS_READ, &pointer);
  if (rc == 0)
    gpud_copy(destination, pointer, size);
  pthread_rwlock_unlock(&table->lock);
  return rc;
}

int gpud_region_table_write(gpud_region_table *table, uint32_t region, uint64_t offset, const void *source,
                            uint64_t size)
{
  char *pointer;
  pthread_rwlock_rdlock(&table->lock);
  int rc = locate(table, region, offset, size, GPUD_ACCESS_WRITE, &pointer);
  if (rc == 0)
    gpud_copy_cached(pointer, source, size);
  pthread_rwlock_unlock(&table->lock);
  return rc;
}
