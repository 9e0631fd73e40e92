#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "endpoint_tcp.h"
#include "wait.h"

#define PARTS 16                 /* of one sendmsg */
#define ENOUGH 16384u            /* bytes in the queue: not held back any longer */
#define BURST_NS 50000u          /* after so long without a send a message is a lone one again */
#define SLICE_MS 100             /* of a transfer that blocks: then a look at the peer's life */
#define PATIENCE_NS 100000000ull /* without a byte, before what is left of a payload is copied instead */
#define LONGEST_NS 1000000000ull /* altogether */
#define STALL_NS (GPUD_STALL_MS * 1000000ull)

int gpud_tcp_out_init(gpud_tcp_out *out, uint32_t slots, bool client)
{
  uint32_t payloads = 1;
  out->capacity = (uint64_t)slots * GPUD_SLOT_SIZE;
  out->ring = malloc(out->capacity);
  /* As many as there is room for messages that have one. */
  while (payloads * (sizeof(gpud_message_head) + sizeof(gpud_msg_module_load)) < out->capacity)
    payloads *= 2;
  out->payloads = client ? calloc(payloads, sizeof *out->payloads) : NULL;
  out->payload_mask = payloads - 1;
  return out->ring && (out->payloads || !client) ? 0 : -ENOMEM;
}

void gpud_tcp_out_fini(gpud_tcp_out *out)
{
  for (uint32_t i = out->first; out->payloads && i != out->end; i++)
    free(out->payloads[i & out->payload_mask].owned);
  free(out->payloads);
  free(out->ring);
}

int gpud_tcp_room(const gpud_tcp_out *out, uint64_t size)
{
  if (gpud_load_relaxed_u32((const uint32_t *)&out->error) != 0)
    return -EPIPE;
  uint64_t head = gpud_load_relaxed_u64(&out->head);
  uint64_t used = gpud_load_relaxed_u64(&out->tail) - head;
  return used <= out->capacity && out->capacity - used >= size &&
         gpud_load_relaxed_u64(&out->owned) < GPUD_TCP_OWNED_MAX;
}

/* ---------------------------------------------------------------- what one sendmsg takes */

static int add(struct iovec *parts, int count, const void *at, uint64_t size)
{
  if (size == 0)
    return count;
  parts[count] = (struct iovec){.iov_base = (void *)(uintptr_t)at, .iov_len = size};
  return count + 1;
}

/* The queue's messages [from, to), in one part or two. */
static int add_messages(const gpud_tcp_out *out, struct iovec *parts, int count, uint64_t from, uint64_t to)
{
  uint64_t at = from & (out->capacity - 1);
  uint64_t straight = out->capacity - at < to - from ? out->capacity - at : to - from;
  count = add(parts, count, out->ring + at, straight);
  return add(parts, count, out->ring, to - from - straight);
}

static void make_news(gpud_tcp_out *out)
{
  const gpud_message_head head = {.size = sizeof out->news, .op = GPUD_OP_COMPLETED};
  const gpud_msg_completed body = {.sequence = out->completed, .faulted = out->faulted};
  memcpy(out->news, &head, sizeof head);
  memcpy(out->news + sizeof head, &body, sizeof body);
}

/*
 * Names what is to be sent next, in order; the number of parts. Until `took` is told how much of it went, none of it moves: `sending` is
 * held. Under the lock.
 */
static int take(gpud_tcp_out *out, struct iovec parts[PARTS])
{
  int count = add(parts, 0, out->news + sizeof out->news - out->news_left, out->news_left);
  uint64_t at = out->head;
  uint32_t i = out->first;
  for (; i != out->end && count + 5 < PARTS; i++) {
    const gpud_tcp_payload *p = &out->payloads[i & out->payload_mask];
    count = add_messages(out, parts, count, at, p->after);
    count = add(parts, count, p->at, p->left);
    at = p->after;
  }
  out->taken_payloads = i;
  out->taken = i == out->end ? out->tail : at;
  count = add_messages(out, parts, count, at, out->taken);
  out->taken_news = out->dirty && out->news_left == 0;
  if (out->taken_news) { /* a worker's, which has no payloads: so it comes behind all that was posted before it */
    make_news(out);
    count = add(parts, count, out->news, sizeof out->news);
  }
  return count;
}

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* `sent` bytes of what take named have gone. Under the lock. */
static void took(gpud_tcp_out *out, uint64_t sent)
{
  uint32_t news = (uint32_t)smaller(sent, out->news_left);
  out->moved += sent;
  out->news_left -= news;
  sent -= news;
  while (sent) {
    gpud_tcp_payload *p = out->first == out->taken_payloads ? NULL : &out->payloads[out->first & out->payload_mask];
    uint64_t messages = smaller(sent, (p ? p->after : out->taken) - out->head);
    gpud_store_relaxed_u64(&out->head, out->head + messages);
    sent -= messages;
    if (!p)
      break;
    uint64_t bytes = smaller(sent, p->left);
    p->at += bytes;
    p->left -= bytes;
    out->bulk -= bytes;
    sent -= bytes;
    if (p->owned)
      gpud_store_relaxed_u64(&out->owned, out->owned - bytes);
    if (p->left == 0) {
      free(p->owned);
      out->first++;
    }
  }
  if (sent) { /* then they are the news's */
    gpud_msg_completed said;
    memcpy(&said, out->news + sizeof(gpud_message_head), sizeof said);
    out->news_left = (uint32_t)(sizeof out->news - sent);
    out->dirty = said.sequence != out->completed || said.faulted != out->faulted;
  }
  gpud_store_relaxed_u32(&out->pending,
                         out->head != out->tail || out->first != out->end || out->dirty || out->news_left);
}

/* ---------------------------------------------------------------- sending */

static bool may_send(gpud_tcp_out *out) { return gpud_exchange_u32(&out->sending.held, 1) == 0; }

static bool pending(const gpud_tcp_out *out) { return gpud_load_relaxed_u32(&out->pending) != 0; }

static int failed(gpud_tcp *t)
{
  gpud_store_relaxed_u32((uint32_t *)&t->out.error, (uint32_t)-EPIPE);
  /* What the peer sent before is still to be read; then the end, also where it was not the peer that ended it. */
  shutdown(t->socket, SHUT_RDWR);
  gpud_carried_changed(&t->base);
  return -EPIPE;
}

/* `sending` is held. Bytes that went, 0: nothing is left; -EAGAIN, -EPIPE. */
static int64_t send_some(gpud_tcp *t)
{
  gpud_tcp_out *out = &t->out;
  struct iovec parts[PARTS];
  if (out->error)
    return -EPIPE;
  gpud_lock_acquire(&out->lock);
  int count = take(out, parts);
  gpud_lock_release(&out->lock);
  if (count == 0)
    return 0;
  int64_t n = gpud_tcp_socket_send(t->socket, parts, count);
  if (n == -EPIPE)
    return failed(t);
  if (n < 0)
    return n;
  gpud_lock_acquire(&out->lock);
  took(out, (uint64_t)n);
  out->flushed_at = gpud_now();
  gpud_lock_release(&out->lock);
  gpud_carried_changed(&t->base); /* there is credit */
  return n;
}

/* After `sending` was given back: what is left, also of others who could not send meanwhile, is the flusher's. */
static void leave_rest(gpud_tcp *t)
{
  gpud_tcp_out *out = &t->out;
  gpud_lock_acquire(&out->lock);
  bool ring = out->pending && gpud_tcp_flusher_needed(t, GPUD_TCP_WATCHES_OUT);
  gpud_lock_release(&out->lock);
  if (ring)
    gpud_tcp_ring(t);
}

int gpud_tcp_try_flush(gpud_tcp *t)
{
  gpud_tcp_out *out = &t->out;
  int64_t rc = 0;
  while (rc >= 0 && pending(out) && may_send(out)) {
    do
      rc = send_some(t);
    while (rc > 0);
    gpud_lock_release(&out->sending);
  }
  return rc < 0 ? (int)rc : 0;
}

void gpud_tcp_flush(gpud_tcp *t)
{
  gpud_store_relaxed_u32(&t->out.burst, 0);
  if (pending(&t->out) && gpud_tcp_try_flush(t) == -EAGAIN)
    leave_rest(t);
}

/* By somebody who goes on: one sendmsg and no more. */
static void flush_once(gpud_tcp *t, bool rest_is_waited_for)
{
  if (may_send(&t->out)) {
    send_some(t);
    gpud_lock_release(&t->out.sending);
  }
  if (!rest_is_waited_for && pending(&t->out))
    leave_rest(t);
}

/* ---------------------------------------------------------------- the queue */

/* Under the lock. */
static void append_bytes(gpud_tcp_out *out, const void *bytes, uint64_t size)
{
  uint64_t at = out->tail & (out->capacity - 1);
  uint64_t straight = out->capacity - at < size ? out->capacity - at : size;
  memcpy(out->ring + at, bytes, straight);
  memcpy(out->ring, (const char *)bytes + straight, size - straight);
  gpud_store_relaxed_u64(&out->tail, out->tail + size);
}

void gpud_tcp_append(gpud_tcp *t, uint32_t size, const void *payload, uint64_t bytes, uint32_t region)
{
  gpud_tcp_out *out = &t->out;
  bool waited_for = region == GPUD_REGION_STREAM;
  gpud_lock_acquire(&out->lock);
  append_bytes(out, out->message, size);
  if (bytes) {
    out->payloads[out->end++ & out->payload_mask] =
        (gpud_tcp_payload){.at = payload, .left = bytes, .after = out->tail, .region = region};
    out->bulk += bytes;
  }
  gpud_store_relaxed_u32(&out->pending, 1);
  uint64_t held = out->tail - out->head + out->bulk;
  uint64_t flushed_at = out->flushed_at;
  gpud_lock_release(&out->lock);
  uint32_t burst = gpud_load_relaxed_u32(&out->burst) + 1;
  gpud_store_relaxed_u32(&out->burst, burst);
  if (burst <= 1 || held >= ENOUGH || gpud_now() - flushed_at > BURST_NS)
    flush_once(t, waited_for);
  else
    leave_rest(t);
}

void gpud_tcp_publish(gpud_tcp *t, uint64_t sequence, bool faulted, bool idle)
{
  gpud_tcp_out *out = &t->out;
  gpud_lock_acquire(&out->lock);
  if (sequence > out->completed) /* of two threads that publish, the later one may have the earlier number */
    out->completed = sequence;
  out->faulted |= faulted;
  out->dirty = 1;
  gpud_store_relaxed_u32(&out->pending, 1);
  gpud_lock_release(&out->lock);
  if (idle)
    flush_once(t, false);
  else
    leave_rest(t);
}

/* ---------------------------------------------------------------- transfers that block */

/* Until the socket takes more: 0, -EPIPE, -ETIMEDOUT where nothing has moved since `moved_at`. */
static int await_room(gpud_tcp *t, uint64_t moved_at)
{
  struct pollfd fds[2] = {{.fd = t->socket, .events = POLLOUT}};
  int rc = gpud_carried_poll(&t->base, fds, 1, SLICE_MS);
  if (rc != 0)
    return rc < 0 ? rc : 0;
  if (gpud_tcp_socket_dead(t->socket))
    return -EPIPE;
  return gpud_now() - moved_at >= STALL_NS ? -ETIMEDOUT : 0;
}

static int64_t send_behind(gpud_tcp *t, const struct iovec own[2], bool begun)
{
  gpud_tcp_out *out = &t->out;
  struct iovec parts[PARTS + 2];
  int count = 0;
  uint64_t queued = 0;
  if (!begun) {
    gpud_lock_acquire(&out->lock);
    count = take(out, parts);
    gpud_lock_release(&out->lock);
  }
  for (int i = 0; i < count; i++)
    queued += parts[i].iov_len;
  for (int i = 0; i < 2; i++)
    count = add(parts, count, own[i].iov_base, own[i].iov_len);
  int64_t n = gpud_tcp_socket_send(t->socket, parts, count);
  if (n <= 0)
    return n;
  uint64_t theirs = smaller((uint64_t)n, queued);
  gpud_lock_acquire(&out->lock);
  if (queued)
    took(out, theirs);
  out->moved += (uint64_t)n - theirs;
  out->flushed_at = gpud_now();
  gpud_lock_release(&out->lock);
  if (theirs)
    gpud_carried_changed(&t->base);
  return n - (int64_t)theirs;
}

int gpud_tcp_send_bytes(gpud_tcp *t, const void *source, uint64_t size)
{
  struct {
    gpud_message_head head;
    gpud_msg_bytes body;
  } message = {.head = {.size = sizeof message, .op = GPUD_OP_BYTES}, .body = {.size = size}};
  struct iovec own[2] = {{.iov_base = &message, .iov_len = sizeof message},
                         {.iov_base = (void *)(uintptr_t)source, .iov_len = size}};
  bool begun = false;
  int rc = 0;
  gpud_lock_acquire(&t->out.sending);
  uint64_t moved_at = gpud_now();
  while (rc == 0 && own[1].iov_len) {
    int64_t n = t->out.error ? -EPIPE : send_behind(t, own, begun);
    if (n == -EAGAIN) {
      rc = await_room(t, moved_at);
      continue;
    }
    if (n < 0) {
      rc = failed(t);
      break;
    }
    moved_at = gpud_now();
    begun = begun || n > 0;
    for (int i = 0; i < 2; i++) {
      uint64_t part = smaller((uint64_t)n, own[i].iov_len);
      own[i].iov_base = (char *)own[i].iov_base + part;
      own[i].iov_len -= part;
      n -= (int64_t)part;
    }
    rc = gpud_carried_stopped(&t->base) ? -EPIPE : 0;
  }
  if (rc != 0 && begun && own[1].iov_len)
    failed(t); /* the stream ends inside the bytes: nothing may follow */
  gpud_lock_release(&t->out.sending);
  leave_rest(t);
  return rc;
}

/* Whether payloads of the region lie in its memory, and how many bytes. Under the lock. */
static uint64_t refers(const gpud_tcp_out *out, uint32_t region)
{
  uint64_t bytes = 0;
  for (uint32_t i = out->first; i != out->end; i++) {
    const gpud_tcp_payload *p = &out->payloads[i & out->payload_mask];
    if (p->region == region && !p->owned)
      bytes += p->left;
  }
  return bytes;
}

/* Copies what is left of the region's payloads, as far as there is memory for it. `sending` is held. */
static void copy_rest(gpud_tcp_out *out, uint32_t region)
{
  for (uint32_t i = out->first; i != out->end; i++) {
    gpud_tcp_payload *p = &out->payloads[i & out->payload_mask]; /* only who sends moves it */
    if (p->region != region || p->owned || p->left > GPUD_TCP_OWNED_MAX - out->owned)
      continue;
    void *copy = malloc(p->left);
    if (!copy)
      return;
    memcpy(copy, p->at, p->left);
    gpud_lock_acquire(&out->lock);
    p->at = p->owned = copy;
    gpud_store_relaxed_u64(&out->owned, out->owned + p->left);
    gpud_lock_release(&out->lock);
  }
}

int gpud_tcp_detach(gpud_tcp *t, uint32_t region)
{
  gpud_tcp_out *out = &t->out;
  uint64_t begin = gpud_now();
  uint64_t moved_at = begin;
  uint64_t left;
  int rc = 0;
  gpud_lock_acquire(&out->sending);
  for (;;) {
    gpud_lock_acquire(&out->lock);
    left = refers(out, region);
    gpud_lock_release(&out->lock);
    if (left == 0 || rc != 0)
      break;
    int64_t n = send_some(t);
    uint64_t now = gpud_now();
    if (n > 0)
      moved_at = now;
    else if (n == -EPIPE)
      break; /* nothing will be sent any more */
    else
      rc = await_room(t, moved_at);
    if (rc != 0 || now - moved_at >= PATIENCE_NS || now - begin >= LONGEST_NS)
      copy_rest(out, region);
  }
  if (left)
    failed(t); /* so that nothing is sent from there any more */
  gpud_lock_release(&out->sending);
  leave_rest(t);
  return rc == -ETIMEDOUT ? rc : 0;
}
