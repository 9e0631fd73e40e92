#include <string.h>

#include "internal.h"

int gpud_region_refuse(gpud_engine *e)
{
  /* The endpoint takes the descriptor of any REGION_ADD, then refuses a number that no region has. */
  gpud_msg_region_add m;
  unsigned char message[sizeof(gpud_message_head) + sizeof m];
  memcpy(message, e->message, sizeof message);
  memcpy(&m, gpud_body(e), sizeof m);
  m.region = UINT32_MAX;
  memcpy(message + sizeof(gpud_message_head), &m, sizeof m);
  int rc = gpud_connection_region_add(e->connection, message, gpud_in_ms(GPUD_REPLY_MS));
  return rc == -EINVAL ? 0 : rc == 0 ? -EPROTO : rc;
}

/* Notes why the region cannot be had, or 0. */
static int judge(gpud_engine *e, const gpud_msg_region_add *m)
{
  if (m->region >= GPUD_MAX_REGIONS)
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "region %u: numbers end at %u", m->region, GPUD_MAX_REGIONS - 1);
  if (m->size == 0 || m->size % e->page)
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "region %u: its size, %llu, is not a multiple of the page, %llu",
                       m->region, (unsigned long long)m->size, (unsigned long long)e->page);
  uint64_t used = e->stats.host_memory;
  if (m->size > e->host_limit - used)
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, 0,
                       "region %u of %llu bytes: %llu of the session's %llu bytes of host memory are registered",
                       m->region, (unsigned long long)m->size, (unsigned long long)used,
                       (unsigned long long)e->host_limit);
  if (m->address == 0)
    return 0;
  if (!gpud_memory_in_window(&e->memory, m->address, m->size, e->page))
    return gpud_refuse(e, GPUD_STATUS_INVALID, m->address, "region %u: [0x%llx, +%llu) does not lie in the window",
                       m->region, (unsigned long long)m->address, (unsigned long long)m->size);
  gpud_extent extent = {m->address, m->size, GPUD_EXTENT_REGION, m->access, m->region};
  int rc = gpud_memory_add(&e->memory, &extent);
  if (rc == -ENOMEM)
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, 0, "the worker has no memory left");
  if (rc)
    return gpud_refuse(e, GPUD_STATUS_INVALID, m->address, "region %u: [0x%llx, +%llu) overlaps what is mapped",
                       m->region, (unsigned long long)m->address, (unsigned long long)m->size);
  return 0;
}

/* What the endpoint says of a region that the engine would take. */
static int refused_by_endpoint(gpud_engine *e, const gpud_msg_region_add *m, int rc)
{
  switch (rc) {
  case -EEXIST:
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "region %u exists: drop it first", m->region);
  case -EPERM:
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "region %u: its descriptor is not a sealed memfd of %llu bytes",
                       m->region, (unsigned long long)m->size);
  case -ENOMEM:
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, 0, "region %u of %llu bytes: the worker cannot map it", m->region,
                       (unsigned long long)m->size);
  case -ENOTSUP:
    return gpud_refuse(e, GPUD_STATUS_UNSUPPORTED, m->address, "region %u: this transport maps none in the window",
                       m->region);
  case -EPIPE:
  case -EPROTO:
  case -ETIMEDOUT: /* announced, and never sent */
    return rc;
  default:
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "region %u: %s", m->region, strerror(-rc));
  }
}

int gpud_region_add_command(gpud_engine *e)
{
  gpud_msg_region_add m;
  memcpy(&m, gpud_body(e), sizeof m);
  /* A number in use owns an extent already, perhaps: so this is asked before the address is judged. */
  gpud_region_view view;
  gpud_endpoint *ep = gpud_connection_endpoint(e->connection);
  bool exists = m.region < GPUD_MAX_REGIONS && ep->ops->region_view(ep, m.region, &view) == 0;
  int failed = exists ? refused_by_endpoint(e, &m, -EEXIST) : judge(e, &m);
  if (failed) {
    int rc = gpud_region_refuse(e);
    return rc ? rc : failed;
  }
  int rc = gpud_connection_region_add(e->connection, e->message, gpud_in_ms(GPUD_REPLY_MS));
  if (rc) {
    if (m.address)
      gpud_memory_remove_owned(&e->memory, GPUD_EXTENT_REGION, m.region);
    return refused_by_endpoint(e, &m, rc);
  }
  gpud_count(&e->stats.host_memory, m.size);
  return 0;
}

int gpud_region_drop_command(gpud_engine *e)
{
  gpud_msg_region_drop m;
  memcpy(&m, gpud_body(e), sizeof m);
  gpud_region_view view;
  gpud_endpoint *ep = gpud_connection_endpoint(e->connection);
  if (ep->ops->region_view(ep, m.region, &view) || gpud_connection_region_drop(e->connection, e->message))
    return gpud_refuse(e, GPUD_STATUS_NOT_FOUND, 0, "REGION_DROP: there is no region %u", m.region);
  if (view.address)
    gpud_memory_remove_owned(&e->memory, GPUD_EXTENT_REGION, m.region);
  gpud_count(&e->stats.host_memory, -view.size);
  return 0;
}

int gpud_region_span(gpud_engine *e, uint32_t region, uint64_t offset, uint64_t size, uint32_t access, void **pointer)
{
  gpud_region_view view;
  gpud_endpoint *ep = gpud_connection_endpoint(e->connection);
  if (ep->ops->region_view(ep, region, &view))
    return gpud_refuse(e, GPUD_STATUS_NOT_FOUND, 0, "there is no region %u", region);
  if (offset > view.size || size > view.size - offset)
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "bytes [%llu, +%llu) are not in region %u of %llu bytes",
                       (unsigned long long)offset, (unsigned long long)size, region, (unsigned long long)view.size);
  if ((view.access & access) != access)
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "region %u was not registered for this access", region);
  *pointer = view.pointer ? (unsigned char *)view.pointer + offset : NULL;
  return 0;
}

int gpud_region_moved(gpud_engine *e, const char *op, uint32_t region, int rc)
{
  switch (rc) {
  case 0:
  case -EPIPE:
  case -EPROTO:
  case -ETIMEDOUT:
    return rc;
  case -ENOMEM:
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, 0, "%s: the worker cannot register so much memory", op);
  case -EACCES:
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "%s: the client's side refused access to region %u", op, region);
  default:
    return gpud_refuse(e, GPUD_STATUS_INTERNAL, 0, "%s: region %u: %s", op, region, strerror(-rc));
  }
}
