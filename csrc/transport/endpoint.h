/*
 * An endpoint moves messages one way each and reaches the peer's registered memory. `loop` (both ends in one process)
 * and `shm` share one implementation over rings (endpoint_ring.c), `tcp` and `verbs` one over messages that are carried
 * (endpoint_carried.c).
 *
 * The table is a contract. No slot may be NULL: what a transport lacks is filled with gpud_endpoint_unsupported_*.
 * Unless it says otherwise a slot does not block, does not allocate and may be called by one thread at a time per
 * direction: one producer (reserve, commit), one consumer (peek, release). Errors are -errno:
 *   -EAGAIN   nothing there / no credit: wait, then try again
 *   -EPIPE    the peer is gone, or this end is closed; final
 *   -EPROTO   the peer broke the protocol; final
 */
#ifndef GPUD_ENDPOINT_H
#define GPUD_ENDPOINT_H

#include <stddef.h>
#include <stdint.h>

#include "wire.h"

typedef struct gpud_endpoint gpud_endpoint;

/* What a wait may be for; a wait for several ends with the first. */
#define GPUD_WAIT_MESSAGE 1u   /* peek would give one */
#define GPUD_WAIT_CREDIT 2u    /* reserve(size) would succeed: `value` is the size */
#define GPUD_WAIT_COMPLETED 4u /* completed() >= `value` */

/* How a region is reached by the worker. */
typedef struct gpud_region_view {
  uint64_t size;
  uint32_t access;
  void *pointer;    /* mapped here, or NULL: then only rma_read and rma_write reach it */
  uint64_t address; /* where kernels see it, or 0 */
} gpud_region_view;

/* A region, as its client has it. */
typedef struct gpud_region_offer {
  uint32_t number;
  uint32_t access; /* GPUD_ACCESS_* */
  uint64_t size;
  void *pointer;
  int fd; /* its sealed memfd, or -1: GPUD_REGION_STREAM has none */
} gpud_region_offer;

/* Memory of the worker's that transfers go to and come from. */
typedef struct gpud_local {
  void *memory;
  uint64_t size;
  int device;      /* `memory` is an address of the device's: nothing here may dereference it */
  int fd;          /* of a device's: a dma-buf of it, or -1 */
  uint64_t offset; /* of the memory in that */
} gpud_local;

/* What an endpoint can do beyond the table, in gpud_endpoint.properties. */
#define GPUD_ENDPOINT_MAPS 1u   /* regions are mapped at the worker: a region's fd is needed */
#define GPUD_ENDPOINT_DIRECT 2u /* GPUD_REGION_STREAM: copies reach any memory of the client's without registering it */

#define GPUD_STALL_MS 10000u /* rma_read and rma_write give up after so long without a byte */

typedef struct gpud_endpoint_ops {
  const char *name;

  /* Room for a message, to be filled from byte 8 on. 0, -EAGAIN, -EMSGSIZE, -EPIPE, -EPROTO. */
  int (*reserve)(gpud_endpoint *ep, uint32_t size, void **message);
  /* Publishes what was reserved and wakes the peer if it sleeps. Cannot fail. */
  void (*commit)(gpud_endpoint *ep, uint8_t op, uint32_t size);
  /* Copies the next message to message[GPUD_MAX_MESSAGE], unchecked. Its size, -EAGAIN, -EPIPE, -EPROTO. */
  int (*peek)(gpud_endpoint *ep, void *message);
  /* Frees the message last peeked. */
  void (*release)(gpud_endpoint *ep);

  /* Worker: all commands up to `sequence` are complete; with `faulted` set a FAULT message has been committed before. Wakes the client if it sleeps. */
  void (*publish)(gpud_endpoint *ep, uint64_t sequence, int faulted);
  /* Client: the last sequence number published, and whether a fault was. Any thread. */
  uint64_t (*completed)(gpud_endpoint *ep, int *faulted);

  /*
   * Blocks: polls for gpud_spin_ns, then sleeps, until one of `what` (GPUD_WAIT_*) holds, or `deadline` (gpud_now's clock).
   * 0, -ETIMEDOUT, -EPIPE (noticed within one sleep slice), -EPROTO. May be called by several threads at once.
   * A wait for COMPLETED also ends once a fault was published.
   */
  int (*wait)(gpud_endpoint *ep, uint32_t what, uint64_t value, uint64_t deadline);
  /* Ends every wait on this side, now and from now on, with -EPIPE. Any thread; async-signal-safe. */
  void (*interrupt)(gpud_endpoint *ep);

  /*
   * Client: makes the region reachable for the peer; sends what must precede REGION_ADD. May block until `deadline`.
   * GPUD_REGION_STREAM (where the endpoint is DIRECT): the one range that the next copies name so; -EBUSY where one is offered.
   */
  int (*region_offer)(gpud_endpoint *ep, const gpud_region_offer *offer, uint64_t deadline);
  /*
   * Client: the memory may go. Returns once nothing here will read or write it any more on the peer's behalf, which may
   * take until the commands up to `sequence` are complete, or until their bytes have left; the transport may put that off where the
   * memory stays valid meanwhile (pages pinned). Blocks while bytes move: -ETIMEDOUT after GPUD_STALL_MS without one, the
   * connection is then unusable. 0, -ENOENT.
   */
  int (*region_withdraw)(gpud_endpoint *ep, uint32_t region, uint64_t sequence);
  /*
   * Worker, on REGION_ADD (already bounded by the caller): takes what region_offer sent and makes it reachable. May block until `deadline`.
   * -EEXIST, -EPERM (not sealed, wrong size), -ENOMEM, -ETIMEDOUT, -EPIPE, -ENOTSUP (an address, where regions cannot be mapped).
   */
  int (*region_add)(gpud_endpoint *ep, const gpud_msg_region_add *add, uint64_t deadline);
  int (*region_drop)(gpud_endpoint *ep, uint32_t region);                         /* 0, -ENOENT */
  int (*region_view)(gpud_endpoint *ep, uint32_t region, gpud_region_view *view); /* 0, -ENOENT */
  /*
   * Worker: one-sided copies between local memory and [offset, offset + size) of a region, complete on return. Block while bytes
   * move. Over tcp bytes ride behind their command: then a command's region is read from front to back, once, and what its handler
   * leaves of them is skipped.
   * -ENOENT, -ERANGE (past its end), -EACCES, -EPIPE, -EPROTO, -ETIMEDOUT (GPUD_STALL_MS without a byte), -ENOMEM,
   * -ENOTSUP (over tcp: of another region than the command's in hand).
   */
  int (*rma_read)(gpud_endpoint *ep, uint32_t region, uint64_t offset, void *destination, uint64_t size);
  int (*rma_write)(gpud_endpoint *ep, uint32_t region, uint64_t offset, const void *source, uint64_t size);

  /*
   * Worker: transfers will go to or come from this memory, which stays until local_gone: it may be registered. 0: rma_read and rma_write
   * reach it, a device's too. -ENOTSUP: not a device's. -ENOMEM, -errno: not this; host memory is reached none the less, if slower.
   */
  int (*local_here)(gpud_endpoint *ep, const gpud_local *local);
  /* Worker: local memory [memory, memory + size) is about to be unmapped: forgets what it registered of it. */
  void (*local_gone)(gpud_endpoint *ep, const void *memory, uint64_t size);

  /* In words, what ended the connection or why the last call was refused, as far as the errno does not say it; may be empty. */
  const char *(*reason)(gpud_endpoint *ep);
  /* Whether the peer's end is still open: 1 or 0. Any thread. */
  int (*alive)(gpud_endpoint *ep);
  /* In a forked child: closes this process's copy of the descriptors and tells the peer nothing, now and in close. */
  void (*forget)(gpud_endpoint *ep);
  /* Frees everything, the socket included. After it ep is gone; nothing may be waiting. */
  void (*close)(gpud_endpoint *ep);
} gpud_endpoint_ops;

struct gpud_endpoint {
  const gpud_endpoint_ops *ops;
  uint64_t features;   /* GPUD_FEATURE_* granted */
  uint32_t properties; /* GPUD_ENDPOINT_* */
};

/* What most transports fill these slots with: all host memory is reached as it is; the errno says it all. */
int gpud_endpoint_local_here(gpud_endpoint *ep, const gpud_local *local);
const char *gpud_endpoint_no_reason(gpud_endpoint *ep);

/* cffi: begin */
typedef struct gpud_endpoint gpud_endpoint;

/* Two ends in this process. 0 or -errno. */
int gpud_endpoint_loop(uint32_t command_slots, uint32_t reply_slots, gpud_endpoint **client, gpud_endpoint **worker);

/*
 * The handshake (handshake.c), on a connected socket. What the socket is decides the transport: a Unix socket gives `shm`; a TCP
 * socket `verbs` where HELLO's features have GPUD_FEATURE_VERBS, else `tcp`.
 *
 * The worker's half, HELLO having been received and accepted: fills in welcome's version, features and ring sizes (0: the defaults),
 * sends it with `text` and whatever the transport needs besides, and makes the endpoint. Owns `socket` on success only.
 * 0 or -errno; -ENOTSUP: this build or machine has no verbs.
 */
int gpud_endpoint_accept(int socket, const gpud_hello *hello, gpud_welcome *welcome, const char *text,
                         uint64_t deadline, gpud_endpoint **ep);
/*
 * The client's half: sends HELLO, waits for WELCOME. Owns `socket` on success only. Returns 0, or -ECONNREFUSED with
 * *refused filled in and the reason in text[GPUD_MAX_TEXT + 1], or -errno. On success text is the device's name.
 */
int gpud_endpoint_connect(int socket, const gpud_hello *hello, const char *name, gpud_welcome *welcome,
                          gpud_refused *refused, char *text, uint64_t deadline, gpud_endpoint **ep);
/* cffi: end */

#endif
