/* The engine's tables against the simplest model of each: a byte per page, a slot per id. */
#include "engine_rig.h"
#include "idmap.h"
#include "memory.h"

static uint64_t state = 88172645463325252ull;
static uint64_t choose(uint64_t below) { return random_next(&state) % below; }

#define BASE 0x10000u
#define PAGES 64u
#define UNIT 16u

typedef struct model {
  uint8_t kind[PAGES];
  uint8_t access[PAGES];
  uint32_t owner[PAGES]; /* of a chunk: its first page, by which whole chunks are known */
} model;

static int free_range(const model *m, uint64_t page, uint64_t count)
{
  for (uint64_t i = page; i < page + count; i++)
    if (m->kind[i])
      return 0;
  return 1;
}

static int covered(const model *m, uint64_t first, uint64_t bytes, uint8_t access)
{
  for (uint64_t b = first; b < first + bytes; b++)
    if (b / UNIT >= PAGES || !m->kind[b / UNIT] || (m->access[b / UNIT] & access) != access)
      return 0;
  return 1;
}

static int whole_chunks(const model *m, uint64_t page, uint64_t count)
{
  for (uint64_t i = page; i < page + count; i++)
    if (i >= PAGES || m->kind[i] != GPUD_EXTENT_CHUNK)
      return 0;
  if (m->owner[page] != page)
    return 0;
  uint64_t end = page + count;
  return end == PAGES || m->kind[end] != GPUD_EXTENT_CHUNK || m->owner[end] == end;
}

static void test_memory_agrees_with_a_model(void)
{
  gpud_memory memory;
  model m = {0};
  const uint64_t limit = PAGES * UNIT / 2;
  gpud_memory_init(&memory, BASE, PAGES * UNIT, limit);
  uint64_t used[4] = {0}; /* by kind */
  for (int turn = 0; turn < 200000; turn++) {
    uint64_t page = choose(PAGES);
    uint64_t count = 1 + choose(4);
    if (page + count > PAGES)
      count = PAGES - page;
    switch (choose(5)) {
    case 0:
    case 1: {
      gpud_extent extent = {.address = BASE + page * UNIT,
                            .size = count * UNIT,
                            .kind = 1 + (uint32_t)choose(3),
                            .access = 1 + (uint32_t)choose(3),
                            .owner = (uint32_t)choose(3)};
      int chunk = extent.kind == GPUD_EXTENT_CHUNK;
      int limited = extent.kind != GPUD_EXTENT_REGION;
      int expected = !free_range(&m, page, count)                         ? -EEXIST
                     : limited && used[extent.kind] + extent.size > limit ? -EDQUOT
                                                                          : 0;
      CHECK_EQUAL(gpud_memory_add(&memory, &extent), expected);
      if (expected)
        break;
      used[extent.kind] += extent.size;
      for (uint64_t i = page; i < page + count; i++) {
        m.kind[i] = (uint8_t)extent.kind;
        m.access[i] = (uint8_t)extent.access;
        m.owner[i] = chunk ? (uint32_t)page : extent.owner;
      }
      break;
    }
    case 2: {
      int expected = whole_chunks(&m, page, count) ? 0 : -ENOENT;
      CHECK_EQUAL(gpud_memory_remove_chunks(&memory, BASE + page * UNIT, count * UNIT), expected);
      if (expected)
        break;
      used[GPUD_EXTENT_CHUNK] -= count * UNIT;
      memset(m.kind + page, 0, count);
      break;
    }
    case 3: {
      if (choose(4))
        break;
      uint32_t kind = 2 + (uint32_t)choose(2);
      uint32_t owner = (uint32_t)choose(3);
      gpud_memory_remove_owned(&memory, kind, owner);
      for (uint64_t i = 0; i < PAGES; i++)
        if (m.kind[i] == kind && m.owner[i] == owner) {
          m.kind[i] = 0;
          used[kind] -= UNIT;
        }
      break;
    }
    default: {
      uint64_t first = choose(PAGES * UNIT);
      uint64_t bytes = choose(6 * UNIT);
      uint32_t access = 1 + (uint32_t)choose(3);
      CHECK_EQUAL(gpud_memory_covers(&memory, BASE + first, bytes, access),
                  bytes == 0 || covered(&m, first, bytes, (uint8_t)access));
      break;
    }
    }
    CHECK_EQUAL(memory.mapped, used[GPUD_EXTENT_CHUNK]);
    CHECK_EQUAL(memory.variables, used[GPUD_EXTENT_VARIABLE]);
  }
  gpud_memory_clear(&memory);
}

static void test_spans_at_the_end_of_the_address_space(void)
{
  gpud_memory memory;
  gpud_memory_init(&memory, 0, UINT64_MAX, UINT64_MAX);
  gpud_extent last = {.address = UINT64_MAX - 15, .size = 16, .kind = GPUD_EXTENT_VARIABLE, .access = 3};
  CHECK_EQUAL(gpud_memory_add(&memory, &last), 0);
  CHECK(gpud_memory_covers(&memory, UINT64_MAX - 15, 16, 3));
  CHECK(!gpud_memory_covers(&memory, UINT64_MAX - 15, 17, 3));
  CHECK(!gpud_memory_covers(&memory, UINT64_MAX - 16, 16, 3));
  CHECK(gpud_memory_covers(&memory, 5, 0, 3));
  last.size = 17;
  CHECK_EQUAL(gpud_memory_add(&memory, &last), -EINVAL);
  last.size = 0;
  CHECK_EQUAL(gpud_memory_add(&memory, &last), -EINVAL);
  CHECK(!gpud_memory_in_window(&memory, 4096, 0, 4096));
  CHECK(!gpud_memory_in_window(&memory, -4096ull, 8192, 4096));
  CHECK(gpud_memory_in_window(&memory, 4096, 8192, 4096));
  CHECK(!gpud_memory_in_window(&memory, 4097, 8192, 4096));
  gpud_memory_clear(&memory);
}

static void test_idmap_agrees_with_a_model(void)
{
  enum { IDS = 300, LIMIT = 150 };
  gpud_idmap map;
  gpud_idmap_init(&map, LIMIT);
  uint64_t model[IDS] = {0};
  uint32_t count = 0;
  for (int turn = 0; turn < 300000; turn++) {
    uint32_t id = (uint32_t)choose(IDS);
    uint32_t key = id * 0x10000001u; /* spread over all 32 bits */
    uint64_t value = 1 + choose(1000);
    uint64_t *found = gpud_idmap_find(&map, key);
    CHECK_EQUAL(found ? *found : 0, model[id]);
    if (choose(2)) {
      int expected = model[id] ? -EEXIST : count == LIMIT ? -ENOSPC : 0;
      CHECK_EQUAL(gpud_idmap_add(&map, key, value), expected);
      if (expected == 0) {
        model[id] = value;
        count++;
      }
    } else {
      CHECK_EQUAL(gpud_idmap_remove(&map, key), model[id] != 0);
      count -= model[id] != 0;
      model[id] = 0;
    }
    CHECK_EQUAL(map.count, count);
  }
  gpud_idmap_clear(&map);
}

int main(void)
{
  test_memory_agrees_with_a_model();
  test_spans_at_the_end_of_the_address_space();
  test_idmap_agrees_with_a_model();
  return 0;
}
