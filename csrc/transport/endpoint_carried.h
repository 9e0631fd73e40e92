/*
 * What `tcp` and `verbs` share: an endpoint whose messages are carried, not left in common memory. Here are the two words that shm
 * keeps in its segment (completed, faulted), a queue of the messages that came and wait to be peeked, the demultiplexing of link
 * messages, and waiting. What differs is a carrier's: six functions. Private to the endpoints.
 *
 * Waiting: somebody has to look at the wire. Of several threads that wait, one *leads*: it polls the carrier, then sleeps in poll(2) on
 * the carrier's descriptors. The others sleep on a futex word until something has changed or the lead is free. A thread
 * that does not wait (peek, completed, a carrier's own thread) may take a step too; what it finds it tells by gpud_carried_changed.
 *
 * Threads: every function may be called by any thread, but for peek and release (one consumer) and init and fini.
 * The struct's fields are the layer's own, read them by the functions; `base` and `carrier` don't change after init.
 */
#ifndef GPUD_ENDPOINT_CARRIED_H
#define GPUD_ENDPOINT_CARRIED_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "endpoint.h"
#include "lock.h"
#include "ring.h"

#define GPUD_CARRIED_FDS 4 /* the most descriptors that a carrier sleeps on */

typedef struct gpud_carried gpud_carried;

typedef struct gpud_carrier {
  /*
   * Takes what has arrived (gpud_carried_deliver) and sends what may go, without blocking; one step, so that the clock is looked at
   * between two. One thread at a time: c->stepping is held. 1: something came or went; 0: nothing; -EPIPE, -EPROTO: the end of the
   * connection, which is remembered; what was delivered before still counts.
   */
  int (*step)(gpud_carried *c);
  /*
   * Whether a wait for GPUD_WAIT_MESSAGE (`value` unused) or GPUD_WAIT_CREDIT (`value` the size) would end: 1, 0, -errno. Called for one
   * of the two at a time, without a lock, while others step.
   */
  int (*ready)(gpud_carried *c, uint32_t what, uint64_t value);
  /* Somebody is about to wait: sends what was held back, as far as it goes without blocking. */
  void (*flush)(gpud_carried *c);
  /*
   * The leader is about to sleep until one of `what`: fills in the descriptors and events that may bring it, and their number. -EAGAIN:
   * something is there already. The leader looks once more at what it waits for before it sleeps; one thread at a time.
   */
  int (*arm)(gpud_carried *c, uint32_t what, struct pollfd fds[GPUD_CARRIED_FDS]);
  /* The leader has stopped looking: whoever else has to look at the wire now and then may have to. May do nothing. */
  void (*unattended)(gpud_carried *c);
  /* Whether the peer is gone, as far as can be told without reading. Once in a sleep's slice, any thread. */
  bool (*dead)(gpud_carried *c);
} gpud_carrier;

struct gpud_carried {
  gpud_endpoint base; /* first: an endpoint's pointer is a pointer to this */
  const gpud_carrier *carrier;
  bool client;
  uint64_t spin_ns;  /* the longest to poll before sleeping */
  uint64_t spin_now; /* and what has paid lately */
  uint32_t waits;
  uint32_t bulk; /* the carrier's: much is on its way, which polling would only hold up */
  int wake;      /* eventfd: the leader is to look */
  int stop;      /* eventfd: interrupt was called; never emptied */

  _Alignas(128) uint64_t completed;
  uint32_t faulted;
  int32_t error;    /* 0, -EPIPE or -EPROTO: the wire's end */
  uint32_t stopped; /* interrupt was called */

  _Alignas(128) gpud_lock stepping;
  uint32_t leading;  /* somebody leads */
  uint32_t asleep;   /* the leader is in poll, or about to be */
  uint32_t sleeping; /* futex word of all others: 1 while one may be asleep on it */

  gpud_slot *slots; /* of the messages that came; NULL: the carrier keeps them itself */
  uint64_t credit;
  _Alignas(128) gpud_ring_producer arrived; /* under c->stepping */
  _Alignas(128) gpud_ring_consumer taken;   /* the one consumer */
};

/*
 * `queue_slots`: room of the message queue in slots of 64 bytes (gpud_ring_memory_valid), 0 for none. `c` is zeroed memory, aligned to
 * _Alignof(gpud_carried). The caller sets base.ops. 0, or -errno and nothing
 * is left to fini, which may be called all the same.
 */
int gpud_carried_init(gpud_carried *c, const gpud_carrier *carrier, bool client, uint64_t features, uint32_t properties,
                      uint32_t queue_slots);
void gpud_carried_fini(gpud_carried *c);

/* What deliver did with a message. */
#define GPUD_DELIVERED 1 /* it is in the queue, or its word is set */
#define GPUD_NO_ROOM 0 /* the queue is full: give it again after a release (unattended, flush or step will be called) */
#define GPUD_LINK 2    /* a link message of the carrier's own, its form checked: the carrier's to judge and to use */
/*
 * Sorts a message[size] that came: GPUD_OP_COMPLETED sets the words, messages for peek go to the queue, with their own check still to be made
 * (gpud_connection_receive does). -EPROTO: a head that no message has, a link message out of place, a `completed` that goes
 * back. Under c->stepping.
 */
int gpud_carried_deliver(gpud_carried *c, const void *message, uint32_t size);

/*
 * Takes a step unless another thread is at it. 1: something came or went, and whoever waits was told; 0; or the error that was
 * remembered.
 */
int gpud_carried_step(gpud_carried *c);
/* After anything that a wait may be for: wakes who waits, if anybody does. */
void gpud_carried_changed(gpud_carried *c);
/* Remembers -EPIPE or -EPROTO, unless there is an error already, and ends every wait with it. */
void gpud_carried_fail(gpud_carried *c, int error);
/* The remembered error, else -EPIPE where interrupt was called, else 0. */
int gpud_carried_ended(const gpud_carried *c);
/* interrupt was called. */
bool gpud_carried_stopped(const gpud_carried *c);
/*
 * For a transfer that blocks: sleeps until one of fds[count] has news, interrupt, or `slice_ms` at most. `fds` has room for one more.
 * 1: news, 0: the time is up, -EPIPE: interrupted.
 */
int gpud_carried_poll(gpud_carried *c, struct pollfd *fds, int count, int slice_ms);
/* A message is in the queue: what `ready` of a carrier with a queue returns for GPUD_WAIT_MESSAGE. */
bool gpud_carried_queued(const gpud_carried *c);

/* Slots of the table that are the same for every carrier; peek and release of those with a queue. */
int gpud_carried_peek(gpud_endpoint *ep, void *message);
void gpud_carried_release(gpud_endpoint *ep);
uint64_t gpud_carried_completed(gpud_endpoint *ep, int *faulted);
int gpud_carried_wait(gpud_endpoint *ep, uint32_t what, uint64_t value, uint64_t deadline);
void gpud_carried_interrupt(gpud_endpoint *ep);
int gpud_carried_alive(gpud_endpoint *ep);

static inline gpud_carried *gpud_carried_of(gpud_endpoint *ep) { return (gpud_carried *)ep; }

#endif
