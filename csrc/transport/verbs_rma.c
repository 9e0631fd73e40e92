#include "verbs_endpoint.h"

#ifdef GPUD_HAVE_VERBS

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "order.h"
#include "wait.h"

#define LARGEST (1u << 20) /* bytes of one transfer */
#define NAP_MS 20          /* asleep without a look at the whole */
#define LAST_MS 50         /* after the peer's hang-up */
#define STALL_NS (GPUD_STALL_MS * 1000000ull)

/* One transfer in the send queue. */
typedef struct piece {
  uint64_t place;
  char *local; /* where its bytes belong, if they went through the bounce buffer */
  uint32_t size;
} piece;

typedef struct copy {
  gpud_verbs_endpoint *e;
  bool write;
  gpud_verbs_remote remote;
  uint64_t offset; /* in the region, of what is not posted yet */
  char *local;
  uint64_t left; /* bytes not posted yet */
  uint32_t most; /* pieces at once */
  uint32_t first;
  uint32_t count;
  uint64_t started; /* pieces ever: the next one's place in the bounce buffer */
  piece pieces[GPUD_VERBS_TRANSFERS];
} copy;

/* ---------------------------------------------------------------- local memory */

static int make_bounce(gpud_verbs_endpoint *e)
{
  const size_t size = (size_t)GPUD_VERBS_TRANSFERS * GPUD_VERBS_BOUNCE;
  if (e->bounced)
    return 0;
  if (!e->bounce) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
      return -ENOMEM;
    e->bounce = memory;
  }
  e->bounced = gpud_verbs_register(e->link.api, e->link.domain, e->bounce, size, -1, 0, IBV_ACCESS_LOCAL_WRITE);
  return e->bounced ? 0 : -ENOMEM;
}

int gpud_verbs_local_here(gpud_endpoint *ep, const gpud_local *local)
{
  gpud_verbs_endpoint *e = gpud_verbs_endpoint_of(ep);
  if (!e->remotes)
    return -EINVAL; /* a client's */
  pthread_mutex_lock(&e->transfer_lock);
  int rc = gpud_verbs_locals_add(&e->locals, local);
  pthread_mutex_unlock(&e->transfer_lock);
  return rc;
}

void gpud_verbs_local_gone(gpud_endpoint *ep, const void *memory, uint64_t size)
{
  gpud_verbs_endpoint *e = gpud_verbs_endpoint_of(ep);
  pthread_mutex_lock(&e->transfer_lock);
  gpud_verbs_locals_remove(&e->locals, (uintptr_t)memory, size);
  pthread_mutex_unlock(&e->transfer_lock);
}

void gpud_verbs_rma_close(gpud_verbs_endpoint *e)
{
  if (e->bounced)
    gpud_verbs_deregister(e->link.api, e->bounced);
  if (e->bounce)
    munmap(e->bounce, (size_t)GPUD_VERBS_TRANSFERS * GPUD_VERBS_BOUNCE);
  gpud_verbs_locals_close(&e->locals);
}

/* ---------------------------------------------------------------- pieces */

/* Posts the next piece. 0, -EAGAIN (the send queue is full), -ENOMEM, -EPIPE. */
static int start(copy *c)
{
  gpud_verbs_endpoint *e = c->e;
  uint64_t address = (uintptr_t)c->local;
  uint64_t size = c->left;
  uint32_t largest = e->link.port.max_message < LARGEST ? e->link.port.max_message : LARGEST;
  char *local = c->local;
  uint32_t key;
  const gpud_verbs_extent *extent = gpud_verbs_locals_find(&e->locals, address);
  if (extent) {
    uint64_t reach = extent->address + extent->size - address;
    size = size < reach ? size : reach;
    size = size < largest ? size : largest;
    key = extent->mr->lkey;
  } else {
    int rc = make_bounce(e);
    if (rc != 0)
      return rc;
    size = gpud_verbs_locals_gap(&e->locals, address, size);
    size = size < GPUD_VERBS_BOUNCE ? size : GPUD_VERBS_BOUNCE;
    size = size < largest ? size : largest;
    local = e->bounce + c->started % GPUD_VERBS_TRANSFERS * (size_t)GPUD_VERBS_BOUNCE;
    key = e->bounced->lkey;
    if (c->write)
      memcpy(local, c->local, size);
  }
  int64_t place = gpud_verbs_link_transfer(&e->link, c->write, c->remote.address + c->offset, c->remote.key, local, key,
                                           (uint32_t)size);
  if (place < 0)
    return (int)place;
  c->pieces[(c->first + c->count) % GPUD_VERBS_TRANSFERS] =
      (piece){.place = (uint64_t)place, .local = extent ? NULL : c->local, .size = (uint32_t)size};
  c->count++;
  c->started++;
  c->offset += size;
  c->local += size;
  c->left -= size;
  return 0;
}

/* Takes the pieces that are complete: how many. */
static uint32_t finish(copy *c)
{
  gpud_verbs_endpoint *e = c->e;
  uint64_t done = gpud_verbs_link_reap(&e->link);
  uint32_t finished = 0;
  while (c->count != 0 && c->pieces[c->first].place < done) {
    const piece *p = &c->pieces[c->first];
    if (p->local && !c->write)
      memcpy(p->local, e->bounce + (c->started - c->count) % GPUD_VERBS_TRANSFERS * (size_t)GPUD_VERBS_BOUNCE, p->size);
    c->first = (c->first + 1) % GPUD_VERBS_TRANSFERS;
    c->count--;
    finished++;
  }
  return finished;
}

/* Nothing has moved for a while: sleeps until a completion, news on the socket, or for a moment. 0 or -EPIPE. */
static int nap(copy *c)
{
  gpud_verbs_endpoint *e = c->e;
  struct pollfd fds[3] = {{.fd = e->link.channel->fd, .events = POLLIN}, {.fd = e->socket, .events = POLLRDHUP}};
  if (gpud_verbs_link_arm(&e->link) != 0)
    return -EPIPE;
  /* What came before it was armed gives no event. */
  gpud_carried_step(&e->carried);
  if (gpud_verbs_link_reap(&e->link) > c->pieces[c->first].place)
    return 0;
  int rc = gpud_carried_poll(&e->carried, fds, 2, NAP_MS);
  gpud_verbs_link_quiet(&e->link);
  gpud_carried_changed(&e->carried); /* the event may have been another waiter's */
  if (rc < 0)
    return rc;
  if (!fds[1].revents)
    return 0;
  /* Gone. What its adapter said last, a refusal perhaps, may still be under way: it says more than the hang-up does. */
  for (int ms = 0; ms < LAST_MS && gpud_verbs_link_state(&e->link) == 0; ms++) {
    if (gpud_verbs_link_reap(&e->link) > c->pieces[c->first].place)
      return 0;
    poll(NULL, 0, 1);
  }
  return gpud_verbs_link_fail(&e->link, -EPIPE, "the peer hung up");
}

/* What ended the link, as this copy's end: only a piece of its own can have been refused. */
static int ended(copy *c, int rc)
{
  gpud_verbs_link *link = &c->e->link;
  /* Whatever happened: when this returns the adapter touches the local memory no more. */
  if (c->count != 0)
    gpud_verbs_link_stop(link, c->pieces[(c->first + c->count - 1) % GPUD_VERBS_TRANSFERS].place);
  for (uint32_t i = 0; i < c->count; i++)
    if (link->refused == c->pieces[(c->first + i) % GPUD_VERBS_TRANSFERS].place + 1)
      rc = -EACCES;
  return rc;
}

static int run(copy *c)
{
  gpud_verbs_endpoint *e = c->e;
  uint64_t now = gpud_now();
  uint64_t moved = now;
  while (c->left != 0 || c->count != 0) {
    int rc = 0;
    uint32_t before = c->count;
    while (rc == 0 && c->left != 0 && c->count < c->most)
      rc = start(c);
    bool progress = c->count != before;
    if (finish(c) != 0 || progress)
      moved = gpud_now();
    if (rc == 0 || rc == -EAGAIN)
      rc = gpud_verbs_link_state(&e->link);
    if (rc == 0 && gpud_carried_stopped(&e->carried))
      rc = -EPIPE;
    if (rc == -ENOMEM && c->count == 0 && c->started == 0)
      return rc; /* nothing was begun: the connection goes on */
    if (rc != 0)
      return ended(c, rc);
    now = gpud_now();
    if (now - moved > STALL_NS) {
      gpud_verbs_link_fail(&e->link, -EPIPE, "no byte has moved for %u s", GPUD_STALL_MS / 1000);
      return ended(c, -ETIMEDOUT);
    }
    if (now - moved <= e->carried.spin_ns || c->count == 0)
      gpud_relax();
    else if ((rc = nap(c)) != 0)
      return ended(c, rc);
  }
  return 0;
}

static int transfer(gpud_endpoint *ep, bool write, uint32_t region, uint64_t offset, char *local, uint64_t size)
{
  gpud_verbs_endpoint *e = gpud_verbs_endpoint_of(ep);
  copy c = {.e = e, .write = write, .offset = offset, .local = local, .left = size};
  if (!e->remotes)
    return -ENOENT; /* a client reaches nothing */
  pthread_mutex_lock(&e->transfer_lock);
  gpud_lock_acquire(&e->remotes_lock);
  int rc = gpud_verbs_remotes_span(e->remotes, region, offset, size, write ? GPUD_ACCESS_WRITE : GPUD_ACCESS_READ,
                                   &c.remote);
  gpud_lock_release(&e->remotes_lock);
  c.most = write ? GPUD_VERBS_TRANSFERS : e->link.transfers;
  if (rc == 0)
    rc = gpud_verbs_link_state(&e->link);
  if (rc == 0)
    rc = run(&c);
  pthread_mutex_unlock(&e->transfer_lock);
  return rc;
}

int gpud_verbs_rma_read(gpud_endpoint *ep, uint32_t region, uint64_t offset, void *destination, uint64_t size)
{
  return transfer(ep, false, region, offset, destination, size);
}

int gpud_verbs_rma_write(gpud_endpoint *ep, uint32_t region, uint64_t offset, const void *source, uint64_t size)
{
  return transfer(ep, true, region, offset, (char *)(uintptr_t)source, size);
}

#endif
