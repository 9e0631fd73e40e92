/*
 * Registered memory without an adapter: random programs against a model, over functions that only count. usage: verbs_memory SEED ROUNDS
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "verbs_memory.h"

#define PAGES 64u
#define PAGE 4096u
#define BASE 0x700000000000ull

/* ---------------------------------------------------------------- an adapter that only counts */

static uint32_t registered_on[PAGES]; /* by how many registrations each page is held */
static uint32_t budget;               /* pages that may be held: RLIMIT_MEMLOCK */
static uint32_t held;
static int refusal; /* an errno for all */

static struct ibv_mr *registering(struct ibv_pd *domain, void *address, size_t size, int access)
{
  uint64_t at = (uintptr_t)address;
  uint32_t pages = (uint32_t)(size / PAGE);
  CHECK(domain == NULL);
  CHECK((access & IBV_ACCESS_REMOTE_READ) == 0 || access == IBV_ACCESS_REMOTE_READ ||
        access == (IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_LOCAL_WRITE));
  if (refusal || held + pages > budget) {
    errno = refusal ? refusal : ENOMEM;
    return NULL;
  }
  struct ibv_mr *mr = calloc(1, sizeof *mr);
  CHECK(mr != NULL);
  mr->addr = address;
  mr->length = size;
  mr->lkey = mr->rkey = (uint32_t)access;
  held += pages;
  for (uint32_t i = 0; i < pages; i++)
    registered_on[(at - BASE) / PAGE + i]++;
  return mr;
}

static int deregistering(struct ibv_mr *mr)
{
  uint64_t at = (uintptr_t)mr->addr;
  held -= (uint32_t)(mr->length / PAGE);
  for (uint32_t i = 0; i < mr->length / PAGE; i++)
    registered_on[(at - BASE) / PAGE + i]--;
  free(mr);
  return 0;
}

static struct ibv_mr *importing(struct ibv_pd *domain, uint64_t offset, size_t size, uint64_t iova, int fd, int access)
{
  CHECK_EQUAL(fd, 99);
  CHECK_EQUAL(offset, 8192);
  return registering(domain, (void *)(uintptr_t)iova, size, access);
}

static gpud_verbs_api api = {.reg_mr = registering, .dereg_mr = deregistering};

static void nothing_is_left(void)
{
  gpud_verbs_objects left;
  gpud_verbs_census(&left);
  CHECK_EQUAL(left.memory_regions, 0);
  CHECK_EQUAL(left.registered, 0);
  CHECK_EQUAL(held, 0);
}

/* ---------------------------------------------------------------- the worker's own */

static void is_sound(gpud_verbs_locals *locals)
{
  uint32_t pages = 0;
  for (uint32_t i = 0; i < locals->count; i++) {
    const gpud_verbs_extent *e = &locals->extents[i];
    CHECK(i == 0 || locals->extents[i - 1].address + locals->extents[i - 1].size <= e->address);
    CHECK_EQUAL((uintptr_t)e->mr->addr, e->address);
    CHECK_EQUAL(e->mr->length, e->size);
    pages += (uint32_t)(e->size / PAGE);
  }
  CHECK(locals->count <= locals->most);
  CHECK(locals->bytes <= locals->most_bytes);
  CHECK_EQUAL(locals->bytes, pages * PAGE);
  CHECK_EQUAL(held, pages); /* nothing is registered that is not in the table */
  for (uint32_t i = 0; i < PAGES; i++) {
    const uint64_t address = BASE + i * PAGE + 17;
    const gpud_verbs_extent *e = gpud_verbs_locals_find(locals, address);
    CHECK_EQUAL(e != NULL, registered_on[i]);
    CHECK(!e || (e->address <= address && address - e->address < e->size));
    uint32_t gap = i;
    while (gap < PAGES && !registered_on[gap])
      gap++;
    uint64_t wanted = gap == i ? 0 : (uint64_t)gap * PAGE + BASE - address;
    CHECK_EQUAL(gpud_verbs_locals_gap(locals, address, wanted + 5), gap == PAGES ? wanted + 5 : wanted);
  }
}

static void random_program(uint64_t *state, uint32_t steps)
{
  const uint32_t most_pages = 4 + (uint32_t)(random_next(state) % PAGES);
  gpud_verbs_locals locals = {
    .api = &api, .most = 1 + (uint32_t)(random_next(state) % 6), .most_bytes = most_pages * PAGE};
  budget = 4 + (uint32_t)(random_next(state) % PAGES);
  for (uint32_t step = 0; step < steps; step++) {
    uint32_t first = (uint32_t)(random_next(state) % PAGES);
    uint32_t count = 1 + (uint32_t)(random_next(state) % 8);
    if (first + count > PAGES)
      count = PAGES - first;
    const gpud_local local = {.memory = (void *)(uintptr_t)(BASE + first * PAGE), .size = count * PAGE, .fd = -1};
    if (random_next(state) % 4 != 0) {
      int rc = gpud_verbs_locals_add(&locals, &local);
      CHECK_EQUAL(rc,
                  count > budget || count > most_pages ? -ENOMEM : 0); /* else there is always something to give up */
      for (uint32_t i = 0; rc == 0 && i < count; i++)
        CHECK_EQUAL(registered_on[first + i], 1);
    } else {
      gpud_verbs_locals_remove(&locals, BASE + first * PAGE + 5, count * PAGE - 9);
      for (uint32_t i = 0; i < count; i++)
        CHECK_EQUAL(registered_on[first + i], 0);
    }
    uint64_t clock = locals.clock;
    uint64_t used[8];
    for (uint32_t i = 0; i < locals.count; i++)
      used[i] = locals.extents[i].used;
    is_sound(&locals);
    for (uint32_t i = 0; i < locals.count; i++) /* looking is no use here */
      locals.extents[i].used = used[i];
    locals.clock = clock;
  }
  gpud_verbs_locals_close(&locals);
  nothing_is_left();
}

static void the_least_recently_used_makes_room(void)
{
  gpud_verbs_locals locals = {.api = &api, .most = 3};
  budget = PAGES;
  for (uint32_t i = 0; i < 3; i++)
    CHECK_EQUAL(gpud_verbs_locals_add(
                    &locals, &(gpud_local){.memory = (void *)(uintptr_t)(BASE + 2 * i * PAGE), .size = PAGE, .fd = -1}),
                0);
  CHECK(gpud_verbs_locals_find(&locals, BASE) != NULL); /* so the second is the oldest */
  CHECK_EQUAL(gpud_verbs_locals_add(
                  &locals, &(gpud_local){.memory = (void *)(uintptr_t)(BASE + 20 * PAGE), .size = PAGE, .fd = -1}),
              0);
  CHECK_EQUAL(registered_on[0], 1);
  CHECK_EQUAL(registered_on[2], 0);
  CHECK_EQUAL(registered_on[4], 1);
  CHECK_EQUAL(registered_on[20], 1);
  budget = 3; /* the system's limit does the same */
  CHECK_EQUAL(gpud_verbs_locals_add(
                  &locals, &(gpud_local){.memory = (void *)(uintptr_t)(BASE + 30 * PAGE), .size = PAGE, .fd = -1}),
              0);
  CHECK_EQUAL(registered_on[4], 0);
  gpud_verbs_locals_close(&locals);
  nothing_is_left();
}

static void what_the_adapter_refuses_is_told(void)
{
  gpud_verbs_locals locals = {.api = &api};
  gpud_local local = {.memory = (void *)(uintptr_t)BASE, .size = PAGE, .device = 1, .fd = 99, .offset = 8192};
  budget = PAGES;
  CHECK_EQUAL(gpud_verbs_locals_add(&locals, &local), -EOPNOTSUPP); /* a library without dma-buf */
  api.reg_dmabuf_mr = importing;
  refusal = EOPNOTSUPP;
  CHECK_EQUAL(gpud_verbs_locals_add(&locals, &local), -EOPNOTSUPP);
  refusal = 0;
  CHECK_EQUAL(gpud_verbs_locals_add(&locals, &local), 0);
  CHECK(gpud_verbs_locals_find(&locals, BASE + 5) != NULL);
  local.fd = -1;
  refusal = EFAULT;
  local.memory = (void *)(uintptr_t)(BASE + 8 * PAGE);
  CHECK_EQUAL(gpud_verbs_locals_add(&locals, &local), -EFAULT); /* no peer memory */
  CHECK_EQUAL(locals.count, 1);                                 /* and for that nothing was given up */
  local.size = 0;
  CHECK_EQUAL(gpud_verbs_locals_add(&locals, &local), -EINVAL);
  local.size = UINT64_MAX;
  CHECK_EQUAL(gpud_verbs_locals_add(&locals, &local), -EINVAL);
  refusal = 0;
  gpud_verbs_locals_close(&locals);
  nothing_is_left();
}

/* ---------------------------------------------------------------- the client's regions, on both sides */

static void offers_end_with_the_command_that_drops_them(void)
{
  static gpud_verbs_offers offers = {.api = &api};
  struct ibv_mr *mr;
  budget = PAGES;
  gpud_region_offer offer = {.number = 3, .access = 3, .size = PAGE, .pointer = (void *)(uintptr_t)BASE, .fd = -1};
  CHECK_EQUAL(gpud_verbs_offers_add(&offers, &offer, &mr), 0);
  CHECK_EQUAL(mr->rkey, IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_LOCAL_WRITE);
  CHECK_EQUAL(gpud_verbs_offers_add(&offers, &offer, &mr), -EEXIST);
  CHECK_EQUAL(gpud_verbs_offers_withdraw(&offers, 3, 10), 0);
  CHECK_EQUAL(gpud_verbs_offers_withdraw(&offers, 3, 10), -ENOENT);
  CHECK_EQUAL(gpud_verbs_offers_withdraw(&offers, GPUD_MAX_REGIONS, 10), -ENOENT);
  offer.pointer = (void *)(uintptr_t)(BASE + PAGE);
  offer.access = GPUD_ACCESS_READ;
  CHECK_EQUAL(gpud_verbs_offers_add(&offers, &offer, &mr), 0); /* the number is free at once */
  CHECK_EQUAL(mr->rkey, IBV_ACCESS_REMOTE_READ);
  gpud_verbs_offers_sweep(&offers, 9);
  CHECK_EQUAL(registered_on[0], 1); /* the worker may still be reading it */
  gpud_verbs_offers_sweep(&offers, 10);
  CHECK_EQUAL(registered_on[0], 0);
  CHECK_EQUAL(registered_on[1], 1);
  offer.number = 4;
  refusal = ENOMEM;
  CHECK_EQUAL(gpud_verbs_offers_add(&offers, &offer, &mr), -ENOMEM);
  refusal = 0;
  offer.number = GPUD_MAX_REGIONS;
  CHECK_EQUAL(gpud_verbs_offers_add(&offers, &offer, &mr), -EINVAL);
  budget = UINT32_MAX; /* withdrawn ones that the worker does not get to are bounded as well */
  offer.number = 5;
  uint32_t count = offers.count;
  for (; count < 2 * GPUD_MAX_REGIONS; count++) {
    CHECK_EQUAL(gpud_verbs_offers_add(&offers, &offer, &mr), 0);
    CHECK_EQUAL(gpud_verbs_offers_withdraw(&offers, 5, 100), 0);
  }
  CHECK_EQUAL(gpud_verbs_offers_add(&offers, &offer, &mr), -ENOMEM);
  gpud_verbs_offers_close(&offers);
  nothing_is_left();
}

static void each_region_takes_its_key(void)
{
  static gpud_verbs_remotes remotes;
  gpud_verbs_remote found;
  gpud_msg_region_add add = {.region = 7, .access = GPUD_ACCESS_READ, .size = 2 * PAGE};
  gpud_msg_region_key key = {.region = 7, .address = BASE, .rkey = 1};
  CHECK_EQUAL(gpud_verbs_remotes_add(&remotes, &add), -EPROTO); /* none came */
  for (uint32_t i = 0; i < 3; i++) { /* three lives of one number, announced before the first */
    key.rkey = i;
    CHECK_EQUAL(gpud_verbs_remotes_key(&remotes, &key), 0);
  }
  for (uint32_t i = 0; i < 3; i++) {
    CHECK_EQUAL(gpud_verbs_remotes_add(&remotes, &add), 0);
    CHECK_EQUAL(gpud_verbs_remotes_span(&remotes, 7, 0, 2 * PAGE, GPUD_ACCESS_READ, &found), 0);
    CHECK_EQUAL(found.key, i);
    CHECK_EQUAL(gpud_verbs_remotes_drop(&remotes, 7), 0);
  }
  CHECK_EQUAL(gpud_verbs_remotes_drop(&remotes, 7), -ENOENT);
  /* Each of these takes a key, whatever comes of it. */
  const struct {
    gpud_msg_region_add add;
    gpud_msg_region_key key;
    int wanted;
  } cases[] = {
    {{.region = 1, .size = PAGE}, {.region = 2}, -EPROTO},
    {{.region = UINT32_MAX, .size = PAGE}, {.region = 2}, -EINVAL},
    {{.region = 1, .size = 0}, {.region = 1}, -EPERM},
    {{.region = 1, .size = 100}, {.region = 1}, -EPERM},
    {{.region = 1, .size = PAGE}, {.region = 1, .address = UINT64_MAX - 100}, -EPERM},
    {{.region = 1, .size = PAGE, .address = BASE}, {.region = 1}, -ENOTSUP},
    {{.region = 1, .size = PAGE, .access = 1}, {.region = 1}, 0},
    {{.region = 1, .size = PAGE}, {.region = 1}, -EEXIST},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    CHECK_EQUAL(gpud_verbs_remotes_key(&remotes, &cases[i].key), 0);
    CHECK_EQUAL(gpud_verbs_remotes_add(&remotes, &cases[i].add), cases[i].wanted);
    CHECK_EQUAL(remotes.count, 0);
  }
  CHECK_EQUAL(gpud_verbs_remotes_span(&remotes, 1, 0, PAGE, GPUD_ACCESS_READ, &found), 0);
  CHECK_EQUAL(gpud_verbs_remotes_span(&remotes, 1, PAGE, 0, GPUD_ACCESS_READ, &found), 0);
  CHECK_EQUAL(gpud_verbs_remotes_span(&remotes, 1, PAGE, 1, GPUD_ACCESS_READ, &found), -ERANGE);
  CHECK_EQUAL(gpud_verbs_remotes_span(&remotes, 1, 1, UINT64_MAX, GPUD_ACCESS_READ, &found), -ERANGE);
  CHECK_EQUAL(gpud_verbs_remotes_span(&remotes, 1, 0, 1, GPUD_ACCESS_WRITE, &found), -EACCES);
  CHECK_EQUAL(gpud_verbs_remotes_span(&remotes, 2, 0, 1, GPUD_ACCESS_READ, &found), -ENOENT);
  CHECK_EQUAL(gpud_verbs_remotes_span(&remotes, UINT32_MAX, 0, 1, GPUD_ACCESS_READ, &found), -ENOENT);
  for (uint32_t i = 0; i < GPUD_VERBS_KEYS; i++)
    CHECK_EQUAL(gpud_verbs_remotes_key(&remotes, &key), 0);
  CHECK_EQUAL(gpud_verbs_remotes_key(&remotes, &key), -EPROTO); /* more than can be announced */
}

int main(int count, char **arguments)
{
  CHECK_EQUAL(count, 3);
  uint64_t state = random_of(strtoull(arguments[1], NULL, 10));
  for (uint32_t rounds = (uint32_t)strtoul(arguments[2], NULL, 10); rounds != 0; rounds--)
    random_program(&state, 60);
  the_least_recently_used_makes_room();
  what_the_adapter_refuses_is_told();
  offers_end_with_the_command_that_drops_them();
  each_region_takes_its_key();
  return 0;
}
