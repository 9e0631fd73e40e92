/* Scenarios of verbs_processes.c: regions and one-sided transfers. */
#ifndef VERBS_TRANSFERS_H
#define VERBS_TRANSFERS_H

#include "verbs_rig.h"

static void offers_a_region(gpud_connection *c)
{
  gpud_region *region;
  CHECK_EQUAL(gpud_region_create(c, 1, REGION, 3, 0, 1, in_good_time(), &region), 0);
  fill_bytes(gpud_region_pointer(region), REGION, 7);
  tell(c, "filled");
  hear(c, "copied");
  /* All of it was read, and written back one byte further, but for the last one. */
  unsigned char *expected = malloc(REGION);
  fill_bytes(expected, REGION, 7);
  const unsigned char *got = gpud_region_pointer(region);
  CHECK_EQUAL(*got, 0xee);
  CHECK(memcmp(got + 1, expected, REGION - 1) == 0);
  free(expected);
  CHECK_EQUAL(gpud_region_drop(c, region, in_good_time()), 0);
  gpud_region_free(region);
  tell(c, "dropped");
  receive_ends(c, -EPIPE);
}

/* Copies in and out of `here`: sizes around those that transfers are cut at, at odd places. */
static void copies(gpud_connection *c, unsigned char *here)
{
  static const uint32_t sizes[] = {0,     1,     3,       63,      64,     4095,    4097,           65535,  65536,
                                   65537, 99999, 1 << 20, 1048577, 131073, 1500001, (2u << 20) + 5, 1000003};
  unsigned char *expected = malloc(REGION);
  fill_bytes(expected, REGION, 7);
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    uint32_t offset = (uint32_t)(i * 77773 % (REGION - sizes[i]));
    memset(here, 0, REGION);
    CHECK_EQUAL(gpud_connection_rma_read(c, 1, offset, here + i, sizes[i]), 0);
    CHECK(memcmp(here + i, expected + offset, sizes[i]) == 0);
    CHECK_EQUAL(here[i + sizes[i]], 0);
    CHECK_EQUAL(gpud_connection_rma_write(c, 1, offset, here + i, sizes[i]), 0);
  }
  CHECK_EQUAL(gpud_connection_rma_read(c, 1, 0, here, REGION), 0);
  CHECK(memcmp(here, expected, REGION) == 0);
  free(expected);
}

static void copies_a_region(gpud_connection *c)
{
  gpud_endpoint *ep = gpud_connection_endpoint(c);
  unsigned char *here = mmap(NULL, 2 * REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(here != MAP_FAILED);
  take_region(c, 0);
  hear(c, "filled");
  copies(c, here); /* memory that the endpoint knows nothing of */
  const gpud_local halves[] = {{.memory = here, .size = 1 << 20, .fd = -1},
                               {.memory = here + (2 << 20), .size = 4096, .fd = -1}};
  for (int i = 0; i < 2; i++)
    CHECK_EQUAL(ep->ops->local_here(ep, &halves[i]), 0);
  copies(c, here); /* some of it is registered */
  const gpud_local whole = {.memory = here, .size = 2 * REGION, .fd = -1};
  CHECK_EQUAL(ep->ops->local_here(ep, &whole), 0);
  CHECK_EQUAL(inside(c)->locals.count, 1);
  copies(c, here); /* all of it */
  CHECK_EQUAL(gpud_connection_rma_write(c, 1, 1, here, REGION - 1), 0);
  CHECK_EQUAL(gpud_connection_rma_write(c, 1, 0, "\xee", 1), 0);
  ep->ops->local_gone(ep, here, 4096);
  CHECK_EQUAL(inside(c)->locals.count, 0);
  /* What the worker refuses itself never leaves it: the connection goes on. */
  CHECK_EQUAL(gpud_connection_rma_read(c, 1, REGION, here, 1), -ERANGE);
  CHECK_EQUAL(gpud_connection_rma_read(c, 1, UINT64_MAX, here, 2), -ERANGE);
  CHECK_EQUAL(gpud_connection_rma_read(c, 2, 0, here, 1), -ENOENT);
  CHECK_EQUAL(gpud_connection_rma_read(c, UINT32_MAX, 0, here, 1), -ENOENT);
  tell(c, "copied");
  char message[GPUD_MAX_MESSAGE];
  CHECK(gpud_connection_receive(c, message, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_region_drop(c, message), 0);
  CHECK_EQUAL(gpud_connection_rma_read(c, 1, 0, here, 1), -ENOENT);
  gpud_connection_publish(c, 3, 0);
  hear(c, "dropped");
  munmap(here, 2 * REGION);
}

static void regions_are_read_and_written_wherever_the_bytes_go(void) { between(offers_a_region, copies_a_region); }

static void offers_and_waits(gpud_connection *c)
{
  gpud_region *region;
  CHECK_EQUAL(gpud_region_create(c, 1, REGION, 3, 0, 1, in_good_time(), &region), 0);
  receive_ends(c, -EPIPE);
  gpud_region_free(region);
}

static void copies_until_interrupted(gpud_connection *c)
{
  pthread_t other;
  char *here = malloc(REGION);
  int rc;
  take_region(c, 0);
  CHECK_EQUAL(pthread_create(&other, NULL, interrupt_soon, c), 0);
  while ((rc = gpud_connection_rma_read(c, 1, 0, here, REGION)) == 0)
    continue;
  free(here); /* nothing is on its way to it any more */
  CHECK_EQUAL(rc, -EPIPE);
  CHECK_EQUAL(gpud_connection_rma_write(c, 1, 0, "", 1), -EPIPE);
  pthread_join(other, NULL);
}

static void an_interrupt_ends_a_transfer(void) { between(offers_and_waits, copies_until_interrupted); }

#define ROUNDS 20u

static void offers_under_one_number(gpud_connection *c)
{
  for (uint32_t i = 0; i < ROUNDS; i++) {
    gpud_region *region;
    CHECK_EQUAL(gpud_region_create(c, 5, 8192, 3, 0, 0, in_good_time(), &region), 0);
    memset(gpud_region_pointer(region), (int)i, 8192);
    tell(c, "look");
    CHECK_EQUAL(gpud_region_drop(c, region, in_good_time()), 0);
    gpud_region_free(region); /* unmapped: registered all the same until the worker has dropped it */
  }
  CHECK_EQUAL(gpud_connection_wait(c, 3 * ROUNDS, in_good_time()), 0);
  int faulted;
  gpud_endpoint *ep = gpud_connection_endpoint(c);
  ep->ops->completed(ep, &faulted);
  CHECK_EQUAL(inside(c)->offers.count, 0);
  gpud_verbs_objects now;
  gpud_verbs_census(&now);
  CHECK_EQUAL(now.memory_regions, 1); /* that of the messages */
}

static void looks_at_each(gpud_connection *c)
{
  char message[GPUD_MAX_MESSAGE], got[8192];
  usleep(200000); /* by now several keys have come, and none of their regions is added */
  for (uint32_t i = 0; i < ROUNDS; i++) {
    take_region(c, 0);
    hear(c, "look");
    CHECK_EQUAL(gpud_connection_rma_read(c, 5, 0, got, sizeof got), 0);
    CHECK_EQUAL((unsigned char)got[0], i);
    CHECK_EQUAL((unsigned char)got[8191], i);
    CHECK(gpud_connection_receive(c, message, in_good_time()) > 0);
    CHECK_EQUAL(gpud_connection_region_drop(c, message), 0);
    gpud_connection_publish(c, gpud_connection_received(c), 0);
  }
  receive_ends(c, -EPIPE);
}

static void a_number_is_used_again_before_the_worker_has_dropped_it(void)
{
  between(offers_under_one_number, looks_at_each);
}

/* Registers one thing and announces another, as a client that lies: `size` and `access` are what it says. */
static void announce(gpud_connection *c, gpud_segment *segment, uint32_t access, uint64_t claimed, uint32_t claims)
{
  gpud_endpoint *ep = gpud_connection_endpoint(c);
  CHECK_EQUAL(gpud_segment_create(segment, "test", 8192, 1), 0);
  const gpud_region_offer offer = {
    .number = 1, .access = access, .size = 8192, .pointer = segment->base, .fd = segment->fd};
  const gpud_msg_region_add add = {.region = 1, .access = claims, .size = claimed};
  CHECK_EQUAL(ep->ops->region_offer(ep, &offer, in_good_time()), 0);
  CHECK(gpud_connection_post(c, GPUD_OP_REGION_ADD, 0, &add, sizeof add, in_good_time()) > 0);
}

static uint32_t lie; /* which: set before the fork */

static void lies(gpud_connection *c)
{
  gpud_segment segment;
  gpud_endpoint *ep = gpud_connection_endpoint(c);
  announce(c, &segment, lie == 1 ? GPUD_ACCESS_READ : 3, lie == 0 ? 16384 : 8192, 3);
  memset(segment.base, 'c', 8192);
  if (lie == 2)
    CHECK_EQUAL(ep->ops->region_withdraw(ep, 1, 0), 0);
  tell(c, "try");
  receive_ends(c, -EPIPE);
  for (int i = 0; i < 8192; i++)
    CHECK_EQUAL(((char *)segment.base)[i], 'c');
  gpud_segment_close(&segment, 0);
}

static void is_refused(gpud_connection *c)
{
  char here[8192] = "w";
  take_region(c, 0);
  hear(c, "try");
  switch (lie) {
  case 0: /* past the end of what is registered */
    CHECK_EQUAL(gpud_connection_rma_read(c, 1, 0, here, 8192), 0);
    CHECK_EQUAL(gpud_connection_rma_read(c, 1, 8192, here, 100), -EACCES);
    break;
  case 1: /* only to be read */
    CHECK_EQUAL(gpud_connection_rma_read(c, 1, 0, here, 8192), 0);
    CHECK_EQUAL(gpud_connection_rma_write(c, 1, 0, here, 100), -EACCES);
    break;
  case 2: /* gone */
    CHECK_EQUAL(gpud_connection_rma_read(c, 1, 0, here, 100), -EACCES);
    break;
  default: /* another's key */
    inside(c)->remotes->regions[1].key ^= 0x5a00;
    CHECK_EQUAL(gpud_connection_rma_read(c, 1, 0, here, 100), -EACCES);
  }
  CHECK(strstr(reason(c), "refused access") != NULL);
  CHECK_EQUAL(gpud_connection_rma_read(c, 1, 0, here, 1), -EPIPE);
  receive_ends(c, -EPIPE);
}

static void the_clients_adapter_refuses_what_it_did_not_register(void)
{
  for (lie = 0; lie < 4; lie++)
    between(lies, is_refused);
}

static void offers_many(gpud_connection *c)
{
  static gpud_region *regions[GPUD_MAX_REGIONS];
  for (uint32_t i = 0; i < GPUD_MAX_REGIONS; i += 4)
    CHECK_EQUAL(gpud_region_create(c, i, 4096, 1, 0, 0, in_good_time(), &regions[i]), 0);
  tell(c, "all");
  hear(c, "taken");
  for (uint32_t i = 0; i < GPUD_MAX_REGIONS; i += 4)
    gpud_region_free(regions[i]); /* not dropped: the worker's end takes them back */
}

static void takes_many(gpud_connection *c)
{
  for (uint32_t i = 0; i < GPUD_MAX_REGIONS; i += 4)
    take_region(c, 0);
  hear(c, "all");
  tell(c, "taken");
  receive_ends(c, -EPIPE);
}

static void many_regions_at_once(void) { between(offers_many, takes_many); }

static void adapter_has_no_dma_buf(gpud_connection *c)
{
  gpud_endpoint *ep = gpud_connection_endpoint(c);
  int fd = memfd_create("no dma-buf", MFD_CLOEXEC);
  const gpud_local local = {.memory = (void *)(1ull << 40), .size = 4096, .device = 1, .fd = fd};
  CHECK(ep->ops->local_here(ep, &local) < 0);
  void *nothing = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); /* as a device's address is, here */
  const gpud_local by_address = {.memory = nothing, .size = 4096, .device = 1, .fd = -1};
  CHECK(ep->ops->local_here(ep, &by_address) < 0);
  munmap(nothing, 4096);
  close(fd);
  tell(c, "goes on");
  receive_ends(c, -EPIPE);
}

static void hears_it_go_on(gpud_connection *c) { hear(c, "goes on"); }

static void device_memory_that_the_adapter_cannot_reach_is_refused(void)
{
  between(hears_it_go_on, adapter_has_no_dma_buf);
}

#endif
