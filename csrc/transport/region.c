#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "connection.h"
#include "segment.h"

struct gpud_region {
  gpud_segment segment;
  uint32_t number;
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
  if (rc != 0)
    free(r);
  else
    *region = r;
  return rc;
}

void *gpud_region_pointer(const gpud_region *region) { return region->segment.base; }

uint64_t gpud_region_size(const gpud_region *region) { return region->segment.size; }

int gpud_region_drop(gpud_connection *c, gpud_region *region, uint64_t deadline)
{
  const gpud_msg_region_drop drop = {.region = region->number};
  int64_t rc = gpud_connection_post(c, GPUD_OP_REGION_DROP, 0, &drop, sizeof drop, deadline);
  if (rc < 0)
    return (int)rc;
  gpud_endpoint *ep = gpud_connection_endpoint(c);
  return ep->ops->region_withdraw(ep, region->number, (uint64_t)rc);
}

void gpud_region_free(gpud_region *region)
{
  if (!region)
    return;
  gpud_segment_close(&region->segment, 0);
  free(region);
}
