#include "endpoint_tcp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bootstrap.h"
#include "handshake.h"
#include "wait.h"

#define LAST_NS 100000000ull /* how long close tries to send what is queued, and to let the peer read it */
#define HEAD_SIZE ((uint32_t)sizeof(gpud_message_head))

/* ---------------------------------------------------------------- messages out */

static int tcp_reserve(gpud_endpoint *ep, uint32_t size, void **message)
{
  gpud_tcp *t = gpud_tcp_of(ep);
  if (size < HEAD_SIZE || size > GPUD_MAX_MESSAGE)
    return -EMSGSIZE;
  if ((int32_t)gpud_load_relaxed_u32((const uint32_t *)&t->base.error) == -EPIPE)
    return -EPIPE; /* a peer that broke the protocol can still be told so */
  int rc = gpud_tcp_room(&t->out, size);
  if (rc > 0 && t->base.client && !gpud_tcp_expecting_room(t))
    rc = 0;
  *message = t->out.message;
  return rc > 0 ? 0 : rc == 0 ? -EAGAIN : rc;
}

static const char zeros[GPUD_TCP_ZEROS];

/* Client: the region's bytes [offset, offset + size), or NULL where it has none. */
static char *range(gpud_tcp *t, uint32_t region, uint64_t offset, uint64_t size)
{
  gpud_lock_acquire(&t->out.lock);
  const gpud_tcp_offer *offer = gpud_tcp_region(t, region);
  char *at = NULL;
  if (offer && offer->pointer && offset <= offer->size && size <= offer->size - offset)
    at = offer->pointer + offset;
  gpud_lock_release(&t->out.lock);
  return at;
}

/*
 * Where the payload of a command lies. A command that names bytes which its region does not have is the worker's to refuse, as over
 * any transport; zeros stand for a few such bytes, and where they would be many the command is changed to one that has none and is
 * refused for the same reason.
 */
static const void *payload_of(gpud_tcp *t, uint32_t region, uint64_t *offset, uint64_t *size)
{
  if (*size == 0)
    return NULL;
  const void *at = range(t, region, *offset, *size);
  if (!at && *size > sizeof zeros) {
    *offset = UINT64_MAX;
    *size = 0;
  }
  return at ? at : zeros;
}

/* Client: what goes with the message in out.message. */
static const void *accompany(gpud_tcp *t, uint8_t op, uint64_t *bytes, uint32_t *region)
{
  unsigned char *body = t->out.message + HEAD_SIZE;
  const void *payload = NULL;
  *bytes = 0;
  if (op == GPUD_OP_COPY_IN || op == GPUD_OP_COPY_OUT) {
    gpud_msg_copy_host m;
    memcpy(&m, body, sizeof m);
    *region = m.region;
    if (op == GPUD_OP_COPY_IN) {
      payload = payload_of(t, m.region, &m.offset, &m.size);
      *bytes = m.size;
    } else if (m.size) {
      gpud_tcp_expect(t, range(t, m.region, m.offset, m.size), m.size, m.region, t->out.posted + 1);
    }
    memcpy(body, &m, sizeof m);
  } else if (op == GPUD_OP_MODULE_LOAD) {
    gpud_msg_module_load m;
    memcpy(&m, body, sizeof m);
    *region = m.region;
    payload = payload_of(t, m.region, &m.offset, &m.size);
    *bytes = m.size;
    memcpy(body, &m, sizeof m);
  }
  return payload;
}

static bool well_sized(uint8_t op, uint32_t size)
{
  if (op == GPUD_OP_MODULE_LOAD)
    return size >= HEAD_SIZE + sizeof(gpud_msg_module_load);
  return (op != GPUD_OP_COPY_IN && op != GPUD_OP_COPY_OUT) || size == HEAD_SIZE + sizeof(gpud_msg_copy_host);
}

static void tcp_commit(gpud_endpoint *ep, uint8_t op, uint32_t size)
{
  gpud_tcp *t = gpud_tcp_of(ep);
  gpud_message_head head;
  uint64_t bytes = 0;
  uint32_t region = 0;
  const void *payload = NULL;
  memcpy(&head, t->out.message, sizeof head);
  head.tag = 0;
  head.size = (uint16_t)size;
  head.op = op;
  head.flags = 0;
  memcpy(t->out.message, &head, sizeof head);
  if (t->base.client && well_sized(op, size)) /* else the worker ends the session at it, whatever follows */
    payload = accompany(t, op, &bytes, &region);
  t->out.posted++;
  gpud_tcp_append(t, size, payload, bytes, region);
  /* The stream's copies are waited for by who posts them. */
  if (op == GPUD_OP_COPY_OUT && region != GPUD_REGION_STREAM)
    t->base.carrier->unattended(&t->base);
}

static void tcp_publish(gpud_endpoint *ep, uint64_t sequence, int faulted)
{
  gpud_tcp *t = gpud_tcp_of(ep);
  gpud_tcp_publish(t, sequence, faulted != 0, gpud_load_relaxed_u32(&t->in.ready) == 0);
}

/* ---------------------------------------------------------------- the carrier */

static int tcp_ready(gpud_carried *c, uint32_t what, uint64_t value)
{
  gpud_tcp *t = gpud_tcp_of(&c->base);
  if (what == GPUD_WAIT_MESSAGE)
    return c->client ? gpud_carried_queued(c) : gpud_load_acquire_u32(&t->in.ready) != 0;
  int rc = gpud_tcp_room(&t->out, value);
  return rc > 0 && c->client && !gpud_tcp_expecting_room(t) ? 0 : rc;
}

static void tcp_flush(gpud_carried *c) { gpud_tcp_flush(gpud_tcp_of(&c->base)); }

static int tcp_arm(gpud_carried *c, uint32_t what, struct pollfd fds[GPUD_CARRIED_FDS])
{
  gpud_tcp *t = gpud_tcp_of(&c->base);
  /* Where nothing may be read now, input that lies there must not wake anybody. */
  bool may_read = c->client ? gpud_load_relaxed_u32(&t->in.stalled) == 0 : gpud_load_relaxed_u32(&t->in.held) == 0;
  bool may_write = (what & GPUD_WAIT_CREDIT) && gpud_load_relaxed_u32(&t->out.pending);
  if (may_write)
    gpud_tcp_flush(t);
  fds[0] = (struct pollfd){.fd = t->socket, .events = (short)((may_read ? POLLIN : 0) | (may_write ? POLLOUT : 0))};
  return 1;
}

static void tcp_unattended(gpud_carried *c)
{
  gpud_tcp *t = gpud_tcp_of(&c->base);
  if (!c->client || !gpud_tcp_expecting(t))
    return;
  gpud_lock_acquire(&t->out.lock);
  bool ring = gpud_load_relaxed_u32(&c->leading) == 0 && gpud_tcp_flusher_needed(t, GPUD_TCP_WATCHES_IN);
  gpud_lock_release(&t->out.lock);
  if (ring)
    gpud_tcp_ring(t);
}

static bool tcp_dead(gpud_carried *c) { return gpud_tcp_socket_dead(gpud_tcp_of(&c->base)->socket); }

/* ---------------------------------------------------------------- regions */

static int tcp_region_offer(gpud_endpoint *ep, const gpud_region_offer *offer, uint64_t deadline)
{
  gpud_tcp *t = gpud_tcp_of(ep);
  gpud_tcp_offer *place = gpud_tcp_region(t, offer->number);
  (void)deadline;
  if (!place || !offer->pointer)
    return -EINVAL;
  gpud_lock_acquire(&t->out.lock);
  bool taken = place->pointer != NULL;
  if (!taken)
    *place = (gpud_tcp_offer){.pointer = offer->pointer, .size = offer->size, .access = offer->access};
  gpud_lock_release(&t->out.lock);
  return taken ? -EBUSY : 0;
}

static int tcp_region_withdraw(gpud_endpoint *ep, uint32_t region, uint64_t sequence)
{
  gpud_tcp *t = gpud_tcp_of(ep);
  gpud_tcp_offer *place = gpud_tcp_region(t, region);
  (void)sequence;
  if (!place)
    return -ENOENT;
  gpud_lock_acquire(&t->out.lock);
  bool there = place->pointer != NULL;
  *place = (gpud_tcp_offer){0};
  gpud_lock_release(&t->out.lock);
  if (!there)
    return -ENOENT;
  gpud_tcp_unexpect(t, region);
  return gpud_tcp_detach(t, region);
}

static int tcp_region_add(gpud_endpoint *ep, const gpud_msg_region_add *add, uint64_t deadline)
{
  gpud_tcp *t = gpud_tcp_of(ep);
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  (void)deadline;
  if (add->region >= GPUD_MAX_REGIONS)
    return -EINVAL;
  if (t->regions[add->region].size)
    return -EEXIST;
  if (add->address)
    return -ENOTSUP;
  if (add->size == 0 || add->size % page)
    return -EPERM;
  t->regions[add->region] = (gpud_tcp_offer){.size = add->size, .access = add->access};
  return 0;
}

static int tcp_region_drop(gpud_endpoint *ep, uint32_t region)
{
  gpud_tcp *t = gpud_tcp_of(ep);
  if (region >= GPUD_MAX_REGIONS || t->regions[region].size == 0)
    return -ENOENT;
  t->regions[region] = (gpud_tcp_offer){0};
  return 0;
}

static int tcp_region_view(gpud_endpoint *ep, uint32_t region, gpud_region_view *view)
{
  const gpud_tcp_offer *offer = gpud_tcp_region(gpud_tcp_of(ep), region);
  if (!offer || offer->size == 0)
    return -ENOENT;
  *view = (gpud_region_view){.size = offer->size, .access = offer->access};
  return 0;
}

/* Worker: whether these are the next bytes of the command in hand, `left` of which may still be moved. */
static int next_bytes(gpud_tcp *t, uint32_t region, uint64_t offset, uint64_t size, uint32_t access, uint64_t left)
{
  const gpud_tcp_offer *offer = gpud_tcp_region(t, region);
  const gpud_tcp_command *command = &t->in.command;
  if (!offer || offer->size == 0)
    return -ENOENT;
  if (offset > offer->size || size > offer->size - offset)
    return -ERANGE;
  if ((offer->access & access) == 0)
    return -EACCES;
  /* A region is not there at any time: its bytes come and go with the command that names them. */
  return region == command->region && offset == command->offset && size <= left ? 0 : -ENOTSUP;
}

static int tcp_rma_read(gpud_endpoint *ep, uint32_t region, uint64_t offset, void *destination, uint64_t size)
{
  gpud_tcp *t = gpud_tcp_of(ep);
  int rc = next_bytes(t, region, offset, size, GPUD_ACCESS_READ, t->in.command.in_left);
  return rc != 0 || size == 0 ? rc : gpud_tcp_receive_bytes(t, destination, size);
}

static int tcp_rma_write(gpud_endpoint *ep, uint32_t region, uint64_t offset, const void *source, uint64_t size)
{
  gpud_tcp *t = gpud_tcp_of(ep);
  gpud_tcp_command *command = &t->in.command;
  int rc = next_bytes(t, region, offset, size, GPUD_ACCESS_WRITE, command->out_left);
  if (rc != 0 || size == 0)
    return rc;
  command->out_left -= size;
  command->offset += size;
  return gpud_tcp_send_bytes(t, source, size);
}

static void tcp_local_gone(gpud_endpoint *ep, const void *memory, uint64_t size) { (void)ep, (void)memory, (void)size; }

/* ---------------------------------------------------------------- life */

static void tcp_forget(gpud_endpoint *ep)
{
  gpud_tcp *t = gpud_tcp_of(ep);
  if (getpid() == t->pid)
    gpud_tcp_flusher_stop(t); /* in a child it does not exist */
  t->forgotten = true;
  gpud_store_relaxed_u32((uint32_t *)&t->base.error, (uint32_t)-EPIPE);
  close(t->socket);
}

/* What the poster left behind, a CLOSE perhaps. */
static void send_last(gpud_tcp *t, uint64_t deadline)
{
  while (gpud_tcp_try_flush(t) == -EAGAIN && gpud_now() < deadline) {
    struct pollfd p = {.fd = t->socket, .events = POLLOUT};
    poll(&p, 1, (int)(LAST_NS / 1000000u));
  }
}

static void free_all(gpud_tcp *t)
{
  if (t->flusher.bell >= 0)
    close(t->flusher.bell);
  gpud_carried_fini(&t->base);
  gpud_tcp_in_fini(&t->in);
  gpud_tcp_out_fini(&t->out);
  free(t->regions);
  free(t);
}

static void tcp_close(gpud_endpoint *ep)
{
  gpud_tcp *t = gpud_tcp_of(ep);
  if (!t->forgotten) {
    uint64_t deadline = gpud_now() + LAST_NS;
    gpud_tcp_flusher_stop(t);
    send_last(t, deadline);
    gpud_tcp_socket_hang_up(t->socket, deadline);
  }
  free_all(t);
}

static int tcp_step(gpud_carried *c) { return c->client ? gpud_tcp_step_client(c) : gpud_tcp_step_worker(c); }

static int tcp_peek(gpud_endpoint *ep, void *message)
{
  return gpud_carried_of(ep)->client ? gpud_carried_peek(ep, message) : gpud_tcp_peek_worker(ep, message);
}

static void tcp_release(gpud_endpoint *ep)
{
  if (gpud_carried_of(ep)->client)
    gpud_carried_release(ep);
  else
    gpud_tcp_release_worker(ep);
}

static const gpud_endpoint_ops tcp_ops = {
  .name = "tcp",
  .reserve = tcp_reserve,
  .commit = tcp_commit,
  .peek = tcp_peek,
  .release = tcp_release,
  .publish = tcp_publish,
  .completed = gpud_carried_completed,
  .wait = gpud_carried_wait,
  .interrupt = gpud_carried_interrupt,
  .region_offer = tcp_region_offer,
  .region_withdraw = tcp_region_withdraw,
  .region_add = tcp_region_add,
  .region_drop = tcp_region_drop,
  .region_view = tcp_region_view,
  .rma_read = tcp_rma_read,
  .rma_write = tcp_rma_write,
  .local_here = gpud_endpoint_local_here,
  .local_gone = tcp_local_gone,
  .reason = gpud_endpoint_no_reason,
  .alive = gpud_carried_alive,
  .forget = tcp_forget,
  .close = tcp_close,
};

static const gpud_carrier tcp_carrier = {
  .step = tcp_step,
  .ready = tcp_ready,
  .flush = tcp_flush,
  .arm = tcp_arm,
  .unattended = tcp_unattended,
  .dead = tcp_dead,
};

/* ---------------------------------------------------------------- the handshake */

/* Owns the socket on success only. */
static int make_end(int socket, bool client, const gpud_welcome *welcome, gpud_endpoint **ep)
{
  gpud_tcp *t = aligned_alloc(_Alignof(gpud_tcp), sizeof *t);
  if (!t)
    return -ENOMEM;
  memset(t, 0, sizeof *t);
  t->socket = socket;
  t->pid = getpid();
  t->flusher.bell = -1;
  t->regions = calloc(GPUD_MAX_REGIONS, sizeof *t->regions);
  int rc = gpud_carried_init(&t->base, &tcp_carrier, client, welcome->features, GPUD_ENDPOINT_DIRECT,
                             client ? welcome->reply_slots : 0);
  if (rc == 0)
    rc = t->regions ? 0 : -ENOMEM;
  if (rc == 0)
    rc = gpud_tcp_out_init(&t->out, client ? welcome->command_slots : welcome->reply_slots, client);
  if (rc == 0)
    rc = gpud_tcp_in_init(&t->in, welcome->command_slots, client);
  if (rc == 0) {
    t->base.base.ops = &tcp_ops;
    if (!client) /* of any size: what is written there is read as it comes */
      t->stream = (gpud_tcp_offer){.size = UINT64_MAX, .access = GPUD_ACCESS_READ | GPUD_ACCESS_WRITE};
    gpud_tcp_socket_options(socket);
    if (client)
      gpud_tcp_socket_abort_on_death(socket, true);
    rc = gpud_tcp_flusher_start(t);
  }
  if (rc != 0) {
    free_all(t);
    return rc;
  }
  *ep = &t->base.base;
  return 0;
}

static int tcp_accept(int socket, const gpud_welcome *welcome, const void *frame, size_t size, uint64_t deadline,
                      gpud_endpoint **ep)
{
  int rc = gpud_bootstrap_send(socket, frame, size, -1, deadline);
  return rc != 0 ? rc : make_end(socket, false, welcome, ep);
}

static int tcp_connect(int socket, const gpud_welcome *welcome, int fd, uint64_t deadline, gpud_endpoint **ep)
{
  (void)deadline;
  if (fd >= 0) {
    gpud_bootstrap_discard(fd);
    return -EPROTO;
  }
  return make_end(socket, true, welcome, ep);
}

const gpud_handshake gpud_handshake_tcp = {
  .name = "tcp",
  .features = GPUD_FEATURE_DEVICE | GPUD_FEATURE_CHECK | GPUD_FEATURE_OUTPUT | GPUD_FEATURE_COOPERATIVE,
  .accept = tcp_accept,
  .connect = tcp_connect,
};
