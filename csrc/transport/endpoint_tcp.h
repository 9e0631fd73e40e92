/*
 * The inside of the `tcp` endpoint, shared by endpoint_tcp.c (the table, the handshake) and tcp_*.c. The socket carries one stream of
 * bytes each way after WELCOME:
 *   client -> worker   commands, each followed by gpud_message_payload bytes of the region it names
 *   worker -> client   replies; COMPLETED; BYTES, followed by the next bytes of the oldest COPY_OUT that is short of some
 *
 * Out (tcp_out.c): a queue of messages, copied, and of payloads, which stay where they are until they have been sent. Whoever
 * posts sends a lone message at once; in a burst messages are left in the queue for the next wait, for 16 KiB to come
 * together, or for the flusher (tcp_flusher.c), whose waking takes about as long as a message may be held back.
 * In (tcp_in.c): whoever waits reads. Bulk goes from the socket into its destination.
 *
 * Locks, in the order in which they are taken: out.sending (who is in sendmsg; tried, and held across waits only by bulk transfers),
 * base.stepping (who touches `in`), out.lock (the queue; never across a system call).
 */
#ifndef GPUD_ENDPOINT_TCP_H
#define GPUD_ENDPOINT_TCP_H

#include <pthread.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "endpoint_carried.h"
#include "order.h"

#define GPUD_TCP_BUFFER 32768u       /* of input: messages, and the beginning of bulk that came with one */
#define GPUD_TCP_ZEROS 65536u        /* bytes that stand for those of a region that the client does not have */
#define GPUD_TCP_OWNED_MAX 67108864u /* bytes of payloads copied because their memory went: then there is no credit */

/* Bytes that follow a message of the out-queue. */
typedef struct gpud_tcp_payload {
  const char *at;
  uint64_t left;
  uint64_t after; /* the position in the queue's messages that it comes at */
  void *owned;    /* to be freed once sent, or NULL: the memory is the region's */
  uint32_t region;
} gpud_tcp_payload;

typedef struct gpud_tcp_out {
  gpud_lock lock;
  gpud_lock sending;
  unsigned char *ring; /* messages, wrapping anywhere */
  uint64_t capacity;   /* a power of two */
  uint64_t head, tail; /* positions of the next byte to send and to fill */
  gpud_tcp_payload *payloads;
  uint32_t payload_mask, first, end;
  uint64_t bulk;    /* bytes of payloads left */
  uint64_t owned;   /* of these, in memory of our own */
  uint64_t moved;   /* bytes that left, ever */
  uint32_t pending; /* there is something to send */
  int32_t error;    /* the peer takes nothing any more; what it sent before may still be there to read */
  /* worker: what publish said last, sent as a COMPLETED behind what the queue holds */
  uint64_t completed;
  uint32_t faulted;
  uint32_t dirty;
  unsigned char news[sizeof(gpud_message_head) + sizeof(gpud_msg_completed)]; /* that COMPLETED, as it is being sent */
  uint32_t news_left; /* its bytes, once some of them have gone */
  /* who sends: what its sendmsg was given */
  uint64_t taken;
  uint32_t taken_payloads;
  bool taken_news;
  /* the poster's */
  uint64_t posted; /* messages committed */
  uint64_t flushed_at;
  uint32_t burst;                          /* messages committed since this side last waited */
  unsigned char message[GPUD_MAX_MESSAGE]; /* reserve's */
} gpud_tcp_out;

/* A COPY_OUT whose bytes are still to come. */
typedef struct gpud_tcp_expected {
  char *at; /* NULL: nobody wants them any more */
  uint64_t left;
  uint64_t sequence;
  uint32_t region;
} gpud_tcp_expected;

/* Worker: the command last taken, as far as bytes belong to it. */
typedef struct gpud_tcp_command {
  uint64_t in_left;  /* payload bytes that follow and have not been read */
  uint64_t out_left; /* bytes that a COPY_OUT may still send */
  uint64_t offset;   /* in the region, of the next byte */
  uint32_t region;
  bool skip; /* its handler is done: what is left of its payload is dropped */
} gpud_tcp_command;

typedef struct gpud_tcp_in {
  unsigned char *buffer;
  uint32_t begin, end;
  /* client */
  gpud_tcp_expected *expected; /* one producer, the poster; one consumer, who steps */
  uint32_t expected_mask;
  uint32_t first, last;
  uint64_t run;     /* bytes left of the BYTES message in hand */
  uint32_t stalled; /* the queue of replies is full: nothing is read */
  /* worker */
  gpud_tcp_command command;
  uint32_t peeked; /* size of the message last peeked */
  uint32_t ready;  /* peek would give one */
  uint32_t held;   /* nothing is to be read for now: a message is ready, or in hand, or its payload is its handler's */
} gpud_tcp_in;

typedef struct gpud_tcp_offer {
  char *pointer; /* NULL: none */
  uint64_t size; /* at a worker, 0: none */
  uint32_t access;
} gpud_tcp_offer;

typedef struct gpud_tcp_flusher {
  pthread_t thread;
  int bell; /* eventfd */
  bool started;
  uint32_t quit;
  uint32_t asleep; /* under out.lock: 0, or FLUSHER_ASLEEP and what it watches the socket for */
} gpud_tcp_flusher;

typedef struct gpud_tcp {
  gpud_carried base;
  int socket;
  pid_t pid; /* of who made it: a child that is forked has no flusher */
  bool forgotten;
  gpud_tcp_out out;
  gpud_tcp_in in;
  gpud_tcp_flusher flusher;
  gpud_tcp_offer *regions; /* [GPUD_MAX_REGIONS]; at a client under out.lock, at a worker the handler's thread's */
  gpud_tcp_offer stream;   /* GPUD_REGION_STREAM, likewise */
} gpud_tcp;

static inline gpud_tcp *gpud_tcp_of(gpud_endpoint *ep) { return (gpud_tcp *)(void *)ep; }

/* NULL where there can't be one. */
static inline gpud_tcp_offer *gpud_tcp_region(gpud_tcp *t, uint32_t region)
{
  if (region == GPUD_REGION_STREAM)
    return &t->stream;
  return region < GPUD_MAX_REGIONS ? &t->regions[region] : NULL;
}

/* tcp_out.c */
int gpud_tcp_out_init(gpud_tcp_out *out, uint32_t slots, bool client);
void gpud_tcp_out_fini(gpud_tcp_out *out);
/* 1, 0 or -EPIPE: whether `size` bytes of message may be appended. */
int gpud_tcp_room(const gpud_tcp_out *out, uint64_t size);
/* Appends out.message[size] and, unless `bytes` is 0, its payload. Room there is. */
void gpud_tcp_append(gpud_tcp *t, uint32_t size, const void *payload, uint64_t bytes, uint32_t region);
/* Sends what goes without blocking; the rest is the flusher's. */
void gpud_tcp_flush(gpud_tcp *t);
/* 0: all has gone, or another is at it and will look again; -EAGAIN: the socket is full; -EPIPE. */
int gpud_tcp_try_flush(gpud_tcp *t);
/* Worker: commands up to `sequence` are complete. `idle`: there is nothing else to do, so that it is sent at once. */
void gpud_tcp_publish(gpud_tcp *t, uint64_t sequence, bool faulted, bool idle);
/* Worker: BYTES and `size` bytes, after all that was queued before. Blocks. 0, -EPIPE, -ETIMEDOUT. */
int gpud_tcp_send_bytes(gpud_tcp *t, const void *source, uint64_t size);
/* Until no payload of the region refers to its memory any more. 0 or -ETIMEDOUT (the connection is unusable). */
int gpud_tcp_detach(gpud_tcp *t, uint32_t region);

/* tcp_in.c */
int gpud_tcp_in_init(gpud_tcp_in *in, uint32_t slots, bool client);
void gpud_tcp_in_fini(gpud_tcp_in *in);
int gpud_tcp_step_client(gpud_carried *c);
int gpud_tcp_step_worker(gpud_carried *c);
/* Client, before a COPY_OUT is appended: where its bytes go. There is room (gpud_tcp_expecting_room). */
void gpud_tcp_expect(gpud_tcp *t, char *at, uint64_t size, uint32_t region, uint64_t sequence);
bool gpud_tcp_expecting(const gpud_tcp *t);
bool gpud_tcp_expecting_room(const gpud_tcp *t);
/* Client: bytes that are still to come for the region are dropped when they do. */
void gpud_tcp_unexpect(gpud_tcp *t, uint32_t region);
int gpud_tcp_peek_worker(gpud_endpoint *ep, void *message);
void gpud_tcp_release_worker(gpud_endpoint *ep);
/* The next `size` bytes of the payload of the command in hand. Blocks. 0, -EPIPE, -EPROTO, -ETIMEDOUT. */
int gpud_tcp_receive_bytes(gpud_tcp *t, void *destination, uint64_t size);

/* tcp_flusher.c */
#define GPUD_TCP_ASLEEP 1u
#define GPUD_TCP_WATCHES_OUT 2u
#define GPUD_TCP_WATCHES_IN 4u
int gpud_tcp_flusher_start(gpud_tcp *t);
void gpud_tcp_flusher_stop(gpud_tcp *t);
/* Under out.lock: whether the flusher sleeps without watching for `what` (GPUD_TCP_WATCHES_*); then it is taken as awake, and the bell is to be rung. */
static inline bool gpud_tcp_flusher_needed(gpud_tcp *t, uint32_t what)
{
  if (t->flusher.asleep == 0 || (t->flusher.asleep & what) != 0)
    return false;
  t->flusher.asleep = 0;
  return true;
}
void gpud_tcp_ring(gpud_tcp *t);

/* tcp_socket.c */
void gpud_tcp_socket_options(int socket);
void gpud_tcp_socket_abort_on_death(int socket, bool on);
/* Whether the peer hung up, or has left what we sent unacknowledged for too long. */
bool gpud_tcp_socket_dead(int socket);
/* Hangs up so that what was sent is still read: not with a reset, unless the peer never stops sending. */
void gpud_tcp_socket_hang_up(int socket, uint64_t deadline);
/* recvmsg and sendmsg, once, without blocking. Bytes > 0, -EAGAIN, -EPIPE (the end, or an error that is one). */
int64_t gpud_tcp_socket_receive(int socket, struct iovec *parts, int count);
int64_t gpud_tcp_socket_send(int socket, struct iovec *parts, int count);

#endif
