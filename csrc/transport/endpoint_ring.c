#include "endpoint_ring.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bootstrap.h"
#include "order.h"
#include "region_table.h"
#include "ring.h"
#include "wait.h"

#define LINE 128 /* two cache lines: adjacent ones are fetched in pairs */
#define MIN_SLOTS (2u * GPUD_MAX_MESSAGE / GPUD_SLOT_SIZE)
#define MAX_SLOTS 65536u
#define QUICK_POLLS 2000 /* before the first look at the clock */
#define POLLS 64         /* between two looks at it */
#define SLICE_NS (GPUD_SLEEP_SLICE_MS * 1000000ull)
#define LONGEST_NS (GPUD_SLEEP_LONGEST_MS * 1000000ull)

/* The shared memory: a line for each word that one side stores and the other polls, then the slots of both rings. */
typedef struct shared_head {
  _Alignas(LINE) uint64_t command_credit; /* the worker stores */
  _Alignas(LINE) uint64_t reply_credit;   /* the client stores */
  _Alignas(LINE) uint32_t client_sleeping;
  _Alignas(LINE) uint32_t worker_sleeping;
  _Alignas(LINE) uint64_t completed; /* the worker stores both */
  uint32_t faulted;
} shared_head;
_Static_assert(sizeof(shared_head) == 5 * LINE, "a line for each");

typedef struct ring_endpoint {
  gpud_endpoint base;
  gpud_endpoint_ops ops; /* its name is the transport's */
  shared_head *shared;
  uint32_t *sleeping_here;
  uint32_t *sleeping_there;
  uint64_t spin_ns;
  bool membarrier;
  bool forgotten;
  uint32_t stopped; /* interrupt was called */
  uint32_t gone;    /* the peer was seen to be */
  int socket;
  int pidfd;
  void *owner;
  void (*free_memory)(void *memory, void *owner);
  gpud_region_table regions;
  _Alignas(LINE) gpud_ring_producer out; /* the poster's line and the receiver's are written by different threads */
  _Alignas(LINE) gpud_ring_consumer in;
} ring_endpoint;

static ring_endpoint *ring_of(gpud_endpoint *ep) { return (ring_endpoint *)ep; }

/* After news was stored: wakes the peer if it sleeps. */
static inline void notify(ring_endpoint *e)
{
  gpud_light_fence(e->membarrier);
  if (gpud_load_relaxed_u32(e->sleeping_there) != 0)
    gpud_futex_wake(e->sleeping_there);
}

static int ring_reserve(gpud_endpoint *ep, uint32_t size, void **message)
{
  ring_endpoint *e = ring_of(ep);
  if (gpud_load_relaxed_u32(&e->gone))
    return -EPIPE;
  return gpud_ring_reserve(&e->out, size, message);
}

static void ring_commit(gpud_endpoint *ep, uint8_t op, uint32_t size)
{
  ring_endpoint *e = ring_of(ep);
  gpud_ring_commit(&e->out, op, size);
  notify(e);
}

static int ring_peek(gpud_endpoint *ep, void *message)
{
  ring_endpoint *e = ring_of(ep);
  uint64_t published = e->in.published;
  int rc = gpud_ring_peek(&e->in, message);
  if (rc != -EAGAIN)
    return rc;
  if (e->in.published != published)
    notify(e);
  if (!(gpud_load_acquire_u32(&e->gone) | gpud_load_acquire_u32(&e->stopped)))
    return -EAGAIN;
  rc = gpud_ring_peek(&e->in, message); /* what came between that look and the end still counts */
  return rc == -EAGAIN ? -EPIPE : rc;
}

static void ring_release(gpud_endpoint *ep)
{
  ring_endpoint *e = ring_of(ep);
  if (gpud_ring_release(&e->in))
    notify(e);
}

static void ring_publish(gpud_endpoint *ep, uint64_t sequence, int faulted)
{
  ring_endpoint *e = ring_of(ep);
  /* In this order: who sees the failed command complete sees the fault, and with it the FAULT message. */
  if (faulted)
    gpud_store_release_u32(&e->shared->faulted, 1);
  gpud_store_release_u64(&e->shared->completed, sequence);
  notify(e);
}

static uint64_t ring_completed(gpud_endpoint *ep, int *faulted)
{
  ring_endpoint *e = ring_of(ep);
  uint64_t completed = gpud_load_acquire_u64(&e->shared->completed);
  *faulted = gpud_load_acquire_u32(&e->shared->faulted) != 0;
  return completed;
}

static int ring_alive(gpud_endpoint *ep)
{
  ring_endpoint *e = ring_of(ep);
  /* The socket alone would not tell when a child that the peer forked still holds it. */
  struct pollfd p[2] = {{.fd = e->socket, .events = POLLRDHUP}, {.fd = e->pidfd, .events = POLLIN}};
  if (gpud_load_relaxed_u32(&e->gone))
    return 0;
  if (poll(p, 2, 0) <= 0)
    return 1;
  gpud_store_relaxed_u32(&e->gone, 1);
  return 0;
}

/* Whether one of `what` holds: 1, 0 or -errno. */
static inline int holds(const ring_endpoint *e, uint32_t what, uint64_t value)
{
  if ((what & GPUD_WAIT_MESSAGE) && gpud_ring_ready(&e->in))
    return 1;
  if ((what & GPUD_WAIT_COMPLETED) &&
      (gpud_load_acquire_u64(&e->shared->completed) >= value || gpud_load_relaxed_u32(&e->shared->faulted) != 0))
    return 1;
  if (what & GPUD_WAIT_CREDIT) {
    int room = gpud_ring_room(&e->out, (uint32_t)value);
    if (room != 0)
      return room;
  }
  return gpud_load_acquire_u32(&e->stopped) ? -EPIPE : 0;
}

/* Polls `times`. */
static inline int poll_for(const ring_endpoint *e, uint32_t what, uint64_t value, int times)
{
  for (int i = 0; i < times; i++) {
    int rc = holds(e, what, value);
    if (rc != 0)
      return rc;
    gpud_relax();
  }
  return 0;
}

/* As poll_for, for spin_ns or until the deadline. */
static int spin_for(const ring_endpoint *e, uint32_t what, uint64_t value, uint64_t deadline)
{
  if (e->spin_ns == 0)
    return holds(e, what, value);
  int rc = poll_for(e, what, value, QUICK_POLLS);
  uint64_t now = gpud_now();
  uint64_t until = now + e->spin_ns < deadline ? now + e->spin_ns : deadline;
  for (; rc == 0 && now < until; now = gpud_now())
    rc = poll_for(e, what, value, POLLS);
  return rc;
}

static int ring_wait(gpud_endpoint *ep, uint32_t what, uint64_t value, uint64_t deadline)
{
  ring_endpoint *e = ring_of(ep);
  int rc = deadline ? spin_for(e, what, value, deadline) : holds(e, what, value);
  bool alive = true;
  uint64_t slice = SLICE_NS;
  while (rc == 0) {
    if (!alive)
      return -EPIPE;
    if (gpud_now() >= deadline) {
      alive = deadline == 0 || ring_alive(ep);
      rc = holds(e, what, value);
      return rc > 0 ? 0 : rc < 0 ? rc : alive ? -ETIMEDOUT : -EPIPE;
    }
    /* The word stays set where the second look succeeds: another thread may be asleep on it. One wake too many, then. */
    gpud_store_relaxed_u32(e->sleeping_here, 1);
    gpud_heavy_fence(e->membarrier);
    rc = holds(e, what, value);
    if (rc == 0) {
      gpud_futex_sleep(e->sleeping_here, slice, deadline);
      slice = 2 * slice < LONGEST_NS ? 2 * slice : LONGEST_NS;
      rc = holds(e, what, value);
    }
    if (rc == 0) {
      alive = ring_alive(ep);
      rc = holds(e, what, value); /* what was sent before it died still counts */
    }
  }
  return rc > 0 ? 0 : rc;
}

static void ring_interrupt(gpud_endpoint *ep)
{
  ring_endpoint *e = ring_of(ep);
  gpud_store_release_u32(&e->stopped, 1);
  gpud_full_fence();
  gpud_futex_wake(e->sleeping_here);
}

static int ring_region_offer(gpud_endpoint *ep, const gpud_region_offer *offer, uint64_t deadline)
{
  return gpud_bootstrap_send_fd(ring_of(ep)->socket, offer->fd, deadline);
}

static int ring_region_withdraw(gpud_endpoint *ep, uint32_t region, uint64_t sequence)
{
  (void)ep;
  (void)region;
  (void)sequence;
  return 0; /* the worker has a mapping of its own */
}

static void ring_local_gone(gpud_endpoint *ep, const void *memory, uint64_t size)
{
  (void)ep;
  (void)memory;
  (void)size;
}

static int ring_region_add(gpud_endpoint *ep, const gpud_msg_region_add *add, uint64_t deadline)
{
  ring_endpoint *e = ring_of(ep);
  int fd;
  int rc;
  do { /* in slices, so that an interrupt is noticed */
    uint64_t slice = gpud_now() + SLICE_NS;
    rc = gpud_bootstrap_receive_fd(e->socket, &fd, slice < deadline ? slice : deadline);
  } while (rc == -ETIMEDOUT && !gpud_load_acquire_u32(&e->stopped) && gpud_now() < deadline);
  if (rc == -ETIMEDOUT && gpud_load_acquire_u32(&e->stopped))
    return -EPIPE;
  if (rc != 0)
    return rc;
  /* The descriptor is taken also where the region is refused: the next one belongs to the next REGION_ADD. */
  if (add->address != 0 && (e->base.features & GPUD_FEATURE_HOST_MAP) == 0) {
    gpud_bootstrap_discard(fd); /* no window was granted: what the peer names may be memory of our own */
    return -ENOTSUP;
  }
  return gpud_region_table_add(&e->regions, add, fd);
}

static int ring_region_drop(gpud_endpoint *ep, uint32_t region)
{
  return gpud_region_table_drop(&ring_of(ep)->regions, region);
}

static int ring_region_view(gpud_endpoint *ep, uint32_t region, gpud_region_view *view)
{
  return gpud_region_table_view(&ring_of(ep)->regions, region, view);
}

static int ring_rma_read(gpud_endpoint *ep, uint32_t region, uint64_t offset, void *destination, uint64_t size)
{
  return gpud_region_table_read(&ring_of(ep)->regions, region, offset, destination, size);
}

static int ring_rma_write(gpud_endpoint *ep, uint32_t region, uint64_t offset, const void *source, uint64_t size)
{
  return gpud_region_table_write(&ring_of(ep)->regions, region, offset, source, size);
}

static void close_descriptors(ring_endpoint *e)
{
  if (e->socket >= 0)
    close(e->socket);
  if (e->pidfd >= 0)
    close(e->pidfd);
  e->socket = -1;
  e->pidfd = -1;
}

static void ring_forget(gpud_endpoint *ep)
{
  ring_endpoint *e = ring_of(ep);
  e->forgotten = true;
  gpud_store_relaxed_u32(&e->gone, 1);
  close_descriptors(e);
}

static void ring_close(gpud_endpoint *ep)
{
  ring_endpoint *e = ring_of(ep);
  if (!e->forgotten) {
    /* Shut down, not only closed: children forked here may hold copies. Then woken, so that the peer looks at once. */
    gpud_bootstrap_hang_up(e->socket);
    e->socket = -1;
    gpud_futex_wake(e->sleeping_there);
  }
  close_descriptors(e);
  gpud_region_table_close(&e->regions);
  e->free_memory(e->shared, e->owner);
  free(e);
}

int gpud_ring_memory_valid(uint32_t command_slots, uint32_t reply_slots)
{
  return command_slots >= MIN_SLOTS && command_slots <= MAX_SLOTS && (command_slots & (command_slots - 1)) == 0 &&
         reply_slots >= MIN_SLOTS && reply_slots <= MAX_SLOTS && (reply_slots & (reply_slots - 1)) == 0;
}

size_t gpud_ring_memory_size(uint32_t command_slots, uint32_t reply_slots)
{
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t size = sizeof(shared_head) + ((size_t)command_slots + reply_slots) * sizeof(gpud_slot);
  return (size + page - 1) / page * page;
}

int gpud_ring_endpoint_new(const gpud_ring_setup *setup, gpud_endpoint **ep)
{
  static const gpud_endpoint_ops ops = {
    .reserve = ring_reserve,
    .commit = ring_commit,
    .peek = ring_peek,
    .release = ring_release,
    .publish = ring_publish,
    .completed = ring_completed,
    .wait = ring_wait,
    .interrupt = ring_interrupt,
    .region_offer = ring_region_offer,
    .region_withdraw = ring_region_withdraw,
    .region_add = ring_region_add,
    .region_drop = ring_region_drop,
    .region_view = ring_region_view,
    .rma_read = ring_rma_read,
    .rma_write = ring_rma_write,
    .local_here = gpud_endpoint_local_here,
    .local_gone = ring_local_gone,
    .reason = gpud_endpoint_no_reason,
    .alive = ring_alive,
    .forget = ring_forget,
    .close = ring_close,
  };
  ring_endpoint *e = aligned_alloc(_Alignof(ring_endpoint), sizeof *e);
  if (!e)
    return -ENOMEM;
  memset(e, 0, sizeof *e);
  if (gpud_region_table_init(&e->regions, setup->client) != 0) {
    free(e);
    return -ENOMEM;
  }
  shared_head *shared = setup->memory;
  gpud_slot *commands = (gpud_slot *)(shared + 1);
  gpud_slot *replies = commands + setup->command_slots;
  e->ops = ops;
  e->ops.name = setup->name;
  e->base = (gpud_endpoint){.ops = &e->ops, .features = setup->features, .properties = GPUD_ENDPOINT_MAPS};
  e->shared = shared;
  e->spin_ns = gpud_spin_ns();
  e->membarrier = (setup->features & GPUD_FEATURE_MEMBARRIER) != 0;
  e->socket = setup->socket;
  e->pidfd = setup->pidfd;
  e->owner = setup->owner;
  e->free_memory = setup->free_memory;
  if (setup->client) {
    e->sleeping_here = &shared->client_sleeping;
    e->sleeping_there = &shared->worker_sleeping;
    gpud_ring_producer_init(&e->out, commands, setup->command_slots, &shared->command_credit);
    gpud_ring_consumer_init(&e->in, replies, setup->reply_slots, &shared->reply_credit);
  } else {
    e->sleeping_here = &shared->worker_sleeping;
    e->sleeping_there = &shared->client_sleeping;
    gpud_ring_producer_init(&e->out, replies, setup->reply_slots, &shared->reply_credit);
    gpud_ring_consumer_init(&e->in, commands, setup->command_slots, &shared->command_credit);
  }
  *ep = &e->base;
  return 0;
}
