#include "verbs_memory.h"

#ifdef GPUD_HAVE_VERBS

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "order.h"

struct ibv_mr *gpud_verbs_register(const gpud_verbs_api *api, struct ibv_pd *domain, void *address, uint64_t size,
                                   int fd, uint64_t offset, int access)
{
  struct ibv_mr *mr = NULL;
  errno = 0;
  if (fd < 0)
    mr = api->reg_mr(domain, address, size, access);
  else if (api->reg_dmabuf_mr)
    mr = api->reg_dmabuf_mr(domain, offset, size, (uintptr_t)address, fd, access);
  else
    errno = EOPNOTSUPP;
  if (!mr) {
    if (errno == 0)
      errno = EIO;
    return NULL;
  }
  gpud_fetch_add_u64(&gpud_verbs_alive.memory_regions, 1);
  gpud_fetch_add_u64(&gpud_verbs_alive.registered, size);
  return mr;
}

void gpud_verbs_deregister(const gpud_verbs_api *api, struct ibv_mr *mr)
{
  uint64_t size = mr->length;
  if (api->dereg_mr(mr) != 0)
    return;
  gpud_fetch_add_u64(&gpud_verbs_alive.memory_regions, UINT64_MAX);
  gpud_fetch_add_u64(&gpud_verbs_alive.registered, -size);
}

/* ---------------------------------------------------------------- client: offered */

int gpud_verbs_offers_add(gpud_verbs_offers *offers, const gpud_region_offer *offer, struct ibv_mr **mr)
{
  if (offer->number >= GPUD_MAX_REGIONS || offer->size == 0)
    return -EINVAL;
  if (offers->offered[offer->number])
    return -EEXIST;
  if (offers->count >= 2 * GPUD_MAX_REGIONS) /* the worker has not got to so many drops */
    return -ENOMEM;
  gpud_verbs_offer *o = malloc(sizeof *o);
  if (!o)
    return -ENOMEM;
  int access = (offer->access & GPUD_ACCESS_READ ? IBV_ACCESS_REMOTE_READ : 0) |
               (offer->access & GPUD_ACCESS_WRITE ? IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_LOCAL_WRITE : 0);
  *o = (gpud_verbs_offer){
    .mr = gpud_verbs_register(offers->api, offers->domain, offer->pointer, offer->size, -1, 0, access)};
  if (!o->mr) {
    int rc = -errno;
    free(o);
    return rc;
  }
  offers->offered[offer->number] = o;
  offers->count++;
  *mr = o->mr;
  return 0;
}

int gpud_verbs_offers_withdraw(gpud_verbs_offers *offers, uint32_t region, uint64_t sequence)
{
  gpud_verbs_offer *o = region < GPUD_MAX_REGIONS ? offers->offered[region] : NULL;
  if (!o)
    return -ENOENT;
  offers->offered[region] = NULL;
  o->sequence = sequence;
  o->next = offers->withdrawn;
  offers->withdrawn = o;
  return 0;
}

static void forget_offer(gpud_verbs_offers *offers, gpud_verbs_offer *o)
{
  gpud_verbs_deregister(offers->api, o->mr);
  free(o);
  offers->count--;
}

void gpud_verbs_offers_sweep(gpud_verbs_offers *offers, uint64_t completed)
{
  for (gpud_verbs_offer **at = &offers->withdrawn; *at;) {
    gpud_verbs_offer *o = *at;
    if (o->sequence > completed) {
      at = &o->next;
      continue;
    }
    *at = o->next;
    forget_offer(offers, o);
  }
}

void gpud_verbs_offers_close(gpud_verbs_offers *offers)
{
  gpud_verbs_offers_sweep(offers, UINT64_MAX);
  for (uint32_t i = 0; i < GPUD_MAX_REGIONS; i++)
    if (offers->offered[i])
      forget_offer(offers, offers->offered[i]);
}

/* ---------------------------------------------------------------- worker: the client's regions */

int gpud_verbs_remotes_key(gpud_verbs_remotes *remotes, const gpud_msg_region_key *key)
{
  if (remotes->count == GPUD_VERBS_KEYS)
    return -EPROTO;
  remotes->keys[(remotes->first + remotes->count++) % GPUD_VERBS_KEYS] = *key;
  return 0;
}

int gpud_verbs_remotes_add(gpud_verbs_remotes *remotes, const gpud_msg_region_add *add)
{
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  if (remotes->count == 0)
    return -EPROTO;
  gpud_msg_region_key key = remotes->keys[remotes->first];
  remotes->first = (remotes->first + 1) % GPUD_VERBS_KEYS;
  remotes->count--;
  if (add->region >= GPUD_MAX_REGIONS)
    return -EINVAL;
  if (key.region != add->region)
    return -EPROTO;
  if (remotes->regions[add->region].size != 0)
    return -EEXIST;
  if (add->size == 0 || add->size % page != 0 || add->size > UINT64_MAX - key.address)
    return -EPERM;
  if (add->address != 0)
    return -ENOTSUP;
  remotes->regions[add->region] =
      (gpud_verbs_remote){.size = add->size, .address = key.address, .access = add->access, .key = key.rkey};
  return 0;
}

int gpud_verbs_remotes_drop(gpud_verbs_remotes *remotes, uint32_t region)
{
  if (region >= GPUD_MAX_REGIONS || remotes->regions[region].size == 0)
    return -ENOENT;
  remotes->regions[region] = (gpud_verbs_remote){0};
  return 0;
}

int gpud_verbs_remotes_span(const gpud_verbs_remotes *remotes, uint32_t region, uint64_t offset, uint64_t size,
                            uint32_t access, gpud_verbs_remote *found)
{
  if (region >= GPUD_MAX_REGIONS || remotes->regions[region].size == 0)
    return -ENOENT;
  *found = remotes->regions[region];
  if (offset > found->size || size > found->size - offset)
    return -ERANGE;
  return (found->access & access) == access ? 0 : -EACCES;
}

/* ---------------------------------------------------------------- worker: its own */

/* The first extent that ends after the address. */
static uint32_t first_after(const gpud_verbs_locals *locals, uint64_t address)
{
  uint32_t low = 0;
  uint32_t high = locals->count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    const gpud_verbs_extent *e = &locals->extents[middle];
    if (address - e->address >= e->size && address >= e->address)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static void remove_at(gpud_verbs_locals *locals, uint32_t at)
{
  gpud_verbs_deregister(locals->api, locals->extents[at].mr);
  locals->bytes -= locals->extents[at].size;
  locals->count--;
  memmove(&locals->extents[at], &locals->extents[at + 1], (locals->count - at) * sizeof *locals->extents);
}

static int make_room(gpud_verbs_locals *locals)
{
  uint32_t oldest = 0;
  if (locals->count == 0)
    return -ENOMEM;
  for (uint32_t i = 1; i < locals->count; i++)
    if (locals->extents[i].used < locals->extents[oldest].used)
      oldest = i;
  remove_at(locals, oldest);
  return 0;
}

static uint64_t most_bytes(gpud_verbs_locals *locals)
{
  struct rlimit limit;
  if (locals->most_bytes != 0)
    return locals->most_bytes;
  locals->most_bytes = GPUD_VERBS_LOCAL_BYTES;
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur / 2 < locals->most_bytes)
    locals->most_bytes =
        limit.rlim_cur / 2 + 1; /* the other half is for the messages of this session and its neighbours */
  return locals->most_bytes;
}

int gpud_verbs_locals_add(gpud_verbs_locals *locals, const gpud_local *local)
{
  uint64_t address = (uintptr_t)local->memory;
  uint32_t most = locals->most ? locals->most : GPUD_VERBS_LOCALS;
  if (local->size == 0 || local->size > UINT64_MAX - address)
    return -EINVAL;
  uint32_t at = first_after(locals, address);
  if (at < locals->count) {
    gpud_verbs_extent *e = &locals->extents[at];
    if (e->address <= address && address + local->size <= e->address + e->size) {
      e->used = ++locals->clock;
      return 0;
    }
  }
  if (local->size > most_bytes(locals))
    return -ENOMEM;
  gpud_verbs_locals_remove(locals, address, local->size);
  if (!locals->extents) {
    locals->extents = malloc(most * sizeof *locals->extents);
    if (!locals->extents)
      return -ENOMEM;
  }
  while (locals->count == most || (locals->count != 0 && locals->bytes + local->size > locals->most_bytes))
    make_room(locals);
  struct ibv_mr *mr;
  do
    mr = gpud_verbs_register(locals->api, locals->domain, local->memory, local->size, local->fd, local->offset,
                             IBV_ACCESS_LOCAL_WRITE);
  while (!mr && errno == ENOMEM && make_room(locals) == 0);
  if (!mr)
    return errno == ENOMEM ? -ENOMEM : -errno;
  at = first_after(locals, address);
  memmove(&locals->extents[at + 1], &locals->extents[at], (locals->count - at) * sizeof *locals->extents);
  locals->extents[at] = (gpud_verbs_extent){.address = address, .size = local->size, .mr = mr, .used = ++locals->clock};
  locals->count++;
  locals->bytes += local->size;
  return 0;
}

const gpud_verbs_extent *gpud_verbs_locals_find(gpud_verbs_locals *locals, uint64_t address)
{
  uint32_t at = first_after(locals, address);
  if (at == locals->count || locals->extents[at].address > address)
    return NULL;
  locals->extents[at].used = ++locals->clock;
  return &locals->extents[at];
}

uint64_t gpud_verbs_locals_gap(const gpud_verbs_locals *locals, uint64_t address, uint64_t size)
{
  uint32_t at = first_after(locals, address);
  if (at == locals->count)
    return size;
  const gpud_verbs_extent *e = &locals->extents[at];
  uint64_t gap = e->address > address ? e->address - address : 0;
  return gap < size ? gap : size;
}

void gpud_verbs_locals_remove(gpud_verbs_locals *locals, uint64_t address, uint64_t size)
{
  uint32_t at = first_after(locals, address);
  while (at < locals->count && (locals->extents[at].address < address || locals->extents[at].address - address < size))
    remove_at(locals, at);
}

void gpud_verbs_locals_close(gpud_verbs_locals *locals)
{
  while (locals->count != 0)
    remove_at(locals, locals->count - 1);
  free(locals->extents);
  locals->extents = NULL;
}

#endif
