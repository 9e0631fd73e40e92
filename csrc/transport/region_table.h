/*
 * The regions that a worker has mapped, by the client's number. Private to the endpoints whose regions are mapped here.
 *
 * Threads: any; a copy holds off a drop, not another copy. A view's pointer stays good until the region is dropped.
 */
#ifndef GPUD_REGION_TABLE_H
#define GPUD_REGION_TABLE_H

#include <pthread.h>
#include <stdint.h>

#include "endpoint.h"

typedef struct gpud_region_table {
  gpud_region_view *views; /* [GPUD_MAX_REGIONS], a size of 0 where there is none; NULL at a client, which has none */
  pthread_rwlock_t lock;
} gpud_region_table;

int gpud_region_table_init(gpud_region_table *table, int client); /* 0 or -ENOMEM */
void gpud_region_table_close(gpud_region_table *table);

/* Takes fd, also on failure. What each may return is in endpoint.h. */
int gpud_region_table_add(gpud_region_table *table, const gpud_msg_region_add *add, int fd);
int gpud_region_table_drop(gpud_region_table *table, uint32_t region);
int gpud_region_table_view(gpud_region_table *table, uint32_t region, gpud_region_view *view);
int gpud_region_table_read(gpud_region_table *table, uint32_t region, uint64_t offset, void *destination,
                           uint64_t size);
int gpud_region_table_write(gpud_region_table *table, uint32_t region, uint64_t offset, const void *source,
                            uint64_t size);

#endif
