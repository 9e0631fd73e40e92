/*
 * A queue pair that carries messages, with credits: SEND and RECV, completions, and what ended it. The endpoint (endpoint_verbs.c)
 * makes an endpoint of it, verbs_rma.c posts one-sided transfers to it. Private to the files of verbs.
 *
 * Credit. Each side posts `receives` receives, and says so in QUEUE_PAIR; each SEND takes one. What was taken and is posted again is owed,
 * and returned by a CREDIT message at the latest when an eighth is owed. An ordinary message is sent where more than a quarter of the peer's
 * receives are left, COMPLETED and REGION_KEY where more than an eighth are, CREDIT while any is: so a CREDIT that is due can always go,
 * and neither side waits for the other's.
 *
 * Threads: sending and receiving have a lock each; the order is receive, then send.
 * Its life, from opening to closing, is in verbs_pair.c, the rest in verbs_link.c.
 */
#ifndef GPUD_VERBS_LINK_H
#define GPUD_VERBS_LINK_H

#include "verbs_device.h"

#ifdef GPUD_HAVE_VERBS

#include "endpoint.h"
#include "lock.h"

#define GPUD_VERBS_RECEIVES 256u /* of GPUD_MAX_MESSAGE */
#define GPUD_VERBS_SENDS 64u     /* entries of the send queue, each with a buffer of GPUD_MAX_MESSAGE */
#define GPUD_VERBS_TRANSFERS 16u /* of those, one-sided transfers at once */
#define GPUD_VERBS_LEAST 16u     /* receives that a peer must post, */
#define GPUD_VERBS_MOST 65536u   /* and the most that is believed */
#define GPUD_VERBS_INLINE 256u   /* asked for */

typedef enum gpud_verbs_class {
  GPUD_VERBS_ORDINARY, /* what connection.c posts */
  GPUD_VERBS_LINK,     /* COMPLETED, REGION_KEY */
  GPUD_VERBS_CREDIT,
} gpud_verbs_class;

typedef struct gpud_verbs_ready {
  uint32_t slot;
  uint32_t size;
} gpud_verbs_ready;

/* Takes a link message, whole and of its direction. 0 or -EPROTO. Under the receive lock; must not send. */
typedef int gpud_verbs_take(void *owner, const void *message);

typedef struct gpud_verbs_link {
  gpud_verbs_port port;
  const gpud_verbs_api *api;
  struct ibv_pd *domain;
  struct ibv_comp_channel *channel;
  struct ibv_cq *received;
  struct ibv_cq *sent;
  struct ibv_qp *pair;
  struct ibv_mr *registered;
  char *memory; /* the receives, then the sends */
  uint32_t inlined;
  uint32_t sequence; /* of our first packet */
  int from_client;   /* what we receive is */
  gpud_verbs_take *take;
  void *owner;

  uint32_t error; /* 0, or the errno that ended it */
  char reason[192];

  gpud_lock send_lock;
  uint64_t posted; /* entries of the send queue, ever */
  uint64_t done;   /* of those, complete: any thread reads it */
  uint64_t seen;   /* of those, complete or flushed */
  uint32_t unsignalled;
  uint32_t held;      /* a message that was reserved and will be committed */
  uint32_t transfers; /* READs and WRITEs at once */
  uint32_t peer_receives;
  uint32_t credit;
  uint32_t owed;
  uint64_t refused; /* the transfer whose access the peer refused, + 1 */

  gpud_lock receive_lock;
  uint32_t count; /* of `ready`: any thread reads it */
  uint32_t first;
  gpud_verbs_ready ready[GPUD_VERBS_RECEIVES]; /* ordinary messages that wait to be taken, in order */
} gpud_verbs_link;

/*
 * Opens a port (as gpud_verbs_port_open; `text` as there) and makes a queue pair in INIT, receives posted. 0 or -errno. What it
 * takes a link message with is called from gpud_verbs_link_poll.
 */
int gpud_verbs_link_open(gpud_verbs_link *link, const struct sockaddr_storage *local, int client, char *text,
                         size_t size);
void gpud_verbs_link_describe(const gpud_verbs_link *link, gpud_queue_pair *pair);
/* The peer's half, not yet judged: RTR and RTS. 0, -EPROTO, -errno. */
int gpud_verbs_link_connect(gpud_verbs_link *link, const gpud_queue_pair *peer);
/*
 * Moves the queue pair to its error state and waits until the adapter has let go of the transfer at `place`, and all before it. Where it
 * won't, destroys the queue pair.
 */
void gpud_verbs_link_stop(gpud_verbs_link *link, uint64_t place);
/* Destroys the queue pair, whatever its state: afterwards the adapter touches no memory of this connection. */
void gpud_verbs_link_disconnect(gpud_verbs_link *link);
/* Destroys all of it; memory that was registered with its domain must have been deregistered. */
void gpud_verbs_link_close(gpud_verbs_link *link);
/* In a forked child: closes the descriptors and destroys nothing. */
void gpud_verbs_link_forget(gpud_verbs_link *link);

/* verbs_pair.c, for verbs_link.c: posts the receive of a slot. 0, or what ended the link. */
int gpud_verbs_link_post_receive(gpud_verbs_link *link, uint32_t slot);

/* 0, -EPIPE or -EPROTO; then `reason` says why. Any thread. */
int gpud_verbs_link_state(const gpud_verbs_link *link);
/* Ends it, unless it has ended before. Returns what it ended with. */
int gpud_verbs_link_fail(gpud_verbs_link *link, int rc, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Whether an ordinary message could be sent, 0, and then keeps a place for it (`hold`); -EAGAIN, -EPIPE, -EPROTO. */
int gpud_verbs_link_room(gpud_verbs_link *link, int hold);
/* Sends; ORDINARY: into the place that is held. 0, -EAGAIN, -EPIPE, -EPROTO. */
int gpud_verbs_link_send(gpud_verbs_link *link, const void *message, uint32_t size, gpud_verbs_class class);
/* Takes all that has completed on both queues and returns credit that is due. How many things came or went, or -EPIPE, -EPROTO once none is left. */
int gpud_verbs_link_poll(gpud_verbs_link *link);
/* The oldest message that waits: its size, copied to message[GPUD_MAX_MESSAGE], or 0. */
int gpud_verbs_link_front(gpud_verbs_link *link, void *message);
/* Frees it. */
void gpud_verbs_link_pop(gpud_verbs_link *link);
/*
 * A place in the send queue: once so many entries are complete, all that was sent up to now has arrived at the peer. -EPIPE, -EPROTO: it
 * will not.
 */
int64_t gpud_verbs_link_mark(gpud_verbs_link *link);

/* Posts a one-sided transfer; its place in the send queue, or -EAGAIN, -EPIPE, -EPROTO. */
int64_t gpud_verbs_link_transfer(gpud_verbs_link *link, int write, uint64_t address, uint32_t key, void *local,
                                 uint32_t local_key, uint32_t size);
/* How many entries of the send queue are complete: those with a lesser place. */
uint64_t gpud_verbs_link_reap(gpud_verbs_link *link);

/* Before sleeping on channel->fd: the next completion makes it readable; then poll once more. */
int gpud_verbs_link_arm(gpud_verbs_link *link);
/* After it: takes the events, so that it is not readable any more. One thread at a time. */
void gpud_verbs_link_quiet(gpud_verbs_link *link);

#endif
#endif
