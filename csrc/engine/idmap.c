#include "idmap.h"

#include <errno.h>
#include <stdlib.h>

#define FIRST_CAPACITY 16u

static uint32_t home_of(const gpud_idmap *map, uint32_t id)
{
  return (uint32_t)((id * 0x9e3779b97f4a7c15ull) >> 32) & (map->capacity - 1);
}

static uint32_t slot_of(const gpud_idmap *map, uint32_t id)
{
  uint32_t slot = home_of(map, id);
  while (map->entries[slot].used && map->entries[slot].id != id)
    slot = (slot + 1) & (map->capacity - 1);
  return slot;
}

static int grow(gpud_idmap *map)
{
  gpud_idmap larger = *map;
  larger.capacity = map->capacity ? map->capacity * 2 : FIRST_CAPACITY;
  larger.entries = calloc(larger.capacity, sizeof *larger.entries);
  if (!larger.entries)
    return -ENOMEM;
  for (uint32_t i = 0; i < map->capacity; i++)
    if (map->entries[i].used)
      larger.entries[slot_of(&larger, map->entries[i].id)] = map->entries[i];
  free(map->entries);
  *map = larger;
  return 0;
}

void gpud_idmap_init(gpud_idmap *map, uint32_t limit) { *map = (gpud_idmap){.limit = limit}; }

int gpud_idmap_add(gpud_idmap *map, uint32_t id, uint64_t value)
{
  if (gpud_idmap_find(map, id))
    return -EEXIST;
  if (map->count >= map->limit)
    return -ENOSPC;
  if (map->count * 2 >= map->capacity) {
    int rc = grow(map);
    if (rc)
      return rc;
  }
  map->entries[slot_of(map, id)] = (gpud_idmap_entry){.value = value, .id = id, .used = 1};
  map->count++;
  return 0;
}

uint64_t *gpud_idmap_find(const gpud_idmap *map, uint32_t id)
{
  if (map->count == 0)
    return NULL;
  gpud_idmap_entry *entry = &map->entries[slot_of(map, id)];
  return entry->used ? &entry->value : NULL;
}

bool gpud_idmap_remove(gpud_idmap *map, uint32_t id)
{
  if (map->count == 0)
    return false;
  uint32_t hole = slot_of(map, id);
  if (!map->entries[hole].used)
    return false;
  /* Close the gap: an entry further on that may live in the hole moves there, or a search for it would stop short. */
  uint32_t mask = map->capacity - 1;
  for (uint32_t next = (hole + 1) & mask; map->entries[next].used; next = (next + 1) & mask) {
    uint32_t home = home_of(map, map->entries[next].id);
    if (((next - home) & mask) < ((next - hole) & mask))
      continue;
    map->entries[hole] = map->entries[next];
    hole = next;
  }
  map->entries[hole].used = 0;
  map->count--;
  return true;
}

void gpud_idmap_clear(gpud_idmap *map)
{
  free(map->entries);
  gpud_idmap_init(map, map->limit);
}
