#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "endpoint_tcp.h"
#include "wait.h"

#define HEAD_SIZE ((uint32_t)sizeof(gpud_message_head))
#define SLICE_MS 100
#define BULK                                                                                                           \
  65536u /* bytes still to come: looking for them all the time takes the socket's lock from who brings them */
#define MOST_STEPS 1024 /* of one peek, so that a payload without end does not keep its caller */
#define STALL_NS (GPUD_STALL_MS * 1000000ull)

int gpud_tcp_in_init(gpud_tcp_in *in, uint32_t slots, bool client)
{
  in->buffer = malloc(GPUD_TCP_BUFFER);
  in->expected = client ? calloc(slots, sizeof *in->expected) : NULL; /* a power of two */
  in->expected_mask = slots - 1;
  return in->buffer && (in->expected || !client) ? 0 : -ENOMEM;
}

void gpud_tcp_in_fini(gpud_tcp_in *in)
{
  free(in->expected);
  free(in->buffer);
}

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint32_t buffered(const gpud_tcp_in *in) { return in->end - in->begin; }

/* The size of the message that the buffer begins with: 0 where it is not whole, -EPROTO where none begins so. */
static int whole(const gpud_tcp_in *in)
{
  gpud_message_head head;
  if (buffered(in) < HEAD_SIZE)
    return 0;
  memcpy(&head, in->buffer + in->begin, sizeof head);
  if (head.size < HEAD_SIZE || head.size > GPUD_MAX_MESSAGE || head.tag != 0)
    return -EPROTO;
  return buffered(in) < head.size ? 0 : head.size;
}

/* Where the next bytes go: behind what is there. What is there is less than a message, or nothing is asked for. */
static struct iovec room(gpud_tcp_in *in)
{
  if (in->begin == in->end)
    in->begin = in->end = 0;
  else if (in->begin != 0 && GPUD_TCP_BUFFER - in->end < GPUD_MAX_MESSAGE) {
    memmove(in->buffer, in->buffer + in->begin, buffered(in));
    in->end = buffered(in);
    in->begin = 0;
  }
  return (struct iovec){.iov_base = in->buffer + in->end, .iov_len = GPUD_TCP_BUFFER - in->end};
}

/* Takes up to `size` bytes out of the buffer, to `at` unless that is NULL. How many. */
static uint64_t unbuffer(gpud_tcp_in *in, void *at, uint64_t size)
{
  uint64_t part = smaller(size, buffered(in));
  if (at)
    memcpy(at, in->buffer + in->begin, part);
  in->begin += (uint32_t)part;
  return part;
}

/* Once, without blocking: into the buffer, and into direct[size] before it. 1, 0 (nothing there), -EPIPE; *got: bytes of direct. */
static int fill(gpud_tcp *t, void *direct, uint64_t size, uint64_t *got)
{
  struct iovec parts[2] = {{.iov_base = direct, .iov_len = size}};
  int first = size == 0;
  parts[1] = room(&t->in);
  int64_t n = gpud_tcp_socket_receive(t->socket, parts + first, 2 - first);
  if (n < 0)
    return n == -EAGAIN ? 0 : (int)n;
  *got = smaller((uint64_t)n, size);
  t->in.end += (uint32_t)((uint64_t)n - *got);
  return 1;
}

/* ---------------------------------------------------------------- client */

bool gpud_tcp_expecting(const gpud_tcp *t)
{
  return gpud_load_acquire_u32(&t->in.first) != gpud_load_acquire_u32(&t->in.last);
}

bool gpud_tcp_expecting_room(const gpud_tcp *t)
{
  return gpud_load_acquire_u32(&t->in.last) - gpud_load_acquire_u32(&t->in.first) <= t->in.expected_mask;
}

void gpud_tcp_expect(gpud_tcp *t, char *at, uint64_t size, uint32_t region, uint64_t sequence)
{
  gpud_tcp_in *in = &t->in;
  in->expected[in->last & in->expected_mask] =
      (gpud_tcp_expected){.at = at, .left = size, .sequence = sequence, .region = region};
  gpud_store_release_u32(&in->last, in->last + 1);
}

static gpud_tcp_expected *oldest(gpud_tcp_in *in)
{
  return in->first == gpud_load_acquire_u32(&in->last) ? NULL : &in->expected[in->first & in->expected_mask];
}

static void forget_oldest(gpud_tcp_in *in) { gpud_store_release_u32(&in->first, in->first + 1); }

void gpud_tcp_unexpect(gpud_tcp *t, uint32_t region)
{
  gpud_tcp_in *in = &t->in;
  gpud_lock_acquire(&t->base.stepping); /* from here on nobody is in the middle of receiving into it */
  for (uint32_t i = in->first; i != gpud_load_acquire_u32(&in->last); i++)
    if (in->expected[i & in->expected_mask].region == region)
      in->expected[i & in->expected_mask].at = NULL;
  gpud_lock_release(&t->base.stepping);
}

/* Of the run of bytes in hand `size` are there. */
static void arrived(gpud_tcp_in *in, uint64_t size)
{
  gpud_tcp_expected *e = oldest(in);
  in->run -= size;
  e->left -= size;
  if (e->at)
    e->at += size;
  if (e->left == 0)
    forget_oldest(in);
}

/*
 * Before COMPLETED is believed: a completed COPY_OUT is not short of anything, unless the session failed on it or before. Who waits
 * for it must not find it complete otherwise.
 */
static int settle(gpud_tcp *t, const void *message, uint32_t size)
{
  gpud_msg_completed m;
  gpud_tcp_expected *e;
  if (gpud_link_check(message, size, 0) != 0)
    return -EPROTO;
  memcpy(&m, (const char *)message + HEAD_SIZE, sizeof m);
  while ((e = oldest(&t->in)) != NULL && e->sequence <= m.sequence) {
    if (!m.faulted)
      return -EPROTO;
    forget_oldest(&t->in);
  }
  return 0;
}

static int begin_run(gpud_tcp *t, const void *message)
{
  gpud_message_head head;
  gpud_msg_bytes m;
  memcpy(&head, message, sizeof head);
  memcpy(&m, (const char *)message + HEAD_SIZE, sizeof m);
  const gpud_tcp_expected *e = oldest(&t->in);
  if (head.op != GPUD_OP_BYTES || !e || m.size == 0 || m.size > e->left)
    return -EPROTO;
  t->in.run = m.size;
  return GPUD_DELIVERED;
}

/* The message of the buffer's beginning: GPUD_DELIVERED, GPUD_NO_ROOM or -EPROTO. */
static int deliver(gpud_tcp *t, int size)
{
  const unsigned char *message = t->in.buffer + t->in.begin;
  int rc = message[offsetof(gpud_message_head, op)] == GPUD_OP_COMPLETED ? settle(t, message, (uint32_t)size) : 0;
  if (rc == 0)
    rc = gpud_carried_deliver(&t->base, message, (uint32_t)size);
  if (rc == GPUD_LINK)
    rc = begin_run(t, message);
  if (rc == GPUD_DELIVERED)
    t->in.begin += (uint32_t)size;
  return rc;
}

/* Uses up what is in the buffer. 1: some of it; 0, -EPROTO. */
static int parse(gpud_tcp *t)
{
  gpud_tcp_in *in = &t->in;
  int some = 0;
  for (;;) {
    if (in->run) {
      const gpud_tcp_expected *e = oldest(in);
      uint64_t part = unbuffer(in, e->at, in->run);
      if (part == 0)
        return some;
      arrived(in, part);
    } else {
      int size = whole(in);
      int rc = size > 0 ? deliver(t, size) : size;
      if (rc < 0)
        return rc;
      gpud_store_relaxed_u32(&in->stalled, size > 0 && rc == GPUD_NO_ROOM);
      if (rc == 0)
        return some;
    }
    some = 1;
  }
}
_Static_assert(GPUD_NO_ROOM == 0, "as there being no whole message");

int gpud_tcp_step_client(gpud_carried *c)
{
  gpud_tcp *t = gpud_tcp_of(&c->base);
  gpud_tcp_in *in = &t->in;
  int some = in->begin != in->end && in->stalled ? parse(t) : 0;
  if (some != 0 || in->stalled)
    return some;
  const gpud_tcp_expected *e = in->run ? oldest(in) : NULL;
  uint64_t got = 0;
  int rc = fill(t, e ? e->at : NULL, e && e->at ? in->run : 0, &got);
  if (rc <= 0)
    return rc;
  if (got)
    arrived(in, got);
  rc = parse(t);
  gpud_store_relaxed_u32(&c->bulk, in->run >= BULK);
  return rc < 0 ? rc : 1;
}

/* ---------------------------------------------------------------- worker */

/* After anything that changes it: whether peek would give a message. Under stepping. */
static void look(gpud_tcp_in *in)
{
  bool unread = in->command.in_left != 0;
  bool ready = !unread && in->peeked == 0 && whole(in) != 0;
  gpud_store_release_u32(&in->ready, ready);
  gpud_store_relaxed_u32(&in->held, ready || in->peeked || (unread && !in->command.skip));
}

/* What the buffer holds of a payload that nobody wants. Under stepping. */
static void skip(gpud_tcp_in *in)
{
  if (in->command.skip)
    in->command.in_left -= unbuffer(in, NULL, in->command.in_left);
}

int gpud_tcp_step_worker(gpud_carried *c)
{
  gpud_tcp *t = gpud_tcp_of(&c->base);
  gpud_tcp_in *in = &t->in;
  uint64_t got = 0;
  if (in->held)
    return 0;
  int rc = fill(t, NULL, 0, &got);
  if (rc > 0)
    skip(in);
  look(in);
  return rc;
}

int gpud_tcp_peek_worker(gpud_endpoint *ep, void *message)
{
  gpud_carried *c = gpud_carried_of(ep);
  gpud_tcp *t = gpud_tcp_of(ep);
  gpud_tcp_in *in = &t->in;
  if (gpud_load_acquire_u32(&in->ready) == 0)
    c->carrier->flush(c);
  gpud_lock_acquire(&c->stepping);
  in->command.skip = true;
  in->peeked = 0;
  skip(in);
  look(in);
  int rc = 1;
  for (int i = 0; rc > 0 && !in->ready && i < MOST_STEPS; i++)
    rc = gpud_tcp_step_worker(c); /* also after the end: what came before it still counts */
  int size = in->ready ? whole(in) : 0;
  if (size > 0) {
    memcpy(message, in->buffer + in->begin, (size_t)size);
    in->peeked = (uint32_t)size;
  }
  look(in);
  gpud_lock_release(&c->stepping);
  if (rc < 0 || size < 0)
    gpud_carried_fail(c, rc < 0 ? rc : size);
  if (size != 0)
    return size;
  rc = gpud_carried_ended(c);
  return rc != 0 ? rc : -EAGAIN;
}

/* What belongs to the message that is being released. */
static gpud_tcp_command command_of(const void *message, uint32_t size)
{
  gpud_tcp_command command = {0};
  gpud_message_head head;
  if (gpud_message_check(message, size, 1) != 0)
    return command; /* nothing that follows means anything: the session ends */
  memcpy(&head, message, sizeof head);
  const char *body = (const char *)message + HEAD_SIZE;
  command.in_left = gpud_message_payload(message);
  if (head.op == GPUD_OP_COPY_IN || head.op == GPUD_OP_COPY_OUT) {
    gpud_msg_copy_host m;
    memcpy(&m, body, sizeof m);
    command.region = m.region;
    command.offset = m.offset;
    command.out_left = head.op == GPUD_OP_COPY_OUT ? m.size : 0;
  } else if (head.op == GPUD_OP_MODULE_LOAD) {
    gpud_msg_module_load m;
    memcpy(&m, body, sizeof m);
    command.region = m.region;
    command.offset = m.offset;
  }
  return command;
}

void gpud_tcp_release_worker(gpud_endpoint *ep)
{
  gpud_carried *c = gpud_carried_of(ep);
  gpud_tcp_in *in = &gpud_tcp_of(ep)->in;
  gpud_lock_acquire(&c->stepping);
  in->command = command_of(in->buffer + in->begin, in->peeked);
  in->begin += in->peeked;
  in->peeked = 0;
  look(in);
  gpud_lock_release(&c->stepping);
}

int gpud_tcp_receive_bytes(gpud_tcp *t, void *destination, uint64_t size)
{
  gpud_carried *c = &t->base;
  gpud_tcp_in *in = &t->in;
  uint64_t moved_at = gpud_now();
  uint64_t done = 0;
  int rc = 0;
  gpud_tcp_flush(t); /* who waits for what we have to say may be who sends */
  while (rc >= 0) {
    gpud_lock_acquire(&c->stepping);
    uint64_t got = unbuffer(in, (char *)destination + done, size - done);
    rc = gpud_carried_ended(c);
    if (rc == 0 && got < size - done) {
      uint64_t direct = 0;
      rc = fill(t, (char *)destination + done + got, size - done - got, &direct);
      got += direct;
    }
    in->command.in_left -= got;
    in->command.offset += got;
    done += got;
    look(in);
    gpud_lock_release(&c->stepping);
    if (done == size)
      return 0;
    if (rc == -EPIPE && !gpud_carried_stopped(c)) /* after an interrupt there may still be last words */
      gpud_carried_fail(c, rc);
    if (rc != 0 || got != 0) {
      moved_at = gpud_now();
      continue;
    }
    struct pollfd fds[2] = {{.fd = t->socket, .events = POLLIN}};
    rc = gpud_carried_poll(c, fds, 1, SLICE_MS);
    if (rc == 0 && gpud_now() - moved_at >= STALL_NS)
      rc = -ETIMEDOUT;
  }
  return rc;
}
