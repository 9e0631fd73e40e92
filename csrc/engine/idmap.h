/*
 * A bounded map from ids that the client chose to what they name here. Open addressing, so that a client with
 * 65,536 events costs one allocation, not as many. Ids that collide on purpose slow down their own session only.
 */
#ifndef GPUD_IDMAP_H
#define GPUD_IDMAP_H

#include <stdbool.h>
#include <stdint.h>

typedef struct gpud_idmap_entry {
  uint64_t value;
  uint32_t id;
  uint32_t used;
} gpud_idmap_entry;

typedef struct gpud_idmap {
  gpud_idmap_entry *entries;
  uint32_t capacity; /* a power of two, or 0 */
  uint32_t count;
  uint32_t limit;
} gpud_idmap;

void gpud_idmap_init(gpud_idmap *map, uint32_t limit);
/* 0, -EEXIST, -ENOSPC (at the limit), -ENOMEM. */
int gpud_idmap_add(gpud_idmap *map, uint32_t id, uint64_t value);
/* The entry's value, to read or overwrite until the map next changes; NULL where there is none. */
uint64_t *gpud_idmap_find(const gpud_idmap *map, uint32_t id);
/* Whether it was there. */
bool gpud_idmap_remove(gpud_idmap *map, uint32_t id);
/* Frees the entries; the map may be used again. */
void gpud_idmap_clear(gpud_idmap *map);

#endif
