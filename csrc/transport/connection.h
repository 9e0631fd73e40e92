/*
 * A connection is an endpoint with the protocol's order on it: sequence numbers, credits, deadlines, checked messages,
 * one fault funnel. Both sides use it; neither knows what the commands mean.
 *
 * Threads: post and receive each take a lock of their own, so any thread may call either. Nothing is held while waiting.
 */
#ifndef GPUD_CONNECTION_H
#define GPUD_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "endpoint.h"
#include "lock.h"

/* cffi: begin */
typedef struct gpud_connection gpud_connection;

typedef struct gpud_connection_stats {
  uint64_t messages_sent;
  uint64_t messages_received;
  uint64_t bytes_copied_in; /* client: into staging; worker: from regions to the device */
  uint64_t bytes_copied_out;
  uint64_t credit_waits; /* posts that found the ring full */
} gpud_connection_stats;

/* Takes the endpoint. `client`: 1 on the side that sends commands. NULL when there is no memory. */
gpud_connection *gpud_connection_new(gpud_endpoint *ep, int client);

/*
 * Posts one message: head fields here, `body` after it. Does not wait for the peer unless the ring is full; then until
 * `deadline`. The sequence number of the message (> 0), or -ETIMEDOUT, -EPIPE, -EPROTO, -EMSGSIZE, -ESHUTDOWN (closed here).
 */
int64_t gpud_connection_post(gpud_connection *c, uint8_t op, uint32_t stream, const void *body, uint32_t size,
                             uint64_t deadline);
/*
 * The next message, checked (gpud_message_check) and its sequence verified, into message[GPUD_MAX_MESSAGE]; its slots are
 * free again on return. Its size, -ETIMEDOUT, -EPIPE, -EPROTO. `deadline` 0: do not wait, -EAGAIN when there is none.
 * Messages sent before the peer died are still delivered.
 */
int gpud_connection_receive(gpud_connection *c, void *message, uint64_t deadline);
/*
 * Round trips in one call each, for callers to whom a call is dear. An exchange is one caller's at a time; the connection must outlive it.
 */
typedef struct gpud_exchange {
  gpud_connection *connection;
  uint64_t slice; /* ns: how long run waits */
  int posted; /* whether the last run's message went out: then, after -ETIMEDOUT, its reply is still to be received */
  unsigned char reply[GPUD_MAX_MESSAGE];
} gpud_exchange;
/*
 * Posts `data` as a DATA message and receives the DATA message that comes next, into exchange->reply. Its size, or -errno as post and
 * receive; -EPROTO where another message comes.
 */
int gpud_exchange_run(gpud_exchange *exchange, const void *data, uint32_t size);
/* The sequence number of the last message posted / received. */
uint64_t gpud_connection_posted(const gpud_connection *c);
uint64_t gpud_connection_received(const gpud_connection *c);

/* Client: waits until `sequence` is complete. 0, -ETIMEDOUT, -EPIPE; -EIO as soon as a fault was published (a FAULT message is there to receive);
 * -EPROTO: the worker says it completed what was never posted. `deadline` 0: do not wait. */
int gpud_connection_wait(gpud_connection *c, uint64_t sequence, uint64_t deadline);
/* Client: last completed sequence number. */
uint64_t gpud_connection_completed(gpud_connection *c);
/* Worker: see gpud_endpoint_ops.publish. */
void gpud_connection_publish(gpud_connection *c, uint64_t sequence, int faulted);

/* Whether the peer's end is still open: 1 or 0. */
int gpud_connection_alive(gpud_connection *c);
/* Ends every wait on this side with -EPIPE. Any thread. */
void gpud_connection_interrupt(gpud_connection *c);
/* In a forked child: closes this process's copy of the socket and refuses every later call with -ESHUTDOWN; tells the peer nothing. */
void gpud_connection_forget(gpud_connection *c);
void gpud_connection_get_stats(gpud_connection *c, gpud_connection_stats *stats);
const char *gpud_connection_transport(const gpud_connection *c);
/*
 * In words, what ended the connection or why the last call was refused, as far as the errno does not say it; empty where it does. Not
 * after gpud_connection_free.
 */
void gpud_connection_reason(gpud_connection *c, char *text, size_t size);

/* Measuring a link, with the same post and receive that everything else uses. */
/*
 * Sends every DATA message back to its sender, and adds and drops regions as asked, until the client says CLOSE (0),
 * the peer is gone (-EPIPE), it breaks the protocol or sends anything else (-EPROTO), or `deadline` (-ETIMEDOUT).
 */
int gpud_connection_echo(gpud_connection *c, uint64_t deadline);
/* The same for the next `count` messages, all of them DATA, each within ten seconds or so: 0, or -errno. */
int gpud_connection_answer(gpud_connection *c, uint64_t count);
/*
 * `rounds` round trips of a DATA message of `size` bytes, head included, against echo or answer; the time of each
 * in nanoseconds[rounds]. Each has ten seconds. 0 or -errno as post and receive; -EPROTO: another message came back.
 */
int gpud_connection_pingpong(gpud_connection *c, uint32_t size, uint32_t rounds, uint64_t *nanoseconds);
/*
 * One way: `count` numbered DATA messages of `size` bytes, head included, then the one answer of the gpud_connection_sink that
 * takes them: it has checked each one's number. 0 or -errno as post and receive; -EPROTO: something else came.
 */
int gpud_connection_flood(gpud_connection *c, uint32_t size, uint64_t count);
int gpud_connection_sink(gpud_connection *c, uint64_t count);

/* Hangs up and frees the connection. Nothing may be waiting on it; stages may still be freed afterwards. */
void gpud_connection_free(gpud_connection *c);

/* Memory regions: client side. */
typedef struct gpud_region gpud_region;
/*
 * Memory that both sides reach: `size` bytes (rounded up to the page), zeroed, announced to the peer by REGION_ADD.
 * `number`: the caller's id for it; `address`: where in the worker's window, or 0. 0 or -errno, as post.
 */
int gpud_region_create(gpud_connection *c, uint32_t number, uint64_t size, uint32_t access, uint64_t address,
                       int prefault, uint64_t deadline, gpud_region **region);
void *gpud_region_pointer(const gpud_region *region);
uint64_t gpud_region_size(const gpud_region *region);
/*
 * Posts REGION_DROP (unless the connection is gone), and sees to it that what commands before it still take from the region is on
 * its way. What a COPY_OUT before it has not brought by now may never come: over shm it does, over tcp it is dropped.
 * The memory stays mapped here until gpud_region_free, which may come after the connection's end.
 */
int gpud_region_drop(gpud_connection *c, gpud_region *region, uint64_t deadline);
void gpud_region_free(gpud_region *region);

/* Memory regions: worker side, on REGION_ADD and REGION_DROP; and one-sided access to them. -errno as endpoint.h says. */
int gpud_connection_region_add(gpud_connection *c, const void *message, uint64_t deadline);
int gpud_connection_region_drop(gpud_connection *c, const void *message);
int gpud_connection_rma_read(gpud_connection *c, uint32_t region, uint64_t offset, void *destination, uint64_t size);
int gpud_connection_rma_write(gpud_connection *c, uint32_t region, uint64_t offset, const void *source, uint64_t size);
/* cffi: end */

/* As gpud_connection_post, the body being `head` and then `body`: for bodies that do not lie in one piece. */
int64_t gpud_connection_post_parts(gpud_connection *c, uint8_t op, uint32_t stream, const void *head,
                                   uint32_t head_size, const void *body, uint32_t body_size, uint64_t deadline);
/* region.c: offers the region to the peer and posts the REGION_ADD that announces it (`address`: in the window, or 0), as one step. */
int gpud_connection_announce(gpud_connection *c, const gpud_region_offer *offer, uint64_t address, uint64_t deadline);
/* Offers memory that no REGION_ADD announces: GPUD_REGION_STREAM, where the endpoint is DIRECT. -errno as region_offer and post. */
int gpud_connection_offer(gpud_connection *c, const gpud_region_offer *offer, uint64_t deadline);
/*
 * Ends what announce or offer began: once it returns, the endpoint does not touch the region's memory any more. `sequence`: of the last command that
 * may use it. 0, -ENOENT, -ETIMEDOUT, -ESHUTDOWN: the connection is gone, and with it whoever could touch it.
 */
int gpud_connection_withdraw(gpud_connection *c, uint32_t region, uint64_t sequence);
/* Adds to the statistics what was copied to and from regions outside rma_read and rma_write. */
void gpud_connection_count_copied(gpud_connection *c, uint64_t in, uint64_t out);
/*
 * For what may be freed after the connection, as a garbage collector does in no order of ours: the memory stays until it lets go.
 * The peer is hung up on when the owner frees, not later; every call from then on returns -ESHUTDOWN.
 */
void gpud_connection_hold(gpud_connection *c);
void gpud_connection_let_go(gpud_connection *c);

gpud_endpoint *gpud_connection_endpoint(gpud_connection *c);

/* A direct get that was asked for: its bytes go to `destination` as they come, also after its caller's deadline. */
typedef struct gpud_direct_get {
  struct gpud_stage *stage;
  char *destination; /* NULL: none */
  uint64_t address;
  uint64_t size;
  uint32_t stream;
  bool offered; /* the endpoint has the memory; not so once all is there */
  int64_t sequence;
} gpud_direct_get;

/* bulk.c: what the direct transfers of all stages of the connection share. */
typedef struct gpud_direct {
  gpud_mutex mutex;
  gpud_direct_get get;
} gpud_direct;
gpud_direct *gpud_connection_direct(gpud_connection *c);

#endif
