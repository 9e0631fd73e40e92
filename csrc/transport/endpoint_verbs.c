#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bootstrap.h"
#include "handshake.h"
#include "order.h"
#include "verbs.h"
#include "verbs_endpoint.h"
#include "wait.h"

#ifdef GPUD_HAVE_VERBS

static _Thread_local char why[256]; /* the last handshake of this thread failed */

void gpud_verbs_why(char *text, size_t size) { snprintf(text, size, "%s", why); }

#define LAST_MS 1000u /* what close gives the last messages to arrive */

/* A host that dies without a word is missed after 25 s, also where nothing is sent. */
enum { IDLE_S = 10, INTERVAL_S = 5, PROBES = 3 };

typedef gpud_verbs_endpoint verbs;

static verbs *verbs_of(gpud_endpoint *ep) { return gpud_verbs_endpoint_of(ep); }

bool gpud_verbs_endpoint_hung_up(const verbs *e)
{
  struct pollfd p = {.fd = e->socket, .events = POLLRDHUP};
  return poll(&p, 1, 0) > 0;
}

/* ---------------------------------------------------------------- messages */

static int verbs_reserve(gpud_endpoint *ep, uint32_t size, void **message)
{
  verbs *e = verbs_of(ep);
  if (size < sizeof(gpud_message_head) || size > GPUD_MAX_MESSAGE)
    return -EMSGSIZE;
  int rc = gpud_carried_ended(&e->carried);
  if (rc == 0)
    rc = gpud_verbs_link_room(&e->link, 1);
  if (rc == -EAGAIN && gpud_carried_step(&e->carried) > 0) /* credit may have come */
    rc = gpud_verbs_link_room(&e->link, 1);
  if (rc == 0)
    *message = e->message;
  return rc;
}

static void verbs_commit(gpud_endpoint *ep, uint8_t op, uint32_t size)
{
  verbs *e = verbs_of(ep);
  gpud_message_head head;
  memcpy(&head, e->message, sizeof head);
  head.tag = 0;
  head.size = (uint16_t)size;
  head.op = op;
  head.flags = 0;
  memcpy(e->message, &head, sizeof head);
  /* Where the link has ended, that is the next call's to tell, once all that came has been taken. */
  gpud_verbs_link_send(&e->link, e->message, size, GPUD_VERBS_ORDINARY);
}

static int verbs_peek(gpud_endpoint *ep, void *message)
{
  verbs *e = verbs_of(ep);
  int size = gpud_verbs_link_front(&e->link, message);
  if (size != 0)
    return size;
  int ended = gpud_carried_ended(&e->carried); /* what came before it still counts */
  int rc = gpud_carried_step(&e->carried);
  size = gpud_verbs_link_front(&e->link, message);
  return size != 0 ? size : ended != 0 ? ended : rc < 0 ? rc : -EAGAIN;
}

static void verbs_release(gpud_endpoint *ep)
{
  verbs *e = verbs_of(ep);
  gpud_verbs_link_pop(&e->link);
}

/* Sends the COMPLETED that is due, if it can go. Whether none is due any more. */
static bool send_completed(verbs *e)
{
  struct {
    gpud_message_head head;
    gpud_msg_completed body;
  } message = {.head = {.size = sizeof message, .op = GPUD_OP_COMPLETED}};
  gpud_lock_acquire(&e->publishing);
  if (e->dirty) {
    message.body = e->completed;
    if (gpud_verbs_link_send(&e->link, &message, sizeof message, GPUD_VERBS_LINK) != -EAGAIN)
      e->dirty = false;
  }
  bool clean = !e->dirty;
  gpud_lock_release(&e->publishing);
  return clean;
}

static void verbs_publish(gpud_endpoint *ep, uint64_t sequence, int faulted)
{
  verbs *e = verbs_of(ep);
  gpud_lock_acquire(&e->publishing);
  if (sequence > e->completed.sequence) /* of two threads that publish, the later one may have the earlier number */
    e->completed.sequence = sequence;
  if (faulted)
    e->completed.faulted = 1;
  e->dirty = true;
  gpud_lock_release(&e->publishing);
  if (!send_completed(e) && gpud_carried_step(&e->carried) > 0) /* credit may have come */
    send_completed(e);
}

/* A link message, but for CREDIT. */
static int take(void *owner, const void *message)
{
  verbs *e = owner;
  gpud_message_head head;
  gpud_msg_region_key key;
  memcpy(&head, message, sizeof head);
  int rc = gpud_carried_deliver(&e->carried, message, head.size);
  if (rc != GPUD_LINK)
    return rc == GPUD_DELIVERED ? 0 : -EPROTO;
  if (head.op != GPUD_OP_REGION_KEY || !e->remotes)
    return -EPROTO;
  memcpy(&key, (const char *)message + sizeof head, sizeof key);
  gpud_lock_acquire(&e->remotes_lock);
  rc = gpud_verbs_remotes_key(e->remotes, &key);
  gpud_lock_release(&e->remotes_lock);
  return rc;
}

/* ---------------------------------------------------------------- the carrier */

static int carrier_step(gpud_carried *c)
{
  verbs *e = (verbs *)c;
  int rc = gpud_verbs_link_poll(&e->link);
  if (rc > 0)
    send_completed(e);
  return rc;
}

static int carrier_ready(gpud_carried *c, uint32_t what, uint64_t value)
{
  verbs *e = (verbs *)c;
  if (what == GPUD_WAIT_MESSAGE)
    return gpud_load_acquire_u32(&e->link.count) != 0;
  if (value > GPUD_MAX_MESSAGE)
    return -EMSGSIZE;
  int rc = gpud_verbs_link_room(&e->link, 0);
  return rc == 0 ? 1 : rc == -EAGAIN ? 0 : rc;
}

static void carrier_flush(gpud_carried *c) { send_completed((verbs *)c); }

static bool carrier_dead(gpud_carried *c)
{
  verbs *e = (verbs *)c;
  return gpud_verbs_link_state(&e->link) != 0 || gpud_verbs_endpoint_hung_up(e);
}

static void carrier_unattended(gpud_carried *c) { (void)c; }

static int carrier_arm(gpud_carried *c, uint32_t what, struct pollfd fds[GPUD_CARRIED_FDS])
{
  verbs *e = (verbs *)c;
  bool gone = carrier_dead(c);
  gpud_verbs_link_quiet(&e->link);
  (void)what; /* others may be waiting for what it is not: for a place in the send queue, say */
  if (gpud_verbs_link_arm(&e->link) != 0)
    return -EAGAIN;
  /* What came before it was armed gives no event; a peer that is gone has sent its last. */
  int rc = carrier_step(c);
  if (rc == 0 && gone)
    rc = gpud_verbs_link_fail(&e->link, -EPIPE, "the peer hung up");
  if (rc < 0)
    gpud_carried_fail(c, rc);
  if (rc != 0) {
    gpud_carried_changed(c);
    return -EAGAIN;
  }
  fds[0] = (struct pollfd){.fd = e->link.channel->fd, .events = POLLIN};
  fds[1] = (struct pollfd){.fd = e->socket, .events = POLLRDHUP};
  return 2;
}

/* ---------------------------------------------------------------- regions */

static void sweep(verbs *e)
{
  if (gpud_load_relaxed_u32(&e->withdrawn) == 0)
    return;
  int faulted;
  uint64_t completed =
      gpud_carried_ended(&e->carried) != 0 ? UINT64_MAX : gpud_carried_completed(&e->carried.base, &faulted);
  pthread_mutex_lock(&e->offers_lock);
  gpud_verbs_offers_sweep(&e->offers, completed);
  gpud_store_relaxed_u32(&e->withdrawn, e->offers.withdrawn != NULL);
  pthread_mutex_unlock(&e->offers_lock);
}

static uint64_t verbs_completed(gpud_endpoint *ep, int *faulted)
{
  sweep(verbs_of(ep));
  return gpud_carried_completed(ep, faulted);
}

static int verbs_region_offer(gpud_endpoint *ep, const gpud_region_offer *offer, uint64_t deadline)
{
  verbs *e = verbs_of(ep);
  struct ibv_mr *mr;
  sweep(e);
  if (e->out_of_step)
    return -EPIPE;
  pthread_mutex_lock(&e->offers_lock);
  int rc = e->carried.client ? gpud_verbs_offers_add(&e->offers, offer, &mr) : -EINVAL;
  if (rc == -ENOMEM)
    snprintf(e->refusal, sizeof e->refusal,
             "region %u of %llu bytes cannot be registered with the adapter: %u regions are, and this process may lock "
             "only so much memory: raise `ulimit -l`",
             offer->number, (unsigned long long)offer->size, e->offers.count);
  pthread_mutex_unlock(&e->offers_lock);
  if (rc != 0)
    return rc;
  struct {
    gpud_message_head head;
    gpud_msg_region_key body;
  } message = {.head = {.size = sizeof message, .op = GPUD_OP_REGION_KEY},
               .body = {.address = (uintptr_t)offer->pointer, .region = offer->number, .rkey = mr->rkey}};
  while ((rc = gpud_verbs_link_send(&e->link, &message, sizeof message, GPUD_VERBS_LINK)) == -EAGAIN) {
    rc = gpud_carried_wait(ep, GPUD_WAIT_CREDIT, sizeof message, deadline);
    if (rc != 0)
      break;
  }
  if (rc != 0) { /* never announced: nobody can use it */
    pthread_mutex_lock(&e->offers_lock);
    gpud_verbs_offers_withdraw(&e->offers, offer->number, 0);
    gpud_verbs_offers_sweep(&e->offers, 0);
    pthread_mutex_unlock(&e->offers_lock);
  }
  return rc;
}

static int verbs_region_withdraw(gpud_endpoint *ep, uint32_t region, uint64_t sequence)
{
  verbs *e = verbs_of(ep);
  pthread_mutex_lock(&e->offers_lock);
  int rc = gpud_verbs_offers_withdraw(&e->offers, region, sequence);
  if (rc == 0)
    gpud_store_relaxed_u32(&e->withdrawn, 1);
  if (rc == 0 && sequence == 0) {
    /* Its key went out and nothing announces it: the next REGION_ADD would be given that one. */
    e->out_of_step = true;
    snprintf(e->refusal, sizeof e->refusal, "region %u could not be announced: open a new connection", region);
  }
  pthread_mutex_unlock(&e->offers_lock);
  sweep(e);
  return rc;
}

static int verbs_region_add(gpud_endpoint *ep, const gpud_msg_region_add *add, uint64_t deadline)
{
  verbs *e = verbs_of(ep);
  (void)deadline; /* the key came before REGION_ADD, or never will */
  if (!e->remotes)
    return -EINVAL;
  gpud_lock_acquire(&e->remotes_lock);
  int rc = gpud_verbs_remotes_add(e->remotes, add);
  gpud_lock_release(&e->remotes_lock);
  return rc;
}

static int verbs_region_drop(gpud_endpoint *ep, uint32_t region)
{
  verbs *e = verbs_of(ep);
  if (!e->remotes)
    return -ENOENT;
  pthread_mutex_lock(&e->transfer_lock); /* once dropped, no transfer of it is under way */
  gpud_lock_acquire(&e->remotes_lock);
  int rc = gpud_verbs_remotes_drop(e->remotes, region);
  gpud_lock_release(&e->remotes_lock);
  pthread_mutex_unlock(&e->transfer_lock);
  return rc;
}

static int verbs_region_view(gpud_endpoint *ep, uint32_t region, gpud_region_view *view)
{
  verbs *e = verbs_of(ep);
  gpud_verbs_remote found;
  if (!e->remotes)
    return -ENOENT;
  gpud_lock_acquire(&e->remotes_lock);
  int rc = gpud_verbs_remotes_span(e->remotes, region, 0, 0, 0, &found);
  gpud_lock_release(&e->remotes_lock);
  if (rc == 0)
    *view = (gpud_region_view){.size = found.size, .access = found.access};
  return rc;
}

static const char *verbs_reason(gpud_endpoint *ep)
{
  verbs *e = verbs_of(ep);
  return gpud_verbs_link_state(&e->link) != 0 ? e->link.reason : e->refusal;
}

/* ---------------------------------------------------------------- life */

static void close_socket(verbs *e)
{
  if (e->socket >= 0)
    close(e->socket);
  e->socket = -1;
}

static void verbs_forget(gpud_endpoint *ep)
{
  verbs *e = verbs_of(ep);
  e->forgotten = true;
  gpud_carried_fail(&e->carried, -EPIPE);
  close_socket(e);
  /* The adapter's objects are the parent's, behind these descriptors: the child must destroy none of them. */
  gpud_verbs_link_forget(&e->link);
}

/* Frees what make made; `socket` is the caller's. */
static void unmake(verbs *e)
{
  if (!e->forgotten) {
    gpud_verbs_link_disconnect(&e->link); /* the queue pair first: it may be using all the rest */
    gpud_verbs_offers_close(&e->offers);
    gpud_verbs_rma_close(e);
    gpud_verbs_link_close(&e->link);
  }
  free(e->remotes);
  pthread_mutex_destroy(&e->offers_lock);
  pthread_mutex_destroy(&e->transfer_lock);
  gpud_carried_fini(&e->carried);
  free(e);
}

static void verbs_close(gpud_endpoint *ep)
{
  verbs *e = verbs_of(ep);
  if (!e->forgotten) {
    /* The last words, a BYE for one, are to arrive before the hang-up says that there are no more. */
    uint64_t deadline = gpud_now() + LAST_MS * 1000000ull;
    int64_t last = gpud_verbs_link_mark(&e->link);
    struct pollfd p = {.fd = e->socket, .events = POLLRDHUP};
    while (last > 0 && gpud_verbs_link_reap(&e->link) < (uint64_t)last && gpud_verbs_link_state(&e->link) == 0 &&
           gpud_now() < deadline)
      if (poll(&p, 1, 1) > 0)
        break;
    gpud_bootstrap_hang_up(e->socket);
    e->socket = -1;
  }
  unmake(e);
}

static const gpud_endpoint_ops verbs_ops = {
  .name = "verbs",
  .reserve = verbs_reserve,
  .commit = verbs_commit,
  .peek = verbs_peek,
  .release = verbs_release,
  .publish = verbs_publish,
  .completed = verbs_completed,
  .wait = gpud_carried_wait,
  .interrupt = gpud_carried_interrupt,
  .region_offer = verbs_region_offer,
  .region_withdraw = verbs_region_withdraw,
  .region_add = verbs_region_add,
  .region_drop = verbs_region_drop,
  .region_view = verbs_region_view,
  .rma_read = gpud_verbs_rma_read,
  .rma_write = gpud_verbs_rma_write,
  .local_here = gpud_verbs_local_here,
  .local_gone = gpud_verbs_local_gone,
  .reason = verbs_reason,
  .alive = gpud_carried_alive,
  .forget = verbs_forget,
  .close = verbs_close,
};

static const gpud_carrier verbs_carrier = {
  .step = carrier_step,
  .ready = carrier_ready,
  .flush = carrier_flush,
  .arm = carrier_arm,
  .unattended = carrier_unattended,
  .dead = carrier_dead,
};

/* Makes an end whose queue pair is not connected yet. 0, -ENOTSUP, -ENOMEM, -errno. Does not take the socket. */
static int make(int socket, bool client, const gpud_welcome *welcome, verbs **made)
{
  struct sockaddr_storage local = {0};
  socklen_t length = sizeof local;
  verbs *e = aligned_alloc(_Alignof(verbs), sizeof *e);
  if (!e)
    return -ENOMEM;
  memset(e, 0, sizeof *e);
  e->socket = -1;
  e->link.take = take;
  e->link.owner = e;
  int rc = gpud_carried_init(&e->carried, &verbs_carrier, client, welcome->features, 0, 0);
  if (rc != 0) {
    free(e);
    return rc;
  }
  e->carried.base.ops = &verbs_ops;
  pthread_mutex_init(&e->offers_lock, NULL);
  pthread_mutex_init(&e->transfer_lock, NULL);
  if (!client) {
    e->remotes = calloc(1, sizeof *e->remotes);
    rc = e->remotes ? 0 : -ENOMEM;
  }
  if (rc == 0) {
    bool known = getsockname(socket, (struct sockaddr *)&local, &length) == 0;
    rc = gpud_verbs_link_open(&e->link, known ? &local : NULL, client, why, sizeof why);
    if (rc == 0)
      why[0] = 0; /* it says which device was found */
    rc = rc == -ENODEV || rc == -ELIBACC || rc == -EACCES || rc == -ENETDOWN ? -ENOTSUP : rc;
  }
  if (rc != 0) {
    unmake(e);
    return rc;
  }
  e->offers.api = e->locals.api = e->link.api;
  e->offers.domain = e->locals.domain = e->link.domain;
  *made = e;
  return 0;
}

static void keep_alive(int socket)
{
  const int on = 1, idle = IDLE_S, interval = INTERVAL_S, probes = PROBES;
  setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

/* ---------------------------------------------------------------- the handshake */

#define PAIR_FRAME (sizeof(gpud_frame_head) + sizeof(gpud_queue_pair))

static size_t encode_pair(const verbs *e, void *frame)
{
  gpud_queue_pair pair;
  gpud_verbs_link_describe(&e->link, &pair);
  return (size_t)gpud_frame_encode(frame, PAIR_FRAME, GPUD_FRAME_QUEUE_PAIR, &pair, NULL, 0);
}

/* Receives the peer's queue pair. 0 or -errno. */
static int receive_pair(int socket, gpud_queue_pair *pair, uint64_t deadline)
{
  char frame[GPUD_MAX_FRAME];
  const char *text;
  int fd;
  int size = gpud_bootstrap_receive(socket, frame, &fd, deadline);
  if (size < 0)
    return size;
  if (fd >= 0) {
    gpud_bootstrap_discard(fd);
    return -EPROTO;
  }
  gpud_refused refused;
  int words = gpud_frame_decode(frame, (size_t)size, GPUD_FRAME_REFUSED, &refused, &text);
  if (words >= 0) { /* its side of the connection cannot be made, which it found out only now */
    snprintf(why, sizeof why, "%.*s", words, text);
    return -ENOTSUP;
  }
  size = gpud_frame_decode(frame, (size_t)size, GPUD_FRAME_QUEUE_PAIR, pair, &text);
  return size > 0 ? -EPROTO : size;
}

static int connect_link(verbs *e, const gpud_queue_pair *peer)
{
  int rc = gpud_verbs_link_connect(&e->link, peer);
  if (rc != 0)
    snprintf(why, sizeof why, "%s", rc == -EPROTO ? "the peer's queue pair is none that can be" : e->link.reason);
  return rc;
}

static int verbs_accept(int socket, const gpud_welcome *welcome, const void *frame, size_t size, uint64_t deadline,
                        gpud_endpoint **ep)
{
  char frames[GPUD_MAX_FRAME + PAIR_FRAME];
  gpud_queue_pair peer;
  verbs *e;
  why[0] = 0;
  int rc = make(socket, false, welcome, &e);
  if (rc != 0)
    return rc;
  memcpy(frames, frame, size);
  size_t pair = encode_pair(e, frames + size);
  rc = gpud_bootstrap_send(socket, frames, size + pair, -1, deadline);
  if (rc == 0)
    rc = receive_pair(socket, &peer, deadline);
  if (rc == 0)
    rc = connect_link(e, &peer);
  if (rc == 0) /* the same again: what the client sends from here on is received */
    rc = gpud_bootstrap_send(socket, frames + size, pair, -1, deadline);
  if (rc != 0) {
    unmake(e);
    return rc;
  }
  keep_alive(socket);
  e->socket = socket;
  *ep = &e->carried.base;
  return 0;
}

static int verbs_connect(int socket, const gpud_welcome *welcome, int fd, uint64_t deadline, gpud_endpoint **ep)
{
  char frame[PAIR_FRAME];
  gpud_queue_pair peer;
  gpud_queue_pair ready;
  verbs *e;
  why[0] = 0;
  if (fd >= 0) {
    gpud_bootstrap_discard(fd);
    return -EPROTO;
  }
  int rc = receive_pair(socket, &peer, deadline);
  if (rc == 0)
    rc = make(socket, true, welcome, &e);
  if (rc != 0)
    return rc;
  rc = connect_link(e, &peer);
  if (rc == 0)
    rc = gpud_bootstrap_send(socket, frame, encode_pair(e, frame), -1, deadline);
  if (rc == 0)
    rc = receive_pair(socket, &ready, deadline);
  if (rc == 0 && memcmp(&ready, &peer, sizeof peer) != 0)
    rc = -EPROTO;
  if (rc != 0) {
    unmake(e);
    return rc;
  }
  keep_alive(socket);
  e->socket = socket;
  *ep = &e->carried.base;
  return 0;
}

#else

void gpud_verbs_why(char *text, size_t size) { gpud_verbs_probe(text, size); }

static int verbs_accept(int socket, const gpud_welcome *welcome, const void *frame, size_t size, uint64_t deadline,
                        gpud_endpoint **ep)
{
  (void)socket, (void)welcome, (void)frame, (void)size, (void)deadline, (void)ep;
  return -ENOTSUP;
}

static int verbs_connect(int socket, const gpud_welcome *welcome, int fd, uint64_t deadline, gpud_endpoint **ep)
{
  (void)socket, (void)welcome, (void)deadline, (void)ep;
  if (fd >= 0)
    gpud_bootstrap_discard(fd);
  return -ENOTSUP;
}

#endif

const gpud_handshake gpud_handshake_verbs = {
  .name = "verbs",
  .features =
      GPUD_FEATURE_DEVICE | GPUD_FEATURE_CHECK | GPUD_FEATURE_OUTPUT | GPUD_FEATURE_COOPERATIVE | GPUD_FEATURE_VERBS,
  .accept = verbs_accept,
  .connect = verbs_connect,
};
