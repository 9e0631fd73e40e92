#include "endpoint_carried.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "order.h"
#include "wait.h"

#define SLICE_NS (GPUD_SLEEP_SLICE_MS * 1000000ull)
#define LONGEST_NS (GPUD_SLEEP_LONGEST_MS * 1000000ull)
#define TRIAL 32        /* every so many waits the longest spin is tried */
#define SOME_STEPS 64   /* between two looks at the clock */
#define LAST_STEPS 4096 /* of the last look, so that a peer that never stops sending does not keep us */

int gpud_carried_init(gpud_carried *c, const gpud_carrier *carrier, bool client, uint64_t features, uint32_t properties,
                      uint32_t queue_slots)
{
  c->base.features = features;
  c->base.properties = properties;
  c->carrier = carrier;
  c->client = client;
  c->spin_ns = gpud_spin_ns();
  c->spin_now = c->spin_ns;
  c->wake = c->stop = -1;
  if (queue_slots) {
    c->slots = aligned_alloc(GPUD_SLOT_SIZE, queue_slots * sizeof(gpud_slot));
    if (!c->slots)
      return -ENOMEM; /* nothing to be given back yet */
    memset(c->slots, 0, queue_slots * sizeof(gpud_slot));
    gpud_ring_producer_init(&c->arrived, c->slots, queue_slots, &c->credit);
    gpud_ring_consumer_init(&c->taken, c->slots, queue_slots, &c->credit);
  }
  c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  c->stop = c->wake < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (c->stop >= 0)
    return 0;
  int rc = -errno;
  gpud_carried_fini(c);
  return rc;
}

void gpud_carried_fini(gpud_carried *c)
{
  if (c->wake >= 0)
    close(c->wake);
  if (c->stop >= 0)
    close(c->stop);
  free(c->slots);
  c->wake = c->stop = -1;
  c->slots = NULL;
}

/* ---------------------------------------------------------------- what came */

static int take_completed(gpud_carried *c, const void *message)
{
  gpud_msg_completed m;
  memcpy(&m, (const char *)message + sizeof(gpud_message_head), sizeof m);
  bool faulted = gpud_load_relaxed_u32(&c->faulted) != 0;
  if (m.sequence < gpud_load_relaxed_u64(&c->completed) || (faulted && !m.faulted))
    return -EPROTO;
  /* In this order: who sees the failed command complete sees the fault, and with it the FAULT message. */
  if (m.faulted)
    gpud_store_release_u32(&c->faulted, 1);
  gpud_store_release_u64(&c->completed, m.sequence);
  return GPUD_DELIVERED;
}

static int queue(gpud_carried *c, const gpud_message_head *head, const void *message)
{
  void *room;
  /* The queue's own word takes the place of the head's first eight bytes: what it does not keep must be what it is. */
  if (!c->slots || head->op == 0 || head->tag != 0 || head->flags != 0)
    return -EPROTO;
  int rc = gpud_ring_reserve(&c->arrived, head->size, &room);
  if (rc == -EAGAIN)
    return GPUD_NO_ROOM;
  if (rc != 0)
    return -EPROTO;
  memcpy((char *)room + 8, (const char *)message + 8, head->size - 8u);
  gpud_ring_commit(&c->arrived, head->op, head->size);
  return GPUD_DELIVERED;
}

int gpud_carried_deliver(gpud_carried *c, const void *message, uint32_t size)
{
  gpud_message_head head;
  if (size < sizeof head)
    return -EPROTO;
  memcpy(&head, message, sizeof head);
  if (head.size != size)
    return -EPROTO;
  if (head.op < GPUD_OP_COMPLETED)
    return queue(c, &head, message);
  if (gpud_link_check(message, size, !c->client) != 0)
    return -EPROTO;
  return head.op == GPUD_OP_COMPLETED ? take_completed(c, message) : GPUD_LINK;
}

bool gpud_carried_queued(const gpud_carried *c) { return gpud_ring_ready(&c->taken) != 0; }

/* ---------------------------------------------------------------- the end */

static int32_t error_of(const gpud_carried *c) { return (int32_t)gpud_load_acquire_u32((const uint32_t *)&c->error); }

bool gpud_carried_stopped(const gpud_carried *c) { return gpud_load_acquire_u32(&c->stopped) != 0; }

int gpud_carried_ended(const gpud_carried *c)
{
  int32_t error = error_of(c);
  return error != 0 ? error : gpud_carried_stopped(c) ? -EPIPE : 0;
}

static void ring_bell(int eventfd)
{
  uint64_t one = 1;
  int error = errno;
  if (write(eventfd, &one, sizeof one) < 0) /* full: then it is heard anyway */
    errno = error;                          /* called from signal handlers too */
}

void gpud_carried_changed(gpud_carried *c)
{
  gpud_full_fence();
  if (gpud_load_relaxed_u32(&c->asleep) != 0 && gpud_exchange_u32(&c->asleep, 0) != 0)
    ring_bell(c->wake);
  if (gpud_load_relaxed_u32(&c->sleeping) != 0)
    gpud_futex_wake(&c->sleeping);
}

void gpud_carried_fail(gpud_carried *c, int error)
{
  if (error_of(c) == 0)
    gpud_store_release_u32((uint32_t *)&c->error, (uint32_t)error);
  gpud_carried_changed(c);
}

void gpud_carried_interrupt(gpud_endpoint *ep)
{
  gpud_carried *c = gpud_carried_of(ep);
  gpud_store_release_u32(&c->stopped, 1);
  gpud_full_fence();
  ring_bell(c->stop);
  gpud_futex_wake(&c->sleeping);
}

int gpud_carried_alive(gpud_endpoint *ep)
{
  gpud_carried *c = gpud_carried_of(ep);
  if (error_of(c) != 0)
    return 0;
  return c->carrier->dead(c) ? 0 : 1;
}

/* ---------------------------------------------------------------- steps */

int gpud_carried_step(gpud_carried *c)
{
  int rc = error_of(c);
  if (rc != 0)
    return rc;
  if (gpud_exchange_u32(&c->stepping.held, 1) != 0)
    return 0; /* who is at it tells */
  rc = c->carrier->step(c);
  gpud_lock_release(&c->stepping);
  if (rc < 0)
    gpud_carried_fail(c, rc);
  else if (rc > 0)
    gpud_carried_changed(c);
  return rc;
}

int gpud_carried_peek(gpud_endpoint *ep, void *message)
{
  gpud_carried *c = gpud_carried_of(ep);
  int rc = gpud_ring_peek(&c->taken, message);
  if (rc != -EAGAIN)
    return rc;
  c->carrier->flush(c);
  int step = gpud_carried_step(c);
  int ended = gpud_carried_ended(c);
  if (step == 0 && ended == 0)
    return -EAGAIN;
  rc = gpud_ring_peek(&c->taken, message); /* what came before the end still counts */
  return rc == -EAGAIN && ended != 0 ? ended : rc;
}

void gpud_carried_release(gpud_endpoint *ep)
{
  gpud_carried *c = gpud_carried_of(ep);
  if (gpud_ring_release(&c->taken))
    gpud_carried_changed(c); /* the leader may have stopped reading for want of room */
}

uint64_t gpud_carried_completed(gpud_endpoint *ep, int *faulted)
{
  gpud_carried *c = gpud_carried_of(ep);
  gpud_carried_step(c);
  uint64_t completed = gpud_load_acquire_u64(&c->completed);
  *faulted = gpud_load_acquire_u32(&c->faulted) != 0;
  return completed;
}

/* ---------------------------------------------------------------- waiting */

/* Whether one of `what` holds: 1, 0 or -errno. What came before the end still counts. */
static int holds(gpud_carried *c, uint32_t what, uint64_t value)
{
  int ended = gpud_carried_ended(c); /* before the rest: the end comes after all else */
  if ((what & GPUD_WAIT_COMPLETED) &&
      (gpud_load_acquire_u64(&c->completed) >= value || gpud_load_relaxed_u32(&c->faulted) != 0))
    return 1;
  for (uint32_t one = GPUD_WAIT_MESSAGE; one <= GPUD_WAIT_CREDIT; one <<= 1) {
    int rc = what & one ? c->carrier->ready(c, one, value) : 0;
    if (rc != 0)
      return rc;
  }
  return ended;
}
_Static_assert(GPUD_WAIT_MESSAGE == 1 && GPUD_WAIT_CREDIT == 2, "the two that are a carrier's");

/*
 * How long to poll this time. A kernel that wakes a thread for a packet likes to put it on the CPU of who sent it; that one then
 * polls, and the other cannot run to answer (seen: every round trip took two spins). So polling in vain makes the next
 * one shorter, and now and then it is tried whether it would pay again.
 */
static uint64_t spin_for(gpud_carried *c)
{
  uint32_t waits = gpud_load_relaxed_u32(&c->waits) + 1;
  gpud_store_relaxed_u32(&c->waits, waits);
  return waits % TRIAL == 0 ? c->spin_ns : gpud_load_relaxed_u64(&c->spin_now);
}

/*
 * What paid after `took` is allowed twice that at once: by doubling alone two ends that both sleep would not find out. Each in its
 * trial waits for the other's wake-up only, and in the waits that follow for that and for its own.
 */
static void learn(gpud_carried *c, bool paid, uint64_t took)
{
  uint64_t now = gpud_load_relaxed_u64(&c->spin_now);
  uint64_t next = paid ? 2 * (took > now ? took : now) : now / 2;
  uint64_t least = c->spin_ns / 8;
  gpud_store_relaxed_u64(&c->spin_now, next < least ? least : next > c->spin_ns ? c->spin_ns : next);
}

/* Polls for a while, or until the deadline. */
static int spin(gpud_carried *c, uint32_t what, uint64_t value, uint64_t deadline)
{
  int rc = holds(c, what, value);
  if (c->spin_ns == 0 || rc != 0)
    return rc;
  uint64_t begin = gpud_now();
  uint64_t now = begin;
  uint64_t end = now + spin_for(c);
  uint64_t until = end < deadline ? end : deadline;
  while (rc == 0 && now < until && gpud_load_relaxed_u32(&c->bulk) == 0) {
    if (gpud_carried_step(c) == 0)
      gpud_relax();
    rc = holds(c, what, value);
    now = gpud_now();
  }
  if (rc > 0 || now >= end)
    learn(c, rc > 0, now - begin);
  return rc;
}

int gpud_carried_poll(gpud_carried *c, struct pollfd *fds, int count, int slice_ms)
{
  fds[count] = (struct pollfd){.fd = c->stop, .events = POLLIN};
  int n = poll(fds, (nfds_t)count + 1, slice_ms);
  return gpud_carried_stopped(c) ? -EPIPE : n > 0;
}

/* One sleep of the leader. */
static void lead_asleep(gpud_carried *c, uint32_t what, uint64_t value, uint64_t slice, uint64_t deadline)
{
  struct pollfd fds[GPUD_CARRIED_FDS + 2];
  uint64_t now = gpud_now();
  gpud_store_relaxed_u32(&c->asleep, 1);
  gpud_full_fence();
  int count = c->carrier->arm(c, what, fds);
  if (count >= 0 && now < deadline && holds(c, what, value) == 0) {
    uint64_t left = deadline - now < slice ? deadline - now : slice;
    struct timespec time = {.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
    fds[count] = (struct pollfd){.fd = c->wake, .events = POLLIN};
    fds[count + 1] = (struct pollfd){.fd = c->stop, .events = POLLIN};
    uint64_t times;
    if (ppoll(fds, (nfds_t)count + 2, &time, NULL) > 0 && fds[count].revents)
      while (read(c->wake, &times, sizeof times) > 0)
        continue;
  }
  gpud_store_relaxed_u32(&c->asleep, 0);
  for (int i = 0; i < SOME_STEPS && gpud_carried_step(c) > 0 && holds(c, what, value) == 0; i++)
    continue;
}

static void others_asleep(gpud_carried *c, uint32_t what, uint64_t value, uint64_t slice, uint64_t deadline)
{
  gpud_store_relaxed_u32(&c->sleeping, 1);
  gpud_full_fence();
  if (holds(c, what, value) == 0 && gpud_load_relaxed_u32(&c->leading) != 0)
    gpud_futex_sleep(&c->sleeping, slice, deadline);
}

static bool take_lead(gpud_carried *c) { return gpud_exchange_u32(&c->leading, 1) == 0; }

static void give_lead(gpud_carried *c)
{
  gpud_store_release_u32(&c->leading, 0);
  gpud_carried_changed(c);
  c->carrier->unattended(c);
}

/* The last look: what was sent before the peer died still counts. */
static int time_is_up(gpud_carried *c, uint32_t what, uint64_t value, bool look)
{
  bool dead = look && c->carrier->dead(c);
  int rc = holds(c, what, value);
  for (int i = 0; rc == 0 && i < LAST_STEPS && gpud_carried_step(c) > 0; i++)
    rc = holds(c, what, value);
  if (rc == 0)
    rc = holds(c, what, value); /* the step may have found the end */
  return rc > 0 ? 0 : rc < 0 ? rc : dead ? -EPIPE : -ETIMEDOUT;
}

int gpud_carried_wait(gpud_endpoint *ep, uint32_t what, uint64_t value, uint64_t deadline)
{
  gpud_carried *c = gpud_carried_of(ep);
  c->carrier->flush(c);
  if (deadline == 0)
    return time_is_up(c, what, value, false);
  bool leads = take_lead(c);
  int rc = spin(c, what, value, deadline);
  uint64_t slice = SLICE_NS;
  uint64_t looked = gpud_now(); /* at the peer's life */
  while (rc == 0) {
    uint64_t now = gpud_now();
    if (now >= deadline) {
      rc = time_is_up(c, what, value, true);
      break;
    }
    if (!leads)
      leads = take_lead(c);
    if (leads)
      lead_asleep(c, what, value, slice, deadline);
    else
      others_asleep(c, what, value, slice, deadline);
    rc = holds(c, what, value);
    if (rc == 0 && gpud_now() - looked >= slice) {
      looked = gpud_now();
      slice = 2 * slice < LONGEST_NS ? 2 * slice : LONGEST_NS;
      if (c->carrier->dead(c)) {
        rc = time_is_up(c, what, value, false);
        rc = rc == -ETIMEDOUT ? -EPIPE : rc;
        break;
      }
    }
  }
  if (leads)
    give_lead(c);
  return rc > 0 ? 0 : rc;
}
