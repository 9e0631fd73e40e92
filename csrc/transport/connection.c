#include "connection.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lock.h"
#include "order.h"
#include "small_copy.h"
#include "wait.h"

#define LINE 128
#define HEAD_SIZE ((uint32_t)sizeof(gpud_message_head))
/*
 * How often receive looks for a message with its lock in hand, a microsecond or so, before it lets go and waits:
 * the lock is then taken while there is nothing else to do, not when the message is there.
 */
#define HELD_LOOKS 50
/* How long to wait for another's announcement or withdrawal of a region: each ends, by what it waits for, sooner. */
#define WITHDRAW_NS (2 * GPUD_STALL_MS * 1000000ull)

struct gpud_connection {
  gpud_endpoint *ep;
  int client;
  int32_t ended;  /* 0, or the -errno that every later call returns */
  uint32_t users; /* its owner, and the stages that may still be freed after it */
  _Alignas(LINE) gpud_lock post_lock;
  uint64_t posted;
  uint64_t credit_waits;
  _Alignas(LINE) gpud_lock receive_lock;
  uint64_t received;
  int32_t receive_error; /* a broken protocol stays broken */
  _Alignas(LINE) uint64_t copied_in;
  uint64_t copied_out;
  gpud_mutex regions; /* the order of descriptors is the order of REGION_ADDs */
  int32_t regions_error;
  gpud_direct direct;
};

gpud_connection *gpud_connection_new(gpud_endpoint *ep, int client)
{
  gpud_connection *c = aligned_alloc(_Alignof(gpud_connection), sizeof *c);
  if (!c)
    return NULL;
  memset(c, 0, sizeof *c);
  c->ep = ep;
  c->client = client != 0;
  c->users = 1;
  return c;
}

gpud_endpoint *gpud_connection_endpoint(gpud_connection *c) { return c->ep; }

gpud_direct *gpud_connection_direct(gpud_connection *c) { return &c->direct; }

static inline int ended(const gpud_connection *c)
{
  return (int32_t)gpud_load_relaxed_u32((const uint32_t *)&c->ended);
}

/* One attempt: the sequence number, or -EAGAIN and the errors of post. */
static inline int64_t try_post(gpud_connection *c, uint8_t op, uint32_t stream, const void *head, uint32_t head_size,
                               const void *body, uint32_t body_size)
{
  const gpud_endpoint_ops *ops = c->ep->ops;
  uint32_t size = HEAD_SIZE + head_size + body_size;
  void *message;
  gpud_lock_acquire(&c->post_lock);
  int64_t rc = ops->reserve(c->ep, size, &message);
  if (rc == 0) {
    uint64_t sequence = c->posted + 1;
    uint32_t route[2] = {stream, (uint32_t)sequence};
    char *at = (char *)message + offsetof(gpud_message_head, stream);
    memcpy(at, route, sizeof route);
    gpud_copy_small(at + sizeof route, head, head_size);
    gpud_copy_small(at + sizeof route + head_size, body, body_size);
    gpud_store_relaxed_u64(&c->posted, sequence); /* before the peer can say that it completed it */
    ops->commit(c->ep, op, size);
    rc = (int64_t)sequence;
  }
  gpud_lock_release(&c->post_lock);
  return rc;
}
_Static_assert(offsetof(gpud_message_head, sequence) == offsetof(gpud_message_head, stream) + 4, "route");

int64_t gpud_connection_post_parts(gpud_connection *c, uint8_t op, uint32_t stream, const void *head,
                                   uint32_t head_size, const void *body, uint32_t body_size, uint64_t deadline)
{
  if (head_size > GPUD_MAX_MESSAGE || body_size > GPUD_MAX_MESSAGE)
    return -EMSGSIZE;
  for (;;) {
    if (ended(c))
      return ended(c);
    int64_t rc = try_post(c, op, stream, head, head_size, body, body_size);
    if (rc != -EAGAIN)
      return rc;
    if (deadline == 0)
      return -ETIMEDOUT;
    gpud_fetch_add_u64(&c->credit_waits, 1);
    int waited = c->ep->ops->wait(c->ep, GPUD_WAIT_CREDIT, HEAD_SIZE + head_size + body_size, deadline);
    if (waited != 0)
      return waited;
  }
}

int64_t gpud_connection_post(gpud_connection *c, uint8_t op, uint32_t stream, const void *body, uint32_t size,
                             uint64_t deadline)
{
  return gpud_connection_post_parts(c, op, stream, NULL, 0, body, size, deadline);
}

/* Under the receive lock, on a message that was copied out of the ring. */
static int admit(gpud_connection *c, const void *message, int size)
{
  gpud_message_head head;
  c->ep->ops->release(c->ep);
  memcpy(&head, message, sizeof head);
  uint64_t sequence = c->received + 1;
  if (head.sequence != (uint32_t)sequence || gpud_message_check(message, (size_t)size, !c->client) != 0)
    return -EPROTO;
  gpud_store_relaxed_u64(&c->received, sequence);
  return size;
}

/* One turn: the message's size, -EAGAIN after `looks` empty looks, and the errors of receive. */
static inline int try_receive(gpud_connection *c, void *message, int looks)
{
  gpud_endpoint *ep = c->ep;
  gpud_lock_acquire(&c->receive_lock);
  int rc = c->receive_error;
  if (rc == 0) {
    for (;;) {
      rc = ep->ops->peek(ep, message);
      if (rc != -EAGAIN || --looks <= 0)
        break;
      gpud_relax(); /* also lets the peer finish writing its line: without it a round trip takes 20 ns longer */
    }
    if (rc > 0)
      rc = admit(c, message, rc);
    if (rc == -EPROTO)
      c->receive_error = rc;
  }
  gpud_lock_release(&c->receive_lock);
  return rc;
}

int gpud_connection_receive(gpud_connection *c, void *message, uint64_t deadline)
{
  for (;;) {
    if (ended(c))
      return ended(c);
    int rc = try_receive(c, message, deadline ? HELD_LOOKS : 1);
    if (rc != -EAGAIN || deadline == 0)
      return rc;
    rc = c->ep->ops->wait(c->ep, GPUD_WAIT_MESSAGE, 0, deadline);
    if (rc != 0)
      return rc;
  }
}

int gpud_exchange_run(gpud_exchange *e, const void *data, uint32_t size)
{
  gpud_connection *c = e->connection;
  uint64_t deadline = 0;
  int64_t sequence = gpud_connection_post(c, GPUD_OP_DATA, 0, data, size, 0);
  if (sequence == -ETIMEDOUT) {
    deadline = gpud_now() + e->slice;
    sequence = gpud_connection_post(c, GPUD_OP_DATA, 0, data, size, deadline);
  }
  e->posted = sequence > 0;
  if (sequence < 0)
    return (int)sequence;
  int rc = gpud_connection_receive(c, e->reply, deadline ? deadline : gpud_now() + e->slice);
  return rc > 0 && e->reply[offsetof(gpud_message_head, op)] != GPUD_OP_DATA ? -EPROTO : rc;
}

uint64_t gpud_connection_posted(const gpud_connection *c) { return gpud_load_relaxed_u64(&c->posted); }

uint64_t gpud_connection_received(const gpud_connection *c) { return gpud_load_relaxed_u64(&c->received); }

/* 0 once `sequence` is complete, -EAGAIN before, -EIO, -EPROTO. */
static int check_completed(gpud_connection *c, uint64_t sequence)
{
  int faulted = 0;
  uint64_t completed = c->ep->ops->completed(c->ep, &faulted);
  if (faulted)
    return -EIO;
  if (completed > gpud_load_relaxed_u64(&c->posted))
    return -EPROTO;
  return completed >= sequence ? 0 : -EAGAIN;
}

int gpud_connection_wait(gpud_connection *c, uint64_t sequence, uint64_t deadline)
{
  for (;;) {
    if (ended(c))
      return ended(c);
    int rc = check_completed(c, sequence);
    if (rc != -EAGAIN)
      return rc;
    if (deadline == 0)
      return -ETIMEDOUT;
    rc = c->ep->ops->wait(c->ep, GPUD_WAIT_COMPLETED, sequence, deadline);
    if (rc != 0)
      return rc;
  }
}

uint64_t gpud_connection_completed(gpud_connection *c)
{
  int faulted;
  uint64_t completed = c->ep->ops->completed(c->ep, &faulted);
  uint64_t posted = gpud_load_relaxed_u64(&c->posted);
  return completed < posted ? completed : posted;
}

void gpud_connection_publish(gpud_connection *c, uint64_t sequence, int faulted)
{
  c->ep->ops->publish(c->ep, sequence, faulted);
}

int gpud_connection_alive(gpud_connection *c) { return !ended(c) && c->ep->ops->alive(c->ep); }

void gpud_connection_interrupt(gpud_connection *c) { c->ep->ops->interrupt(c->ep); }

void gpud_connection_forget(gpud_connection *c)
{
  /* No lock: in the child its holder may not exist. */
  gpud_store_relaxed_u32((uint32_t *)&c->ended, (uint32_t)-ESHUTDOWN);
  c->ep->ops->forget(c->ep);
}

void gpud_connection_count_copied(gpud_connection *c, uint64_t in, uint64_t out)
{
  if (in)
    gpud_fetch_add_u64(&c->copied_in, in);
  if (out)
    gpud_fetch_add_u64(&c->copied_out, out);
}

void gpud_connection_get_stats(gpud_connection *c, gpud_connection_stats *stats)
{
  *stats = (gpud_connection_stats){
    .messages_sent = gpud_load_relaxed_u64(&c->posted),
    .messages_received = gpud_load_relaxed_u64(&c->received),
    .bytes_copied_in = gpud_load_relaxed_u64(&c->copied_in),
    .bytes_copied_out = gpud_load_relaxed_u64(&c->copied_out),
    .credit_waits = gpud_load_relaxed_u64(&c->credit_waits),
  };
}

const char *gpud_connection_transport(const gpud_connection *c) { return c->ep->ops->name; }

void gpud_connection_reason(gpud_connection *c, char *text, size_t size)
{
  snprintf(text, size, "%s", c->ep->ops->reason(c->ep));
}

void gpud_connection_hold(gpud_connection *c) { gpud_fetch_add_u32(&c->users, 1); }

void gpud_connection_let_go(gpud_connection *c)
{
  if (gpud_fetch_add_u32(&c->users, UINT32_MAX) == 1)
    free(c);
}

void gpud_connection_free(gpud_connection *c)
{
  if (!c)
    return;
  bool forgotten = ended(c); /* in a forked child: the mutex's holder may not exist */
  gpud_store_relaxed_u32((uint32_t *)&c->ended, (uint32_t)-ESHUTDOWN);
  /* A region that is freed meanwhile, by a garbage collector perhaps, is in the middle of its withdrawal, or finds the end. */
  bool alone = !forgotten && gpud_mutex_acquire(&c->regions, gpud_now() + WITHDRAW_NS) == 0;
  c->ep->ops->close(c->ep);
  if (alone)
    gpud_mutex_release(&c->regions);
  gpud_connection_let_go(c);
}

/* Client: offers the region and posts what announces it, as one step. */
int gpud_connection_announce(gpud_connection *c, const gpud_region_offer *offer, uint64_t address, uint64_t deadline)
{
  const gpud_msg_region_add add = {
    .region = offer->number, .access = offer->access, .size = offer->size, .address = address};
  if (ended(c))
    return ended(c);
  int rc = gpud_mutex_acquire(&c->regions, deadline);
  if (rc != 0)
    return rc;
  rc = c->regions_error;
  if (rc == 0) /* first of all the room, so that nothing is likely to come between the two */
    rc = c->ep->ops->wait(c->ep, GPUD_WAIT_CREDIT, HEAD_SIZE + sizeof add, deadline);
  if (rc == 0)
    rc = c->ep->ops->region_offer(c->ep, offer, deadline);
  if (rc == 0) {
    int64_t sequence = gpud_connection_post(c, GPUD_OP_REGION_ADD, 0, &add, sizeof add, deadline);
    if (sequence < 0) {
      rc = (int)sequence;
      c->ep->ops->region_withdraw(c->ep, offer->number, 0);
      if (c->ep->properties & GPUD_ENDPOINT_MAPS)
        c->regions_error = -EPIPE; /* a descriptor that nothing announces: the two are out of step for good */
    }
  }
  gpud_mutex_release(&c->regions);
  return rc;
}

int gpud_connection_offer(gpud_connection *c, const gpud_region_offer *offer, uint64_t deadline)
{
  return ended(c) ? ended(c) : c->ep->ops->region_offer(c->ep, offer, deadline);
}

int gpud_connection_withdraw(gpud_connection *c, uint32_t region, uint64_t sequence)
{
  if (ended(c)) /* also in a forked child, where the mutex may be held by nobody */
    return ended(c);
  int rc = gpud_mutex_acquire(&c->regions, gpud_now() + WITHDRAW_NS);
  if (rc != 0)
    return rc;
  rc = ended(c) ? ended(c) : c->ep->ops->region_withdraw(c->ep, region, sequence);
  gpud_mutex_release(&c->regions);
  return rc;
}

int gpud_connection_region_add(gpud_connection *c, const void *message, uint64_t deadline)
{
  gpud_msg_region_add add;
  memcpy(&add, (const char *)message + HEAD_SIZE, sizeof add);
  return ended(c) ? ended(c) : c->ep->ops->region_add(c->ep, &add, deadline);
}

int gpud_connection_region_drop(gpud_connection *c, const void *message)
{
  gpud_msg_region_drop drop;
  memcpy(&drop, (const char *)message + HEAD_SIZE, sizeof drop);
  return c->ep->ops->region_drop(c->ep, drop.region);
}

int gpud_connection_rma_read(gpud_connection *c, uint32_t region, uint64_t offset, void *destination, uint64_t size)
{
  int rc = c->ep->ops->rma_read(c->ep, region, offset, destination, size);
  if (rc == 0)
    gpud_connection_count_copied(c, size, 0);
  return rc;
}

int gpud_connection_rma_write(gpud_connection *c, uint32_t region, uint64_t offset, const void *source, uint64_t size)
{
  int rc = c->ep->ops->rma_write(c->ep, region, offset, source, size);
  if (rc == 0)
    gpud_connection_count_copied(c, 0, size);
  return rc;
}
