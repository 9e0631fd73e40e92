#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "connection.h"
#include "segment.h"

struct gpud_region {
  gpud_segment segment;
  gpud_connection *connection;
  uint32_t number;
  bool offered; /* the endpoint may still reach for the memory */
};

int gpud_region_create(gpud_connection *c, uint32_t number, uint64_t size, uint32_t access, uint64_t address,
                       int prefault, uint64_t deadline, gpud_region **region)
{
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  if (number >= GPUD_MAX_REGIONS || size == 0 || size > SIZE_MAX / 2)
    return -EINVAL;
  gpud_region *r = malloc(sizeof *r);
  if (!r)
    return -ENOMEM;
  r->number = number;
  size = (size + page - 1) / page * page;
  int rc = gpud_segment_create(&r->segment, "gpudisagg-region", size, prefault);
  if (rc == 0) {
    const gpud_region_offer offer = {
      .number = number, .access = access, .size = size, .pointer = r->segment.base, .fd = r->segment.fd};
    rc = gpud_connection_announce(c, &offer, address, deadline);
    close(r->segment.fd); /* the worker has its own; here the mapping is enough */
    r->segment.fd = -1;
    if (rc != 0)
      gpud_segment_close(&r->segment, 0);
  }
  if (rc != 0) {
    free(r);
    return rc;
  }
  gpud_connection_hold(c); /* freed after it, perhaps */
  r->connection = c;
  r->offered = true;
  *region = r;
  return 0;
}

void *gpud_region_pointer(const gpud_region *region) { return region->segment.base; }

uint64_t gpud_region_size(const gpud_region *region) { return region->segment.size; }

/* Before the memory goes: what is on its way from it or to it must not find another's there. */
static int withdraw(gpud_region *region, uint64_t sequence)
{
  bool offered = region->offered;
  region->offered = false;
  return offered ? gpud_connection_withdraw(region->connection, region->number, sequence) : 0;
}

int gpud_region_drop(gpud_connection *c, gpud_region *region, uint64_t deadline)
{
  const gpud_msg_region_drop drop = {.region = region->number};
  int64_t rc = gpud_connection_post(c, GPUD_OP_REGION_DROP, 0, &drop, sizeof drop, deadline);
  return rc < 0 ? (int)rc : withdraw(region, (uint64_t)rc);
}

void gpud_region_free(gpud_region *region)
{
  if (!region)
    return;
  withdraw(region, gpud_connection_posted(region->connection));
  gpud_segment_close(&region->segment, 0);
  gpud_connection_let_go(region->connection);
  free(region);
}
